//! What every command about dead letters works with.

use anyhow::{Context as _, Result};
use headwater_connectors::{
    kafka::Producer,
    postgres::{LetterFilter, Letters, Status, StoredLetter},
};
use uuid::Uuid;

use crate::{
    app::{App, Loader},
    clients::Clients,
    command::{arguments::LetterSelection, groups::group_status},
    config::Problems,
};

/// Those that wait for a person.
pub(super) const WAITING: [Status; 2] = [Status::Open, Status::Parked];

/// Pipeline, clients and dead letters.
pub(super) struct DlqContext {
    pub(super) app: App,
    pub(super) clients: Clients,
    pub(super) letters: Letters,
}

impl DlqContext {
    pub(super) fn open(loader: &Loader) -> Result<Self> {
        let app = loader.load(&[])?;
        let clients = Clients::new(&app)?;
        Ok(Self { letters: Letters::of(&clients.database), app, clients })
    }

    /// The full id of the group of this name: one of the pipeline, or one that is no more and has left letters behind.
    pub(super) async fn group(&self, name: &str) -> Result<String> {
        let unknown = match group_status::find(&self.app, name) {
            Ok(found) => return Ok(found.group.id.clone()),
            Err(unknown) => unknown,
        };
        for id in [name.to_owned(), format!("{}{name}", self.app.config.prefix)] {
            let of = LetterFilter { group: Some(id.clone()), ..LetterFilter::default() };
            if !self.letters.failure_groups(&of, 1).await?.is_empty() {
                return Ok(id);
            }
        }
        Err(unknown.into())
    }

    pub(super) async fn optional_group(&self, name: Option<&String>) -> Result<Option<String>> {
        Ok(match name {
            Some(name) => Some(self.group(name).await?),
            None => None,
        })
    }

    pub(super) async fn letter(&self, id: Uuid) -> Result<StoredLetter> {
        self.letters.get(id).await?.with_context(|| format!("there is no dead letter {id}"))
    }

    /// A producer that gives up while the database still holds the letters' locks.
    pub(super) fn producer(&self) -> Result<Producer> {
        let mut kafka = self.app.config.kafka.clone();
        let patience = self.app.config.postgres.statement_timeout / 2;
        kafka.producer.delivery_timeout = kafka.producer.delivery_timeout.min(patience);
        Producer::new(&kafka).map_err(|error| Problems::one(error.to_string()).into())
    }

    /// # Errors
    /// When the cluster does not answer, or lacks the topic to which this group's letters are sent back.
    pub(super) async fn require_topic(&self, topic: &str) -> Result<()> {
        let there = self.clients.cluster.topics().await?.iter().any(|known| known.name == topic);
        anyhow::ensure!(there, "topic {topic} does not exist: run `headwater topology apply`");
        Ok(())
    }
}

pub(super) fn filter(group: Option<String>, which: &LetterSelection, statuses: Vec<Status>) -> LetterFilter {
    let LetterSelection { fingerprint, kind, since } = which.clone();
    LetterFilter { group, fingerprint, kind, since, statuses, ..LetterFilter::default() }
}
