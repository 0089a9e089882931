//! The engine in the test's own process, over the real connectors: for processors that share memory with the test.

use std::{path::PathBuf, sync::Arc, time::Duration};

use headwater::{
    Pipeline,
    spi::{
        Clock, Committer, GroupMetrics, GroupSettings, ProcessMetrics, SchemaCache, Stores, SystemClock, Tracing, Work,
        Worker, WorkerError,
    },
};
use headwater_connectors::{
    AtLeastOnceCommitter, DeadLetteringCommitter, ExactlyOnceCommitter, ReplayStores, StateTopics,
    StatefulAtLeastOnceCommitter,
    kafka::{
        Assignor, Cluster, HEADER_ROOM, KafkaConfig, KafkaSource, Producer, SourceConfig, Start, Subscription,
        TopicSpec,
    },
    postgres::Database,
    registry::{Registry, RegistryConfig},
    sinks::{SinkClients, connector},
    store::local::{LocalStore, StateConfig},
    units::Secret,
};
use tokio::{sync::watch, task::JoinSet, time::timeout};

use crate::{polling::patience, space::Space};

/// How groups are run.
#[derive(Clone)]
pub struct Group {
    /// The engine's bounds.
    pub settings: GroupSettings,
    /// How Kafka is reached.
    pub kafka: KafkaConfig,
    /// The member's name; none for a member that leaves at once when it stops.
    pub instance: Option<String>,
    /// Where a new group starts.
    pub start: Start,
    /// How records are traced.
    pub tracing: Tracing,
    /// Connections over which each sink writes.
    pub sink_connections: usize,
    /// Whether processors without state commit Kafka transactions too.
    pub exactly_once: bool,
    /// Whether stateful groups are at least once.
    pub at_least_once: bool,
}

impl Group {
    /// The defaults in a space.
    pub fn of(space: &Space) -> Self {
        Self {
            settings: GroupSettings::default(),
            kafka: space.kafka(),
            instance: None,
            start: Start::Earliest,
            tracing: Tracing::default(),
            sink_connections: 1,
            exactly_once: false,
            at_least_once: false,
        }
    }

    /// Where the state of a stateful group is kept on the disk.
    pub fn dir(&self, space: &Space, group: &str) -> PathBuf {
        space.dir.join("state").join(self.instance.as_deref().unwrap_or("one")).join(group)
    }

    /// Makes the topics that the groups of a pipeline own, as `topology apply` does, for records of at most so many bytes.
    ///
    /// # Panics
    /// When the broker refuses.
    pub async fn make_topics(&self, space: &Space, pipeline: &Pipeline, partitions: i32, largest: usize) {
        let size = (largest + HEADER_ROOM as usize).to_string();
        let config = [("message.timestamp.type", "LogAppendTime"), ("max.message.bytes", &size)];
        let config = config.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
        let spec = |name: String| TopicSpec { name, partitions, replication: 1, config: config.clone() };
        let mut specs = Vec::new();
        for group in pipeline.groups(&format!("{}.", space.name)) {
            let Some(owned) = group.group_topics() else { continue };
            let settings = group.policy.over(self.settings.clone());
            let delays = if matches!(group.work, Work::Process(_)) { settings.ladder.delays() } else { &[] };
            specs.extend(delays.iter().map(|delay| spec(owned.retry(*delay))));
            specs.extend([spec(owned.redrive()), spec(owned.dlq())]);
            if let Work::Stateful(steps) = &group.work {
                specs.extend(steps.repartitioned().map(|step| spec(owned.repartition(&step.name))));
            }
            let compacted = |mut spec: TopicSpec| {
                let config = [("cleanup.policy", "compact"), ("max.message.bytes", &size)];
                spec.config = config.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
                spec
            };
            let kept = group.stores(settings.order);
            specs.extend(kept.into_iter().map(|store| compacted(spec(owned.changelog(store)))));
        }
        Cluster::new(&self.kafka).expect("valid").apply(&specs).await.expect("the topics are created");
    }
}

impl Group {
    /// A member of this group.
    fn join(&self, group: &headwater::spi::ConsumerGroup, assignor: Option<Assignor>, commits: bool) -> KafkaSource {
        let (topics, patterns) = group.reads();
        let source = SourceConfig {
            group: group.id.clone(),
            instance: self.instance.as_ref().map(|name| format!("{}.{name}", group.id)),
            subscription: Subscription { topics, patterns },
            start: self.start,
            commits,
            assignor,
            client_id: None,
        };
        KafkaSource::join(&self.kafka, source).expect("a valid source")
    }

    fn kafka(&self) -> (&KafkaConfig, Cluster) {
        (&self.kafka, Cluster::new(&self.kafka).expect("a valid cluster"))
    }

    /// What a sink's committers are made from.
    fn clients(&self, database: &Database, cluster: &Arc<Cluster>, metrics: Arc<GroupMetrics>) -> SinkClients {
        let (database, topic_ids) = (database.clone(), cluster.clone());
        SinkClients { database, topic_ids, connections: self.sink_connections, metrics }
    }

    /// What commits in transactions for this member.
    fn exactly_once(&self, group: &str, source: &KafkaSource, seen: CommitterTelemetry) -> ExactlyOnceCommitter {
        let member = (group, self.instance.as_deref().unwrap_or("one"));
        ExactlyOnceCommitter::new(self.kafka(), member, source.membership(), seen).expect("a valid committer")
    }
}

