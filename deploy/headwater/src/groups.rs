//! The running groups of one process, and how they stop.

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use headwater::{
    Catalogue, States, Tracing, Work, Worker, WorkerDeps,
    ports::{BoxFuture, Committer, Stores},
};
use headwater_connectors::{
    AtLeastOnceCommitter, DeadLetteringCommitter, ExactlyOnceCommitter, Replayed, StateTopics,
    StatefulAtLeastOnceCommitter,
    kafka::{Assignor, Closed, KafkaSource, Producer, SourceConfig, Subscription, Tenure},
    postgres::Letters,
    sinks::SinkClients,
    store::local::{Damage, LocalError, LocalStore},
};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    config::{Config, Guarantee},
    lag,
    outside::Clients,
    program::{App, ConfiguredGroup},
    state::{self, LocalInstance},
    supervisor::{Attempts, Ended, Supervisor},
};

/// How long the last records may take to be acknowledged; the workers have waited for theirs.
const CLOSE: Duration = Duration::from_secs(5);
/// How long the consumer of a group that failed may take to close before another one takes its place.
const LEAVE: Duration = Duration::from_secs(60);
/// How often it is looked whether the state on the disk is damaged.
const LOOK: Duration = Duration::from_secs(1);
/// How often the dead letters that wait are counted.
const LETTERS: Duration = Duration::from_secs(5);
/// What every topic of events is called.
pub(crate) const ALL_EVENTS: &str = r"^events\..*";

/// Groups that run, each under a supervisor of its own: one that fails leaves the others alone.
pub(crate) struct Groups {
    supervisors: JoinSet<(String, Result<(), String>)>,
    stop: watch::Sender<bool>,
    /// One for all groups: it keeps the order of each.
    producer: Producer,
    close_limit: Duration,
    /// Where their state can be read.
    here: Arc<LocalInstance>,
    /// Ends with the groups.
    _watch: JoinSet<()>,
}

impl Groups {
    /// Joins every group under this instance and lets it work.
    ///
    /// # Errors
    /// When the configuration of the producer that they share cannot work; no group runs then.
    pub(crate) fn start(
        app: &App,
        outside: &Clients,
        here: &Arc<LocalInstance>,
        groups: &[ConfiguredGroup],
        states: &States,
    ) -> Result<Self> {
        let producer = outside.producer()?;
        let shared = Arc::new(Shared {
            config: app.config.clone(),
            all: app.groups.iter().map(|bounded| bounded.group.id.clone()).collect(),
            tracing: app.tracing.clone(),
            outside: outside.clone(),
            here: here.clone(),
            states: states.clone(),
            catalogue: Arc::new(app.pipeline.catalogue().clone()),
            producer: producer.clone(),
        });
        let (stop, stopped) = watch::channel(false);
        let mut supervisors = JoinSet::new();
        for bounded in groups {
            let group = bounded.group.id.clone();
            let supervisor = Supervisor {
                state: states.of(&group),
                clock: outside.clock.clone(),
                backoff: bounded.settings.backoff,
                group: group.clone(),
            };
            let attempts = Attempt { shared: shared.clone(), bounded: bounded.clone(), last: Left::default() };
            let supervised = supervisor.run(attempts, stopped.clone());
            supervisors.spawn(async move { (group, supervised.await) });
        }
        let mut watch = JoinSet::new();
        watch.spawn(lag::watch(outside.cluster.clone(), states.clone()));
        watch.spawn(state::watch(here.clone(), states.clone()));
        let keeps_letters = groups.iter().any(|bounded| matches!(bounded.group.work, Work::DeadLetters));
        if keeps_letters {
            watch.spawn(watch_letters(outside.database.letters(), states.clone()));
        }
        let close_limit = app.config.kafka.consumer.drain.min(CLOSE);
        Ok(Self { supervisors, stop, producer, close_limit, here: here.clone(), _watch: watch })
    }

    /// Lets every group finish what is under way, commit and leave.
    ///
    /// # Errors
    /// When a group failed while it stopped, or records were not acknowledged.
    #[tracing::instrument(skip_all)]
    pub(crate) async fn drain(mut self) -> Result<()> {
        self.stop.send_replace(true);
        let (mut failed, count) = (0, self.supervisors.len());
        while let Some(ended) = self.supervisors.join_next().await {
            match ended {
                Ok((group, Ok(()))) => tracing::info!(group, "group stopped"),
                Ok((group, Err(error))) => {
                    failed += 1;
                    tracing::error!(group, %error, "group failed while it stopped");
                }
                Err(error) => {
                    failed += 1;
                    tracing::error!(%error, "a group's supervisor ended by a fault of the program");
                }
            }
        }
        self.here.close();
        self.producer.close(self.close_limit).await?;
        anyhow::ensure!(failed == 0, "{failed} of {count} groups failed while they stopped");
        Ok(())
    }
}

