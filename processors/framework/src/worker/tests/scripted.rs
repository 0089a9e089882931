//! A group between a source and a store that do as they are told; what it asks of both is one log.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use tokio::sync::oneshot;

use super::{Ping, Pong, ping};
use crate::{
    CommitError, Committed, Failure, GroupState, Headers, Outgoing, Payload, Pipeline, Progress, Record, Result,
    SchemaCache, Sink, TopicPartition, Unit,
    codec::Encoder,
    driver::clock::ManualClock,
    ports::{Batch, BoxFuture, Clock, Committer, Control, Fetched, From, SchemaError, SchemaText, Schemas, Source},
    with,
    worker::{Parts, Settings, Worker, WorkerError},
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

/// Partitions as the log shows them: those of the topic of pings by their numbers alone.
fn names<'a>(list: impl IntoIterator<Item = &'a TopicPartition>) -> String {
    let name = |id: &TopicPartition| match id.topic.strip_prefix("play.") {
        Some(own) => format!("{own}/{}", id.partition),
        None => id.partition.to_string(),
    };
    list.into_iter().map(name).collect()
}

/// A record to be published as the log shows it: an event by its key, one for a topic of the group's own by that too.
fn named(record: &Outgoing) -> String {
    let key = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default());
    let own = ["play.", "sink."].into_iter().find_map(|group| record.topic.strip_prefix(group));
    own.map_or_else(|| key.clone().into_owned(), |own| format!("{own}:{key}"))
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

/// What the source will report, what the store will answer, and what both were asked.
#[derive(Default)]
struct Outside {
    events: VecDeque<Fetched>,
    answers: VecDeque<Result<Committed, CommitError>>,
    /// The store refuses every unit with one of these: the key of a row, or what is published as [`named`] names it.
    poison: Vec<String>,
    /// Rows, and what was published, of the units that the store took.
    taken: Vec<String>,
    /// Letters, markers and retries that the store took, and the positions of their units.
    own: Vec<(Outgoing, Vec<Progress>)>,
    /// Where each partition stands, as far as the store knows.
    stands: HashMap<TopicPartition, i64>,
    /// Whether the store keeps its answers to itself.
    silent: bool,
    asked: bool,
    /// Whether the group takes records.
    wants: bool,
    /// How often the group has looked for news since something happened.
    looks: u32,
    log: Vec<String>,
    /// What the source was told to say outside of each partition.
    notes: HashMap<TopicPartition, Option<String>>,
}

type Shared = Arc<Mutex<Outside>>;

struct Script(Shared);

impl Source for Script {
    fn next(&mut self, records: bool) -> BoxFuture<'_, Fetched> {
        Box::pin(std::future::poll_fn(move |_| {
            // Nobody need be woken: the bench polls the group after everything it does.
            let mut outside = self.0.lock().unwrap();
            outside.wants = records;
            outside.looks += 1;
            assert!(outside.looks < 10_000, "the group spins");
            outside.events.pop_front().map_or(Poll::Pending, Poll::Ready)
        }))
    }

    fn control(&mut self, control: Control) {
        let said = match &control {
            Control::Note(list) => {
                let notes = list.iter().map(|(id, why)| (id.clone(), why.clone()));
                return self.0.lock().unwrap().notes.extend(notes);
            }
            Control::Begin { partition, start, .. } => format!("begin {}#{start}", names([partition])),
            Control::Pause(list) => format!("pause {}", names(list)),
            Control::Resume(list) => format!("resume {}", names(list)),
            Control::Commit(list) => list.iter().fold("commit".to_owned(), |mut text, position| {
                let _ = write!(text, " {}:{}", names([&position.partition]), position.next);
                text
            }),
            Control::Released(list) => format!("released {}", names(list)),
            Control::Close => "close".to_owned(),
        };
        let mut outside = self.0.lock().unwrap();
        outside.log.push(said);
        if control == Control::Close {
            outside.events.push_back(Fetched::Closed);
        }
    }
}

struct Store {
    shared: Shared,
    atomic: bool,
}

impl Store {
    /// Asks the store: it answers once it is not silent, and never hears two things at once.
    async fn ask(&self, what: String) -> Result<Committed, CommitError> {
        {
            let mut outside = self.shared.lock().unwrap();
            assert!(!std::mem::replace(&mut outside.asked, true), "the store is asked two things at once: {what}");
            outside.log.push(what);
        }
        std::future::poll_fn(|_| if self.shared.lock().unwrap().silent { Poll::Pending } else { Poll::Ready(()) })
            .await;
        let mut outside = self.shared.lock().unwrap();
        outside.asked = false;
        outside.answers.pop_front().unwrap_or(Ok(Committed::Done))
    }
}

impl Committer for Store {
    fn atomic(&self) -> bool {
        self.atomic
    }

    fn start<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<From>, CommitError>> {
        let names = names(partitions);
        Box::pin(async move {
            self.ask(format!("start {names}")).await?;
            partitions.iter().for_each(|id| _ = self.shared.lock().unwrap().stands.remove(id));
            Ok(vec![From::Committed; partitions.len()])
        })
    }

