//! The engine over the real connectors with its defaults, as `headwater run` puts it together.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use headwater::{
    Order, Pipeline, Sink, TopicPartition,
    spi::{
        BoxFuture, Clock, CommitError, CommitOutcome, Committer, ConsumerGroup, Control, GroupMetrics, GroupSettings,
        Metric, SchemaCache, Source, SourceEvent, StartFrom, Stores, SystemClock, Tracing, Unit, Work, Worker,
        WorkerDeps,
    },
};
use headwater_connectors::{
    AtLeastOnceCommitter, DeadLetteringCommitter, ExactlyOnceCommitter, ReplayStores, StateTopics,
    StatefulAtLeastOnceCommitter,
    kafka::{
        Assignor, Cluster, HEADER_ROOM, KafkaConfig, KafkaSource, Producer, SourceConfig, Start, Subscription,
        TopicSpec,
    },
    otlp::{Otlp, OtlpConfig},
    postgres,
    store::local::{LocalStore, StateConfig},
};
use headwater_processors::orders::send_receipt;
use headwater_schemas::PaymentCompleted;
use tokio::{
    sync::{Notify, oneshot},
    task::JoinSet,
};

use crate::{
    ground::{PARTITIONS, sink},
    meter::{Measurement, Meter},
    place::Place,
    state,
};

/// How long a sink gathers by default: see `defaults.toml`.
const SINK_LINGER: Duration = Duration::from_millis(100);
/// The bounds of a Kafka transaction by default, and of what is under way: as much again while one is committed.
const TRANSACTION_LINGER: Duration = Duration::from_millis(100);
const TRANSACTION_RECORDS: usize = 10_000;
const TRANSACTION_BYTES: usize = 16 << 20;
/// The member's name.
const INSTANCE: &str = "bench";
const LAST_SPANS: Duration = Duration::from_secs(3);

/// Runs `send-receipt` until so many receipts are acknowledged.
pub(crate) fn process(place: &Place) -> Result<Measurement> {
    run(place, &Pipeline::default().on("send-receipt", send_receipt), GroupSettings::default(), CommitMode::default())
}

/// Runs a sink of the payments over so many connections until as many rows are committed.
pub(crate) fn write(place: &Place, connections: usize) -> Result<Measurement> {
    let pipeline = Pipeline::default().event::<PaymentCompleted>().sink("payments-sink", sink(&place.table));
    run(
        place,
        &pipeline,
        GroupSettings { linger: SINK_LINGER, ..GroupSettings::default() },
        CommitMode { connections, ..CommitMode::default() },
    )
}

/// Counts the payments of each key, exactly once or at least once, until as many events of it are committed.
pub(crate) fn count(place: &Place, exactly_once: bool) -> Result<Measurement> {
    let settings = GroupSettings {
        linger: TRANSACTION_LINGER,
        batch_records: TRANSACTION_RECORDS,
        batch_bytes: TRANSACTION_BYTES,
        in_flight: 2 * TRANSACTION_RECORDS,
        in_flight_bytes: 2 * TRANSACTION_BYTES,
        order: if exactly_once { Order::Key } else { Order::Partition },
        ..GroupSettings::default()
    };
    run(place, &state::pipeline(), settings, CommitMode { exactly_once, ..CommitMode::default() })
}

/// How a group commits.
#[derive(Clone, Copy)]
struct CommitMode {
    /// Connections of a sink.
    connections: usize,
    /// Of a stateful group.
    exactly_once: bool,
}

impl Default for CommitMode {
    fn default() -> Self {
        Self { connections: 1, exactly_once: true }
    }
}