/// Tells the metrics how many dead letters wait for somebody.
async fn watch_letters(letters: Letters, states: States) {
    let mut every = tokio::time::interval(LETTERS);
    loop {
        every.tick().await;
        match letters.waiting().await {
            Ok(waiting) => states.set_waiting_letters(waiting),
            // The group that keeps them says so already.
            Err(error) => tracing::debug!(%error, "the dead letters could not be counted"),
        }
    }
}

/// One group, as often as it has to be started.
struct Attempt {
    shared: Arc<Shared>,
    bounded: ConfiguredGroup,
    last: Left,
}

/// What an attempt leaves to the next one.
#[derive(Default)]
struct Left {
    /// When its member is gone.
    closed: Option<Closed>,
    /// How long the group has had its place here.
    tenure: Tenure,
    /// What became of its state.
    damage: Option<Damage>,
}

impl Left {
    /// Resolves once files of the state turn out to be damaged: as long as they are open nothing can be mended.
    async fn damaged(&self) -> String {
        let mut every = tokio::time::interval(LOOK);
        loop {
            every.tick().await;
            if let Some(error) = self.damage() {
                return error.to_string();
            }
        }
    }

    fn damage(&self) -> Option<&LocalError> {
        self.damage.as_ref().and_then(Damage::found)
    }
}

impl Attempts for Attempt {
    fn work(&mut self, mut stop: watch::Receiver<bool>) -> BoxFuture<'_, Result<(), Ended>> {
        Box::pin(async move {
            let (shared, bounded) = (self.shared.clone(), self.bounded.clone());
            // Opening the state on the disk takes its time.
            let mut left = std::mem::take(&mut self.last);
            let building = tokio::task::spawn_blocking(move || (shared.parts(&bounded, &mut left), left));
            let mut early = stop.clone();
            let built = tokio::select! {
                built = building => built,
                // Nothing has begun: there is nothing to drain.
                _ = early.wait_for(|stopped| *stopped) => return Ok(()),
            };
            let parts = match built {
                Ok((parts, left)) => {
                    self.last = left;
                    parts?
                }
                Err(error) => {
                    return Err(error
                        .try_into_panic()
                        .map_or_else(|error| Ended::Failed(error.to_string()), |panic| Ended::of_panic(&*panic)));
                }
            };
            let worker = tokio::select! {
                built = Worker::build(parts) => built?,
                _ = early.wait_for(|stopped| *stopped) => return Ok(()),
            };
            let stopped = async move {
                let _ = stop.wait_for(|stopped| *stopped).await;
            };
            tokio::select! {
                ended = worker.run(stopped) => Ok(ended?),
                why = self.last.damaged() => Err(Ended::Failed(why)),
            }
        })
    }

    fn release(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            let group = &self.bounded.group.id;
            let kept = self.shared.here.release(group);
            // The last one that lets go of the state writes what waits. A fault there leaves nothing held.
            let _ = tokio::task::spawn_blocking(move || drop(kept)).await;
            let Some(closed) = self.last.closed.take() else { return };
            if tokio::time::timeout(LEAVE, closed.wait()).await.is_err() {
                tracing::warn!(
                    group,
                    "the last consumer of the group is not closed within {LEAVE:?}; another one joins in its place"
                );
            }
        })
    }
}

/// What the groups of a process are made from.
struct Shared {
    config: Config,
    /// The ids of all groups of the pipeline.
    all: Vec<String>,
    tracing: Tracing,
    outside: Clients,
    here: Arc<LocalInstance>,
    states: States,
    catalogue: Arc<Catalogue>,
    producer: Producer,
}

impl Shared {
    /// A member's static name: the instance's, and a mark of what it reads. To a static member that comes back Kafka gives
    /// the partitions that it had, whatever it subscribes to now: one that reads other topics has to be another member.
    fn member(&self, bounded: &ConfiguredGroup) -> String {
        let mut mark = DefaultHasher::new();
        bounded.group.reads().hash(&mut mark);
        match bounded.group.work {
            Work::Process(_) | Work::Stateful(_) => {
                bounded.settings.ladder.delays().iter().for_each(|delay| delay.to_string().hash(&mut mark))
            }
            Work::Sink(_) => {}
            Work::DeadLetters => self.all.iter().for_each(|other| other.hash(&mut mark)),
        }
        format!("{}-{:08x}", self.here.instance(), mark.finish() >> 32)
    }

    /// The group's state on this machine's disk. Where its files are damaged, as opening them shows or as the last attempt
    /// found, they are put aside: the changelog is the truth, and the state is restored from there as if the disk were new.
    fn local(&self, group: &str, damage: Option<&LocalError>) -> Result<LocalStore, Ended> {
        let dir = self.config.dir.join(self.here.instance()).join(group);
        let renew = |damage: &LocalError| {
            let aside = LocalStore::set_aside(&dir).map_err(failed)?;
            tracing::error!(group, error = %damage, aside = %aside.display(), "damaged state was put aside and is restored from the changelog: look after the disk");
            LocalStore::open(&dir, &self.config.state).map_err(failed)
        };
        if let Some(damage) = damage {
            return renew(damage);
        }
        match LocalStore::open(&dir, &self.config.state) {
            Ok(local) => Ok(local),
            Err(error @ LocalError::Corrupt { .. }) => renew(&error),
            Err(error @ LocalError::Newer { .. }) => Err(Ended::Halted(error.to_string())),
            Err(error) => Err(failed(error)),
        }
    }