    fn commit<'a>(&'a mut self, unit: &'a Unit) -> BoxFuture<'a, Result<Committed, CommitError>> {
        let mut what = "unit".to_owned();
        for progress in &unit.positions {
            let _ = write!(what, " {}:{}", names([&progress.to.partition]), progress.to.next);
        }
        let markers = || unit.markers.iter().map(|marker| &marker.record);
        let outgoing: Vec<String> = unit.outgoing.iter().map(named).chain(markers().map(|m| named(m) + "!")).collect();
        outgoing.iter().for_each(|name| _ = write!(what, " {name}"));
        Box::pin(async move {
            let key =
                |row: &crate::Row| String::from_utf8_lossy(row.record.key.as_deref().unwrap_or_default()).into_owned();
            let all: Vec<String> = unit.rows.iter().map(key).chain(outgoing).collect();
            let committed = self.ask(what).await?;
            let mut outside = self.shared.lock().unwrap();
            if let Some(bad) = all.iter().find(|name| outside.poison.contains(name)) {
                return Err(CommitError::Refused(format!("bad {bad}")));
            }
            if committed != Committed::Done {
                return Ok(committed);
            }
            for Progress { from, to } in &unit.positions {
                let before = outside.stands.insert(to.partition.clone(), to.next);
                assert!(
                    before.is_none_or(|before| before == *from),
                    "{} stands at {before:?}, not {from}",
                    to.partition
                );
            }
            outside.taken.extend(all);
            let own = unit.outgoing.iter().chain(markers()).filter(|record| named(record).contains(':'));
            let own: Vec<_> = own.map(|record| (record.clone(), unit.positions.clone())).collect();
            outside.own.extend(own);
            Ok(committed)
        })
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        self.shared.lock().unwrap().log.push(format!("forget {}", names(partitions)));
    }
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

/// Every id is the schema of a ping.
struct Pings;

impl Schemas for Pings {
    fn by_id(&self, _: u32) -> BoxFuture<'_, Result<SchemaText, SchemaError>> {
        let text = SchemaText { schema: Ping::SCHEMA.to_owned(), references: Vec::new() };
        Box::pin(std::future::ready(Ok(text)))
    }

    fn id_of<'a>(&'a self, _: &'a str, _: &'a str) -> BoxFuture<'a, Result<u32, SchemaError>> {
        Box::pin(std::future::ready(Ok(2)))
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
    pub(super) state: Arc<GroupState>,
    stop: Option<oneshot::Sender<()>>,
    work: BoxFuture<'static, Result<(), WorkerError>>,
    pub(super) ended: Option<Result<(), WorkerError>>,
}

impl Bench {
    /// A processor whose effects are published ahead of the positions.
    pub(super) fn publisher(plan: &Plan, settings: Settings) -> Self {
        Self::new(Pipeline::default().on("play", with(plan.clone(), play)), false, settings)
    }

    /// A processor whose effects and positions are one transaction.
    pub(super) fn atomic(plan: &Plan, settings: Settings) -> Self {
        Self::new(Pipeline::default().on("play", with(plan.clone(), play)), true, settings)
    }

    /// A sink.
    pub(super) fn sink(settings: Settings) -> Self {
        Self::new(Pipeline::default().event::<Ping>().sink("sink", Sink::of::<Ping>("pings").key("id")), true, settings)
    }

    fn new(pipeline: Pipeline, atomic: bool, settings: Settings) -> Self {
        let (shared, clock, state) = (Shared::default(), Arc::new(ManualClock::default()), Arc::default());
        let parts = Parts {
            group: pipeline.groups("").remove(0),
            catalogue: Arc::new(pipeline.catalogue().clone()),
            settings,
            source: Box::new(Script(shared.clone())),
            committer: Box::new(Store { shared: shared.clone(), atomic }),
            schemas: Arc::new(SchemaCache::new(Arc::new(Pings), clock.clone())),
            clock: clock.clone(),
            state: Arc::clone(&state),
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let work = async move {
            let stopped = async move { _ = stopped.await };
            Worker::build(parts).await?.run(stopped).await
        };
        Self { shared, clock, state, stop: Some(stop), work: Box::pin(work), ended: None }
    }

    /// A group that has partitions 0 up to `count`, each in its first start.
    pub(super) fn assigned(mut self, count: i32) -> Self {
        self.tell(Fetched::Assigned((0..count).map(at).collect()));
        self.log();
        self
    }

    /// The source reports this.
    pub(super) fn tell(&mut self, event: Fetched) -> &mut Self {
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
        self.tell(Fetched::Records(Batch { partition: records[0].place(), start, records }))
    }

    /// The store refuses every unit with this in it: the key of a row or event, or `dlq:` and the key of a letter.
    pub(super) fn poison(&mut self, name: &str) -> &mut Self {
        self.outside().poison.push(name.to_owned());
        self
    }

    /// Keys of rows, and what was published, that the store has taken.
    pub(super) fn taken(&self) -> Vec<String> {
        self.outside().taken.clone()
    }

    /// What the store has taken for topics of the group's own, each with the positions of its unit.
    pub(super) fn own(&self) -> Vec<(Outgoing, Vec<Progress>)> {
        self.outside().own.clone()
    }

    /// The store will answer so, once.
    pub(super) fn answer(&mut self, answer: Result<Committed, CommitError>) -> &mut Self {
        self.outside().answers.push_back(answer);
        self
    }

    /// The store keeps its answers to itself, or not any more.
    pub(super) fn silent(&mut self, silent: bool) -> &mut Self {
        self.outside().silent = silent;
        self.run();
        self
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
