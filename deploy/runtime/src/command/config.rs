//! `config check` and `config show`.

use std::process::ExitCode;

use anyhow::Result;

use super::arguments::ConfigCommand;
use crate::{app::Loader, config::masked, process::output::Output};

pub(crate) fn run(loader: &Loader, command: ConfigCommand) -> Result<ExitCode> {
    let app = loader.load(&[])?;
    let mut out = Output::new();
    match command {
        ConfigCommand::Check => out.line(format_args!("no problem; {} groups", app.groups.len()))?,
        ConfigCommand::Show => out.line(masked(&app.tree).trim_end())?,
    };
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
