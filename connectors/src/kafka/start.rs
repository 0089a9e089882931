//! Where a partition begins: at an offset that the engine names, that the group has committed, or by the start policy.
//!
//! Whatever it is, it is held against what the log has: an offset beyond its end belongs to another topic of the same
//! name and stops the source; one before its start means that records were deleted unread, which is said and counted.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use headwater::{Position, TopicPartition, ports::From};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer as _},
    error::KafkaError as ClientError,
};

use super::{
    member::Member,
    native,
    partition::{self, Life},
    rebalance::GroupConsumer,
    source::{SourceConfig, Start},
};

/// How long one question to the brokers may take; the polling thread waits for it.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two tries.
const BACK_OFF: Duration = Duration::from_millis(500);
/// After so long without an answer it is said.
const SILENCE: Duration = Duration::from_secs(10);

type Places = HashMap<TopicPartition, i64>;

/// What the group has committed, or where its partitions begin.
#[derive(Default)]
struct Found {
    places: Places,
    /// The notes beside the committed offsets, where there are any.
    told: HashMap<TopicPartition, String>,
    /// Whose store of offsets is at another place than the one that is committed here: its owner died in between.
    behind: HashSet<TopicPartition>,
    /// Those of which the group has committed nothing.
    new: HashSet<TopicPartition>,
}

impl Member {
    /// Finds the place of every partition that the engine has begun since.
    pub(crate) fn begin_all(&mut self, consumer: &GroupConsumer) {
        let now = Instant::now();
        let due: Vec<(TopicPartition, From, u64)> = self
            .partitions
            .iter_mut()
            .filter(|(_, p)| now >= p.not_before)
            .filter_map(|(name, p)| match p.life {
                Life::Beginning { from, start } => Some((name, from, start)),
                _ => None,
            })
            .collect();
        if due.is_empty() {
            return;
        }
        match self.places(consumer, &due) {
            Ok(found) => due.iter().for_each(|(name, from, start)| self.begin(consumer, name, &found, *from, *start)),
            Err(error) => due.iter().for_each(|(name, ..)| self.begin_later(name, &error)),
        }
    }

    /// Where each begins; those by the earliest record are left out, since the log's start says it.
    fn places(&self, consumer: &GroupConsumer, due: &[(TopicPartition, From, u64)]) -> Result<Found, ClientError> {
        let names: Vec<TopicPartition> = due.iter().map(|(name, ..)| name.clone()).collect();
        // Of all, also where a store keeps the offsets: what an earlier owner noted may not hold any more.
        let Found { places: committed, told, .. } = committed(consumer, &names)?;
        let (mut places, mut behind, mut new) = (Places::new(), HashSet::new(), HashSet::new());
        let mut without = Vec::new();
        for (name, from, _) in due {
            let by_policy = self.source.start != Start::Earliest && !self.source.owns(&name.topic);
            let place = match from {
                From::Offset(offset) => {
                    if committed.get(name) != Some(offset) {
                        behind.insert(name.clone());
                    }
                    Some(*offset)
                }
                From::Committed => committed.get(name).copied(),
                // The store has no offset of it. What the policy once resolved to was committed here, for this moment.
                From::Policy if by_policy => committed.get(name).copied(),
                From::Policy => None,
            };
            match place {
                Some(place) => {
                    places.insert(name.clone(), place);
                }
                None => {
                    if *from == From::Committed {
                        new.insert(name.clone());
                    }
                    if by_policy {
                        without.push(name.clone());
                    }
                }
            }
        }
        if !without.is_empty() {
            places.extend(self.fresh(consumer, &without)?);
        }
        Ok(Found { places, told, behind, new })
    }

    /// By the start policy, for a group that has committed nothing of its inputs: for every partition of them, and
    /// committed at once, so that other members and later starts agree. Empty for a group that is under way: what it
    /// has no offset of appeared later, and is read from its beginning.
    ///
    /// Topics that the group owns say nothing here: another member may have read a redrive before the first input is
    /// begun, and what waits on them must not be skipped.
    fn fresh(&self, consumer: &GroupConsumer, asked: &[TopicPartition]) -> Result<Places, ClientError> {
        let mut all = inputs(consumer, &self.source)?;
        all.extend(asked.iter().filter(|name| !all.contains(name)).cloned().collect::<Vec<_>>());
        if !committed(consumer, &all)?.places.is_empty() {
            return Ok(Places::new());
        }
        let mut places = match self.source.start {
            Start::At(time) => at_time(consumer, &all, time.millis())?,
            Start::Earliest | Start::Latest => Places::new(),
        };
        for name in &all {
            if !places.contains_key(name) {
                let (_, high) = consumer.fetch_watermarks(&name.topic, name.partition, ANSWER)?;
                places.insert(name.clone(), high);
            }
        }
        let list = partition::list_at(places.iter().map(|(name, next)| (name, *next)));
        if let Ok(list) = list
            && self.source.commits
        {
            consumer.commit(&list, CommitMode::Sync)?;
        }
        Ok(places)
    }

