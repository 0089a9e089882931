//! `dlq`: dead letters, one file a command.
//!
//! They are read and marked in Postgres alone; only what is sent back or edited needs Kafka, or what was cut and is to be
//! whole, and the registry only what is decoded.

mod context;
mod source_record;
pub(super) mod text;
mod value;

mod list;
mod show;

mod pace;
mod redrive;

mod discard;
mod edit;

use std::process::ExitCode;

use anyhow::Result;

use self::context::DlqContext;
use super::arguments::DlqCommand;
use crate::{INTERRUPTED, app::Loader, process::signals::Stop};

pub(crate) async fn run(loader: &Loader, command: DlqCommand, mut stop: Stop) -> Result<ExitCode> {
    let context = DlqContext::open(loader)?;
    let done = match command {
        // What is under way is finished, and said.
        DlqCommand::Redrive(arguments) => return redrive::run(&context, &arguments, stop).await,
        // A signal from the terminal is the editor's.
        DlqCommand::Edit(arguments) => return edit::run(&context, arguments).await,
        command => looked_or_discarded(&context, command),
    };
    tokio::select! {
        done = done => done,
        () = stop.requested() => Ok(ExitCode::from(INTERRUPTED)),
    }
}

async fn looked_or_discarded(context: &DlqContext, command: DlqCommand) -> Result<ExitCode> {
    match command {
        DlqCommand::Groups(arguments) => list::groups(context, &arguments).await,
        DlqCommand::List(arguments) => list::letters(context, &arguments).await,
        DlqCommand::Show(arguments) => show::run(context, &arguments).await,
        DlqCommand::Discard(arguments) => discard::run(context, &arguments).await,
        DlqCommand::Redrive(_) | DlqCommand::Edit(_) => unreachable!("these are run by themselves"),
    }
}
