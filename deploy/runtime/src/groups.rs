//! The running groups of one process, and how they stop.

mod lag;
mod supervisor;

mod renewal;

use std::{
    fmt,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Result;
use headwater::spi::{BoxFuture, Catalogue, Committer, ProcessMetrics, Stores, Tracing, Work, Worker, WorkerDeps};
use headwater_connectors::{
    Arrival, AtLeastOnceCommitter, DeadLetteringCommitter, ExactlyOnceCommitter, ReplayStores, StateTopics,
    StatefulAtLeastOnceCommitter,
    kafka::{Assignor, CloseSignal, KafkaSource, MembershipKind, Producer, SourceConfig, Subscription, Tenure},
    postgres::{Letters, PostgresSink},
    sinks::SinkClients,
    store::local::{Damage, LocalError, LocalStore},
};
use tokio::{
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
};

use self::{
    renewal::{RenewableGroup, SharedClients},
    supervisor::{GroupFailure, SupervisedTask, Supervisor},
};
use crate::{
    app::{App, ConfiguredGroup},
    clients::Clients,
    config::{Config, Guarantee},
    state::{self, LocalInstance, LocalMember},
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
    shared: Arc<GroupContext>,
    close_limit: Duration,
    /// Where their state can be read.
    local_instance: Arc<LocalInstance>,
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
        clients: &Clients,
        local_instance: &Arc<LocalInstance>,
        groups: &[ConfiguredGroup],
        states: &ProcessMetrics,
    ) -> Result<Self> {
        let shared = Arc::new(GroupContext {
            config: app.config.clone(),
            all: app.groups.iter().map(|configured| configured.group.id.clone()).collect(),
            tracing: app.tracing.clone(),
            clients: clients.clone(),
            local_instance: local_instance.clone(),
            states: states.clone(),
            catalogue: Arc::new(app.pipeline.catalogue().clone()),
            producer: Mutex::new(clients.producer()?),
        });
        let (stop, stopped) = watch::channel(false);
        let (mut supervisors, mut renewable) = (JoinSet::new(), Vec::new());
        for configured in groups {
            let group = configured.group.id.clone();
            let supervisor = Supervisor {
                state: states.of(&group),
                clock: clients.clock.clone(),
                backoff: configured.settings.backoff,
                group: group.clone(),
            };
            let attempts = Attempt {
                shared: shared.clone(),
                configured: configured.clone(),
                last: PreviousAttempt::default(),
                building: None,
            };
            // Who asks while one request waits has what it asked for by that one.
            let (renewals, asked) = mpsc::channel(1);
            renewable.push(RenewableGroup { id: group.clone(), state: states.of(&group), renewals });
            let supervised = supervisor.run(attempts, stopped.clone(), asked);
            supervisors.spawn(async move { (group, supervised.await) });
        }
        let mut watch = JoinSet::new();
        let process_clients = ProcessClients { shared: shared.clone(), is_stale: false };
        watch.spawn(renewal::watch(process_clients, renewable, clients.clock.clone()));
        watch.spawn(lag::watch(clients.cluster.clone(), states.clone()));
        watch.spawn(state::watch(local_instance.clone(), states.clone()));
        let keeps_letters = groups.iter().any(|configured| matches!(configured.group.work, Work::DeadLetters));
        if keeps_letters {
            watch.spawn(watch_letters(Letters::of(&clients.database), states.clone()));
        }
        let close_limit = app.config.kafka.consumer.drain.min(CLOSE);
        Ok(Self { supervisors, stop, shared, close_limit, local_instance: local_instance.clone(), _watch: watch })
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
        self.local_instance.close();
        let producer = self.shared.producer().clone();
        producer.close(self.close_limit).await?;
        anyhow::ensure!(failed == 0, "{failed} of {count} groups failed while they stopped");
        Ok(())
    }
}

/// Tells the metrics how many dead letters wait for somebody.
async fn watch_letters(letters: Letters, states: ProcessMetrics) {
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
    shared: Arc<GroupContext>,
    configured: ConfiguredGroup,
    last: PreviousAttempt,
    /// What an attempt that was ended before it began is still making.
    building: Option<Building>,
}

type Building = JoinHandle<(Result<WorkerDeps, GroupFailure>, PreviousAttempt)>;

/// What an attempt leaves to the next one.
#[derive(Default)]
struct PreviousAttempt {
    /// When its member is gone.
    closed: Option<CloseSignal>,
    /// How long the group has had its place here.
    tenure: Tenure,
    /// Who was in the group when the process came.
    arrival: Arrival,
    /// What became of its state.
    damage: Option<Damage>,
}

