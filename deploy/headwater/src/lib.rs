//! The `headwater` program as a library: a pipeline goes in, every command comes out.
//!
//! A program of your own is one line of `main`, and has every command for its own processors:
//!
//! ```no_run
//! use std::process::ExitCode;
//!
//! use headwater::{Pipeline, Sink, with};
//! use headwater_cli::Deps;
//! use headwater_processors::{Warehouse, fulfil_order};
//! use headwater_schemas::OrderFulfilled;
//!
//! fn shop(deps: &Deps) -> anyhow::Result<Pipeline> {
//!     let warehouse = Warehouse::new(deps.http(), deps.warehouse_url());
//!     Ok(Pipeline::default()
//!         .on("fulfil-order", with(warehouse, fulfil_order))
//!         .sink("orders-sink", Sink::of::<OrderFulfilled>("orders").key("order_id")))
//! }
//!
//! fn main() -> ExitCode {
//!     headwater_cli::main(shop)
//! }
//! ```
//!
//! This crate wires: configuration → build → run → signal → drain. It deliberately knows neither what an event means nor
//! how Kafka and Postgres are spoken to.
//!
//! Exit codes: 0 when all went well, 1 when something failed, 2 for wrong usage or configuration (every problem is
//! named), 130 when a second Ctrl-C or SIGTERM cut the draining short.

mod arguments;
mod config;
mod program;

mod command;

mod groups;
mod supervisor;

mod http;
mod instance;
mod lag;
mod outside;
mod reader;
mod state;

mod logs;
mod output;
mod signals;
mod telemetry;

use std::{io::Write, process::ExitCode};

use clap::Parser;
use headwater::Pipeline;

use self::{
    arguments::Arguments,
    config::{Layers, Problems},
    signals::Signals,
    telemetry::Telemetry,
};

pub use program::Deps;
use program::{Build, Program};

/// Wrong usage or configuration.
const USAGE: u8 = 2;
/// Ended by a signal before it was done; 128 + SIGINT, as shells have it.
const INTERRUPTED: u8 = 130;

/// The whole program: reads arguments, configuration and environment, builds the pipeline and does what the command says.
///
/// `build` is called with what a pipeline may need of the outside; `dev` calls it anew once its stack runs. What it
/// refuses counts as wrong configuration.
pub fn main(build: impl Fn(&Deps) -> anyhow::Result<Pipeline> + 'static) -> ExitCode {
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => {
            // To standard output for `--help`, else to standard error; nobody is left to hear of a failure.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
        }
    };
    let variables = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
    let layers = Layers::read(arguments.config.as_deref(), variables);
    match start(layers, Box::new(build), arguments) {
        Ok(code) => code,
        Err(error) => report(&error),
    }
}

/// Runs the command until it is done, or until a second signal says that nobody waits for it.
fn start(layers: Layers, build: Build, arguments: Arguments) -> anyhow::Result<ExitCode> {
    let telemetry = Telemetry::start()?;
    let otlp = telemetry.otlp();
    let program = &Program::new(layers, build, otlp);
    logs::start(program.log_format(), arguments.command.is_service(), otlp.tracer())?;
    headwater::codec::limit_allocations(program.record_limit());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(async {
        let mut signals = Signals::listen()?;
        tokio::select! {
            outcome = command::run(program, arguments.command, signals.stop()) => outcome,
            () = signals.second() => Ok(ExitCode::from(INTERRUPTED)),
        }
    });
    // A thread that waits for a server or for standard input must not hold the process.
    runtime.shutdown_background();
    outcome
}

/// Says what went wrong on standard error, a line each.
fn report(error: &anyhow::Error) -> ExitCode {
    let mut out = std::io::stderr().lock();
    match error.downcast_ref::<Problems>() {
        Some(Problems(problems)) => {
            problems.iter().for_each(|problem| drop(writeln!(out, "error: {problem}")));
            ExitCode::from(USAGE)
        }
        None => {
            format!("{error:#}").lines().for_each(|line| drop(writeln!(out, "error: {line}")));
            ExitCode::FAILURE
        }
    }
}
