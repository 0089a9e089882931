//! Topics, tables and schemas in memory, behind the ports that the real ones stand behind.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
};

use super::clock::ManualClock;
use crate::{
    codec::WriterSchema,
    event::time::Time,
    pipeline::{ConsumerGroup, catalogue::SourceTopics},
    ports::{
        Batch, BoxFuture, Clock, Committer, Control, Entry, SchemaError, SchemaText, Schemas, Source, SourceEvent,
        StartFrom, StoreError, Stores,
        unit::{CommitError, CommitOutcome, Row, StateChange, Unit},
    },
    wire::{
        group_topics::{GroupTopics, TopicRole},
        murmur2::partition_for,
        record::{Outgoing, Position, Record, TopicPartition},
    },
};

const PARTITIONS: i32 = 6;
/// Records that a source hands over at once.
const BATCH: usize = 100;

/// What a store keeps, by key.
type Keys = BTreeMap<Arc<[u8]>, Arc<[u8]>>;

/// Topics, tables and committed positions.
pub(super) struct Broker {
    contents: Mutex<Contents>,
    clock: Arc<ManualClock>,
}

#[derive(Default)]
struct Contents {
    logs: BTreeMap<TopicPartition, Vec<Record>>,
    rows: BTreeMap<String, Vec<Row>>,
    positions: BTreeMap<(String, TopicPartition), i64>,
    /// By group, store and partition.
    states: BTreeMap<(String, String, i32), Keys>,
    waiting: Vec<Waker>,
}

impl Broker {
    pub(super) fn new(topics: impl Iterator<Item = String>, clock: Arc<ManualClock>) -> Self {
        let broker = Self { contents: Mutex::default(), clock };
        topics.for_each(|topic| broker.contents().create(&topic.into()));
        broker
    }

    /// Appends a record; its topic is made at its first record, as a new topic appears on a broker.
    pub(super) fn append(&self, record: Outgoing) {
        self.contents().append(record, self.clock.now());
    }

    /// Appends what a unit publishes, and gives what else there is to change.
    fn publish(&self, unit: &Unit) -> MutexGuard<'_, Contents> {
        let (mut contents, now) = (self.contents(), self.clock.now());
        let markers = unit.markers.iter().map(|marker| &marker.record);
        unit.outgoing.iter().chain(markers).cloned().for_each(|record| contents.append(record, now));
        contents
    }

    pub(super) fn records(&self, topic: &str) -> Vec<Record> {
        let contents = self.contents();
        contents.logs.iter().filter(|(id, _)| &*id.topic == topic).flat_map(|(_, log)| log.clone()).collect()
    }

    pub(super) fn rows(&self, sink: &str) -> Vec<Row> {
        self.contents().rows.get(sink).cloned().unwrap_or_default()
    }

    pub(super) fn state(&self, group: &str, store: &str, key: &[u8]) -> Option<Arc<[u8]>> {
        let contents = self.contents();
        let stores = contents.states.iter().filter(|((of, name, _), _)| of == group && name == store);
        stores.filter_map(|(_, keys)| keys.get(key).cloned()).next()
    }

    pub(super) fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        self.contents().positions.get(&(group.to_owned(), TopicPartition::new(topic, partition))).copied()
    }

    /// Where a group goes on in each of these partitions; `new` where it has committed nothing.
    fn starts(&self, group: &str, partitions: &[TopicPartition], new: StartFrom) -> Vec<StartFrom> {
        let contents = self.contents();
        let next = |id: &TopicPartition| contents.positions.get(&(group.to_owned(), id.clone())).copied();
        partitions.iter().map(|id| next(id).map_or(new, StartFrom::Offset)).collect()
    }

    fn contents(&self) -> MutexGuard<'_, Contents> {
        self.contents.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn create(&mut self, topic: &Arc<str>) {
        for partition in 0..PARTITIONS {
            self.logs.entry(TopicPartition::new(topic.clone(), partition)).or_default();
        }
    }

    /// Moves a group to a position, and never back: what its source says may be older than what was committed since.
    fn pass(&mut self, group: &str, position: &Position) {
        let next = self.positions.entry((group.to_owned(), position.partition.clone())).or_insert(position.next);
        *next = (*next).max(position.next);
    }

    fn append(&mut self, record: Outgoing, now: Time) {
        let Outgoing { topic, partition, key, value, headers } = record;
        self.create(&topic);
        let partition = partition.map(|partition| partition.rem_euclid(PARTITIONS));
        let partition = partition.unwrap_or_else(|| key.as_deref().map_or(0, |key| partition_for(key, PARTITIONS)));
        let timestamp_ms = now.millis();
        let log = self.logs.entry(TopicPartition::new(topic.clone(), partition)).or_default();
        let offset = i64::try_from(log.len()).unwrap_or(i64::MAX);
        log.push(Record { topic, partition, offset, timestamp_ms, key, value, headers });
        self.waiting.drain(..).for_each(Waker::wake);
    }
}

