//! A pipeline without a broker, on its own clock: the engine itself over topics and tables in memory.
//!
//! Everything but the servers is real: records are encoded, keyed, partitioned, decoded, kept in order and committed in
//! units of work, and what one processor emits reaches the others. Nothing runs but inside a call, and time stands still
//! until [`Driver::advance`] moves it, so a test is deterministic and needs no runtime.

mod broker;
pub(crate) mod clock;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    time::Duration,
};

use self::{
    broker::{Broker, MemoryCommitter, MemoryRegistry, MemorySinkCommitter, MemorySource, MemoryStatefulCommitter},
    clock::ManualClock,
};
use crate::{
    codec::{self, Encoder},
    event::{Event, payload::Payload},
    failure::dead_letter::DeadLetter,
    pipeline::{
        ConsumerGroup, Pipeline, Work,
        catalogue::{Catalogue, topic_of},
        schema_cache::SchemaCache,
        settings::{GroupSettings, Order},
    },
    ports::{BoxFuture, Clock, Committer, Stores, unit::Row},
    processor::{
        input::{Delivery, Input},
        state::{self, State},
    },
    telemetry::{
        metrics::{GroupMetrics, ProcessMetrics},
        spans::Tracing,
    },
    wire::{
        delivery_headers::Trust,
        group_topics::GroupTopics,
        headers::Attributes,
        record::{Headers, Outgoing, Record},
    },
    worker::{Worker, WorkerError, deps::WorkerDeps},
};

/// Runs a pipeline without a broker.
///
/// ```
/// # use headwater::{Driver, Payload, Pipeline, Result};
/// # #[derive(serde::Serialize, serde::Deserialize)] struct Ping { id: String }
/// # impl Payload for Ping {
/// #     const TYPE: &'static str = "net.ping";
/// #     const SCHEMA: &'static str =
/// #         r#"{"type":"record","name":"Ping","namespace":"headwater.net","fields":[{"name":"id","type":"string"}]}"#;
/// #     fn key(&self) -> &str { &self.id }
/// # }
/// # #[derive(serde::Serialize, serde::Deserialize)] struct Pong { id: String }
/// # impl Payload for Pong {
/// #     const TYPE: &'static str = "net.pong";
/// #     const SCHEMA: &'static str =
/// #         r#"{"type":"record","name":"Pong","namespace":"headwater.net","fields":[{"name":"id","type":"string"}]}"#;
/// #     fn key(&self) -> &str { &self.id }
/// # }
/// async fn answer(ping: Ping) -> Result<Pong> {
///     Ok(Pong { id: ping.id })
/// }
///
/// let mut driver = Driver::new(Pipeline::default().on("answer", answer));
/// driver.send(Ping { id: "1".to_owned() });
/// assert_eq!(driver.emitted::<Pong>()[0].id, "1");
/// ```
pub struct Driver {
    broker: Arc<Broker>,
    registry: Arc<MemoryRegistry>,
    catalogue: Arc<Catalogue>,
    clock: Arc<ManualClock>,
    metrics: ProcessMetrics,
    tasks: Vec<Task>,
}

struct Task {
    woken: Arc<Woken>,
    work: BoxFuture<'static, Result<(), WorkerError>>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Release);
    }
}

impl Driver {
    /// A driver of this pipeline, every group of it running, with the default settings.
    ///
    /// # Panics
    /// When the pipeline has problems; the message names them all.
    pub fn new(pipeline: Pipeline) -> Self {
        Self::with_settings(pipeline, GroupSettings::default())
    }

    /// The same with other settings, for every group.
    ///
    /// # Panics
    /// When the pipeline has problems; the message names them all.
    pub fn with_settings(pipeline: Pipeline, settings: GroupSettings) -> Self {
        Self::traced(pipeline, settings, &Tracing::default())
    }

    /// The same with spans.
    pub(crate) fn traced(pipeline: Pipeline, settings: GroupSettings, tracing: &Tracing) -> Self {
        let problems = pipeline.problems();
        assert!(problems.is_empty(), "the pipeline cannot run: {}", problems.join("; "));
        let catalogue = Arc::new(pipeline.catalogue().clone());
        let clock = Arc::new(ManualClock::default());
        let registry = Arc::new(MemoryRegistry::default());
        let schemas = Arc::new(SchemaCache::new(registry.clone(), clock.clone()));
        let groups = pipeline.groups("");
        let stateful =
            groups.iter().filter(|group| !group.stores(group.policy.over(settings.clone()).order).is_empty());
        // All that goes by a partition's number has to be there.
        let own = stateful.flat_map(|group| group.own_topics.clone());
        let topics = catalogue.types().map(|facts| topic_of(facts.name)).chain(own);
        let broker = Arc::new(Broker::new(topics, clock.clone()));
        let metrics = ProcessMetrics::default();
        let task = |group: ConsumerGroup| {
            let settings = group.policy.over(settings.clone());
            let parts = WorkerDeps {
                committers: vec![committer(&group, settings.order, &broker)],
                stores: stores(&group, settings.order, &broker),
                settings,
                source: Box::new(MemorySource::new(&group, broker.clone())),
                metrics: metrics.of(&group.id),
                group,
                catalogue: catalogue.clone(),
                schemas: schemas.clone(),
                tracing: tracing.clone(),
                clock: clock.clone(),
            };
            let run = async move { Worker::build(parts).await?.run(std::future::pending()).await };
            Task { woken: Arc::new(Woken(AtomicBool::new(true))), work: Box::pin(run) }
        };
        // There is no table of dead letters: they stay on their topics, see [`Driver::letters`].
        let tasks = groups.into_iter().filter(|group| group.group_topics().is_some()).map(task).collect();
        let mut driver = Self { broker, registry, catalogue, clock, metrics, tasks };
        driver.run();
        driver
    }

