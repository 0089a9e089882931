//! `dlq`: dead letters, one file a command.
//!
//! They are read and marked in Postgres alone; only what is sent back or edited needs Kafka, or what was cut and is to be
//! whole, and the registry only what is decoded.

mod list;
mod show;

mod pace;
mod redrive;

mod discard;
mod edit;

mod text;
mod value;
mod whole;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use headwater_connectors::{
    kafka::Producer,
    postgres::{LetterFilter, Letters, Status, Stored},
};
use uuid::Uuid;

pub(super) use self::text::{WIDE, note, plain};
use super::{
    arguments::{DlqCommand, Which},
    groups::group_status,
};
use crate::{
    INTERRUPTED,
    app::{App, Loader},
    clients::Clients,
    config::Problems,
    process::signals::Stop,
};

/// Those that wait for a person.
const WAITING: [Status; 2] = [Status::Open, Status::Parked];

pub(crate) async fn run(loader: &Loader, command: DlqCommand, mut stop: Stop) -> Result<ExitCode> {
    let desk = Desk::open(loader)?;
    let done = match command {
        // What is under way is finished, and said.
        DlqCommand::Redrive(arguments) => return redrive::run(&desk, &arguments, stop).await,
        // A signal from the terminal is the editor's.
        DlqCommand::Edit(arguments) => return edit::run(&desk, arguments).await,
        command => looked_or_discarded(&desk, command),
    };
    tokio::select! {
        done = done => done,
        () = stop.requested() => Ok(ExitCode::from(INTERRUPTED)),
    }
}

async fn looked_or_discarded(desk: &Desk, command: DlqCommand) -> Result<ExitCode> {
    match command {
        DlqCommand::Groups(arguments) => list::groups(desk, &arguments).await,
        DlqCommand::List(arguments) => list::letters(desk, &arguments).await,
        DlqCommand::Show(arguments) => show::run(desk, &arguments).await,
        DlqCommand::Discard(arguments) => discard::run(desk, &arguments).await,
        DlqCommand::Redrive(_) | DlqCommand::Edit(_) => unreachable!("these are run by themselves"),
    }
}

/// What every command about dead letters works with.
struct Desk {
    app: App,
    outside: Clients,
    letters: Letters,
}

impl Desk {
    fn open(loader: &Loader) -> Result<Self> {
        let app = loader.load(&[])?;
        let outside = Clients::new(&app)?;
        Ok(Self { letters: outside.database.letters(), app, outside })
    }

    /// The full id of the group of this name: one of the pipeline, or one that is no more and has left letters behind.
    async fn group(&self, name: &str) -> Result<String> {
        let unknown = match group_status::find(&self.app, name) {
            Ok(found) => return Ok(found.group.id.clone()),
            Err(unknown) => unknown,
        };
        for id in [name.to_owned(), format!("{}{name}", self.app.config.prefix)] {
            let of = LetterFilter { group: Some(id.clone()), ..LetterFilter::default() };
            if !self.letters.makes(&of, 1).await?.is_empty() {
                return Ok(id);
            }
        }
        Err(unknown.into())
    }

    async fn optional_group(&self, name: Option<&String>) -> Result<Option<String>> {
        Ok(match name {
            Some(name) => Some(self.group(name).await?),
            None => None,
        })
    }

    async fn letter(&self, id: Uuid) -> Result<Stored> {
        self.letters.get(id).await?.with_context(|| format!("there is no dead letter {id}"))
    }

    /// A producer that gives up while the database still holds the letters' locks.
    fn producer(&self) -> Result<Producer> {
        let mut kafka = self.app.config.kafka.clone();
        let patience = self.app.config.postgres.statement_timeout / 2;
        kafka.producer.delivery_timeout = kafka.producer.delivery_timeout.min(patience);
        Producer::new(&kafka).map_err(|error| Problems::one(error.to_string()).into())
    }

    /// # Errors
    /// When the cluster does not answer, or lacks the topic to which this group's letters are sent back.
    async fn require_topic(&self, topic: &str) -> Result<()> {
        let there = self.outside.cluster.topics().await?.iter().any(|known| known.name == topic);
        anyhow::ensure!(there, "topic {topic} does not exist: run `headwater topology apply`");
        Ok(())
    }
}

fn filter(group: Option<String>, which: &Which, statuses: Vec<Status>) -> LetterFilter {
    let Which { fingerprint, kind, since } = which.clone();
    LetterFilter { group, fingerprint, kind, since, statuses, ..LetterFilter::default() }
}