/// A group's only member.
pub(super) struct MemorySource {
    group: String,
    subscription: SourceTopics,
    group_topics: GroupTopics,
    broker: Arc<Broker>,
    assigned: BTreeSet<TopicPartition>,
    reading: BTreeMap<TopicPartition, Reading>,
    events: VecDeque<SourceEvent>,
}

struct Reading {
    start: u64,
    next: usize,
    paused: bool,
}

impl MemorySource {
    pub(super) fn new(group: &ConsumerGroup, broker: Arc<Broker>) -> Self {
        Self {
            group: group.id.clone(),
            group_topics: GroupTopics::of(&group.id),
            subscription: group.subscription.clone(),
            broker,
            assigned: BTreeSet::new(),
            reading: BTreeMap::new(),
            events: VecDeque::from([SourceEvent::Assigned(Vec::new())]),
        }
    }

    fn poll(&mut self, records: bool, waker: &Waker) -> Poll<SourceEvent> {
        if let Some(event) = self.events.pop_front() {
            return Poll::Ready(event);
        }
        let broker = self.broker.clone();
        let mut contents = broker.contents();
        let ours = |id: &&TopicPartition| {
            let events = self.subscription.all_events && id.topic.starts_with("events.");
            let own = self.group_topics.role(&id.topic) != TopicRole::Input;
            events || own || self.subscription.topics.iter().any(|topic| **topic == *id.topic)
        };
        let new: Vec<_> =
            contents.logs.keys().filter(ours).filter(|id| !self.assigned.contains(*id)).cloned().collect();
        if !new.is_empty() {
            self.assigned.extend(new.iter().cloned());
            return Poll::Ready(SourceEvent::Assigned(new));
        }
        for (id, reading) in self.reading.iter_mut().filter(|(_, reading)| records && !reading.paused) {
            let rest = contents.logs.get(id).and_then(|log| log.get(reading.next..)).unwrap_or_default();
            if !rest.is_empty() {
                let records: Vec<Record> = rest.iter().take(BATCH).cloned().collect();
                reading.next += records.len();
                let next = i64::try_from(reading.next).unwrap_or(i64::MAX);
                return Poll::Ready(SourceEvent::Records(Batch {
                    partition: id.clone(),
                    start: reading.start,
                    records,
                    next,
                }));
            }
        }
        contents.waiting.push(waker.clone());
        Poll::Pending
    }

    fn begin(&mut self, id: TopicPartition, from: StartFrom, start: u64) {
        let next = match from {
            StartFrom::Offset(next) => next,
            StartFrom::Policy => 0,
            StartFrom::Committed => self.broker.committed(&self.group, &id.topic, id.partition).unwrap_or(0),
        };
        let next = usize::try_from(next).unwrap_or(0);
        self.reading.insert(id, Reading { start, next, paused: false });
    }

    fn pause(&mut self, partitions: &[TopicPartition], paused: bool) {
        for id in partitions {
            self.reading.entry(id.clone()).and_modify(|reading| reading.paused = paused);
        }
    }
}

impl Source for MemorySource {
    fn next(&mut self, records: bool) -> BoxFuture<'_, SourceEvent> {
        Box::pin(std::future::poll_fn(move |context| self.poll(records, context.waker())))
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Begin { partition, from, start } => self.begin(partition, from, start),
            Control::Pause(partitions) => self.pause(&partitions, true),
            Control::Resume(partitions) => self.pause(&partitions, false),
            Control::Commit(positions) => {
                let mut contents = self.broker.contents();
                positions.iter().for_each(|position| contents.pass(&self.group, position));
            }
            Control::Released(_) | Control::Note(_) => {}
            Control::Close => self.events.push_back(SourceEvent::Closed),
        }
    }
}

/// Publishes to the topics in memory.
pub(super) struct MemoryCommitter(Arc<Broker>);

impl MemoryCommitter {
    pub(super) fn new(broker: Arc<Broker>) -> Self {
        Self(broker)
    }
}

impl Committer for MemoryCommitter {
    fn atomic(&self) -> bool {
        false
    }

    fn start<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<StartFrom>, CommitError>> {
        Box::pin(std::future::ready(Ok(vec![StartFrom::Committed; partitions.len()])))
    }

    fn commit<'a>(&'a mut self, unit: &'a Unit) -> BoxFuture<'a, Result<CommitOutcome, CommitError>> {
        Box::pin(async move {
            no_place_for("rows", unit.rows.is_empty())?;
            no_place_for("changes of state", unit.changes.is_empty())?;
            drop(self.0.publish(unit));
            Ok(CommitOutcome::Done)
        })
    }

    fn forget(&mut self, _: &[TopicPartition]) {}
}

/// Keeps state and positions in memory, and publishes.
pub(super) struct MemoryStatefulCommitter {
    group: String,
    broker: Arc<Broker>,
}

impl MemoryStatefulCommitter {
    pub(super) fn new(group: &str, broker: Arc<Broker>) -> Self {
        Self { group: group.to_owned(), broker }
    }
}

impl Committer for MemoryStatefulCommitter {
    fn atomic(&self) -> bool {
        true
    }

