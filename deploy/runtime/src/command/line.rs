//! The command line: the commands that every program has, and those of one.

mod completions;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{ArgMatches, Args, CommandFactory as _, FromArgMatches as _};
use futures_util::future::LocalBoxFuture;

use super::{
    arguments::{Arguments, BuiltIn},
    config,
    dev::{self, AddedDemo, Demo},
    dlq,
    events::{produce, tail},
    groups, health, offsets, run, state, topology,
};
use crate::{INTERRUPTED, app::Loader, process::signals::Stop};

/// A command that a program has beside those of every program: the type is its arguments, whose doc comment is the help.
pub trait Command: Args + 'static {
    /// Its name.
    const NAME: &'static str;

    /// Does it. Once `stop` is requested it ends soon, with [`INTERRUPTED`] where it is not done.
    ///
    /// # Errors
    /// What keeps it from its end; [`Problems`](crate::Problems) for wrong usage.
    fn run(self, loader: &Loader, stop: Stop) -> impl Future<Output = Result<ExitCode>>;
}

/// A program's own command, whatever its type.
#[derive(Clone, Copy)]
struct AddedCommand {
    name: &'static str,
    arguments: fn(clap::Command) -> clap::Command,
    run: for<'a> fn(&'a ArgMatches, &'a Loader, Stop) -> LocalBoxFuture<'a, Result<ExitCode>>,
}

fn added<'a, C: Command>(
    matches: &'a ArgMatches,
    loader: &'a Loader,
    stop: Stop,
) -> LocalBoxFuture<'a, Result<ExitCode>> {
    Box::pin(async move { C::from_arg_matches(matches)?.run(loader, stop).await })
}

/// Every command that a program has.
#[derive(Default)]
pub(crate) struct CommandLine {
    added: Vec<AddedCommand>,
    demo: Option<AddedDemo>,
}

/// What somebody has written.
pub(crate) struct Invocation {
    /// The configuration file.
    pub(crate) config: Option<PathBuf>,
    command: InvokedCommand,
}

enum InvokedCommand {
    BuiltIn(BuiltIn),
    Added(AddedCommand, ArgMatches),
}

impl Invocation {
    /// Whether the command runs until it is stopped and tells of itself meanwhile.
    pub(crate) fn is_service(&self) -> bool {
        matches!(&self.command, InvokedCommand::BuiltIn(command) if command.is_service())
    }
}

impl CommandLine {
    pub(crate) fn add<C: Command>(&mut self) {
        self.added.push(AddedCommand { name: C::NAME, arguments: C::augment_args, run: added::<C> });
    }

    pub(crate) fn show<D: Demo>(&mut self) {
        self.demo = Some(AddedDemo::of::<D>());
    }

    /// Reads the process's arguments.
    ///
    /// # Errors
    /// Wrong usage, or what was asked to be printed.
    pub(crate) fn read(&self) -> Result<Invocation, clap::Error> {
        let matches = self.grammar().try_get_matches()?;
        if let Some((name, own)) = matches.subcommand()
            && let Some(added) = self.added.iter().find(|added| added.name == name)
        {
            let config = matches.get_one("config").cloned();
            return Ok(Invocation { config, command: InvokedCommand::Added(*added, own.clone()) });
        }
        let arguments = Arguments::from_arg_matches(&matches).map_err(|error| error.format(&mut self.grammar()))?;
        Ok(Invocation { config: arguments.config, command: InvokedCommand::BuiltIn(arguments.command) })
    }

    /// What can be written.
    fn grammar(&self) -> clap::Command {
        let added = self.added.iter().map(|added| (added.arguments)(clap::Command::new(added.name)));
        Arguments::command().subcommands(added)
    }

    /// Does what was written.
    pub(crate) async fn run(&self, invocation: Invocation, loader: &Loader, stop: Stop) -> Result<ExitCode> {
        match invocation.command {
            InvokedCommand::BuiltIn(command) => self.built_in(command, loader, stop).await,
            InvokedCommand::Added(added, matches) => (added.run)(&matches, loader, stop).await,
        }
    }

    async fn built_in(&self, command: BuiltIn, loader: &Loader, mut stop: Stop) -> Result<ExitCode> {
        match command {
            BuiltIn::Run(arguments) => run::run(loader, &arguments, stop).await,
            BuiltIn::Dev(arguments) => dev::run(loader, arguments, self.demo, stop).await,
            // Nothing of it needs to be finished: doing it again does the rest.
            BuiltIn::Topology(command) => tokio::select! {
                outcome = topology::run(loader, &command) => outcome,
                () = stop.requested() => Ok(ExitCode::from(INTERRUPTED)),
            },
            // What was moved is moved; doing it again does the rest.
            BuiltIn::Offsets(command) => tokio::select! {
                outcome = offsets::run(loader, &command) => outcome,
                () = stop.requested() => Ok(ExitCode::from(INTERRUPTED)),
            },
            BuiltIn::Groups(arguments) => tokio::select! {
                outcome = groups::run(loader, &arguments) => outcome,
                () = stop.requested() => Ok(ExitCode::from(INTERRUPTED)),
            },
            BuiltIn::Dlq(command) => dlq::run(loader, command, stop).await,
            BuiltIn::State(command) => tokio::select! {
                outcome = state::run(loader, &command) => outcome,
                () = stop.requested() => Ok(ExitCode::from(INTERRUPTED)),
            },
            BuiltIn::Produce(arguments) => produce::run(loader, arguments, stop).await,
            BuiltIn::Tail(arguments) => tail::run(loader, &arguments, stop).await,
            BuiltIn::Config(command) => config::run(loader, command),
            BuiltIn::Health => health::run(loader).await,
            BuiltIn::Completions { shell } => completions::completions(self.grammar(), shell),
            BuiltIn::Man { command } => completions::man(self.grammar(), &command),
        }
    }
}
