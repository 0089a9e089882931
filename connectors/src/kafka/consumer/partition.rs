//! A partition's life: `Waiting` → `Beginning` → `Delivering`, and back to `Beginning` when the engine starts it again.
//! From `Delivering` it goes to `Doubted` and back when a record comes that may not.
//!
//! Only in `Delivering` does anything of it reach the engine. `Delivering` keeps the offset that comes next itself:
//! wherever librdkafka resumes, it is told that place anew, because its own stored position is not to be trusted.

pub(crate) mod pause;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::{Duration, Instant},
};

use headwater::{
    TopicPartition,
    spi::{Batch, Record, StartFrom},
};
use rdkafka::{
    Offset, TopicPartitionList, error::RDKafkaErrorCode as Code, topic_partition_list::TopicPartitionListElem,
};

use crate::kafka::{debounce::Debounce, error::KafkaError};

/// Where a partition stands.
#[derive(Debug)]
pub(crate) enum PartitionPhase {
    /// Ours, and silent: the engine has not said where to begin. `asked`: it is known that the group has a start.
    Waiting { asked: bool },
    /// The engine has said where to begin, and the place is being looked up.
    Beginning { from: StartFrom, start: u64 },
    /// Records flow, `next` being the lowest offset that may come.
    Delivering { start: u64, next: i64 },
    /// One came from before `next`, and it is looked into whether the topic is still the same.
    Doubted { start: u64, next: i64 },
}

/// A partition that is assigned to us.
#[derive(Debug)]
pub(crate) struct Partition {
    pub(crate) phase: PartitionPhase,
    /// The engine wants nothing of it for now.
    pub(crate) paused: bool,
    /// librdkafka was told to deliver from `next`.
    pub(crate) flowing: bool,
    /// Not to be tried again before this.
    pub(crate) not_before: Instant,
    /// How long the present step has been tried.
    pub(crate) since: Instant,
    /// That the log ends before the place where this goes on.
    short: Debounce,
    open: Vec<Record>,
    /// Where the log was seen to end, and how far the engine knows it; -1 before.
    end: i64,
    told: i64,
}

/// Whether a record may be handed on.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum OffsetVerdict {
    /// It may; so many before it were deleted unread.
    Take { start: u64, lost: i64 },
    /// It belongs to no start that the engine gave.
    Stale,
    /// It lies before the place where the partition goes on: a false start, or the topic is another one now.
    Backwards { expected: i64 },
}

impl Partition {
    fn new(now: Instant) -> Self {
        Self {
            phase: PartitionPhase::Waiting { asked: false },
            paused: false,
            flowing: false,
            not_before: now,
            since: now,
            short: Debounce::default(),
            open: Vec::new(),
            end: -1,
            told: -1,
        }
    }

    /// Starts over; what was read and not handed on is dropped.
    pub(crate) fn begin(&mut self, from: StartFrom, start: u64, now: Instant) {
        self.phase = PartitionPhase::Beginning { from, start };
        self.short.clear();
        self.open.clear();
        (self.end, self.told) = (-1, -1);
        self.step(now);
    }

    /// Everything before this offset has come, be it records or markers of transactions.
    pub(crate) fn ends(&mut self, offset: i64) {
        // What comes behind a record that is looked into tells nothing.
        if matches!(self.phase, PartitionPhase::Delivering { .. }) {
            self.end = offset;
        }
    }

    /// What was kept since the last time, and how far the log has been read with it; `None` where neither is news.
    fn seal(&mut self) -> Option<(u64, Vec<Record>, i64)> {
        let PartitionPhase::Delivering { start, next } = self.phase else {
            self.open.clear();
            return None;
        };
        let ended = self.end > self.told && self.end >= next;
        if self.open.is_empty() && !ended {
            return None;
        }
        self.told = next.max(self.end);
        Some((start, std::mem::take(&mut self.open), self.told))
    }

    /// Delivers from `next` on.
    pub(crate) fn deliver(&mut self, start: u64, next: i64, now: Instant) {
        self.phase = PartitionPhase::Delivering { start, next };
        self.short.clear();
        self.step(now);
    }

    /// Delivers no more until it is known why a record came that may not. What was kept has to be sealed before.
    pub(crate) fn doubt(&mut self, now: Instant) {
        let PartitionPhase::Delivering { start, next } = self.phase else { return };
        self.phase = PartitionPhase::Doubted { start, next };
        self.end = self.told;
        self.step(now);
    }

    /// The log was said to end before the place where this goes on; whether that is to be believed.
    pub(crate) fn falls_short(&mut self, now: Instant) -> bool {
        self.short.again(now)
    }

    /// Whether the engine wants records of it now.
    pub(crate) fn wants_records(&self) -> bool {
        matches!(self.phase, PartitionPhase::Delivering { .. }) && !self.paused
    }

    /// Begins a new step at this time.
    pub(crate) fn step(&mut self, now: Instant) {
        self.not_before = now;
        self.since = now;
    }

