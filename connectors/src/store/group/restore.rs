//! State as it was committed last, from the local disk and the changelogs: of a partition that was here before only what
//! has come since is read.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use headwater::{
    TopicPartition,
    spi::{Clock, CommitError, GroupMetrics, GroupTopics, Metric},
};
use tokio::task::JoinError;

use super::topics::StateTopics;
use crate::{
    kafka::{
        ChangelogEnd, ChangelogError, ChangelogProgress, ChangelogReader, Cluster, INPUTS, KafkaConfig, KafkaError,
        ReadOutcome,
    },
    store::local::{Checkpoint, LocalError, LocalStore, Restore, SourceOffsets},
};

/// A restore that takes longer than this is told about, and this often.
const TELL: Duration = Duration::from_secs(2);

/// Restores the stores of one group.
pub(crate) struct Restorer {
    pub(crate) kafka: KafkaConfig,
    cluster: Cluster,
    pub(crate) group: String,
    pub(crate) reader: ChangelogReader,
    /// Each store with its changelog.
    pub(crate) stores: Vec<(&'static str, String)>,
    pub(crate) topics: StateTopics,
    local: LocalStore,
}

/// What was found while state was restored.
pub(crate) struct RestoreSummary {
    /// How many numbers the group has.
    pub(crate) count: i32,
    /// How many partitions every topic has.
    pub(crate) counts: BTreeMap<String, i32>,
    /// The numbers that have state.
    pub(crate) full: BTreeSet<i32>,
}

/// Stops the thread that restores when nobody waits for it any more.
pub(crate) struct CancelOnDrop(pub(crate) Arc<AtomicBool>);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// What came of a task on a thread of its own. One that panics is a defect, which a new start may mend.
pub(crate) fn ended<T>(joined: Result<T, JoinError>) -> Result<T, CommitError> {
    joined.map_err(|error| CommitError::Failed(error.to_string()))
}

impl Restorer {
    pub(crate) fn new(
        kafka: &KafkaConfig,
        cluster: &Cluster,
        group: &str,
        topics: StateTopics,
        local: LocalStore,
    ) -> Result<Self, KafkaError> {
        let owned = GroupTopics::of(group);
        Ok(Self {
            kafka: kafka.clone(),
            cluster: cluster.clone(),
            group: group.to_owned(),
            reader: ChangelogReader::new(kafka, group)?,
            stores: topics.stores.iter().map(|store| (*store, owned.changelog(store))).collect(),
            topics,
            local,
        })
    }

    /// Brings the state up to date that comes with these partitions, and opens it.
    pub(crate) async fn restore(
        &self,
        partitions: &[TopicPartition],
        state: &Arc<GroupMetrics>,
        clock: &dyn Clock,
    ) -> Result<RestoreSummary, CommitError> {
        let topics: Vec<&str> = self.stores.iter().map(|(_, topic)| topic.as_str()).collect();
        let (ids, kept, listed) = tokio::try_join!(
            self.cluster.topic_ids(&topics),
            self.cluster.delete_retention(&topics),
            self.cluster.topics()
        )
        .map_err(CommitError::from)?;
        let counts: BTreeMap<String, i32> = listed.into_iter().map(|topic| (topic.name, topic.partitions)).collect();
        if let Some(untold) = topics.iter().find(|topic| !kept.contains_key(**topic) || !counts.contains_key(**topic)) {
            return Err(if self.cluster.lacks(untold).await.map_err(CommitError::from)? {
                CommitError::Fatal(format!(
                    "topic {untold} does not exist, and state cannot be kept without: run `headwater topology apply`"
                ))
            } else {
                CommitError::Outage(format!("the kafka cluster does not tell of topic {untold} yet"))
            });
        }
        let count = self.topics.count(&self.group, &counts).map_err(CommitError::Fatal)?;
        let numbers = self.topics.numbers(partitions);
        let cancelled = Arc::new(AtomicBool::new(false));
        let _guard = CancelOnDrop(Arc::clone(&cancelled));
        let work = Work {
            group: self.group.clone(),
            reader: self.reader.clone(),
            stores: self.stores.clone(),
            local: self.local.clone(),
            numbers,
            ids,
            kept,
            now_ms: clock.now().millis(),
            state: Arc::clone(state),
            cancelled,
        };
        let restored = tokio::task::spawn_blocking(move || {
            let restored = work.run().and_then(|()| work.full());
            work.state.set(Metric::RestoreLeft, 0);
            work.state.trouble("restore", None);
            restored
        });
        let full = ended(restored.await)?.map_err(|error| match error {
            RestoreError::Kafka(error) => error.into(),
            RestoreError::Local(error @ LocalError::Disk { .. }) => CommitError::Outage(error.to_string()),
            RestoreError::Local(error) => CommitError::Fatal(error.to_string()),
            RestoreError::Cancelled => CommitError::Outage("restoring state was cancelled".to_owned()),
        })?;
        Ok(RestoreSummary { count, counts, full })
    }
}

enum RestoreError {
    Kafka(KafkaError),
    Local(LocalError),
    Cancelled,
}

impl From<LocalError> for RestoreError {
    fn from(error: LocalError) -> Self {
        Self::Local(error)
    }
}

/// Why a local store with this checkpoint cannot be brought up to date with its changelog.
fn stale(checkpoint: &Checkpoint, topic_id: &str, kept: Duration, now_ms: i64) -> Option<&'static str> {
    let is_another = !checkpoint.topic_id.is_empty() && !topic_id.is_empty() && checkpoint.topic_id != topic_id;
    // `None` where it comes from the future.
    let age = u64::try_from(now_ms.saturating_sub(checkpoint.at_ms)).ok().map(Duration::from_millis);
    match age {
        _ if is_another => Some("its changelog was created anew"),
        None => Some("the clock was ahead when it was written, or is behind now, and how old it is nobody knows"),
        Some(age) if age >= kept => Some("it is older than its changelog keeps what was deleted"),
        Some(_) => None,
    }
}

