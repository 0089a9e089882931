//! A group between a source and a store that do as they are told; what it asks of both is one log.

mod conformance;
mod outside;

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use tokio::sync::oneshot;

use self::outside::{Outside, Pings, Script, ScriptedStores, Shared, Store};
use super::{Ping, Pong, ping};
use crate::{
    codec::Encoder,
    driver::clock::ManualClock,
    event::payload::Payload,
    failure::{DeadLetterKind, Failure, Result},
    pipeline::{Pipeline, schema_cache::SchemaCache, settings::GroupSettings, sink::Sink, steps::Group},
    ports::{
        Batch, BoxFuture, Clock, SourceEvent,
        unit::{CommitError, CommitOutcome, OffsetRange},
    },
    processor::{state::State, stateful::KeyedBy as _, with},
    telemetry::{metrics::GroupMetrics, spans::Tracing},
    wire::record::{Headers, Outgoing, Record, TopicPartition},
    worker::{Worker, deps::WorkerDeps, error::WorkerError},
};

/// The partition `number` of the topic of pings.
pub(super) fn at(number: i32) -> TopicPartition {
    TopicPartition::new("events.net", number)
}

/// The partition `number` of the topic where what failed first waits for a second attempt.
pub(super) fn retry(number: i32) -> TopicPartition {
    TopicPartition::new("play.retry.1s", number)
}

/// The partition `number` of the topic of dead letters that were sent back.
pub(super) fn redrive(number: i32) -> TopicPartition {
    TopicPartition::new("play.redrive", number)
}

/// The partition `number` of the topic of records that were repartitioned.
pub(super) fn repartition(number: i32) -> TopicPartition {
    TopicPartition::new("play.play.repartition", number)
}

/// What a processor does with the events that are named by key and offset, `a0`; the others succeed at once.
#[derive(Clone, Default)]
pub(super) struct Plan(Arc<Mutex<Acts>>);

#[derive(Default)]
struct Acts {
    gates: HashMap<String, VecDeque<oneshot::Receiver<Result<()>>>>,
    seen: Vec<String>,
}

impl Plan {
    /// The next attempt at this event ends as it is told here.
    pub(super) fn gate(&self, event: &str) -> oneshot::Sender<Result<()>> {
        let (tell, told) = oneshot::channel();
        self.0.lock().unwrap().gates.entry(event.to_owned()).or_default().push_back(told);
        tell
    }

    /// The next attempt at this event fails at once.
    pub(super) fn fail(&self, event: &str, failure: Failure) {
        self.gate(event).send(Err(failure)).expect("the plan keeps it");
    }

    /// The attempts that have begun, in order.
    pub(super) fn seen(&self) -> String {
        self.0.lock().unwrap().seen.join(" ")
    }
}

async fn play(plan: Plan, ping: Ping) -> Result<Pong> {
    let event = format!("{}{}", ping.id, ping.seq);
    let gate = {
        let mut acts = plan.0.lock().unwrap();
        acts.seen.push(event.clone());
        acts.gates.get_mut(&event).and_then(VecDeque::pop_front)
    };
    if let Some(gate) = gate {
        gate.await??;
    }
    Ok(Pong { id: ping.id, seq: ping.seq })
}

#[derive(Default, serde::Serialize, serde::Deserialize)]
struct Count(u32);

impl State for Count {
    const NAME: &'static str = "count";
}

fn count(count: &mut Count, ping: Ping) -> Result<Pong> {
    count.0 += 1;
    Ok(Pong { id: format!("{}{}", ping.id, count.0), seq: ping.seq })
}

/// Another event of pings' topic.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
#[serde(rename = "Ping")]
struct Other {
    id: String,
    seq: i64,
}

impl Payload for Other {
    const TYPE: &'static str = "net.other";
    const SCHEMA: &'static str = Ping::SCHEMA;

    fn key(&self) -> &str {
        &self.id
    }
}

fn count_other(state: &mut Count, other: Other) -> Result<Pong> {
    count(state, ping(&other.id, other.seq))
}