fn run(place: &Place, pipeline: &Pipeline, settings: GroupSettings, how: CommitMode) -> Result<Measurement> {
    tracing_subscriber::fmt().with_env_filter("warn").with_writer(std::io::stderr).init();
    headwater::spi::codec::limit_allocations(settings.max_record_bytes);
    let otlp =
        Otlp::start(OtlpConfig::from_env(env!("CARGO_PKG_VERSION"), "bench".to_owned()).map_err(|problems| {
            anyhow::anyhow!("{}", problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))
        })?)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let measured = runtime.block_on(async {
        let group = pipeline.groups(&format!("{}.", place.group)).into_iter().next().context("a group")?;
        let (gauge, state) = (Arc::new(Gauge::default()), Arc::<GroupMetrics>::default());
        let parts = parts(place, pipeline, group, settings, how, &gauge).await?;
        let parts = WorkerDeps { metrics: state.clone(), tracing: otlp.tracing(), ..parts };
        let worker = Worker::build(parts).await?;
        let (stop, stopped) = oneshot::channel::<()>();
        let done = async {
            let measured = gauge.reached(place.records).await;
            drop(stop);
            measured
        };
        let mut running = JoinSet::new();
        running.spawn(worker.run(async { drop(stopped.await) }));
        let measured = tokio::select! {
            measured = done => measured,
            Some(ended) = running.join_next() => Err(anyhow::anyhow!("the worker ended early: {ended:?}")),
        };
        while let Some(ended) = running.join_next().await {
            ended??;
        }
        let retries = state.get(Metric::Retries);
        ensure!(retries == 0, "{retries} records failed");
        measured
    });
    otlp.stop(LAST_SPANS);
    measured
}

async fn parts(
    place: &Place,
    pipeline: &Pipeline,
    group: ConsumerGroup,
    settings: GroupSettings,
    how: CommitMode,
    gauge: &Arc<Gauge>,
) -> Result<WorkerDeps> {
    let kafka = KafkaConfig { bootstrap: place.kafka.clone(), ..KafkaConfig::default() };
    let cluster = Cluster::new(&kafka)?;
    make_topics(&cluster, &group, &settings).await?;
    let producer = Producer::new(&kafka)?;
    let watched =
        |inner: Box<dyn Committer>| -> Box<dyn Committer> { Box::new(MeteredPort { inner, gauge: gauge.clone() }) };
    let (topics, patterns) = group.reads();
    let keeps = matches!(group.work, Work::Stateful(_));
    let source = SourceConfig {
        group: group.id.clone(),
        instance: Some(INSTANCE.to_owned()),
        subscription: Subscription { topics, patterns },
        start: Start::Earliest,
        commits: !(keeps && how.exactly_once),
        assignor: keeps.then_some(Assignor::Range),
        client_id: None,
    };
    let source = KafkaSource::join(&kafka, source)?;
    let publisher = || AtLeastOnceCommitter::new(producer.clone()).under(source.lease());
    let (clock, mut stores) = (Arc::new(SystemClock::default()), None);
    let committers = match &group.work {
        Work::Sink(sink) => {
            let (database, cluster) = (postgres::Config::new(&place.database).build()?, Arc::new(cluster));
            let sink: &Sink = sink.downcast_ref().context("a table")?;
            let one = |_| {
                let sink =
                    postgres::PostgresSink::new(&database, &group.id, sink.clone())?.with_topic_ids(cluster.clone());
                Ok(watched(Box::new(DeadLetteringCommitter::new(sink, publisher()))))
            };
            (0..how.connections).map(one).collect::<Result<_>>()?
        }
        Work::Stateful(_) => {
            let local =
                LocalStore::open(&place.state, &StateConfig { cache_bytes: place.cache, ..StateConfig::default() })?;
            let seen = (Arc::default(), clock.clone() as Arc<dyn Clock>);
            let kept = StateTopics::of(&group, settings.order, pipeline.catalogue());
            if how.exactly_once {
                stores = Some(Arc::new(local.clone()) as Arc<dyn Stores>);
                let member = (&*group.id, INSTANCE);
                let committer = ExactlyOnceCommitter::new((&kafka, cluster), member, source.membership(), seen)?;
                vec![watched(Box::new(committer.with_stores(local, kept)?))]
            } else {
                stores = Some(Arc::new(ReplayStores(local.clone())) as Arc<dyn Stores>);
                let committer = StatefulAtLeastOnceCommitter::new(
                    (&kafka, cluster),
                    (&group.id, source.lease()),
                    (local, kept),
                    seen,
                )?;
                vec![watched(Box::new(committer))]
            }
        }
        Work::Process(_) | Work::DeadLetters => vec![watched(Box::new(publisher()))],
    };
    Ok(WorkerDeps {
        stores,
        source: Box::new(MeteredPort { inner: Box::new(source), gauge: gauge.clone() }),
        committers,
        catalogue: Arc::new(pipeline.catalogue().clone()),
        settings,
        schemas: Arc::new(SchemaCache::new(Arc::new(place.schemas()?), clock.clone())),
        clock,
        metrics: Arc::default(),
        tracing: Tracing::default(),
        group,
    })
}