/// One restore, on a thread that may block.
struct Work {
    group: String,
    reader: ChangelogReader,
    stores: Vec<(&'static str, String)>,
    local: LocalStore,
    numbers: BTreeSet<i32>,
    /// The ids of the changelogs.
    ids: BTreeMap<String, String>,
    /// How long the changelogs keep what was deleted.
    kept: BTreeMap<String, Duration>,
    now_ms: i64,
    state: Arc<GroupMetrics>,
    cancelled: Arc<AtomicBool>,
}

impl Work {
    fn run(&self) -> Result<(), RestoreError> {
        let mut wanted: Vec<(&'static str, TopicPartition)> = Vec::new();
        for (store, topic) in &self.stores {
            wanted.extend(self.numbers.iter().map(|number| (*store, TopicPartition::new(topic.as_str(), *number))));
        }
        for (store, id) in &wanted {
            self.wipe_stale(store, id)?;
        }
        // What is out of the changelog's range is wiped and read from its beginning, which is in range.
        while !wanted.is_empty() {
            wanted = self.read(&wanted)?;
        }
        Ok(())
    }

    /// The numbers that have state.
    fn full(&self) -> Result<BTreeSet<i32>, RestoreError> {
        let mut full = BTreeSet::new();
        for number in &self.numbers {
            for (store, _) in &self.stores {
                if !self.local.is_empty(store, *number)? {
                    full.insert(*number);
                }
            }
        }
        Ok(full)
    }

    /// Deletes what cannot be brought up to date: its changelog is another one now, or has let tombstones go that it lacks.
    fn wipe_stale(&self, store: &str, id: &TopicPartition) -> Result<(), LocalError> {
        let Some(checkpoint) = self.local.checkpoint(store, id.partition)? else { return Ok(()) };
        let topic_id = self.ids.get(&*id.topic).map_or("", String::as_str);
        let kept = self.kept.get(&*id.topic).copied().unwrap_or(Duration::MAX);
        let Some(why) = stale(&checkpoint, topic_id, kept, self.now_ms) else { return Ok(()) };
        tracing::info!(
            group = self.group,
            store,
            partition = id.partition,
            reason = why,
            "local state is restored from the beginning"
        );
        self.local.wipe(store, id.partition)
    }

    /// Reads changelogs to their ends; gives those that have to be read again.
    fn read(
        &self,
        wanted: &[(&'static str, TopicPartition)],
    ) -> Result<Vec<(&'static str, TopicPartition)>, RestoreError> {
        let mut restores: HashMap<TopicPartition, Restore> = HashMap::new();
        let mut places = Vec::new();
        for (store, id) in wanted {
            let topic_id = self.ids.get(&*id.topic).map_or("", String::as_str);
            let restore = self.local.restore(store, id.partition, topic_id, self.now_ms)?;
            places.push((id.clone(), restore.checkpoint()?.map(|checkpoint| checkpoint.next)));
            restores.insert(id.clone(), restore);
        }
        let (mut broken, began, mut told) = (None, Instant::now(), Duration::ZERO);
        let each = |id: &TopicPartition, key: &[u8], value: Option<&[u8]>, offset: i64| {
            let pushed = restores.get_mut(id).map_or(Ok(()), |restore| restore.push(offset, key, value));
            if let Err(error) = pushed {
                broken.get_or_insert(error);
                self.cancelled.store(true, Ordering::Relaxed);
            }
        };
        let read = self.reader.read_with_header(Some(INPUTS), &places, &self.cancelled, each, |p| {
            self.tell(p, began.elapsed(), &mut told)
        });
        if let Some(error) = broken {
            return Err(error.into());
        }
        let ends = read.map_err(|error| match error {
            ChangelogError::Cancelled => RestoreError::Cancelled,
            ChangelogError::Kafka(error) => RestoreError::Kafka(error),
        })?;
        let mut again = Vec::new();
        for (ChangelogEnd { partition: id, outcome, header }, (store, _)) in ends.into_iter().zip(wanted) {
            match (outcome, restores.get_mut(&id)) {
                (ReadOutcome::End(next), Some(restore)) => {
                    header.map(|text| self.inputs(&id, &text)).transpose()?.into_iter().for_each(|i| restore.pass(i));
                    restore.finish(next, self.now_ms)?;
                }
                (ReadOutcome::End(_), None) => {}
                (ReadOutcome::OutOfRange { low, high }, _) => {
                    tracing::warn!(
                        group = self.group,
                        store,
                        partition = id.partition,
                        low,
                        high,
                        "local state is out of its changelog's range and is restored from the beginning"
                    );
                    restores.remove(&id);
                    self.local.wipe(store, id.partition)?;
                    again.push((*store, id));
                }
            }
        }
        Ok(again)
    }

    /// What the last record of a changelog says of the inputs.
    fn inputs(&self, id: &TopicPartition, text: &[u8]) -> Result<SourceOffsets, RestoreError> {
        let inputs = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
        inputs.ok_or_else(|| {
            let why = format!(
                "the last record of changelog {id} does not say in header {INPUTS:?} how far the inputs of group {} have come: something else has written there; write that record again without the header",
                self.group
            );
            RestoreError::Kafka(KafkaError::Refused(why))
        })
    }

    /// Says how far it is, and how long it will take, where that is long.
    fn tell(&self, progress: ChangelogProgress, elapsed: Duration, told: &mut Duration) {
        let left = progress.total.saturating_sub(progress.done);
        self.state.set(Metric::RestoreLeft, left);
        if elapsed < *told + TELL || left == 0 {
            return;
        }
        *told = elapsed;
        let seconds = elapsed.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let (done, total) = (progress.done as f64, progress.total.max(1) as f64);
        let remaining = if done > 0.0 {
            format!("{:.0} s left", seconds / done * (total - done))
        } else {
            "waiting for the first record".to_owned()
        };
        let text = format!("restoring state: {:.0} % of {} records, {remaining}", 100.0 * done / total, progress.total);
        self.state.trouble("restore", Some(&text));
        tracing::info!(group = self.group, "{text}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a checkpoint from the future counts as young (an age below zero taken for none): by a clock that was
    /// ahead a store looks young whose tombstones are gone, and deleted keys rise again.
    #[test]
    fn a_store_is_stale_that_is_too_old_from_the_future_or_of_another_topic() {
        let kept = Duration::from_secs(100);
        let at = |at_ms, topic_id: &str| {
            let checkpoint = Checkpoint { at_ms, topic_id: topic_id.to_owned(), ..Checkpoint::default() };
            stale(&checkpoint, "a", kept, 1_000_000).map(|why| why.split(' ').next_back().unwrap_or_default())
        };
        assert_eq!(at(1_000_000, "a"), None);
        assert_eq!(at(900_001, "a"), None);
        assert_eq!(at(900_000, "a"), Some("deleted"));
        assert_eq!(at(1_000_001, "a"), Some("knows"));
        assert_eq!(at(i64::MAX, "a"), Some("knows"));
        assert_eq!(at(i64::MIN, "a"), Some("deleted"));
        assert_eq!(at(1_000_000, "b"), Some("anew"));
        assert_eq!(at(1_000_000, ""), None);
    }
}