/// What a committer reports to, and its clock.
type CommitterTelemetry = (Arc<GroupMetrics>, Arc<dyn Clock>);

/// Running groups; dropping them is a crash: nothing is committed any more.
pub struct Engine {
    states: ProcessMetrics,
    prefix: String,
    stop: watch::Sender<bool>,
    workers: JoinSet<Result<(), WorkerError>>,
}

fn registry(space: &Space) -> Arc<Registry> {
    let url = Secret::new(space.endpoints.schema_registry_url.as_str()).into();
    Arc::new(Registry::new(&RegistryConfig { url, ..RegistryConfig::default() }).expect("valid"))
}

impl Engine {
    /// Starts every group of a pipeline under the space's prefix.
    ///
    /// # Panics
    /// When the pipeline has problems.
    pub fn start(space: &Space, database: &Database, pipeline: &Pipeline, how: &Group) -> Self {
        assert_eq!(pipeline.problems(), Vec::<String>::new());
        let clock = Arc::new(SystemClock::default());
        let schemas = Arc::new(SchemaCache::new(registry(space), clock.clone()));
        let (catalogue, states) = (Arc::new(pipeline.catalogue().clone()), ProcessMetrics::default());
        let cluster = Arc::new(Cluster::new(&how.kafka).expect("a valid cluster"));
        let (stop, stopped) = watch::channel(false);
        let prefix = format!("{}.", space.name);
        let worker = |group: headwater::spi::ConsumerGroup| {
            let settings = group.policy.over(how.settings.clone());
            let kept = StateTopics::of(&group, settings.order, &catalogue);
            let keeps = !kept.stores.is_empty();
            let exactly_once = how.exactly_once && matches!(group.work, Work::Process(_));
            let transactional = exactly_once || keeps && !how.at_least_once;
            let source = how.join(&group, keeps.then_some(Assignor::Range), !transactional);
            let producer = || Producer::new(&how.kafka).expect("a producer");
            let publisher = || AtLeastOnceCommitter::new(producer()).under(source.lease());
            let lettering = |sink| Box::new(DeadLetteringCommitter::new(sink, publisher())) as Box<dyn Committer>;
            let local =
                |group: &str| LocalStore::open(&how.dir(space, group), &StateConfig::default()).expect("a local store");
            let mut stores: Option<Arc<dyn Stores>> = None;
            let seen = || (states.of(&group.id), clock.clone() as Arc<dyn Clock>);
            let exact = || how.exactly_once(&group.id, &source, seen());
            let parts = headwater::spi::WorkerDeps {
                committers: match &group.work {
                    Work::Stateful(_) if how.at_least_once => {
                        let local = local(&group.id);
                        stores = Some(Arc::new(ReplayStores(local.clone())));
                        let again = StatefulAtLeastOnceCommitter::new(
                            how.kafka(),
                            (&group.id, source.lease()),
                            (local, kept),
                            seen(),
                        );
                        vec![Box::new(again.expect("a valid committer"))]
                    }
                    Work::Process(_) | Work::Stateful(_) if keeps => {
                        let local = local(&group.id);
                        stores = Some(Arc::new(local.clone()));
                        vec![Box::new(exact().with_stores(local, kept).expect("a valid committer"))]
                    }
                    Work::Process(_) | Work::Stateful(_) if exactly_once => vec![Box::new(exact())],
                    Work::Process(_) | Work::Stateful(_) => vec![Box::new(publisher())],
                    Work::Sink(sink) => {
                        let clients = how.clients(database, &cluster, states.of(&group.id));
                        let sink = connector(sink.as_ref()).expect("a kind of sink");
                        let rows = sink.committers(&group.id, &clients).expect("valid");
                        rows.into_iter().map(lettering).collect()
                    }
                    Work::DeadLetters => unreachable!("left out below"),
                },
                source: Box::new(source),
                stores,
                catalogue: catalogue.clone(),
                settings,
                schemas: schemas.clone(),
                tracing: how.tracing.clone(),
                clock: clock.clone(),
                metrics: states.of(&group.id),
                group,
            };
            let mut stopped = stopped.clone();
            let stop = async move { drop(stopped.wait_for(|stopped| *stopped).await) };
            async move {
                let run = async { Worker::build(parts).await?.run(stop).await };
                run.await.inspect_err(|error| tracing::error!(%error, "a group has ended"))
            }
        };
        let groups = pipeline.groups(&prefix).into_iter();
        let workers = groups.filter(|group| group.group_topics().is_some()).map(worker).collect();
        Self { states, prefix, stop, workers }
    }

    /// Counters and health of a group.
    pub fn state(&self, group: &str) -> Arc<GroupMetrics> {
        self.states.of(&format!("{}{group}", self.prefix))
    }

    /// Stops every group and waits for that; gives what they ended with.
    ///
    /// # Panics
    /// When they have not stopped after a minute.
    pub async fn stop(self) -> Vec<Result<(), WorkerError>> {
        self.stop.send_replace(true);
        timeout(patience(Duration::from_mins(1)), self.workers.join_all()).await.expect("it stops")
    }
}