    /// Tries the present step again later; whether it has been tried for too long.
    pub(crate) fn postpone(&mut self, now: Instant, by: Duration, limit: Duration) -> bool {
        self.not_before = now + by;
        now.duration_since(self.since) > limit
    }

    /// Judges a record's offset, and moves on past it. `log_start` tells the first offset that the log still holds; it
    /// is asked only where offsets leave a hole, as transactions and compaction do, and retention.
    pub(crate) fn accept(&mut self, offset: i64, log_start: impl FnOnce() -> Option<i64>) -> OffsetVerdict {
        let PartitionPhase::Delivering { start, next } = &mut self.phase else { return OffsetVerdict::Stale };
        if offset < *next {
            return OffsetVerdict::Backwards { expected: *next };
        }
        let lost = if offset > *next { log_start().map_or(0, |low| low.min(offset) - *next).max(0) } else { 0 };
        *next = offset + 1;
        OffsetVerdict::Take { start: *start, lost }
    }

    /// Keeps an accepted record for the next batch.
    pub(crate) fn push(&mut self, record: Record) {
        self.open.push(record);
    }
}

/// The partitions that are assigned to us.
#[derive(Debug, Default)]
pub(crate) struct Partitions(HashMap<Arc<str>, BTreeMap<i32, Partition>>);

impl Partitions {
    pub(crate) fn insert(&mut self, partition: &TopicPartition, now: Instant) {
        let topic = self.0.entry(Arc::clone(&partition.topic)).or_default();
        topic.insert(partition.partition, Partition::new(now));
    }

    pub(crate) fn remove(&mut self, partition: &TopicPartition) {
        if let Some(topic) = self.0.get_mut(&partition.topic) {
            topic.remove(&partition.partition);
        }
    }

    pub(crate) fn contains(&self, partition: &TopicPartition) -> bool {
        self.0.get(&partition.topic).is_some_and(|topic| topic.contains_key(&partition.partition))
    }

    pub(crate) fn get_mut(&mut self, partition: &TopicPartition) -> Option<&mut Partition> {
        self.0.get_mut(&partition.topic)?.get_mut(&partition.partition)
    }

    /// By name, with the name as it is shared; makes no copy of it.
    pub(crate) fn find(&mut self, topic: &str, partition: i32) -> Option<(Arc<str>, &mut Partition)> {
        let shared = Arc::clone(self.0.get_key_value(topic)?.0);
        Some((shared, self.0.get_mut(topic)?.get_mut(&partition)?))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (TopicPartition, &mut Partition)> {
        self.0.iter_mut().flat_map(|(topic, partitions)| {
            partitions
                .iter_mut()
                .map(|(number, partition)| (TopicPartition::new(Arc::clone(topic), *number), partition))
        })
    }

    /// Those whose life is as `wanted`, with what that takes of it, as far as they are to be tried now.
    pub(crate) fn due<T>(
        &mut self,
        now: Instant,
        wanted: impl Fn(&PartitionPhase) -> Option<T>,
    ) -> Vec<(TopicPartition, T)> {
        let due = self.iter_mut().filter(|(_, partition)| now >= partition.not_before);
        due.filter_map(|(name, partition)| Some((name, wanted(&partition.phase)?))).collect()
    }

    /// What the engine wants nothing of for now, or wants again.
    pub(crate) fn pause(&mut self, names: &[TopicPartition], paused: bool) {
        for name in names {
            if let Some(partition) = self.get_mut(name) {
                partition.paused = paused;
            }
        }
    }

    /// Whether any partition of the topic is ours.
    pub(crate) fn has(&self, topic: &str) -> bool {
        self.0.get(topic).is_some_and(|partitions| !partitions.is_empty())
    }

    /// The partitions for which `wanted` holds.
    pub(crate) fn select(&mut self, wanted: impl Fn(&Partition) -> bool) -> Vec<TopicPartition> {
        self.iter_mut().filter(|(_, partition)| wanted(partition)).map(|(name, _)| name).collect()
    }

    /// Takes what was kept, as one batch per partition.
    pub(crate) fn seal(&mut self) -> Vec<Batch> {
        self.0
            .iter_mut()
            .flat_map(|(topic, partitions)| partitions.iter_mut().map(move |(number, p)| (topic, *number, p)))
            .filter_map(|(topic, number, partition)| {
                let (start, records, next) = partition.seal()?;
                Some(Batch { partition: TopicPartition::new(Arc::clone(topic), number), start, records, next })
            })
            .collect()
    }
}

/// Whether an error is that of a topic or partition, and says nothing of others.
pub(crate) fn is_own(code: Code) -> bool {
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::LeaderNotAvailable
            | Code::InvalidTopic
    )
}

/// The names in a list of librdkafka's.
pub(crate) fn names(list: &TopicPartitionList) -> Vec<TopicPartition> {
    names_where(list, |_| true)
}

