//! The running groups of one process, and how they stop.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::Arc,
    time::Duration,
};

use anyhow::Result;
use headwater::{
    Catalogue, Parts, States, Work, Worker, WorkerError,
    ports::{Committer, Stores},
};
use headwater_connectors::{
    Acknowledged, Lettered, Replayed, StateTopics, Transactional,
    kafka::{Assignor, KafkaPublisher, KafkaSource, Producer, SourceConfig, Subscription},
    postgres::{Letters, PostgresSink},
    state::LocalStore,
};
use tokio::{sync::watch, task::JoinSet};

use crate::{
    config::{Guarantee, Problems},
    counted::Counted,
    lag,
    outside::Outside,
    program::{App, Bounded},
    state::{self, Here},
};

/// How long the last records may take to be acknowledged; the workers have waited for theirs.
const CLOSE: Duration = Duration::from_secs(5);
/// How often the dead letters that wait are counted.
const LETTERS: Duration = Duration::from_secs(5);
/// What every topic of events is called.
pub(crate) const ALL_EVENTS: &str = r"^events\..*";

/// Groups that run, each on a task of its own: one that fails leaves the others alone.
pub(crate) struct Groups {
    workers: JoinSet<(String, Result<(), WorkerError>)>,
    stop: watch::Sender<bool>,
    /// One for all groups: it keeps the order of each.
    producer: Producer,
    close_limit: Duration,
    count: usize,
    failed: usize,
    /// Where their state can be read.
    here: Arc<Here>,
    /// Ends with the groups.
    _watch: JoinSet<()>,
}

impl Groups {
    /// Joins every group under this instance and lets it work.
    ///
    /// # Errors
    /// When the configuration of a client or a sink cannot work; no group runs then.
    pub(crate) fn start(
        app: &App,
        outside: &Outside,
        here: &Arc<Here>,
        groups: &[Bounded],
        states: &States,
    ) -> Result<Self> {
        let producer = outside.producer()?;
        let catalogue = Arc::new(app.pipeline.catalogue().clone());
        let shared = Shared { app, outside, here, states, catalogue, producer: &producer };
        let parts = groups.iter().map(|bounded| shared.parts(bounded)).collect::<Result<Vec<_>, _>>()?;
        let (stop, stopped) = watch::channel(false);
        let mut workers = JoinSet::new();
        for parts in parts {
            workers.spawn(work(parts, stopped.clone()));
        }
        let mut watch = JoinSet::new();
        watch.spawn(lag::watch(outside.cluster.clone(), states.clone()));
        watch.spawn(state::watch(here.clone(), states.clone()));
        let keeps_letters = groups.iter().any(|bounded| matches!(bounded.group.work, Work::DeadLetters));
        if keeps_letters {
            watch.spawn(watch_letters(outside.database.letters(), states.clone()));
        }
        let close_limit = app.config.kafka.consumer.drain.min(CLOSE);
        let (count, here) = (groups.len(), here.clone());
        Ok(Self { workers, stop, producer, close_limit, count, failed: 0, here, _watch: watch })
    }

    /// Resolves when every group has ended of itself: nothing is left to do. Until then each failure is logged.
    pub(crate) async fn all_ended(&mut self) {
        while let Some(ended) = self.workers.join_next().await {
            self.note(ended);
        }
    }

    /// Lets every group finish what is under way, commit and leave.
    ///
    /// # Errors
    /// When every group had failed before, one failed while it stopped, or records were not acknowledged.
    #[tracing::instrument(skip_all)]
    pub(crate) async fn drain(mut self) -> Result<()> {
        let before = self.failed;
        self.stop.send_replace(true);
        self.all_ended().await;
        self.here.close();
        self.producer.close(self.close_limit).await?;
        anyhow::ensure!(
            self.failed == before && before < self.count,
            "{} of {} groups failed",
            self.failed,
            self.count
        );
        Ok(())
    }

    fn note(&mut self, ended: Result<(String, Result<(), WorkerError>), tokio::task::JoinError>) {
        match ended {
            Ok((group, Ok(()))) => tracing::info!(group, "group stopped"),
            Ok((group, Err(error))) => {
                self.failed += 1;
                tracing::error!(group, %error, "group failed; the others go on");
            }
            Err(error) => {
                self.failed += 1;
                tracing::error!(%error, "a group ended by a fault of the program; the others go on");
            }
        }
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

/// One group until it is told to stop.
async fn work(parts: Parts, mut stop: watch::Receiver<bool>) -> (String, Result<(), WorkerError>) {
    let group = parts.group.id.clone();
    let mut early = stop.clone();
    let built = tokio::select! {
        built = Worker::build(parts) => built,
        // Nothing has begun: there is nothing to drain.
        _ = early.wait_for(|stopped| *stopped) => return (group, Ok(())),
    };
    let stopped = async move {
        let _ = stop.wait_for(|stopped| *stopped).await;
    };
    match built {
        Ok(worker) => (group, worker.run(stopped).await),
        Err(error) => (group, Err(error)),
    }
}

/// What the groups of a process are made from.
struct Shared<'a> {
    app: &'a App,
    outside: &'a Outside,
    here: &'a Here,
    states: &'a States,
    catalogue: Arc<Catalogue>,
    producer: &'a Producer,
}

impl Shared<'_> {
    /// A member's static name: the instance's, and a mark of what it reads. To a static member that comes back Kafka gives
    /// the partitions that it had, whatever it subscribes to now: one that reads other topics has to be another member.
    fn member(&self, bounded: &Bounded) -> String {
        let mut mark = DefaultHasher::new();
        bounded.group.reads().hash(&mut mark);
        match bounded.group.work {
            Work::Process(_) | Work::Keep(_) => {
                bounded.settings.ladder.delays().iter().for_each(|delay| delay.to_string().hash(&mut mark))
            }
            Work::Sink(_) => {}
            Work::DeadLetters => self.app.groups.iter().for_each(|other| other.group.id.hash(&mut mark)),
        }
        format!("{}-{:08x}", self.here.instance(), mark.finish() >> 32)
    }

