//! Records that wait under the order `key`: each that failed, and behind it every later one of its key.
//!
//! They are kept in a store of the group's, `waiting`, so that they outlive the process: the unit of work that puts one
//! there passes its offset. Here they are in memory too, by partition number, as all state is. A record is begun from here
//! once the store has it and it is due, as one of a partition that is read from nowhere: [`TopicRole::Waiting`]. What does not
//! fit waits in its own partition.
//!
//! [`TopicRole::Waiting`]: crate::wire::group_topics::TopicRole::Waiting

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    ports::{Clock, Entry, StoreError, Stores, unit::StateChange},
    processor::state::{self, State},
    telemetry::metrics::{GroupMetrics, Metric},
    wire::{
        delivery_headers::due_ms,
        group_topics::{GroupTopics, WAITING},
        record::{Headers, Outgoing, Record, TopicPartition},
    },
};

/// How many records of one partition number may wait, and how many bytes they may have together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) records: usize,
    pub(crate) bytes: usize,
}

/// The records of one group that wait.
pub(crate) struct DelayQueue {
    group: String,
    /// The topic of their store's changes, which stands for where they are read from.
    topic: Arc<str>,
    store: Arc<str>,
    stores: Arc<dyn Stores>,
    limits: Limits,
    /// The longest delay of the group's ladder.
    longest: Duration,
    metrics: Arc<GroupMetrics>,
    numbers: Mutex<BTreeMap<i32, Queues>>,
}

/// Those of one partition number.
#[derive(Default)]
struct Queues {
    /// By their number in the store, which rises in the order of arrival.
    records: BTreeMap<i64, DelayedRecord>,
    /// Of each key those that wait for each other; a record without a key waits for none.
    keys: HashMap<Vec<u8>, VecDeque<i64>>,
    bytes: usize,
    next: i64,
    /// When the first one that could begin is due; `None` while something has changed since that was looked at.
    wakes: Option<Duration>,
}

struct DelayedRecord {
    /// `None` while it is under way.
    record: Option<Record>,
    key: Option<Vec<u8>>,
    bytes: usize,
    due: Duration,
    /// Changes of it that the store does not have yet.
    unsaved: usize,
}

/// A record in the store.
#[derive(Serialize, Deserialize)]
struct StoredRecord {
    key: Option<Bytes>,
    value: Option<Bytes>,
    headers: Vec<(String, Option<Bytes>)>,
    timestamp_ms: i64,
}

impl State for StoredRecord {
    const NAME: &'static str = WAITING;
}

/// Bytes as text where they are some, so that people can read them.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Bytes {
    Text(String),
    Bytes(serde_bytes::ByteBuf),
}

impl Bytes {
    fn as_slice(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes,
        }
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        String::from_utf8(bytes).map_or_else(|error| Self::Bytes(error.into_bytes().into()), Self::Text)
    }
}

impl From<Bytes> for Vec<u8> {
    fn from(bytes: Bytes) -> Self {
        match bytes {
            Bytes::Text(text) => text.into_bytes(),
            Bytes::Bytes(bytes) => bytes.into_vec(),
        }
    }
}

impl DelayQueue {
    pub(crate) fn new(
        group: &str,
        stores: Arc<dyn Stores>,
        limits: Limits,
        longest: Duration,
        metrics: Arc<GroupMetrics>,
    ) -> Self {
        Self {
            group: group.to_owned(),
            topic: GroupTopics::of(group).changelog(WAITING).into(),
            store: WAITING.into(),
            stores,
            limits,
            longest,
            metrics,
            numbers: Mutex::default(),
        }
    }

    /// The partition that those of a number count as.
    pub(crate) fn place(&self, number: i32) -> TopicPartition {
        TopicPartition { topic: Arc::clone(&self.topic), partition: number }
    }

    /// Whether a record of this key would overtake one that waits.
    pub(crate) fn has(&self, number: i32, key: Option<&[u8]>) -> bool {
        let numbers = self.numbers();
        numbers.get(&number).zip(key).is_some_and(|(queues, key)| queues.keys.contains_key(key))
    }

