//! Where a partition begins: at an offset that the engine names, that the group has committed, or by the start policy.
//!
//! What the policy stands for is decided once for all partitions that a new group reads, and committed before a record of
//! them is read, also by a group whose offsets then travel in transactions: another member, or a later start, would decide
//! anew and skip what came in between. A partition whose log cannot be asked then holds up no other one: committed of it is a
//! mark that says when the group began, and its place is found once its log answers.
//!
//! Whatever it is, it is held against what the log has: an offset that stays beyond its end belongs to another topic of the
//! same name and stops the source (`topic_identity.rs`); one before its start means that records were deleted unread, which is said and counted.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use headwater::{
    Time, TopicPartition,
    spi::{Position, StartFrom},
};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::Consumer as _,
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
};

use super::{
    commits::Commits,
    log_bounds::{ANSWER, BACK_OFF, Bounds, LogBounds, begin_later, falls_short},
};
use crate::kafka::{
    consumer::{
        config::{SourceConfig, Start},
        health::warn_lost,
        membership::group_consumer::{GroupConsumer, generation},
        outlets::Outlets,
        partition::{self, PartitionPhase, Partitions},
    },
    debounce,
    librdkafka::{
        self, CommitQueue,
        admin::{Isolation, list_offsets},
    },
};

/// How long a member waits for each input before its own lowest, whose owner may decide where a new group starts.
const TURN: Duration = Duration::from_secs(1);
/// What the note of a mark begins with; the time follows, in milliseconds.
const MARK: &str = "begins where its log stood at ";

type PartitionOffsets = HashMap<TopicPartition, i64>;
type PartitionErrors = HashMap<TopicPartition, ClientError>;

/// What was answered about partitions.
#[derive(Default)]
struct Answer {
    places: PartitionOffsets,
    /// The notes beside the committed offsets, where there are any.
    told: HashMap<TopicPartition, String>,
    /// Those that were answered with an error of their own.
    failed: PartitionErrors,
}

/// What the group has committed, or where its partitions begin.
#[derive(Default)]
struct StartLookup {
    places: PartitionOffsets,
    told: HashMap<TopicPartition, String>,
    failed: PartitionErrors,
    /// Whose store of offsets is at another place than the one that is committed here: its owner died in between.
    behind: HashSet<TopicPartition>,
    /// Those for which another member decides, as far as is known.
    waiting: HashSet<TopicPartition>,
    /// Those whose place is to be committed before a record of them is read.
    new: HashSet<TopicPartition>,
}

/// A partition that has its place.
struct Ready {
    name: TopicPartition,
    from: StartFrom,
    start: u64,
    next: i64,
}

/// Finds where the partitions of a group begin.
pub(crate) struct StartOffsets {
    source: SourceConfig,
}

impl StartOffsets {
    pub(crate) fn new(source: SourceConfig) -> Self {
        Self { source }
    }

    /// Finds the place of every partition that the engine has begun since.
    pub(crate) fn begin_all(
        &self,
        consumer: &GroupConsumer,
        bounds: &mut LogBounds,
        partitions: &mut Partitions,
        commits: &mut Commits,
        outlets: &mut Outlets,
    ) {
        self.start_group(consumer, partitions);
        let mut due = partitions.due(Instant::now(), |life| match life {
            PartitionPhase::Beginning { from, start } => Some((*from, *start)),
            _ => None,
        });
        let bounds = bounds.of(consumer, due.iter().map(|(name, _)| name));
        due.retain(|(name, _)| bounds.get(name).is_some_and(Result::is_ok));
        for (name, error) in bounds.iter().filter_map(|(name, bounds)| Some((name, bounds.as_ref().err()?))) {
            self.begin_later(partitions, name, error);
        }
        if due.is_empty() {
            return;
        }
        let found = match self.places(consumer, partitions, &due) {
            Ok(found) => found,
            Err(error) => return due.iter().for_each(|(name, _)| self.begin_later(partitions, name, &error)),
        };
        let placed = due.into_iter().filter_map(|(name, (from, start))| {
            let bounds = *bounds.get(&name)?.as_ref().ok()?;
            let next = self.place_of(&name, bounds, &found, partitions, outlets)?;
            Some(Ready { name, from, start, next })
        });
        let mut ready: Vec<Ready> = placed.collect();
        // Before their first record is read: who has state and no offset has lost it.
        let new = ready.iter().filter(|ready| found.new.contains(&ready.name));
        let refused = pin(consumer, new.map(|ready| (&ready.name, ready.next, None)));
        refused.iter().for_each(|(name, error)| self.begin_later(partitions, name, error));
        ready.retain(|ready| !refused.contains_key(&ready.name));
        ready.into_iter().for_each(|ready| self.begin(ready, &found, partitions, commits));
    }