    /// The group's state on this machine's disk.
    fn local(&self, group: &str) -> Result<LocalStore, Problems> {
        let dir = self.app.config.dir.join(self.here.instance()).join(group);
        LocalStore::open(&dir, &self.app.config.state).map_err(|error| Problems::one(format!("group {group}: {error}")))
    }

    fn parts(&self, bounded: &Bounded) -> Result<Parts, Problems> {
        let member = self.member(bounded);
        let Bounded { group, settings, start, sink_connections, guarantee } = bounded.clone();
        let kept = StateTopics::of(&group, settings.order, &self.catalogue);
        let (transactional, keeps) = (guarantee == Guarantee::ExactlyOnce, !kept.stores.is_empty());
        let state = self.states.of(&group.id);
        let wrong = |why: String| Problems::one(format!("group {}: {why}", group.id));
        let publisher = || KafkaPublisher::new(self.producer.clone());
        let counted = |sink: PostgresSink| {
            Counted::new(sink.with_topic_ids(Arc::new(self.outside.cluster.clone())), state.clone())
        };
        let (topics, patterns) = group.reads();
        let source = SourceConfig {
            group: group.id.clone(),
            instance: Some(member.clone()),
            subscription: Subscription { topics, patterns },
            start,
            commits: !transactional,
            // State belongs to a partition's number: who has one has it of every topic.
            assignor: keeps.then_some(Assignor::Range),
            // Who wants to read its state finds the address there.
            client_id: keeps.then(|| self.here.client_id().to_owned()),
        };
        let source = KafkaSource::join(&self.app.config.kafka, source).map_err(|error| wrong(error.to_string()))?;
        let transactional = || {
            let kafka = (&self.app.config.kafka, self.outside.cluster.clone());
            let seen = (state.clone(), self.outside.clock.clone());
            let committer = Transactional::new(kafka, (&group.id, self.here.instance()), source.membership(), seen);
            committer.map_err(|error| wrong(error.to_string()))
        };
        let database = &self.outside.database;
        let mut stores: Option<Arc<dyn Stores>> = None;
        let committers: Vec<Box<dyn Committer>> = match &group.work {
            Work::Process(_) | Work::Keep(_) if keeps => {
                let local = self.local(&group.id)?;
                self.here.open(&group.id, member, local.clone());
                if guarantee == Guarantee::ExactlyOnce {
                    stores = Some(Arc::new(local.clone()));
                    let keeping = transactional()?.keeping(local, kept);
                    vec![Box::new(keeping.map_err(|error| wrong(error.to_string()))?)]
                } else {
                    stores = Some(Arc::new(Replayed(local.clone())));
                    let kafka = (&self.app.config.kafka, self.outside.cluster.clone());
                    let seen = (state.clone(), self.outside.clock.clone());
                    let committer = Acknowledged::new(kafka, &group.id, (local, kept), seen);
                    vec![Box::new(committer.map_err(|error| wrong(error.to_string()))?)]
                }
            }
            Work::Process(_) | Work::Keep(_) if guarantee == Guarantee::ExactlyOnce => vec![Box::new(transactional()?)],
            Work::Process(_) | Work::Keep(_) => vec![Box::new(publisher())],
            Work::Sink(sink) => {
                let lettered = |_| -> Result<Box<dyn Committer>, Problems> {
                    let sink = database.sink(&group.id, sink.clone()).map_err(|error| wrong(error.to_string()))?;
                    Ok(Box::new(Lettered::new(counted(sink), publisher())))
                };
                (0..sink_connections).map(lettered).collect::<Result<_, _>>()?
            }
            Work::DeadLetters => vec![Box::new(counted(database.dead_letters(&group.id, self.catalogue.clone())))],
        };
        Ok(Parts {
            group,
            catalogue: self.catalogue.clone(),
            settings,
            source: Box::new(source),
            committers,
            stores,
            schemas: self.outside.schemas.clone(),
            clock: self.outside.clock.clone(),
            state,
            tracing: self.app.tracing.clone(),
        })
    }
}
