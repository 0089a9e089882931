//! The state of a stateful group: on this machine's disk, as its changelogs have it.

mod restore;

mod offsets;
mod topics;

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use headwater::{
    TopicPartition,
    spi::{Clock, CommitError, GroupMetrics, StateChange},
};
use tokio::{runtime::Handle, sync::oneshot, task::JoinHandle};

use self::restore::Restorer;
pub use self::topics::StateTopics;
use super::local::{End, LocalStore};
use crate::kafka::{Cluster, KafkaConfig, KafkaError};

/// Between two tries to tell a full disk what was committed.
const DISK_PAUSE: Duration = Duration::from_secs(1);

/// The stores of one group.
pub(crate) struct GroupStores {
    group: String,
    local: LocalStore,
    restorer: Restorer,
    state: Arc<GroupMetrics>,
    clock: Arc<dyn Clock>,
    /// Partitions that are ours. The state of a number is open until the last one of it has left.
    taken: HashSet<TopicPartition>,
    /// What is under way on the disk: changes whose committer did not wait for them, numbers that are being closed.
    under_way: Vec<JoinHandle<()>>,
}

impl GroupStores {
    pub(crate) fn new(
        (kafka, cluster): (&KafkaConfig, &Cluster),
        group: &str,
        (local, topics): (LocalStore, StateTopics),
        (state, clock): (Arc<GroupMetrics>, Arc<dyn Clock>),
    ) -> Result<Self, KafkaError> {
        let restorer = Restorer::new(kafka, cluster, group, topics, local.clone())?;
        let (taken, under_way) = (HashSet::new(), Vec::new());
        Ok(Self { group: group.to_owned(), local, restorer, state, clock, taken, under_way })
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
        self.taken.extend(partitions.iter().cloned());
        self.settle().await?;
        let restored = self.restorer.restore(partitions, &self.state, self.clock.as_ref()).await?;
        offsets::require_offsets(&self.restorer, &restored, known).await?;
        offsets::require_inputs(&self.restorer, &restored, known).await?;
        Ok(restored.count)
    }

    /// Waits for what is under way on the disk.
    async fn settle(&mut self) -> Result<(), CommitError> {
        while let Some(last) = self.under_way.last_mut() {
            let ended = last.await;
            self.under_way.pop();
            restore::ended(ended)?;
        }
        Ok(())
    }

    /// Tells the local store what the changelogs have. It is durable there: while the disk does not take it everything waits.
    pub(crate) async fn apply(&mut self, changes: Vec<StateChange>, ends: Vec<End>) -> Result<(), CommitError> {
        let (changes, ends) = (Arc::new(changes), Arc::new(ends));
        let now_ms = self.clock.now().millis();
        loop {
            let (local, changes, ends) = (self.local.clone(), Arc::clone(&changes), Arc::clone(&ends));
            let (tell, told) = oneshot::channel();
            // Whoever does not wait for it any more finds it here: nothing may come before it.
            self.under_way.push(tokio::task::spawn_blocking(move || {
                let _ = tell.send(local.apply(&changes, &ends, now_ms));
            }));
            self.settle().await?;
            match told.await.map_err(|error| CommitError::Failed(error.to_string()))? {
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

    /// Lets partitions go, and with the last one of a number its state; whether nothing is ours any more.
    pub(crate) fn forget(&mut self, partitions: &[TopicPartition]) -> bool {
        let numbers = left(&mut self.taken, partitions);
        if !numbers.is_empty() {
            let (local, before) = (self.local.clone(), std::mem::take(&mut self.under_way));
            let runtime = Handle::current();
            // What waits is written to the disk: on a thread where that may take its time.
            self.under_way.push(tokio::task::spawn_blocking(move || {
                // One that has failed is told about where it did.
                before.into_iter().for_each(|before| _ = runtime.block_on(before));
                local.forget(&numbers);
            }));
        }
        self.taken.is_empty()
    }
}

/// Takes partitions that leave out of those that are ours; gives the numbers of which none is left.
fn left(taken: &mut HashSet<TopicPartition>, partitions: &[TopicPartition]) -> Vec<i32> {
    partitions.iter().for_each(|id| _ = taken.remove(id));
    let stays = |number: i32| taken.iter().any(|id| id.partition == number);
    let numbers: BTreeSet<i32> = partitions.iter().map(|id| id.partition).collect();
    numbers.into_iter().filter(|number| !stays(*number)).collect()
}

#[cfg(test)]
mod tests {
    use super::{super::local::StateConfig, *};

    /// Red when a number's state is closed with the first of its partitions that leaves: what is committed of
    /// the others would not know how far its inputs have come.
    #[test]
    fn the_state_of_a_number_stays_open_until_its_last_partition_leaves() {
        let at = |topic, number| TopicPartition::new(topic, number);
        let mut taken: HashSet<_> = [at("redrive", 0), at("count", 0), at("redrive", 1), at("count", 1)].into();
        assert_eq!(left(&mut taken, &[at("redrive", 0)]), Vec::<i32>::new());
        assert_eq!(left(&mut taken, &[at("redrive", 0)]), Vec::<i32>::new(), "it has left already");
        assert_eq!(left(&mut taken, &[at("count", 0), at("count", 1)]), [0]);
        assert_eq!(left(&mut taken, &[at("redrive", 1), at("never", 7)]), [1, 7]);
    }

    /// A defect on the disk's thread ends the group as what a new start may mend. Fails where it halts the group for a person
    /// (`Fatal` in `settle`), is passed over, panics here, or is told again once it was told.
    #[tokio::test]
    async fn what_panics_on_the_disk_is_a_failure() {
        let (dir, kafka) = (tempfile::tempdir().unwrap(), KafkaConfig::default());
        let local = LocalStore::open(dir.path(), &StateConfig::default()).unwrap();
        let (cluster, clock) = (Cluster::new(&kafka).unwrap(), Arc::new(headwater::spi::SystemClock::default()));
        let stores = (local, StateTopics::default());
        let mut stores = GroupStores::new((&kafka, &cluster), "g", stores, (Arc::default(), clock)).unwrap();
        let is_failure = |outcome| matches!(outcome, Err(CommitError::Failed(_)));
        stores.under_way.push(tokio::task::spawn_blocking(|| panic!("as a defect does")));
        assert!(is_failure(stores.apply(Vec::new(), Vec::new()).await));
        stores.under_way.push(tokio::task::spawn_blocking(|| panic!("as a defect does")));
        assert!(is_failure(stores.restore(&[], &[]).await.map(drop)));
        assert!(stores.apply(Vec::new(), Vec::new()).await.is_ok());
    }
}
