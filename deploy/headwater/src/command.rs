//! The commands, one file each.

mod dev;
mod run;

mod config;
mod produce;
mod tail;
mod topology;

use std::process::ExitCode;

use anyhow::Result;

use crate::{arguments::Command, program::Program, signals::Stop};

/// Does what the command says.
pub(crate) async fn run(program: &Program, command: Command, stop: Stop) -> Result<ExitCode> {
    match command {
        Command::Run(arguments) => run::run(program, &arguments, stop).await,
        Command::Dev(arguments) => dev::run(program, arguments, stop).await,
        Command::Topology(command) => topology::run(program, &command).await,
        Command::Produce(arguments) => produce::run(program, arguments).await,
        Command::Tail(arguments) => tail::run(program, &arguments, stop).await,
        Command::Config(command) => config::run(program, command),
    }
}
