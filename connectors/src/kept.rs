//! The state of a stateful group: on this machine's disk, as its changelogs have it.

mod restore;

mod offsets;
mod topics;

use std::{sync::Arc, time::Duration};

use headwater::{Change, CommitError, GroupState, TopicPartition, ports::Clock};
use tokio::task::JoinHandle;

use self::restore::Restorer;
pub use self::topics::StateTopics;
use crate::{
    kafka::{Cluster, KafkaConfig, KafkaError},
    state::{End, LocalStore},
};

/// Between two tries to tell a full disk what was committed.
const DISK_PAUSE: Duration = Duration::from_secs(1);

/// The stores of one group.
pub(crate) struct Kept {
    group: String,
    local: LocalStore,
    restorer: Restorer,
    state: Arc<GroupState>,
    clock: Arc<dyn Clock>,
    /// Partitions that are being closed.
    closing: Vec<JoinHandle<()>>,
}

impl Kept {
    pub(crate) fn new(
        (kafka, cluster): (&KafkaConfig, &Cluster),
        group: &str,
        (local, topics): (LocalStore, StateTopics),
        (state, clock): (Arc<GroupState>, Arc<dyn Clock>),
    ) -> Result<Self, KafkaError> {
        let restorer = Restorer::new(kafka, cluster, group, topics, local.clone())?;
        Ok(Self { group: group.to_owned(), local, restorer, state, clock, closing: Vec::new() })
    }

    /// The stores on the disk.
    pub(crate) fn local(&self) -> &LocalStore {
        &self.local
    }

    /// Brings the state of these partitions' numbers up to where its changelogs end, where the group is known to have these
    /// offsets. Gives how many numbers it has.
    pub(crate) async fn restore(
        &mut self,
        partitions: &[TopicPartition],
        known: &[TopicPartition],
    ) -> Result<i32, CommitError> {
        for closing in self.closing.drain(..) {
            closing.await.map_err(|error| CommitError::Fatal(error.to_string()))?;
        }
        let restored = self.restorer.restore(partitions, &self.state, self.clock.as_ref()).await?;
        self.restorer.require_offsets(&restored, known).await?;
        self.restorer.require_inputs(&restored, known).await?;
        Ok(restored.count)
    }

    /// Tells the local store what the changelogs have. It is durable there: while the disk does not take it everything waits.
    pub(crate) async fn apply(&self, changes: Vec<Change>, ends: Vec<End>) -> Result<(), CommitError> {
        let (changes, ends) = (Arc::new(changes), Arc::new(ends));
        let now_ms = self.clock.now().millis();
        loop {
            let (local, changes, ends) = (self.local.clone(), Arc::clone(&changes), Arc::clone(&ends));
            let applied = tokio::task::spawn_blocking(move || local.apply(&changes, &ends, now_ms)).await;
            let applied = applied.map_err(|error| CommitError::Fatal(error.to_string()))?;
            match applied {
                Ok(()) => {
                    self.state.trouble("state", None);
                    return Ok(());
                }
                Err(error) => {
                    if self.state.trouble("state", Some(&error.to_string())) {
                        tracing::error!(group = self.group, %error, "state that is committed cannot be written; the group waits");
                    }
                    self.clock.sleep(DISK_PAUSE).await;
                }
            }
        }
    }

    pub(crate) fn forget(&mut self, partitions: &[TopicPartition]) {
        let (local, numbers) = (self.local.clone(), partitions.iter().map(|id| id.partition).collect::<Vec<_>>());
        // What waits is written to the disk: on a thread where that may take its time.
        self.closing.push(tokio::task::spawn_blocking(move || local.forget(&numbers)));
    }
}

/// What a failed question to the cluster is to the engine.
pub(crate) fn failed(error: KafkaError) -> CommitError {
    match error {
        KafkaError::Outage(why) => CommitError::Outage(why),
        other => CommitError::Fatal(other.to_string()),
    }
}