impl PreviousAttempt {
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

impl SupervisedTask for Attempt {
    fn work(&mut self, mut stop: watch::Receiver<bool>) -> BoxFuture<'_, Result<(), GroupFailure>> {
        Box::pin(async move {
            let (shared, configured) = (self.shared.clone(), self.configured.clone());
            // Opening the state on the disk takes its time.
            let mut left = std::mem::take(&mut self.last);
            let mut building = tokio::task::spawn_blocking(move || (shared.parts(&configured, &mut left), left));
            let mut early = stop.clone();
            let built = tokio::select! {
                built = &mut building => built,
                // Nothing has begun: there is nothing to drain.
                _ = early.wait_for(|stopped| *stopped) => {
                    self.building = Some(building);
                    return Ok(());
                }
            };
            let parts = match built {
                Ok((parts, left)) => {
                    self.last = left;
                    parts?
                }
                Err(error) => {
                    return Err(error.try_into_panic().map_or_else(
                        |error| GroupFailure::Failed(error.to_string()),
                        |panic| GroupFailure::of_panic(&*panic),
                    ));
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
                why = self.last.damaged() => Err(GroupFailure::Failed(why)),
            }
        })
    }

    fn release(&mut self) -> BoxFuture<'_, ()> {
        Box::pin(async move {
            if let Some(building) = self.building.take()
                && let Ok((parts, left)) = building.await
            {
                self.last = left;
                drop(parts);
            }
            let group = &self.configured.group.id;
            let kept = self.shared.local_instance.release(group);
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
struct GroupContext {
    config: Config,
    /// The ids of all groups of the pipeline.
    all: Vec<String>,
    tracing: Tracing,
    clients: Clients,
    local_instance: Arc<LocalInstance>,
    states: ProcessMetrics,
    catalogue: Arc<Catalogue>,
    /// One for all groups: it keeps the order of each. A group that is started takes it as it is then.
    producer: Mutex<Producer>,
}

/// The clients that the groups share, and whether the producer is older than the certificates.
struct ProcessClients {
    shared: Arc<GroupContext>,
    is_stale: bool,
}

impl SharedClients for ProcessClients {
    fn renew(&mut self) -> Result<bool, String> {
        let clients = &self.shared.clients;
        self.is_stale |= clients.cluster.renew().map_err(|error| error.to_string())?;
        if !self.is_stale {
            return Ok(false);
        }
        let renewed = clients.producer().map_err(|error| error.to_string())?;
        // The one before lives as long as a group has it, and no group lets go of it before all that it sent is acknowledged.
        let before = std::mem::replace(&mut *self.shared.producer(), renewed);
        // The last one to let go of it waits for its threads.
        tokio::task::spawn_blocking(move || drop(before));
        self.is_stale = false;
        Ok(true)
    }
}

impl GroupContext {
    fn producer(&self) -> MutexGuard<'_, Producer> {
        self.producer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A member's name in its group; none where membership is dynamic.
    fn static_member(&self, configured: &ConfiguredGroup) -> Option<String> {
        match self.config.kafka.consumer.membership {
            MembershipKind::Static => Some(self.member(configured)),
            MembershipKind::Dynamic => None,
        }
    }

    /// A member's static name: the instance's, and a mark of what it reads. To a static member that comes back Kafka gives
    /// the partitions that it had, whatever it subscribes to now: one that reads other topics has to be another member.
    fn member(&self, configured: &ConfiguredGroup) -> String {
        let mut mark = DefaultHasher::new();
        configured.group.reads().hash(&mut mark);
        match configured.group.work {
            Work::Process(_) | Work::Stateful(_) => {
                configured.settings.ladder.delays().iter().for_each(|delay| delay.to_string().hash(&mut mark))
            }
            Work::Sink(_) => {}
            Work::DeadLetters => self.all.iter().for_each(|other| other.hash(&mut mark)),
        }
        format!("{}-{:08x}", self.local_instance.instance(), mark.finish() >> 32)
    }

    /// The group's state on this machine's disk. Where its files are damaged, as opening them shows or as the last attempt
    /// found, they are put aside: the changelog is the truth, and the state is restored from there as if the disk were new.
    fn local(&self, group: &str, damage: Option<&LocalError>) -> Result<LocalStore, GroupFailure> {
        let dir = self.config.dir.join(self.local_instance.instance()).join(group);
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
            Err(error @ LocalError::Newer { .. }) => Err(GroupFailure::Halted(error.to_string())),
            Err(error) => Err(failed(error)),
        }
    }

    /// What a group reads from. It says in its client id where the instance answers: whoever wants to read its state, or to
    /// know why it waits, finds the address there.
    fn source(
        &self,
        configured: &ConfiguredGroup,
        member: Option<String>,
        tenure: &Tenure,
    ) -> Result<KafkaSource, GroupFailure> {
        let (topics, patterns) = configured.group.reads();
        let keeps = !configured.stores().is_empty();
        let named = self.config.kafka.properties.contains_key("client.id");
        let source = SourceConfig {
            group: configured.group.id.clone(),
            instance: member,
            subscription: Subscription { topics, patterns },
            start: configured.start,
            commits: configured.guarantee != Guarantee::ExactlyOnce,
            // State belongs to a partition's number: who has one has it of every topic.
            assignor: keeps.then_some(Assignor::Range),
            client_id: (keeps || !named).then(|| self.local_instance.client_id().to_owned()),
        };
        KafkaSource::join_again(&self.config.kafka, source, tenure.clone()).map_err(failed)
    }

    /// Builds a group after the last attempt; `left` then tells of this one, also where building fails after it has joined.
    fn parts(&self, configured: &ConfiguredGroup, left: &mut PreviousAttempt) -> Result<WorkerDeps, GroupFailure> {
        let member = self.static_member(configured);
        let ConfiguredGroup { group, settings, guarantee, .. } = configured.clone();
        let kept = StateTopics::of(&group, settings.order, &self.catalogue);
        let state = self.states.of(&group.id);
        // Before it joins: a member without its state would hold partitions that it cannot work on.
        let local = if kept.stores.is_empty() { None } else { Some(self.local(&group.id, left.damage())?) };
        left.damage = local.as_ref().map(LocalStore::damage);
        let source = self.source(configured, member.clone(), &left.tenure)?;
        left.closed = Some(source.closed());
        let publisher = || AtLeastOnceCommitter::new(self.producer().clone()).under(source.lease());
        let transactional = || {
            let kafka = (&self.config.kafka, self.clients.cluster.clone());
            let seen = (state.clone(), self.clients.clock.clone());
            let committer = ExactlyOnceCommitter::new(
                kafka,
                (&group.id, self.local_instance.instance()),
                source.membership(),
                seen,
            );
            committer.map(|committer| committer.with_arrival(left.arrival.clone())).map_err(failed)
        };
        let mut stores: Option<Arc<dyn Stores>> = None;
        let committers: Vec<Box<dyn Committer>> = match &group.work {
            Work::Process(_) | Work::Stateful(_) if let Some(local) = local => {
                let member = LocalMember::of(member, source.membership());
                self.local_instance.open(&group.id, member, local.clone());
                if guarantee == Guarantee::ExactlyOnce {
                    stores = Some(Arc::new(local.clone()));
                    let keeping = transactional()?.with_stores(local, kept);
                    vec![Box::new(keeping.map_err(failed)?)]
                } else {
                    stores = Some(Arc::new(ReplayStores(local.clone())));
                    let kafka = (&self.config.kafka, self.clients.cluster.clone());
                    let seen = (state.clone(), self.clients.clock.clone());
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
                let lettered = |rows| Box::new(DeadLetteringCommitter::new(rows, publisher())) as Box<dyn Committer>;
                self.rows(configured)?.into_iter().map(lettered).collect()
            }
            Work::DeadLetters => {
                let keeper = PostgresSink::of_dead_letters(&self.clients.database, &group.id, self.catalogue.clone());
                let ids = Arc::new(self.clients.cluster.clone());
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
            schemas: self.clients.schemas.clone(),
            clock: self.clients.clock.clone(),
            metrics: state,
            tracing: self.tracing.clone(),
        })
    }

    /// What stores the rows of a sink.
    fn rows(&self, configured: &ConfiguredGroup) -> Result<Vec<Box<dyn Committer>>, GroupFailure> {
        let sink = configured.sink().ok_or_else(|| failed("the sink is of no known kind"))?;
        let clients = SinkClients {
            database: self.clients.database.clone(),
            topic_ids: Arc::new(self.clients.cluster.clone()),
            connections: configured.sink_connections,
            metrics: self.states.of(&configured.group.id),
        };
        sink.committers(&configured.group.id, &clients).map_err(failed)
    }
}

/// What cannot be made now may be made later: a file, such as a certificate, can come back.
fn failed(why: impl fmt::Display) -> GroupFailure {
    GroupFailure::Failed(why.to_string())
}
