//! A worker between a source and a store in memory, so that all between the two ports is counted and nothing else.

use std::{
    collections::{HashMap, VecDeque},
    future::{Future, pending, poll_fn, ready},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use headwater::{
    Payload, Pipeline, Time, TopicPartition,
    spi::{
        Batch, BoxFuture, Clock, CommitError, Committed, Committer, Control, Fetched, GroupSettings, Record,
        SchemaCache, SchemaError, SchemaText, Schemas, Source, StartFrom, Tracing, Unit, Worker, WorkerDeps,
    },
};
use headwater_schemas::PaymentCompleted;

use super::pieces::{MOST, Run};

const PARTITIONS: i32 = 6;
/// Records that the source hands over at once.
const BATCH: usize = 100;
/// A worker that neither ends nor makes progress is polled this often.
const PATIENCE: usize = 100;

/// Runs the pipeline's first group over that many records like this one. They are made beforehand, all that there may be.
pub(super) fn worker(pipeline: Pipeline, atomic: bool, tracing: Tracing, record: &Record) -> Run {
    let mut batches = batches(record);
    Box::new(move |count| {
        assert_eq!(count % BATCH, 0, "whole batches");
        let left = Arc::new(AtomicI64::new(i64::try_from(count).expect("few")));
        let source = Memory {
            waiting: VecDeque::from([Fetched::Assigned(partitions().collect())]),
            batches: batches.drain(..count / BATCH).collect(),
            starts: HashMap::new(),
            stands: HashMap::new(),
            left: left.clone(),
        };
        let clock = Arc::new(FrozenClock);
        let parts = WorkerDeps {
            stores: None,
            group: pipeline.groups("").remove(0),
            catalogue: Arc::new(pipeline.catalogue().clone()),
            settings: GroupSettings::default(),
            source: Box::new(source),
            committers: vec![Box::new(Store { atomic })],
            schemas: Arc::new(SchemaCache::new(Arc::new(Payments), clock.clone())),
            clock,
            state: Arc::default(),
            tracing: tracing.clone(),
        };
        let done = poll_fn(move |_| if left.load(Ordering::Relaxed) == 0 { Poll::Ready(()) } else { Poll::Pending });
        finish(async { Worker::build(parts).await?.run(done).await }).expect("the worker ends when it is told to");
    })
}

fn partitions() -> impl Iterator<Item = TopicPartition> {
    let topic: Arc<str> = headwater::spi::topic_of(PaymentCompleted::TYPE).into();
    (0..PARTITIONS).map(move |partition| TopicPartition::new(topic.clone(), partition))
}

fn batches(record: &Record) -> VecDeque<(TopicPartition, Vec<Record>)> {
    let mut places: Vec<_> = partitions().map(|place| (place, 0)).collect();
    let batch = |number: usize| {
        let (place, next) = &mut places[number % usize::try_from(PARTITIONS).expect("few")];
        let records = (0..BATCH).map(|_| {
            *next += 1;
            let (topic, partition) = (place.topic.clone(), place.partition);
            Record { topic, partition, offset: *next - 1, ..record.clone() }
        });
        (place.clone(), records.collect())
    };
    (0..MOST / BATCH).map(batch).collect()
}

/// Nothing here waits for anybody, so whoever is polled again has made progress.
fn finish<T>(work: impl Future<Output = T>) -> T {
    let mut work = pin!(work);
    for _ in 0..PATIENCE {
        if let Poll::Ready(done) = work.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return done;
        }
    }
    panic!("the worker waits for something that never happens");
}

struct Memory {
    waiting: VecDeque<Fetched>,
    batches: VecDeque<(TopicPartition, Vec<Record>)>,
    starts: HashMap<TopicPartition, u64>,
    stands: HashMap<TopicPartition, i64>,
    /// Records that are not committed yet.
    left: Arc<AtomicI64>,
}

impl Memory {
    fn poll(&mut self, records: bool) -> Option<Fetched> {
        if let Some(fetched) = self.waiting.pop_front() {
            return Some(fetched);
        }
        let (partition, records) =
            self.batches.pop_front_if(|(partition, _)| records && self.starts.contains_key(partition))?;
        let start = self.starts[&partition];
        let next = records.last().map_or(0, |record| record.offset + 1);
        Some(Fetched::Records(Batch { partition, start, records, next }))
    }
}

impl Source for Memory {
    fn next(&mut self, records: bool) -> BoxFuture<'_, Fetched> {
        // Nothing is handed over before the future is polled: it may be dropped unpolled.
        Box::pin(poll_fn(move |_| self.poll(records).map_or(Poll::Pending, Poll::Ready)))
    }

    fn control(&mut self, control: Control) {
        match control {
            Control::Begin { partition, start, .. } => _ = self.starts.insert(partition, start),
            Control::Commit(positions) => {
                for position in positions {
                    let before = self.stands.insert(position.partition, position.next).unwrap_or(0);
                    self.left.fetch_sub(position.next - before, Ordering::Relaxed);
                }
            }
            Control::Close => self.waiting.push_back(Fetched::Closed),
            Control::Pause(_) | Control::Resume(_) | Control::Note(_) | Control::Released(_) => {}
        }
    }
}

struct Store {
    atomic: bool,
}

impl Committer for Store {
    fn atomic(&self) -> bool {
        self.atomic
    }

    fn start<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<StartFrom>, CommitError>> {
        Box::pin(ready(Ok(vec![StartFrom::Offset(0); partitions.len()])))
    }

    fn commit<'a>(&'a mut self, _: &'a Unit) -> BoxFuture<'a, Result<Committed, CommitError>> {
        Box::pin(ready(Ok(Committed::Done)))
    }

    fn forget(&mut self, _: &[TopicPartition]) {}
}

/// Knows one schema.
struct Payments;

impl Schemas for Payments {
    fn by_id(&self, _: u32) -> BoxFuture<'_, Result<SchemaText, SchemaError>> {
        let text = SchemaText { schema: PaymentCompleted::SCHEMA.to_owned(), references: Vec::new() };
        Box::pin(ready(Ok(text)))
    }

    fn id_of<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<u32, SchemaError>> {
        Box::pin(ready(Ok(2)))
    }
}

/// A clock that stands still: reading the real one is the system's business.
struct FrozenClock;

impl Clock for FrozenClock {
    fn now(&self) -> Time {
        Time::from_millis(1_767_225_600_000)
    }

    fn elapsed(&self) -> Duration {
        Duration::ZERO
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        if duration.is_zero() { Box::pin(ready(())) } else { Box::pin(pending()) }
    }
}
