//! `completions` and `man`: what the command line says of itself, for shells and for `man`.

use std::process::ExitCode;

use anyhow::Result;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::{config::Problems, process::output::Output};

pub(crate) fn completions(mut grammar: clap::Command, shell: Shell) -> Result<ExitCode> {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut grammar, called(), &mut text);
    print(&text)
}

pub(crate) fn man(grammar: clap::Command, path: &[String]) -> Result<ExitCode> {
    let mut command = grammar.display_name(called()).bin_name(called()).disable_help_subcommand(true);
    // Gives every command its whole name, `headwater dlq redrive`, and the options of all.
    command.build();
    for name in path {
        let found = command.find_subcommand(name).cloned();
        command = found.ok_or_else(|| Problems::one(format!("there is no command `{}`", path.join(" "))))?;
    }
    let mut text = Vec::new();
    Man::new(command).render(&mut text)?;
    print(&text)
}

/// The name that the program was called by: a user's own has another one.
fn called() -> String {
    let path = std::env::args_os().next().map(std::path::PathBuf::from);
    path.as_deref().and_then(|path| path.file_name()?.to_str()).unwrap_or("headwater").to_owned()
}

fn print(text: &[u8]) -> Result<ExitCode> {
    let mut out = Output::new();
    out.line(String::from_utf8_lossy(text).trim_end())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