    /// Where each begins; those by the earliest record are left out, since the log's start says it.
    fn places(
        &self,
        consumer: &GroupConsumer,
        partitions: &mut Partitions,
        due: &[(TopicPartition, (StartFrom, u64))],
    ) -> Result<StartLookup, ClientError> {
        // Of all, also where a store keeps the offsets: what an earlier owner noted may not hold any more.
        let Answer { places: committed, told, failed } = committed(consumer, due.iter().map(|(name, _)| name))?;
        let mut found = StartLookup { told, failed, ..StartLookup::default() };
        let (mut without, mut marked) = (Vec::new(), BTreeMap::<i64, Vec<TopicPartition>>::new());
        for (name, (from, _)) in due.iter().filter(|(name, _)| !found.failed.contains_key(name)) {
            let by_policy = self.source.start != Start::Earliest && !self.source.owns(&name.topic);
            let place = match from {
                StartFrom::Offset(offset) => {
                    if committed.get(name) != Some(offset) {
                        found.behind.insert(name.clone());
                    }
                    found.places.insert(name.clone(), *offset);
                    continue;
                }
                StartFrom::Committed => committed.get(name).copied(),
                // The store has no offset of it. What the policy once resolved to was committed here, for this moment.
                StartFrom::Policy if by_policy => committed.get(name).copied(),
                StartFrom::Policy => continue,
            };
            let mark = found.told.get(name).and_then(|note| note.strip_prefix(MARK)?.parse().ok());
            match (place, mark) {
                (Some(_), Some(millis)) => marked.entry(millis).or_default().push(name.clone()),
                (Some(place), None) => _ = found.places.insert(name.clone(), place),
                (None, _) if by_policy => without.push(name.clone()),
                (None, _) => _ = self.source.commits.then(|| found.new.insert(name.clone())),
            }
        }
        for (millis, names) in marked {
            let stand = stand(consumer, &names, Some(millis))?;
            found.new.extend(stand.places.keys().cloned());
            found.places.extend(stand.places);
            found.failed.extend(stand.failed);
        }
        if without.is_empty() {
            return Ok(found);
        }
        match self.fresh(consumer, partitions, &without)? {
            None => found.waiting.extend(without),
            Some(start) => {
                let later = without.into_iter().filter(|name| self.source.commits && !start.places.contains_key(name));
                found.new.extend(later);
                found.places.extend(start.places);
                found.failed.extend(start.failed);
            }
        }
        Ok(found)
    }

    /// Has it decided where a new group starts as soon as partitions are ours, whenever the engine begins them: others may
    /// be waiting for it.
    fn start_group(&self, consumer: &GroupConsumer, partitions: &mut Partitions) {
        if self.source.start == Start::Earliest {
            return;
        }
        let unasked = |life: &PartitionPhase| matches!(life, PartitionPhase::Waiting { asked: false }).then_some(());
        let due = partitions.due(Instant::now(), unasked);
        let names: Vec<_> =
            due.into_iter().map(|(name, ())| name).filter(|name| !self.source.owns(&name.topic)).collect();
        if names.is_empty() {
            return;
        }
        let start = self.fresh(consumer, partitions, &names);
        let asked = matches!(&start, Ok(Some(start)) if !start.places.is_empty());
        for name in &names {
            match (&start, partitions.get_mut(name)) {
                (Err(error), _) => self.begin_later(partitions, name, error),
                (Ok(_), Some(partition)) if asked => partition.phase = PartitionPhase::Waiting { asked },
                (Ok(_), Some(partition)) => partition.not_before = Instant::now() + BACK_OFF,
                (Ok(_), None) => {}
            }
        }
    }