/// A ping with this key, and its offset as its number.
pub(super) fn record(place: &TopicPartition, offset: i64, key: &str, headers: Headers) -> Record {
    let value = Encoder::new(1, Ping::SCHEMA).expect("valid").encode(&ping(key, offset)).expect("it fits");
    let (topic, partition) = (place.topic.clone(), place.partition);
    Record {
        topic,
        partition,
        offset,
        timestamp_ms: 0,
        key: Some(key.as_bytes().to_vec()),
        value: Some(value),
        headers,
    }
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

/// A running group.
pub(super) struct Bench {
    shared: Shared,
    clock: Arc<ManualClock>,
    pub(super) metrics: Arc<GroupMetrics>,
    stop: Option<oneshot::Sender<()>>,
    work: BoxFuture<'static, Result<(), WorkerError>>,
    pub(super) ended: Option<Result<(), WorkerError>>,
}

impl Bench {
    /// A processor whose effects are published ahead of the positions.
    pub(super) fn publisher(plan: &Plan, settings: GroupSettings) -> Self {
        Self::new(Pipeline::default().on("play", with(plan.clone(), play)), false, 1, settings)
    }

    /// A processor whose effects and positions are one transaction.
    pub(super) fn atomic(plan: &Plan, settings: GroupSettings) -> Self {
        Self::new(Pipeline::default().on("play", with(plan.clone(), play)), true, 1, settings)
    }

    /// A stateful step that counts the events of each key, and answers with key and count.
    pub(super) fn counting(settings: GroupSettings) -> Self {
        Self::new(Pipeline::default().on("play", count.co_partitioned()), true, 1, settings)
    }

    /// The same, at least once: inputs may come again.
    pub(super) fn counting_again(settings: GroupSettings) -> Self {
        Self::counting(settings).again()
    }

    /// Two steps that keep one count, of pings and of pongs: pongs are repartitioned, and pings too unless they are
    /// `co_partitioned`. At least once.
    pub(super) fn sharing(co_partitioned: bool, settings: GroupSettings) -> Self {
        let pings = |group: Group| {
            if co_partitioned {
                group.on("ping", count.co_partitioned())
            } else {
                group.on("ping", count.keyed_by(|ping: &Ping| ping.id.clone()))
            }
        };
        let group = pings(Group::new()).on("other", count_other.keyed_by(|other: &Other| other.id.clone()));
        Self::new(Pipeline::default().group("play", group), true, 1, settings).again()
    }

    /// The same of records that are repartitioned first.
    pub(super) fn repartitioning(settings: GroupSettings) -> Self {
        Self::new(Pipeline::default().on("play", count.keyed_by(|ping| ping.id.clone())), true, 1, settings).again()
    }

    fn again(self) -> Self {
        self.outside().inputs = Some(HashMap::new());
        self
    }

    /// The topic of pings has this id from now on.
    pub(super) fn created(&mut self, id: &str) -> &mut Self {
        self.outside().ids.insert("events.net".to_owned(), id.to_owned());
        self
    }

    /// A commit is cancelled that outlives a partition of its unit.
    pub(super) fn cancelling(self) -> Self {
        self.outside().cancels = true;
        self
    }

    /// The source does not close at once.
    pub(super) fn slow_to_close(self) -> Self {
        self.outside().slow_to_close = true;
        self
    }

    /// A sink.
    pub(super) fn sink(settings: GroupSettings) -> Self {
        Self::sinks(1, settings)
    }

    /// A sink that commits over so many connections.
    pub(super) fn sinks(stores: usize, settings: GroupSettings) -> Self {
        let pipeline = Pipeline::default().event::<Ping>().sink("sink", Sink::of::<Ping>("pings").key("id"));
        Self::new(pipeline, true, stores, settings)
    }

    fn new(pipeline: Pipeline, atomic: bool, stores: usize, settings: GroupSettings) -> Self {
        let (shared, clock, metrics) = (Shared::default(), Arc::new(ManualClock::default()), Arc::default());
        let parts = WorkerDeps {
            stores: Some(Arc::new(ScriptedStores(shared.clone()))),
            group: pipeline.groups("").remove(0),
            catalogue: Arc::new(pipeline.catalogue().clone()),
            settings,
            source: Box::new(Script(shared.clone())),
            committers: (0..stores)
                .map(|number| Box::new(Store { shared: shared.clone(), number, atomic }) as _)
                .collect(),
            schemas: Arc::new(SchemaCache::new(Arc::new(Pings(shared.clone())), clock.clone())),
            tracing: Tracing::default(),
            clock: clock.clone(),
            metrics: Arc::clone(&metrics),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let work = async move {
            let stopped = async move { _ = stopped.await };
            Worker::build(parts).await?.run(stopped).await
        };
        Self { shared, clock, metrics, stop: Some(stop), work: Box::pin(work), ended: None }
    }

    /// A group that has partitions 0 up to `count`, each in its first start.
    pub(super) fn assigned(mut self, count: i32) -> Self {
        self.tell(SourceEvent::Assigned((0..count).map(at).collect()));
        self.log();
        self
    }

    /// The source reports this.
    pub(super) fn tell(&mut self, event: SourceEvent) -> &mut Self {
        self.outside().events.push_back(event);
        self.run();
        self
    }

    /// The source delivers a batch: a ping for each key, from this offset on.
    pub(super) fn records(&mut self, partition: i32, start: u64, first: i64, keys: &str) -> &mut Self {
        let of = |(offset, key)| record(&at(partition), offset, key, Headers::default());
        self.batch(start, (first..).zip(keys.split(' ')).map(of).collect())
    }

    /// The source delivers these records of one partition.
    pub(super) fn batch(&mut self, start: u64, records: Vec<Record>) -> &mut Self {
        let next = records.last().unwrap().offset + 1;
        self.tell(SourceEvent::Records(Batch { partition: records[0].place(), start, records, next }))
    }

    /// The source has found no record of a partition before this offset.
    pub(super) fn nothing_before(&mut self, partition: i32, start: u64, next: i64) -> &mut Self {
        self.tell(SourceEvent::Records(Batch { partition: at(partition), start, records: Vec::new(), next }))
    }

    /// The store refuses the row of this key, and says so.
    pub(super) fn bad_row(&mut self, key: &str, kind: DeadLetterKind) -> &mut Self {
        self.outside().bad_rows.push((key.to_owned(), kind));
        self
    }

    /// The store refuses every unit with this in it: the key of a row or event, or `dlq:` and the key of a letter.
    pub(super) fn poison(&mut self, name: &str) -> &mut Self {
        self.outside().poison.push(name.to_owned());
        self
    }

    /// The store refuses every unit with a record in it that has more bytes than these.
    pub(super) fn largest(&mut self, bytes: usize) -> &mut Self {
        self.outside().largest = Some(bytes);
        self
    }

    /// Keys of rows, and what was published, that the store has taken.
    pub(super) fn taken(&self) -> Vec<String> {
        self.outside().taken.clone()
    }

    /// What the store has taken for topics of the group's own, each with the positions of its unit.
    pub(super) fn own(&self) -> Vec<(Outgoing, Vec<OffsetRange>)> {
        self.outside().own.clone()
    }

    /// The store will answer so, once.
    pub(super) fn answer(&mut self, answer: Result<CommitOutcome, CommitError>) -> &mut Self {
        self.answer_of(0, answer)
    }

    /// The store will answer so, once, over the connection of this number.
    pub(super) fn answer_of(&mut self, number: usize, answer: Result<CommitOutcome, CommitError>) -> &mut Self {
        self.outside().answers.entry(number).or_default().push_back(answer);
        self
    }

    /// The store keeps its answers to itself, or not any more.
    pub(super) fn silent(&mut self, silent: bool) -> &mut Self {
        self.silent_of(0, silent)
    }

    /// The same, over the connection of this number.
    pub(super) fn silent_of(&mut self, number: usize, silent: bool) -> &mut Self {
        if silent {
            self.outside().silent.insert(number);
        } else {
            self.outside().silent.remove(&number);
        }
        self.run();
        self
    }

    /// The registry answers no more, or answers again.
    pub(super) fn registry_down(&mut self, down: bool) -> &mut Self {
        self.outside().registry_down = down;
        self
    }

    /// The store does not answer before the group has joined, or does now.
    pub(super) fn store_down(&mut self, down: bool) -> &mut Self {
        self.outside().store_down = down;
        self
    }

    /// Whether the source was asked what there is since something happened.
    pub(super) fn has_joined(&self) -> bool {
        self.outside().looks > 0
    }

    /// What was asked of source and store since the last time.
    pub(super) fn log(&mut self) -> String {
        self.run();
        std::mem::take(&mut self.outside().log).join(", ")
    }

    /// Why this partition stands still, as the source says it outside.
    pub(super) fn note(&self, place: &TopicPartition) -> Option<String> {
        self.outside().notes.get(place).cloned().flatten()
    }

    /// Tells the group to stop.
    pub(super) fn stop(&mut self) -> &mut Self {
        self.stop.take().map(|stop| stop.send(()));
        self.run();
        self
    }

    /// Moves the clock, stopping at everything that falls due on the way.
    pub(super) fn advance(&mut self, by: Duration) -> &mut Self {
        let target = self.clock.elapsed() + by;
        self.run();
        while let Some(due) = self.clock.next_due().filter(|due| *due <= target) {
            self.clock.set(due);
            self.run();
        }
        self.clock.set(target);
        self.run();
        self
    }

    /// Whether the group takes more records.
    pub(super) fn wants(&self) -> bool {
        self.outside().wants
    }

    fn outside(&self) -> MutexGuard<'_, Outside> {
        self.shared.lock().unwrap()
    }

    /// Runs the group until it waits for something that has not happened.
    fn run(&mut self) {
        let woken = Arc::new(Woken(AtomicBool::new(true)));
        let waker = Waker::from(woken.clone());
        self.outside().looks = 0;
        while self.ended.is_none() && woken.0.swap(false, Ordering::AcqRel) {
            match self.work.as_mut().poll(&mut Context::from_waker(&waker)) {
                Poll::Ready(ended) => self.ended = Some(ended),
                Poll::Pending => {}
            }
        }
    }
}