    /// Has a record wait behind those of its key; `None` where there is no room.
    pub(crate) fn append(&self, number: i32, waits: Outgoing, timestamp_ms: i64, due: Duration) -> Option<StateChange> {
        let mut numbers = self.numbers();
        // Before they are read, or once they are forgotten, nobody knows which place is free.
        let queues = numbers.get_mut(&number)?;
        let at = queues.next;
        let record = self.record(number, at, waits, timestamp_ms);
        let full = queues.records.len() >= self.limits.records || queues.bytes + record.size() > self.limits.bytes;
        // A record that is larger than all of the room waits alone.
        if full && !queues.records.is_empty() {
            return None;
        }
        let change = self.kept(&record)?;
        queues.insert(record, due, 1);
        self.metrics.set(Metric::Waiting, count(&numbers));
        Some(change)
    }

    /// Has the record of this number, which is under way, wait again where it was.
    pub(crate) fn again(&self, of: &Record, waits: Outgoing, due: Duration) -> Option<StateChange> {
        let record = self.record(of.partition, of.offset, waits, of.timestamp_ms);
        let change = self.kept(&record)?;
        let mut numbers = self.numbers();
        let queues = numbers.get_mut(&of.partition)?;
        let waits = queues.records.get_mut(&of.offset)?;
        queues.bytes = queues.bytes + record.size() - waits.bytes;
        *waits = DelayedRecord {
            bytes: record.size(),
            record: Some(record),
            due,
            unsaved: waits.unsaved + 1,
            key: waits.key.take(),
        };
        queues.wakes = None;
        Some(change)
    }

    /// The record of this number is done with: the next of its key may begin.
    pub(crate) fn done(&self, of: &Record) -> StateChange {
        let mut numbers = self.numbers();
        if let Some(queues) = numbers.get_mut(&of.partition) {
            queues.remove(of.offset);
        }
        self.metrics.set(Metric::Waiting, count(&numbers));
        self.change(of, None)
    }

    /// The store has this change.
    pub(crate) fn committed(&self, change: &StateChange) {
        if change.store != self.store {
            return;
        }
        let mut numbers = self.numbers();
        let Some(queues) = numbers.get_mut(&change.partition) else { return };
        if let Some(waits) = number(&change.key).and_then(|at| queues.records.get_mut(&at)) {
            waits.unsaved = waits.unsaved.saturating_sub(1);
            queues.wakes = None;
        }
    }

    /// Takes those that are due, the first of each key.
    pub(crate) fn due(&self, number: i32, now: Duration) -> Vec<Record> {
        let mut numbers = self.numbers();
        let Some(queues) = numbers.get_mut(&number) else { return Vec::new() };
        if queues.wakes.is_some_and(|at| at > now) {
            return Vec::new();
        }
        let mut due = Vec::new();
        let mut wakes = Duration::MAX;
        for (at, waits) in &mut queues.records {
            let first = waits.key.as_ref().is_none_or(|key| queues.keys.get(key).and_then(VecDeque::front) == Some(at));
            if !first || waits.unsaved > 0 || waits.record.is_none() {
                continue;
            }
            if waits.due <= now {
                due.extend(waits.record.take());
            } else {
                wakes = wakes.min(waits.due);
            }
        }
        queues.wakes = Some(wakes);
        due
    }

    /// When [`DelayQueue::due`] is to be asked next, by number.
    pub(crate) fn wakes(&self) -> Vec<(i32, Duration)> {
        let numbers = self.numbers();
        let some = numbers.iter().filter(|(_, queues)| !queues.records.is_empty());
        some.map(|(number, queues)| (*number, queues.wakes.unwrap_or_default())).collect()
    }

    /// Reads those of a number from the store, unless they are known.
    pub(crate) fn load(&self, number: i32, clock: &dyn Clock) -> Result<(), StoreError> {
        if self.numbers().contains_key(&number) {
            return Ok(());
        }
        let mut queues = Queues::default();
        for entry in self.stores.scan(WAITING, number, b"", usize::MAX)? {
            let record = self.read(number, entry)?;
            let left = due_ms(&record, &self.group).map_or(0, |due| due.saturating_sub(clock.now().millis()));
            // A clock that differs must not hold a record for longer than the ladder says.
            let left = Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(self.longest);
            queues.insert(record, clock.elapsed() + left, 0);
        }
        let mut numbers = self.numbers();
        numbers.insert(number, queues);
        self.metrics.set(Metric::Waiting, count(&numbers));
        Ok(())
    }

