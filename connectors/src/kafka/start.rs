//! Where a partition begins: at an offset that the engine names, that the group has committed, or by the start policy.
//!
//! What the policy stands for is decided once for all partitions that a new group reads, and committed before a record of
//! them is read, also by a group whose offsets then travel in transactions: another member, or a later start, would decide
//! anew and skip what came in between.
//!
//! Whatever it is, it is held against what the log has: an offset that stays beyond its end belongs to another topic of the
//! same name and stops the source (`doubts.rs`); one before its start means that records were deleted unread, which is said and counted.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use headwater::{Position, TopicPartition, ports::From};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::Consumer as _,
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
};

use super::{
    member::Member,
    native,
    partition::{self, Life},
    rebalance::GroupConsumer,
    source::{SourceConfig, Start},
};

/// How long one question to the brokers may take; the polling thread waits for it.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);
/// Between two tries.
pub(crate) const BACK_OFF: Duration = Duration::from_millis(500);
/// After so long without an answer it is said.
const SILENCE: Duration = Duration::from_secs(10);
/// How long a member waits for each input before its own lowest, whose owner may decide where a new group starts.
const TURN: Duration = Duration::from_secs(1);
/// How long it waits for all of them.
const TURNS: Duration = Duration::from_secs(30);

type Places = HashMap<TopicPartition, i64>;

/// What the group has committed, or where its partitions begin.
#[derive(Default)]
struct Found {
    places: Places,
    /// The notes beside the committed offsets, where there are any.
    told: HashMap<TopicPartition, String>,
    /// Whose store of offsets is at another place than the one that is committed here: its owner died in between.
    behind: HashSet<TopicPartition>,
    /// Those for which another member decides, as far as is known.
    waiting: HashSet<TopicPartition>,
}

/// What the start policy says of a group.
enum Fresh {
    /// It is under way: what it has no offset of appeared later, and is read from its beginning.
    UnderWay,
    /// Where every partition begins.
    Decided(Places),
    /// Another member is about to decide.
    NotOurTurn,
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
    fn places(&mut self, consumer: &GroupConsumer, due: &[(TopicPartition, From, u64)]) -> Result<Found, ClientError> {
        let names: Vec<TopicPartition> = due.iter().map(|(name, ..)| name.clone()).collect();
        // Of all, also where a store keeps the offsets: what an earlier owner noted may not hold any more.
        let Found { places: committed, told, .. } = committed(consumer, &names)?;
        let (mut places, mut behind) = (Places::new(), HashSet::new());
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
                None if by_policy => without.push(name.clone()),
                None => {}
            }
        }
        let mut waiting = HashSet::new();
        if !without.is_empty() {
            match self.fresh(consumer, &without)? {
                Fresh::UnderWay => {}
                Fresh::Decided(decided) => places.extend(decided),
                Fresh::NotOurTurn => waiting.extend(without),
            }
        }
        Ok(Found { places, told, behind, waiting })
    }

    /// By the start policy, for a group that has committed nothing of its inputs: for every partition of them, and
    /// committed at once, so that other members and later starts agree.
    ///
    /// Of members that begin together one decides, or the later would overwrite the earlier, which reads already: it is the
    /// one that has the lowest input, and each of the others takes over only after a while that is longer the more inputs
    /// are before its own.
    ///
    /// Topics that the group owns say nothing here: another member may have read a redrive before the first input is
    /// begun, and what waits on them must not be skipped.
    fn fresh(&mut self, consumer: &GroupConsumer, asked: &[TopicPartition]) -> Result<Fresh, ClientError> {
        let all = inputs(consumer, &self.source, asked)?;
        let began = Instant::now();
        if !committed(consumer, &all)?.places.is_empty() {
            return Ok(Fresh::UnderWay);
        }
        let waited = asked.iter().filter_map(|name| self.partitions.get_mut(name).map(|p| p.since.elapsed())).max();
        if waited.unwrap_or_default() < turn(&all, asked) {
            return Ok(Fresh::NotOurTurn);
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
        // Who was held up meanwhile may have been overtaken, and looks again.
        if began.elapsed() > TURN.max(waited.unwrap_or_default()) {
            return Ok(Fresh::NotOurTurn);
        }
        self.pin(consumer, &places)?;
        Ok(Fresh::Decided(places))
    }

    /// Commits where the group starts, and waits for the answer. It is safe beside transactions: before this nobody has read
    /// a record whose offset one could commit.
    fn pin(&mut self, consumer: &GroupConsumer, places: &Places) -> Result<(), ClientError> {
        let Ok(list) = partition::list_at(places.iter().map(|(name, next)| (name, *next))) else { return Ok(()) };
        let failed = ClientError::ConsumerCommit;
        self.send_commit(consumer, &list).map_err(|_| failed(Code::Fail))?;
        self.take_answers(ANSWER).map_or(Ok(()), |code| Err(failed(code)))
    }

    /// Lets a partition begin at its place, if the log has it.
    fn begin(&mut self, consumer: &GroupConsumer, name: &TopicPartition, found: &Found, from: From, start: u64) {
        if found.waiting.contains(name) {
            let later = Instant::now() + BACK_OFF;
            return self.partitions.get_mut(name).map_or((), |partition| partition.not_before = later);
        }
        let (low, high) = match consumer.fetch_watermarks(&name.topic, name.partition, ANSWER) {
            Ok(watermarks) => watermarks,
            Err(error) => return self.begin_later(name, &error),
        };
        let next = found.places.get(name).copied().unwrap_or(low);
        if next > high {
            return self.falls_short(name, next, high);
        }
        if next < low {
            self.warn_lost(&name.topic, name.partition, low - next);
        }
        let (group, next) = (&self.source.group, next.max(low));
        self.commits.began(name, next, from, found.told.get(name).map_or("", String::as_str));
        if found.behind.contains(name) {
            // Or who looks at the lag would see some until the partition's next record.
            self.commits.add([Position { partition: name.clone(), next }]);
        }
        tracing::debug!(group, partition = %name, offset = next, ?from, "reading begins");
        if let Some(partition) = self.partitions.get_mut(name) {
            partition.deliver(start, next, Instant::now());
        }
    }

    pub(crate) fn begin_later(&mut self, name: &TopicPartition, error: &ClientError) {
        let Some(partition) = self.partitions.get_mut(name) else { return };
        let now = Instant::now();
        if partition.postpone(now, BACK_OFF, SILENCE) {
            tracing::warn!(group = self.source.group, partition = %name, %error, "cannot find out where to begin: tried again");
            partition.since = now;
        }
    }
}