    fn start<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<StartFrom>, CommitError>> {
        Box::pin(async move { Ok(self.broker.starts(&self.group, partitions, StartFrom::Committed)) })
    }

    fn commit<'a>(&'a mut self, unit: &'a Unit) -> BoxFuture<'a, Result<CommitOutcome, CommitError>> {
        Box::pin(async move {
            no_place_for("rows", unit.rows.is_empty())?;
            let mut contents = self.broker.publish(unit);
            for StateChange { store, partition, key, value, .. } in &unit.changes {
                let keys = contents.states.entry((self.group.clone(), store.to_string(), *partition)).or_default();
                match value {
                    Some(value) => drop(keys.insert(key.clone(), value.clone())),
                    None => drop(keys.remove(key)),
                }
            }
            unit.positions.iter().for_each(|range| contents.pass(&self.group, &range.to));
            Ok(CommitOutcome::Done)
        })
    }

    fn forget(&mut self, _: &[TopicPartition]) {}
}

impl Stores for MemoryStatefulCommitter {
    fn get(&self, store: &str, partition: i32, key: &[u8]) -> Result<Option<Arc<[u8]>>, StoreError> {
        let contents = self.broker.contents();
        let keys = contents.states.get(&(self.group.clone(), store.to_owned(), partition));
        Ok(keys.and_then(|keys| keys.get(key)).cloned())
    }

    fn scan(&self, store: &str, partition: i32, prefix: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        let contents = self.broker.contents();
        let keys = contents.states.get(&(self.group.clone(), store.to_owned(), partition)).into_iter().flatten();
        let found = keys.filter(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(found.map(|(key, value)| (key.to_vec(), value.to_vec())).collect())
    }
}

/// Keeps rows and positions in memory.
pub(super) struct MemorySinkCommitter {
    sink: String,
    broker: Arc<Broker>,
}

impl MemorySinkCommitter {
    pub(super) fn new(sink: &str, broker: Arc<Broker>) -> Self {
        Self { sink: sink.to_owned(), broker }
    }
}

impl Committer for MemorySinkCommitter {
    fn atomic(&self) -> bool {
        true
    }

    fn start<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<StartFrom>, CommitError>> {
        Box::pin(async move { Ok(self.broker.starts(&self.sink, partitions, StartFrom::Policy)) })
    }

    fn commit<'a>(&'a mut self, unit: &'a Unit) -> BoxFuture<'a, Result<CommitOutcome, CommitError>> {
        Box::pin(async move {
            no_place_for("changes of state", unit.changes.is_empty())?;
            let mut contents = self.broker.publish(unit);
            contents.rows.entry(self.sink.clone()).or_default().extend(unit.rows.iter().cloned());
            unit.positions.iter().for_each(|range| contents.pass(&self.sink, &range.to));
            Ok(CommitOutcome::Done)
        })
    }

    fn forget(&mut self, _: &[TopicPartition]) {}
}

/// Nothing of a unit is dropped unsaid.
fn no_place_for(what: &str, is_empty: bool) -> Result<(), CommitError> {
    if is_empty {
        return Ok(());
    }
    Err(CommitError::Fatal(format!("a unit with {what} reached a committer in memory that has no place for them")))
}

/// Gives every schema text an id of its own.
#[derive(Default)]
pub(super) struct MemoryRegistry(Mutex<Vec<(String, Option<Arc<WriterSchema>>)>>);

impl MemoryRegistry {
    /// The id of a schema, the same for the same text.
    pub(super) fn register(&self, schema: &str) -> u32 {
        let mut schemas = self.schemas();
        let at = schemas.iter().position(|(known, _)| known == schema).unwrap_or_else(|| {
            schemas.push((schema.to_owned(), None));
            schemas.len() - 1
        });
        u32::try_from(at + 1).unwrap_or(u32::MAX)
    }

    /// The schema of an id, parsed once.
    pub(super) fn schema(&self, id: u32) -> Option<Arc<WriterSchema>> {
        let mut schemas = self.schemas();
        let (text, parsed) = schemas.get_mut(usize::try_from(id).ok()?.checked_sub(1)?)?;
        if parsed.is_none() {
            *parsed = WriterSchema::parse(id, text, &[]).ok();
        }
        parsed.clone()
    }

    fn schemas(&self) -> MutexGuard<'_, Vec<(String, Option<Arc<WriterSchema>>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Schemas for MemoryRegistry {
    fn by_id(&self, id: u32) -> BoxFuture<'_, Result<SchemaText, SchemaError>> {
        let schema = self.schema(id).and_then(|_| self.schemas().get(id as usize - 1).map(|(text, _)| text.clone()));
        let answer = schema.map(|schema| SchemaText { schema, references: Vec::new() });
        Box::pin(std::future::ready(answer.ok_or_else(|| SchemaError::Unknown(format!("there is no schema {id}")))))
    }

    fn id_of<'a>(&'a self, _: &'a str, schema: &'a str) -> BoxFuture<'a, Result<u32, SchemaError>> {
        Box::pin(std::future::ready(Ok(self.register(schema))))
    }
}

#[cfg(test)]
mod tests;
