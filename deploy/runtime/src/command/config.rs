//! `config check` and `config show`.

use std::process::ExitCode;

use anyhow::Result;

use crate::{arguments::ConfigCommand, config::masked, output::Output, program::Program};

pub(crate) fn run(program: &Program, command: ConfigCommand) -> Result<ExitCode> {
    let app = program.load(&[])?;
    let mut out = Output::new();
    match command {
        ConfigCommand::Check => out.line(format_args!("no problem; {} groups", app.groups.len()))?,
        ConfigCommand::Show => out.line(masked(&app.tree).trim_end())?,
    };
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