    /// Lets a partition begin at its place, if the log has it.
    fn begin(&mut self, consumer: &GroupConsumer, name: &TopicPartition, found: &Found, from: From, start: u64) {
        let (low, high) = match consumer.fetch_watermarks(&name.topic, name.partition, ANSWER) {
            Ok(watermarks) => watermarks,
            Err(error) => return self.begin_later(name, &error),
        };
        let next = found.places.get(name).copied().unwrap_or(low);
        if next > high {
            let what = format!("its log ends at offset {high}, and the group would go on at {next}");
            return self.halt_anew(name, &what);
        }
        if next < low {
            self.warn_lost(&name.topic, name.partition, low - next);
        }
        let (group, next) = (&self.source.group, next.max(low));
        // Before its first record is read: who has state and no offset has lost it.
        if found.new.contains(name)
            && self.source.commits
            && let Err(error) = pin(consumer, name, next)
        {
            return self.begin_later(name, &error);
        }
        self.commits.began(name, next, from, found.told.get(name).map_or("", String::as_str));
        if found.behind.contains(name) {
            // Or who looks at the lag would see some until the partition's next record.
            self.commits.add([Position { partition: name.clone(), next }]);
        }
        tracing::debug!(group, partition = %name, offset = next, ?from, "reading begins");
        if let Some(partition) = self.partitions.get_mut(name) {
            partition.life = Life::Delivering { start, next };
            partition.step(Instant::now());
        }
    }

    fn begin_later(&mut self, name: &TopicPartition, error: &ClientError) {
        let Some(partition) = self.partitions.get_mut(name) else { return };
        let now = Instant::now();
        if partition.postpone(now, BACK_OFF, SILENCE) {
            tracing::warn!(group = self.source.group, partition = %name, %error, "cannot find out where to begin: tried again");
            partition.since = now;
        }
    }
}

/// What the group has committed of these; those without an offset are left out.
fn committed(consumer: &GroupConsumer, names: &[TopicPartition]) -> Result<Found, ClientError> {
    if names.is_empty() {
        return Ok(Found::default());
    }
    let list = consumer.committed_offsets(partition::list(names), ANSWER)?;
    Ok(Found { places: places(&list)?, told: native::read_notes(&list), ..Found::default() })
}

/// Commits where a partition begins, and waits for that.
fn pin(consumer: &GroupConsumer, name: &TopicPartition, next: i64) -> Result<(), ClientError> {
    let Ok(list) = partition::list_at([(name, next)]) else { return Ok(()) };
    consumer.commit(&list, CommitMode::Sync)
}

/// The first record of this time or later, where there is one.
fn at_time(consumer: &GroupConsumer, names: &[TopicPartition], millis: i64) -> Result<Places, ClientError> {
    // librdkafka takes the timestamps in the place of the offsets; negative ones mean something else there.
    let Ok(list) = partition::list_at(names.iter().map(|name| (name, millis.max(0)))) else { return Ok(Places::new()) };
    places(&consumer.offsets_for_times(list, ANSWER)?)
}

/// The offsets that an answer holds; a partition's own error is the answer's.
fn places(list: &TopicPartitionList) -> Result<Places, ClientError> {
    let mut places = Places::new();
    for element in list.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            places.insert(TopicPartition::new(element.topic(), element.partition()), offset);
        }
    }
    Ok(places)
}

/// Every partition that exists now of what the group reads and does not own; see [`Subscription::may_read`].
fn inputs(consumer: &GroupConsumer, source: &SourceConfig) -> Result<Vec<TopicPartition>, ClientError> {
    let metadata = consumer.fetch_metadata(None, ANSWER)?;
    let is_input = |topic: &str| source.subscription.may_read(topic) && !source.owns(topic);
    let topics = metadata.topics().iter().filter(|topic| is_input(topic.name()));
    let partitions =
        topics.flat_map(|topic| topic.partitions().iter().map(|p| TopicPartition::new(topic.name(), p.id())));
    Ok(partitions.collect())
}