    /// Sends an event as a foreign producer does, without headers, and runs until nothing more happens at this time.
    pub fn send<T: Payload>(&mut self, data: T) -> &mut Self {
        self.send_with(data, Headers::default())
    }

    /// The same with headers.
    ///
    /// # Panics
    /// When the payload does not fit its own schema.
    pub fn send_with<T: Payload>(&mut self, data: T, headers: Headers) -> &mut Self {
        let encoder =
            Encoder::new(self.registry.register(T::SCHEMA), T::SCHEMA).expect("the payload's schema is valid");
        let value = encoder.encode(&data).expect("the payload fits its schema");
        let key = Some(data.key().as_bytes().to_vec());
        self.send_record(Outgoing {
            topic: topic_of(T::TYPE).into(),
            partition: None,
            key,
            value: Some(value),
            headers,
        })
    }

    /// Sends a record as it is, and runs until nothing more happens at this time.
    pub fn send_record(&mut self, record: Outgoing) -> &mut Self {
        self.broker.append(record);
        self.run();
        self
    }

    /// Moves the clock, stopping at everything that falls due on the way.
    pub fn advance(&mut self, by: Duration) -> &mut Self {
        let target = self.clock.elapsed() + by;
        while let Some(due) = self.clock.next_due().filter(|due| *due <= target) {
            self.clock.set(due);
            self.run();
        }
        self.clock.set(target);
        self.run();
        self
    }

    /// Every event of a type on its topic, in the order of their partitions.
    ///
    /// # Panics
    /// When a record of that type cannot be read.
    pub fn emitted<T: Payload>(&self) -> Vec<Event<T>> {
        let facts = crate::event::event_type::EventType::of::<T>();
        let read = |record: Record| {
            let attributes = Attributes::read(&record.headers, Trust::Nobody);
            assert_eq!(attributes.broken, None, "valid headers");
            let (id, datum) = codec::split(record.value.as_deref()?).expect("a Confluent value");
            let schema = self.registry.schema(id)?;
            let (schema, datum) = schema.of_datum(datum).expect("a branch of the schema");
            let by_schema = || self.catalogue.by_record(schema.full_name()?);
            if attributes.event_type.as_deref().or_else(by_schema) != Some(T::TYPE) {
                return None;
            }
            let meta = Arc::new(attributes.complete(&record, T::TYPE.to_owned(), facts.category, facts.priority));
            Some(Event::<T>::read(&Delivery { meta: &meta, schema, datum }).expect("readable"))
        };
        self.broker.records(&topic_of(T::TYPE)).into_iter().filter_map(read).collect()
    }

    /// Every record of a topic, in the order of their partitions.
    pub fn records(&self, topic: &str) -> Vec<Record> {
        self.broker.records(topic)
    }

    /// Every row that a sink was given, in order; the guard of an upsert is the database's and not applied here.
    pub fn rows(&self, sink: &str) -> Vec<Row> {
        self.broker.rows(sink)
    }

    /// The dead letters of a group, in the order of their partitions. [`DeadLetter::redriven`], given to
    /// [`Driver::send_record`], sends one back.
    pub fn letters(&self, group: &str) -> Vec<DeadLetter> {
        let letters = self.broker.records(&GroupTopics::of(group).dlq()).into_iter();
        letters.map(|record| DeadLetter::read(&record, &self.catalogue)).collect()
    }

    /// What a stateful group keeps of a key in the store of `S`; `None` where it keeps nothing.
    ///
    /// # Panics
    /// When what it keeps is no `S`.
    pub fn state_of<S: State>(&self, group: &str, key: &str) -> Option<S> {
        let saved = self.broker.state(group, S::NAME, key.as_bytes())?;
        Some(state::load(&saved).expect("a state of this type"))
    }

    /// The position that a group has committed in a partition.
    pub fn committed(&self, group: &str, topic: &str, partition: i32) -> Option<i64> {
        self.broker.committed(group, topic, partition)
    }

    /// Counters and health of a group.
    pub fn metrics(&self, group: &str) -> Arc<GroupMetrics> {
        self.metrics.of(group)
    }

    /// Runs every group until none can go on at this time.
    fn run(&mut self) {
        let mut progress = true;
        while progress {
            progress = false;
            for task in &mut self.tasks {
                while task.woken.0.swap(false, Ordering::AcqRel) {
                    progress = true;
                    let waker = Waker::from(task.woken.clone());
                    if let Poll::Ready(result) = task.work.as_mut().poll(&mut Context::from_waker(&waker)) {
                        panic!("a group ended by itself: {result:?}");
                    }
                }
            }
        }
    }
}

fn committer(group: &ConsumerGroup, order: Order, broker: &Arc<Broker>) -> Box<dyn Committer> {
    match &group.work {
        Work::Process(_) | Work::Stateful(_) if !group.stores(order).is_empty() => {
            Box::new(MemoryStatefulCommitter::new(&group.id, broker.clone()))
        }
        Work::Process(_) | Work::Stateful(_) => Box::new(MemoryCommitter::new(broker.clone())),
        Work::Sink(_) | Work::DeadLetters => Box::new(MemorySinkCommitter::new(&group.id, broker.clone())),
    }
}

fn stores(group: &ConsumerGroup, order: Order, broker: &Arc<Broker>) -> Option<Arc<dyn Stores>> {
    let keeps = !group.stores(order).is_empty();
    keeps.then(|| Arc::new(MemoryStatefulCommitter::new(&group.id, broker.clone())) as Arc<dyn Stores>)
}