/// Those that the group owns, as `topology apply` makes them.
async fn make_topics(cluster: &Cluster, group: &ConsumerGroup, settings: &GroupSettings) -> Result<()> {
    let owned = group.group_topics().context("a group with topics")?;
    let delays = if matches!(group.work, Work::Process(_)) { settings.ladder.delays() } else { &[] };
    let names = delays.iter().map(|delay| owned.retry(*delay)).chain([owned.redrive(), owned.dlq()]);
    let size = (settings.max_record_bytes + HEADER_ROOM as usize).to_string();
    let config = [("message.timestamp.type", "LogAppendTime"), ("max.message.bytes", &size)];
    let config: Vec<_> = config.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let spec = |name| TopicSpec { name, partitions: PARTITIONS, replication: 1, config: config.clone() };
    let mut specs: Vec<_> = names.map(&spec).collect();
    let compacted = vec![("cleanup.policy".to_owned(), "compact".to_owned())];
    let changelog = |store| TopicSpec { config: compacted.clone(), ..spec(owned.changelog(store)) };
    specs.extend(group.stores(settings.order).into_iter().map(changelog));
    cluster.apply(&specs).await?;
    Ok(())
}

/// Begins to measure at the first record, and knows how many are durable.
#[derive(Default)]
struct Gauge {
    meter: OnceLock<Meter>,
    durable: AtomicU64,
    more: Notify,
}

impl Gauge {
    async fn reached(&self, records: u64) -> Result<Measurement> {
        while self.durable.load(Ordering::Acquire) < records {
            self.more.notified().await;
        }
        self.meter.get().context("nothing was read")?.stop(records)
    }
}

/// A port of the engine, and what passes it.
struct MeteredPort<T: ?Sized> {
    gauge: Arc<Gauge>,
    inner: Box<T>,
}

impl Source for MeteredPort<KafkaSource> {
    fn next(&mut self, records: bool) -> BoxFuture<'_, SourceEvent> {
        Box::pin(async move {
            let fetched = self.inner.next(records).await;
            if matches!(fetched, SourceEvent::Records(_)) {
                self.gauge.meter.get_or_init(Meter::start);
            }
            fetched
        })
    }

    fn control(&mut self, control: Control) {
        self.inner.control(control);
    }
}

impl Committer for MeteredPort<dyn Committer> {
    fn atomic(&self) -> bool {
        self.inner.atomic()
    }

    fn start<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<StartFrom>, CommitError>> {
        self.inner.start(partitions)
    }

    fn commit<'a>(&'a mut self, unit: &'a Unit) -> BoxFuture<'a, Result<CommitOutcome, CommitError>> {
        Box::pin(async move {
            let committed = self.inner.commit(unit).await;
            if matches!(committed, Ok(CommitOutcome::Done)) {
                let records = (unit.outgoing.len() + unit.rows.len()) as u64;
                self.gauge.durable.fetch_add(records, Ordering::Release);
                self.gauge.more.notify_one();
            }
            committed
        })
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        self.inner.forget(partitions);
    }

    fn cancels(&self) -> bool {
        self.inner.cancels()
    }
}