    /// Where a group starts: what it has committed of its inputs, or, where that is nothing, what the start policy says of
    /// every partition of them, committed at once, so that other members and later starts agree. What is not in it appeared
    /// later. `None` while another member is about to decide.
    ///
    /// Of members that begin together one decides, or the later would overwrite the earlier, which reads already: it is the
    /// one that has the lowest input, and each of the others takes over only after a while that is longer the more inputs
    /// are before its own. Who was slow finds what another has decided, since it looks again right before it commits. Kafka
    /// has no commit on a condition: two that commit within one round trip read on from the places of their own, and the
    /// later ones count for who starts next.
    ///
    /// Topics that the group owns say nothing here: another member may have read a redrive before the first input is
    /// begun, and what waits on them must not be skipped.
    fn fresh(
        &self,
        consumer: &GroupConsumer,
        partitions: &mut Partitions,
        asked: &[TopicPartition],
    ) -> Result<Option<Answer>, ClientError> {
        let mut all = inputs(consumer, &self.source)?;
        let waited = asked.iter().filter_map(|name| partitions.get_mut(name).map(|p| p.since.elapsed())).max();
        let waited = waited.unwrap_or_default();
        // A broker that has just started may not know all topics yet.
        let unknown = waited < debounce::PERIOD && asked.iter().any(|name| !all.contains(name));
        let is_turn = waited >= turn(&all, asked) && !unknown;
        all.extend(asked.iter().cloned());
        let all: Vec<_> = all.into_iter().collect();
        let there = committed(consumer, &all)?;
        if !there.places.is_empty() {
            return Ok(Some(there));
        }
        if !is_turn {
            return Ok(None);
        }
        let now = Time::now().millis();
        let (since, time) = match self.source.start {
            Start::At(time) => (time.millis(), Some(time.millis())),
            Start::Earliest | Start::Latest => (now, None),
        };
        let mut start = stand(consumer, &all, time)?;
        if let Some(error) = start.failed.values().next().filter(|_| start.places.is_empty()) {
            // Where no log answers at all nothing is decided.
            return Err(error.clone());
        }
        let looked = Instant::now();
        let there = committed(consumer, &all)?;
        if !there.places.is_empty() {
            return Ok(Some(there));
        }
        // Who was held up meanwhile may have been overtaken, and looks again.
        if looked.elapsed() > TURN {
            return Ok(None);
        }
        let places = start.places.iter().map(|(name, next)| (name, *next, None));
        let refused = pin(consumer, places.chain(start.failed.keys().map(|name| (name, 0, Some(since)))));
        start.places.retain(|name, _| !refused.contains_key(name));
        start.failed.extend(refused);
        Ok(Some(start))
    }

    /// Where a partition begins, if its log has that.
    fn place_of(
        &self,
        name: &TopicPartition,
        Bounds { low, high }: Bounds,
        found: &StartLookup,
        partitions: &mut Partitions,
        outlets: &mut Outlets,
    ) -> Option<i64> {
        if found.waiting.contains(name) {
            partitions.get_mut(name)?.not_before = Instant::now() + BACK_OFF;
            return None;
        }
        if let Some(error) = found.failed.get(name) {
            self.begin_later(partitions, name, error);
            return None;
        }
        let next = found.places.get(name).copied().unwrap_or(low);
        if next > high {
            falls_short(partitions, outlets, name, (next, high));
            return None;
        }
        if next < low {
            warn_lost(&self.source.group, &name.topic, name.partition, low - next);
        }
        Some(next.max(low))
    }

    /// Lets a partition begin at its place.
    fn begin(&self, ready: Ready, found: &StartLookup, partitions: &mut Partitions, commits: &mut Commits) {
        let Ready { name, from, start, next } = ready;
        let group = &self.source.group;
        // What is committed anew has no note any more.
        let told = found.told.get(&name).filter(|_| !found.new.contains(&name));
        commits.began(&name, next, from, told.map_or("", String::as_str));
        if found.behind.contains(&name) {
            // Or who looks at the lag would see some until the partition's next record.
            commits.add([Position { partition: name.clone(), next }]);
        }
        tracing::debug!(group, partition = %name, offset = next, ?from, "reading begins");
        if let Some(partition) = partitions.get_mut(&name) {
            partition.deliver(start, next, Instant::now());
        }
    }

    fn begin_later(&self, partitions: &mut Partitions, name: &TopicPartition, error: &ClientError) {
        begin_later(partitions, &self.source.group, name, error);
    }
}

/// Commits where partitions begin, all with one commit, and waits for the answer; those for which it was refused. One with a
/// time gets a mark of it. It is safe beside transactions: before this nobody has read a record whose offset one could commit.
fn pin<'a>(
    consumer: &GroupConsumer,
    places: impl Iterator<Item = (&'a TopicPartition, i64, Option<i64>)>,
) -> PartitionErrors {
    let places: Vec<_> = places.collect();
    let all = |code| places.iter().map(|(name, ..)| ((*name).clone(), ClientError::ConsumerCommit(code))).collect();
    if places.is_empty() {
        return PartitionErrors::new();
    }
    let Ok(list) = partition::list_at(places.iter().map(|(name, next, _)| (*name, *next))) else {
        return all(Code::InvalidArgument);
    };
    for (name, _, since) in &places {
        if let Some((mut element, since)) = list.find_partition(&name.topic, name.partition).zip(*since) {
            element.set_metadata(format!("{MARK}{since}"));
        }
    }
    // One that is in no generation would be taken for an administrator's.
    let Some(generation) = generation(consumer) else { return all(Code::IllegalGeneration) };
    let Some(mut queue) = CommitQueue::new(consumer.client()) else { return all(Code::Fail) };
    if let Err(code) = queue.send(consumer.client(), &list, Some(generation)) {
        return all(code);
    }
    match queue.answer(ANSWER) {
        None => all(Code::OperationTimedOut),
        Some(answer) => match answer.error {
            Some(code) if answer.places.is_empty() => all(code),
            whole => {
                let refused = answer.places.into_iter().filter_map(|(name, _, error)| Some((name, error.or(whole)?)));
                refused.map(|(name, code)| (name, ClientError::ConsumerCommit(code))).collect()
            }
        },
    }
}