    /// What a group reads from. It says in its client id where the instance answers: whoever wants to read its state, or to
    /// know why it waits, finds the address there.
    fn source(&self, bounded: &ConfiguredGroup, member: &str, tenure: &Tenure) -> Result<KafkaSource, Ended> {
        let (topics, patterns) = bounded.group.reads();
        let keeps = !bounded.stores().is_empty();
        let named = self.config.kafka.properties.contains_key("client.id");
        let source = SourceConfig {
            group: bounded.group.id.clone(),
            instance: Some(member.to_owned()),
            subscription: Subscription { topics, patterns },
            start: bounded.start,
            commits: bounded.guarantee != Guarantee::ExactlyOnce,
            // State belongs to a partition's number: who has one has it of every topic.
            assignor: keeps.then_some(Assignor::Range),
            client_id: (keeps || !named).then(|| self.here.client_id().to_owned()),
        };
        KafkaSource::join_again(&self.config.kafka, source, tenure.clone()).map_err(failed)
    }

    /// Builds a group after the last attempt; `left` then tells of this one, also where building fails after it has joined.
    fn parts(&self, bounded: &ConfiguredGroup, left: &mut Left) -> Result<WorkerDeps, Ended> {
        let member = self.member(bounded);
        let ConfiguredGroup { group, settings, sink_connections, guarantee, .. } = bounded.clone();
        let kept = StateTopics::of(&group, settings.order, &self.catalogue);
        let state = self.states.of(&group.id);
        // Before it joins: a member without its state would hold partitions that it cannot work on.
        let local = if kept.stores.is_empty() { None } else { Some(self.local(&group.id, left.damage())?) };
        left.damage = local.as_ref().map(LocalStore::damage);
        let source = self.source(bounded, &member, &left.tenure)?;
        left.closed = Some(source.closed());
        let publisher = || AtLeastOnceCommitter::new(self.producer.clone()).under(source.lease());
        let transactional = || {
            let kafka = (&self.config.kafka, self.outside.cluster.clone());
            let seen = (state.clone(), self.outside.clock.clone());
            let committer =
                ExactlyOnceCommitter::new(kafka, (&group.id, self.here.instance()), source.membership(), seen);
            committer.map_err(failed)
        };
        let database = &self.outside.database;
        let mut stores: Option<Arc<dyn Stores>> = None;
        let committers: Vec<Box<dyn Committer>> = match &group.work {
            Work::Process(_) | Work::Stateful(_) if let Some(local) = local => {
                self.here.open(&group.id, member, local.clone());
                if guarantee == Guarantee::ExactlyOnce {
                    stores = Some(Arc::new(local.clone()));
                    let keeping = transactional()?.keeping(local, kept);
                    vec![Box::new(keeping.map_err(failed)?)]
                } else {
                    stores = Some(Arc::new(Replayed(local.clone())));
                    let kafka = (&self.config.kafka, self.outside.cluster.clone());
                    let seen = (state.clone(), self.outside.clock.clone());
                    let committer =
                        StatefulAtLeastOnceCommitter::new(kafka, (&group.id, source.lease()), (local, kept), seen);
                    vec![Box::new(committer.map_err(failed)?)]
                }
            }
            Work::Process(_) | Work::Stateful(_) if guarantee == Guarantee::ExactlyOnce => {
                vec![Box::new(transactional()?)]
            }
            Work::Process(_) | Work::Stateful(_) => vec![Box::new(publisher())],
            Work::Sink(_) => {
                let sink = bounded.sink().ok_or_else(|| failed("the sink is of no known kind"))?;
                let clients = SinkClients {
                    database: database.clone(),
                    topic_ids: Arc::new(self.outside.cluster.clone()),
                    connections: sink_connections,
                    metrics: state.clone(),
                };
                let rows = sink.committers(&group.id, &clients).map_err(failed)?;
                let lettered = |rows| Box::new(DeadLetteringCommitter::new(rows, publisher())) as Box<dyn Committer>;
                rows.into_iter().map(lettered).collect()
            }
            Work::DeadLetters => {
                let keeper = database.dead_letters(&group.id, self.catalogue.clone());
                let ids = Arc::new(self.outside.cluster.clone());
                vec![Box::new(keeper.with_topic_ids(ids).with_metrics(state.clone()))]
            }
        };
        Ok(WorkerDeps {
            group,
            catalogue: self.catalogue.clone(),
            settings,
            source: Box::new(source),
            committers,
            stores,
            schemas: self.outside.schemas.clone(),
            clock: self.outside.clock.clone(),
            state,
            tracing: self.tracing.clone(),
        })
    }
}

/// What cannot be made now may be made later: a file, such as a certificate, can come back.
fn failed(why: impl fmt::Display) -> Ended {
    Ended::Failed(why.to_string())
}