/// The names of those elements for which `wanted` holds.
pub(crate) fn names_where(
    list: &TopicPartitionList,
    wanted: impl Fn(&TopicPartitionListElem<'_>) -> bool,
) -> Vec<TopicPartition> {
    let elements = list.elements();
    let chosen = elements.iter().filter(|element| wanted(element));
    chosen.map(|element| TopicPartition::new(element.topic(), element.partition())).collect()
}

/// A list for librdkafka.
pub(crate) fn list<'a>(partitions: impl IntoIterator<Item = &'a TopicPartition>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for partition in partitions {
        list.add_partition(&partition.topic, partition.partition);
    }
    list
}

/// A list with offsets for librdkafka.
///
/// # Errors
/// When an offset is negative.
pub(crate) fn list_at<'a>(
    places: impl IntoIterator<Item = (&'a TopicPartition, i64)>,
) -> Result<TopicPartitionList, KafkaError> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in places {
        list.add_partition_offset(&partition.topic, partition.partition, Offset::Offset(offset))
            .map_err(|error| KafkaError::Refused(format!("{offset} is no offset of {partition}: {error}")))?;
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivering(next: i64) -> Partition {
        let mut partition = Partition::new(Instant::now());
        partition.phase = PartitionPhase::Delivering { start: 7, next };
        partition
    }

    /// Red when a hole counts as lost without the log's start having passed it, or is not counted when it has.
    #[test]
    fn holes_are_normal_and_only_what_retention_deleted_is_lost() {
        let mut partition = delivering(10);
        assert_eq!(partition.accept(10, || panic!("no hole, no question")), OffsetVerdict::Take { start: 7, lost: 0 });
        assert_eq!(partition.accept(13, || Some(0)), OffsetVerdict::Take { start: 7, lost: 0 });
        assert_eq!(partition.accept(20, || Some(18)), OffsetVerdict::Take { start: 7, lost: 4 });
        assert_eq!(partition.accept(23, || Some(40)), OffsetVerdict::Take { start: 7, lost: 2 });
        assert_eq!(partition.accept(25, || None), OffsetVerdict::Take { start: 7, lost: 0 });
    }

    /// Red when an offset below the next one is taken, or the one that was due is forgotten while it is looked into.
    #[test]
    fn an_offset_that_goes_back_is_looked_into() {
        let (mut partition, now) = (delivering(10), Instant::now());
        assert_eq!(partition.accept(3, || None), OffsetVerdict::Backwards { expected: 10 });
        partition.doubt(now);
        assert!(!partition.wants_records());
        assert_eq!(partition.accept(10, || None), OffsetVerdict::Stale);
        assert!(matches!(partition.phase, PartitionPhase::Doubted { start: 7, next: 10 }));
    }

    /// Red when the engine is not told of an end that no record shows, is told it twice, of one that lies before a record or the
    /// place where the partition goes on, or of one that was seen before it had begun (`ends` while not `Delivering`).
    #[test]
    fn how_far_the_log_was_read_is_told_once() {
        let mut partition = delivering(10);
        assert_eq!(partition.seal(), None);
        partition.ends(7);
        assert_eq!(partition.seal(), None, "a broker that does not know all of the log yet");
        partition.ends(10);
        assert_eq!(partition.seal(), Some((7, Vec::new(), 10)), "nothing has come yet");
        partition.ends(10);
        assert_eq!(partition.seal(), None);
        partition.ends(13);
        assert_eq!(partition.seal(), Some((7, Vec::new(), 13)), "markers alone");
        assert_eq!(partition.accept(20, || None), OffsetVerdict::Take { start: 7, lost: 0 });
        assert_eq!(partition.seal(), None, "the end of before");
        partition.begin(StartFrom::Offset(13), 8, Instant::now());
        partition.ends(13);
        assert_eq!(partition.seal(), None, "it has not begun");
        partition.deliver(8, 13, Instant::now());
        assert_eq!(partition.seal(), None, "the end of before it began");
    }

    /// Red when a partition delivers before the engine said where to begin, or keeps what an earlier start left.
    #[test]
    fn nothing_is_delivered_before_the_engine_says_where_to_begin() {
        let mut partitions = Partitions::default();
        let name = TopicPartition::new("t", 0);
        partitions.insert(&name, Instant::now());
        let partition = partitions.get_mut(&name).unwrap();
        assert_eq!(partition.accept(0, || None), OffsetVerdict::Stale);
        partition.phase = PartitionPhase::Delivering { start: 1, next: 0 };
        partition.push(Record {
            topic: "t".into(),
            partition: 0,
            offset: 0,
            timestamp_ms: 0,
            key: None,
            value: None,
            headers: headwater::Headers::default(),
        });
        partition.begin(StartFrom::Offset(5), 2, Instant::now());
        partition.phase = PartitionPhase::Delivering { start: 2, next: 5 };
        assert!(partitions.seal().is_empty());
    }
}