/// What the group has committed of these; those without an offset are left out.
fn committed<'a>(
    consumer: &GroupConsumer,
    names: impl IntoIterator<Item = &'a TopicPartition>,
) -> Result<Answer, ClientError> {
    let list = partition::list(names);
    if list.count() == 0 {
        return Ok(Answer::default());
    }
    let list = consumer.committed_offsets(list, ANSWER)?;
    Ok(Answer { told: librdkafka::read_notes(&list), ..read(&list)? })
}

/// Where the logs of these stand: at the first record of this time or later, or at their end where there is none or no time
/// is given. All are asked for at once; those whose leader does not answer in time have failed.
fn stand(consumer: &GroupConsumer, names: &[TopicPartition], millis: Option<i64>) -> Result<Answer, ClientError> {
    let (mut all, mut names) = (Answer::default(), names.to_vec());
    // librdkafka takes the timestamps in the place of the offsets; negative ones mean something else there.
    for at in millis.map(|millis| Offset::Offset(millis.max(0))).into_iter().chain([Offset::End]) {
        let answer = offsets(consumer, &names, at)?;
        all.places.extend(answer.places);
        all.failed.extend(answer.failed);
        names.retain(|name| !all.places.contains_key(name) && !all.failed.contains_key(name));
    }
    Ok(all)
}

/// The offsets at this time or end.
fn offsets(consumer: &GroupConsumer, names: &[TopicPartition], at: Offset) -> Result<Answer, ClientError> {
    let (mut list, mut answer) = (TopicPartitionList::new(), Answer::default());
    for name in names {
        list.add_partition_offset(&name.topic, name.partition, at)?;
    }
    if names.is_empty() {
        return Ok(answer);
    }
    let told = match list_offsets(consumer.client(), &list, Isolation::Committed, ANSWER) {
        Ok(told) => told,
        // No leader is known, or none has answered: each is asked for alone later.
        Err(code @ (Code::NoEnt | Code::OperationTimedOut)) => {
            names.iter().map(|name| (name.clone(), Err(code))).collect()
        }
        Err(code) => return Err(ClientError::OffsetFetch(code)),
    };
    for (name, place) in told {
        match place {
            Ok(place @ 0..) => _ = answer.places.insert(name, place),
            Ok(_) => {}
            Err(code) => _ = answer.failed.insert(name, ClientError::OffsetFetch(code)),
        }
    }
    Ok(answer)
}

/// The offsets that an answer holds.
fn read(list: &TopicPartitionList) -> Result<Answer, ClientError> {
    let mut answer = Answer::default();
    for element in list.elements() {
        let name = TopicPartition::new(element.topic(), element.partition());
        match (element.error(), element.offset()) {
            (Err(error), _) if error.rdkafka_error_code().is_some_and(partition::is_own) => {
                _ = answer.failed.insert(name, error)
            }
            (Err(error), _) => return Err(error),
            (Ok(()), Offset::Offset(offset)) => _ = answer.places.insert(name, offset),
            (Ok(()), _) => {}
        }
    }
    Ok(answer)
}

/// How long the owner of the `asked` waits before it decides where the group starts, whose inputs are `all`: the lower the
/// lowest of them, the sooner. It has no limit, at which two would decide at once: before the lowest that anybody owns there
/// are only topics that look as if they were read.
fn turn(all: &BTreeSet<TopicPartition>, asked: &[TopicPartition]) -> Duration {
    let before = asked.iter().min().map_or(0, |lowest| all.range(..lowest).count());
    TURN.saturating_mul(u32::try_from(before).unwrap_or(u32::MAX))
}

/// Every partition that exists now of what the group reads and does not own; see [`Subscription::may_read`].
///
/// [`Subscription::may_read`]: crate::kafka::consumer::subscription::Subscription::may_read
fn inputs(consumer: &GroupConsumer, source: &SourceConfig) -> Result<BTreeSet<TopicPartition>, ClientError> {
    let metadata = consumer.fetch_metadata(None, ANSWER)?;
    let is_input = |topic: &str| source.subscription.may_read(topic) && !source.owns(topic);
    let topics = metadata.topics().iter().filter(|topic| is_input(topic.name()));
    let inputs = topics
        .flat_map(|topic| topic.partitions().iter().map(|partition| TopicPartition::new(topic.name(), partition.id())));
    Ok(inputs.collect())
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
        assert_eq!(turns, [Duration::ZERO, TURN * 2, TURN * 4, TURN * 98]);
    }
}
