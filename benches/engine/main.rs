//! The engine beside loops written by hand that do the same work, on a stack of its own:
//! `cargo bench -p headwater-benches --bench engine`.
//!
//! Every contender is a process of its own, so that processor time and memory are its alone. They take turns, in another
//! order each round; a figure is the median of its rounds. Nothing is measured before the first record is read, nothing
//! after the last is durable.
//!
//! Before anything is measured every contender runs on a few records, and what they sent and stored is compared byte for
//! byte; `-- --check` does only that.
//!
//! To see where one spends its time: `… --bench engine -- stack` keeps the servers and prints the command of each contender,
//! before which `perf record -g` can be put.

mod place;

mod engine;
mod reference;

mod contender;
mod equality;
mod ground;
mod memory;
mod meter;
mod rounds;
mod state;

use std::{io::Write as _, path::PathBuf};

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};
use headwater_dev::{Stack, StackConfig, remove_data};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};

use self::{contender::Contender, ground::Ground, place::Place, rounds::Size as Records, state::Size};

/// The allocator that the program is shipped with, for the loops as well.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The engine beside loops written by hand.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Action>,
    /// More records: a quarter of an hour instead of minutes.
    #[arg(long)]
    full: bool,
    /// A few records and no figures: whether everything works, and whether all contenders do the same.
    #[arg(long, global = true)]
    check: bool,
    /// Payments without headers, as a foreign producer may send them.
    #[arg(long, global = true)]
    bare: bool,
    /// What cargo says to a bench.
    #[arg(long, hide = true, global = true)]
    bench: bool,
}

#[derive(Subcommand)]
enum Action {
    /// Does one contender's work against a stack that runs, and prints what it cost.
    Contend {
        /// Which.
        contender: Contender,
        #[command(flatten)]
        place: Place,
    },
    /// Keyed state, exactly once, beside Kafka Streams.
    State(Size),
    /// Fills a topic, prints the command of each contender, and waits for Ctrl-C.
    Stack,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    if let Some(Action::Contend { contender, place }) = &arguments.command {
        let measured = contender.work(place)?;
        return Ok(serde_json::to_writer(std::io::stdout(), &measured)?);
    }
    tokio::runtime::Runtime::new()?.block_on(with_stack(&arguments))
}

/// Starts the servers, measures, and stops them, whatever happens.
async fn with_stack(arguments: &Arguments) -> Result<()> {
    let data = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("bench");
    remove_data(&data)?;
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let stopped = async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    let (_running, cancel) = watch::channel(false);
    let work = async {
        rounds::say("the servers start");
        let stack = Stack::start(StackConfig::new(&data), cancel).await?;
        let ground = Ground::prepare(&data, stack.endpoints().clone()).await?;
        let measured = measure(arguments, ground).await;
        stack.stop().await?;
        measured
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        // Dropping the work ends the servers and whoever is being measured.
        () = stopped => bail!("stopped"),
    };
    outcome?;
    remove_data(&data)
}

async fn measure(arguments: &Arguments, mut ground: Ground) -> Result<()> {
    let size = if arguments.full { Records::FULL } else { Records::USUAL };
    if matches!(arguments.command, Some(Action::Stack)) {
        ground.fill(size.records, arguments.bare).await?;
        rounds::commands(&mut ground).await?;
        return std::future::pending().await;
    }
    if let Some(Action::State(size)) = &arguments.command {
        let table = state::run(&mut ground, size, arguments.check, arguments.bare).await?;
        return Ok(write!(std::io::stdout(), "{table}")?);
    }
    rounds::check(&mut ground, arguments.bare).await?;
    if arguments.check {
        return Ok(());
    }
    let table = rounds::run(&mut ground, size, arguments.bare).await?;
    writeln!(std::io::stdout(), "{table}")?;
    Ok(())
}