/// What the group has committed of these; those without an offset are left out.
fn committed<'a>(
    consumer: &GroupConsumer,
    names: impl IntoIterator<Item = &'a TopicPartition>,
) -> Result<Found, ClientError> {
    let list = partition::list(names);
    if list.count() == 0 {
        return Ok(Found::default());
    }
    let list = consumer.committed_offsets(list, ANSWER)?;
    Ok(Found { places: places(&list)?, told: native::read_notes(&list), ..Found::default() })
}

/// The first record of this time or later, where there is one.
fn at_time(consumer: &GroupConsumer, names: &BTreeSet<TopicPartition>, millis: i64) -> Result<Places, ClientError> {
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

/// How long the owner of the `asked` waits before it decides where the group starts, whose inputs are `all`: the lower the
/// lowest of them, the sooner, so that no two decide at once.
fn turn(all: &BTreeSet<TopicPartition>, asked: &[TopicPartition]) -> Duration {
    let before = asked.iter().min().map_or(0, |lowest| all.range(..lowest).count());
    TURN.saturating_mul(u32::try_from(before).unwrap_or(u32::MAX)).min(TURNS)
}

/// Every partition that exists now of what the group reads and does not own; see [`Subscription::may_read`]. A broker that
/// has just started may not know them all yet: there are these at least.
///
/// [`Subscription::may_read`]: super::source::Subscription::may_read
fn inputs(
    consumer: &GroupConsumer,
    source: &SourceConfig,
    these: &[TopicPartition],
) -> Result<BTreeSet<TopicPartition>, ClientError> {
    let metadata = consumer.fetch_metadata(None, ANSWER)?;
    let is_input = |topic: &str| source.subscription.may_read(topic) && !source.owns(topic);
    let mut inputs = BTreeSet::new();
    for topic in metadata.topics().iter().filter(|topic| is_input(topic.name())) {
        if let Some(error) = topic.error() {
            return Err(ClientError::MetadataFetch(error.into()));
        }
        inputs.extend(topic.partitions().iter().map(|p| TopicPartition::new(topic.name(), p.id())));
    }
    if these.iter().any(|name| !inputs.contains(name)) {
        return Err(ClientError::MetadataFetch(Code::UnknownPartition));
    }
    Ok(inputs)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when two members decide at the same time, or the first, or one whose inputs are far behind, waits for long.
    #[test]
    fn one_member_decides_where_a_new_group_starts() {
        let at = |number| TopicPartition::new("t", number);
        let all: BTreeSet<_> = (0..100).map(at).collect();
        let turns: Vec<Duration> = [[1, 0], [2, 3], [4, 5], [98, 99]].map(|two| turn(&all, &two.map(at))).into();
        assert_eq!(turns, [Duration::ZERO, TURN * 2, TURN * 4, TURNS]);
    }
}
