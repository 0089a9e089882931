//! The commands, one file each.

mod dev;
mod run;

mod groups;
mod instances;
mod offsets;
mod standing;
mod table;

mod dlq;
mod state;

mod config;
mod documents;
mod load;
mod produce;
mod tail;
mod target;
mod topology;

use std::process::ExitCode;

use anyhow::Result;

use crate::{INTERRUPTED, app::Loader, arguments::Command, signals::Stop};

/// Does what the command says.
pub(crate) async fn run(loader: &Loader, command: Command, mut stop: Stop) -> Result<ExitCode> {
    match command {
        Command::Run(arguments) => run::run(loader, &arguments, stop).await,
        Command::Dev(arguments) => dev::run(loader, arguments, stop).await,
        // Nothing of it needs to be finished: doing it again does the rest.
        Command::Topology(command) => tokio::select! {
            outcome = topology::run(loader, &command) => outcome,
            () = stop.requested() => Ok(ExitCode::from(INTERRUPTED)),
        },
        // What was moved is moved; doing it again does the rest.
        Command::Offsets(command) => tokio::select! {
            outcome = offsets::run(loader, &command) => outcome,
            () = stop.requested() => Ok(ExitCode::from(INTERRUPTED)),
        },
        Command::Groups(arguments) => tokio::select! {
            outcome = groups::run(loader, &arguments) => outcome,
            () = stop.requested() => Ok(ExitCode::from(INTERRUPTED)),
        },
        Command::Dlq(command) => dlq::run(loader, command, stop).await,
        Command::State(command) => tokio::select! {
            outcome = state::run(loader, &command) => outcome,
            () = stop.requested() => Ok(ExitCode::from(INTERRUPTED)),
        },
        Command::Produce(arguments) => produce::run(loader, arguments, stop).await,
        Command::Load(arguments) => load::run(loader, arguments, stop).await,
        Command::Tail(arguments) => tail::run(loader, &arguments, stop).await,
        Command::Config(command) => config::run(loader, command),
        Command::Completions { shell } => documents::completions(shell),
        Command::Man { command } => documents::man(&command),
    }
}