    /// Forgets those of a number, here and not in the store.
    pub(crate) fn forget(&self, number: i32) {
        let mut numbers = self.numbers();
        numbers.remove(&number);
        self.metrics.set(Metric::Waiting, count(&numbers));
    }

    /// Why a record cannot wait here.
    pub(crate) fn full(&self) -> String {
        let Limits { records, bytes } = self.limits;
        format!("as many records wait as may (`waiting_records` = {records}, `waiting_bytes` = {bytes} bytes)")
    }

    fn record(&self, number: i32, at: i64, waits: Outgoing, timestamp_ms: i64) -> Record {
        let Outgoing { key, value, headers, .. } = waits;
        Record { topic: Arc::clone(&self.topic), partition: number, offset: at, timestamp_ms, key, value, headers }
    }

    /// The change that keeps a record; none where it cannot be written down, which no record is known to do.
    fn kept(&self, record: &Record) -> Option<StateChange> {
        let headers = record.headers.iter().map(|(name, value)| (name.to_owned(), value.map(|v| v.to_vec().into())));
        let kept = StoredRecord {
            key: record.key.clone().map(Bytes::from),
            value: record.value.clone().map(Bytes::from),
            headers: headers.collect(),
            timestamp_ms: record.timestamp_ms,
        };
        let value = state::save(&kept).ok()?;
        Some(self.change(record, Some(value.into())))
    }

    fn change(&self, of: &Record, value: Option<Arc<[u8]>>) -> StateChange {
        StateChange {
            store: Arc::clone(&self.store),
            partition: of.partition,
            key: name(of.offset),
            value,
            input: None,
        }
    }

    fn read(&self, partition: i32, (key, value): Entry) -> Result<Record, StoreError> {
        let broken = |why: &str| {
            let name = String::from_utf8_lossy(&key).into_owned();
            StoreError(format!(
                "the record `{name}` that waits in partition {partition} of {} cannot be read: {why}",
                self.topic
            ))
        };
        let kept: StoredRecord = state::load(&value).map_err(|why| broken(&why))?;
        let mut headers = Headers::default();
        kept.headers.iter().for_each(|(name, value)| headers.push(name, value.as_ref().map(Bytes::as_slice)));
        Ok(Record {
            headers,
            topic: Arc::clone(&self.topic),
            partition,
            offset: number(&key).ok_or_else(|| broken("its key is no number"))?,
            timestamp_ms: kept.timestamp_ms,
            key: kept.key.map(Vec::from),
            value: kept.value.map(Vec::from),
        })
    }

    fn numbers(&self) -> MutexGuard<'_, BTreeMap<i32, Queues>> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queues {
    fn insert(&mut self, record: Record, due: Duration, unsaved: usize) {
        let (at, key, bytes) = (record.offset, record.key.clone(), record.size());
        self.next = self.next.max(at + 1);
        self.bytes += bytes;
        self.wakes = None;
        if let Some(key) = &key {
            self.keys.entry(key.clone()).or_default().push_back(at);
        }
        self.records.insert(at, DelayedRecord { record: Some(record), key, bytes, due, unsaved });
    }

    fn remove(&mut self, at: i64) {
        let Some(waits) = self.records.remove(&at) else { return };
        self.bytes -= waits.bytes;
        self.wakes = None;
        let Some(key) = waits.key else { return };
        if let Some(queue) = self.keys.get_mut(&key) {
            queue.retain(|other| *other != at);
            if queue.is_empty() {
                self.keys.remove(&key);
            }
        }
    }
}

fn count(numbers: &BTreeMap<i32, Queues>) -> u64 {
    numbers.values().map(|queues| queues.records.len() as u64).sum()
}

/// A record's key in the store: its number, so that they stand there in their order.
fn name(at: i64) -> Arc<[u8]> {
    format!("{at:020}").into_bytes().into()
}

fn number(name: &[u8]) -> Option<i64> {
    std::str::from_utf8(name).ok()?.parse().ok()
}
