//! A program: its pipeline, and the story of its process.

use std::{io::Write, process::ExitCode};

use headwater::Pipeline;
use headwater_connectors::tls::install_provider;

use crate::{
    INTERRUPTED, USAGE,
    app::{Build, Deps, Loader},
    command::{Command, CommandLine, Demo, Invocation},
    config::{AddedSection, Layers, Problems, Section},
    process::{logs, signals::Signals, telemetry::Telemetry},
};

/// A program of a pipeline.
pub struct Program {
    build: Build,
    commands: CommandLine,
    sections: Vec<AddedSection>,
}

impl Program {
    /// A program of the pipeline that `build` makes.
    ///
    /// `build` is called with what a pipeline may need of the outside; `dev` calls it anew once its stack runs. What it
    /// refuses counts as wrong configuration.
    pub fn new(build: impl Fn(&Deps) -> anyhow::Result<Pipeline> + 'static) -> Self {
        Self { build: Box::new(build), commands: CommandLine::default(), sections: Vec::new() }
    }

    /// Has a section of the configuration beside those of every program.
    #[must_use]
    pub fn section<S: Section>(mut self) -> Self {
        self.sections.push(AddedSection::of::<S>());
        self
    }

    /// Has something to show by `dev --demo`.
    #[must_use]
    pub fn demo<D: Demo>(mut self) -> Self {
        self.commands.show::<D>();
        self
    }

    /// Has a command beside those of every program.
    #[must_use]
    pub fn command<C: Command>(mut self) -> Self {
        self.commands.add::<C>();
        self
    }

    /// Reads arguments, configuration and environment, builds the pipeline and does what the command says.
    pub fn main(self) -> ExitCode {
        install_provider();
        let invocation = match self.commands.read() {
            Ok(invocation) => invocation,
            Err(error) => {
                // To standard output for `--help`, else to standard error; nobody is left to hear of a failure.
                let _ = error.print();
                return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(USAGE));
            }
        };
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.to_string_lossy().into_owned())));
        let layers = Layers::read(invocation.config.as_deref(), variables).with_sections(self.sections.clone());
        match self.start(layers, invocation) {
            Ok(code) => code,
            Err(error) => report(&error),
        }
    }

    /// Runs the command until it is done, or until a second signal says that nobody waits for it.
    fn start(self, layers: Layers, invocation: Invocation) -> anyhow::Result<ExitCode> {
        let telemetry = Telemetry::start()?;
        let otlp = telemetry.otlp();
        let loader = &Loader::new(layers, self.build, otlp);
        logs::start(loader.log_format(), invocation.is_service(), otlp.tracer())?;
        headwater::spi::codec::limit_allocations(loader.record_limit());
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let outcome = runtime.block_on(async {
            let mut signals = Signals::listen()?;
            tokio::select! {
                outcome = self.commands.run(invocation, loader, signals.stop()) => outcome,
                () = signals.second() => Ok(ExitCode::from(INTERRUPTED)),
            }
        });
        // A thread that waits for a server or for standard input must not hold the process.
        runtime.shutdown_background();
        outcome
    }
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
