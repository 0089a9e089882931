//! What a worker is made of, and how it is put together.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::stream::FuturesUnordered;

use super::{
    Worker,
    attempt::{
        circuits::Circuits, record_processor::RecordProcessor, step_topics::StepTopics,
        uncommitted_state::UncommittedState,
    },
    commit::commit_queues::CommitQueues,
    error::WorkerError,
    schedule::{
        delay_queue::{DelayQueue, Limits},
        failures::{Failures, RetryMode},
    },
    schema_prefetch::SchemaPrefetch,
    source_handle::SourceHandle,
};
use crate::{
    pipeline::{
        ConsumerGroup, Work,
        catalogue::Catalogue,
        schema_cache::SchemaCache,
        settings::{GroupSettings, Order},
        steps::Steps,
    },
    ports::{Clock, Committer, SchemaError, Source, Stores, unit::CommitError},
    processor::emit::Encoders,
    telemetry::{metrics::GroupMetrics, spans::Tracing},
    wire::{group_topics::GroupTopics, ids},
};

/// What a worker works with.
pub struct WorkerDeps {
    /// The group.
    pub group: ConsumerGroup,
    /// Event types and bindings.
    pub catalogue: Arc<Catalogue>,
    /// The group's bounds.
    pub settings: GroupSettings,
    /// Where records come from.
    pub source: Box<dyn Source>,
    /// Where effects go: one committer or several, of which each commits a share of the partitions.
    pub committers: Vec<Box<dyn Committer>>,
    /// What the committer of a group that keeps state has committed: a stateful group, or one of order `key`.
    pub stores: Option<Arc<dyn Stores>>,
    /// The schemas.
    pub schemas: Arc<SchemaCache>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What others see of the group.
    pub metrics: Arc<GroupMetrics>,
    /// How its records are traced.
    pub tracing: Tracing,
}

impl Worker {
    /// Makes sure that the group can work before it joins: looks up what it emits in the registry, asks for its store, and
    /// waits through their outages. A member that joined before would hold partitions that others could work on.
    pub async fn build(parts: WorkerDeps) -> Result<Self, WorkerError> {
        let WorkerDeps { group, catalogue, settings, source, mut committers, stores, schemas, clock, metrics, tracing } =
            parts;
        let encoders = encoders(&group, &settings, &schemas, clock.as_ref(), &metrics).await?;
        reach(&group, &settings, &mut committers, clock.as_ref(), &metrics).await?;
        let interest = group.work.interest();
        let circuits = Circuits::try_new(&group.id, &settings.breakers, &metrics)
            .map_err(|why| WorkerError::Halted { group: group.id.clone(), why })?;
        let waits = waits(&group, &settings, stores.as_ref(), &metrics)?;
        let waiting = if let RetryMode::State(waiting) = &waits { Some(waiting.place(0).topic) } else { None };
        let group_topics = GroupTopics::of(&group.id);
        let step_topics = |steps: &Steps| steps.iter().map(|step| StepTopics::of(step, &group_topics)).collect();
        let processor = RecordProcessor {
            step_topics: if let Work::Stateful(steps) = &group.work { step_topics(steps) } else { Vec::new() },
            states: states(&group, &settings, stores)?,
            schema: match &group.work {
                Work::Sink(sink) => catalogue.get(sink.event()).map(|facts| facts.schema),
                _ => None,
            },
            co_partitioned: group.co_partitioned(settings.order, &catalogue),
            state_limit: settings.max_event_bytes,
            interest,
            catalogue,
            schemas,
            encoders: Arc::new(encoders),
            metrics: metrics.clone(),
            clock: clock.clone(),
            time_limit: settings.time_limit,
            record_limit: settings.max_record_bytes,
            failures: Failures::new(&group, &settings, waits, tracing.clone()),
            group_topics,
            tracing,
            source: ids::emitted_source(&group.name),
            circuits,
            group,
        };
        Ok(Self {
            commit_queues: CommitQueues::new(committers, &settings),
            settings,
            processor: Arc::new(processor),
            source: SourceHandle::new(source, waiting),
            clock,
            metrics,
            partitions: BTreeMap::new(),
            running: FuturesUnordered::new(),
            fetching: FuturesUnordered::new(),
            ready: VecDeque::new(),
            prefetch: SchemaPrefetch::default(),
            moved: BTreeMap::new(),
            refusals: HashMap::new(),
            starts: 0,
            progress_changed: false,
            progress_at: Duration::ZERO,
            stopping: None,
            closing: false,
        })
    }
}

/// Where records wait for another attempt.
fn waits(
    group: &ConsumerGroup,
    settings: &GroupSettings,
    stores: Option<&Arc<dyn Stores>>,
    metrics: &Arc<GroupMetrics>,
) -> Result<RetryMode, WorkerError> {
    Ok(match group.order(settings.order) {
        Order::None => RetryMode::Topics,
        Order::Partition => RetryMode::InPlace,
        Order::Key => {
            if let Some(why) = group.unfit_for_key() {
                return Err(WorkerError::Halted { group: group.id.clone(), why: why.to_owned() });
            }
            let stores = stores.cloned().ok_or_else(|| without_stores(group))?;
            if stores.replays().is_some() {
                let why = "the order `key` is kept in transactions, and the group is at least once: write order = \"partition\"";
                return Err(WorkerError::Halted { group: group.id.clone(), why: why.to_owned() });
            }
            let limits = Limits { records: settings.waiting_records, bytes: settings.waiting_bytes };
            let longest = settings.ladder.delays().iter().map(|delay| delay.get()).max().unwrap_or_default();
            RetryMode::State(Arc::new(DelayQueue::new(&group.id, stores, limits, longest, Arc::clone(metrics))))
        }
    })
}

/// The state of a group that keeps some.
fn states(
    group: &ConsumerGroup,
    settings: &GroupSettings,
    stores: Option<Arc<dyn Stores>>,
) -> Result<Option<UncommittedState>, WorkerError> {
    let names = group.stores(settings.order);
    if names.is_empty() {
        return Ok(None);
    }
    Ok(Some(UncommittedState::new(stores.ok_or_else(|| without_stores(group))?, names)))
}

fn without_stores(group: &ConsumerGroup) -> WorkerError {
    WorkerError::Halted { group: group.id.clone(), why: "it keeps state and was given no stores".to_owned() }
}

/// Waits until every store answers.
async fn reach(
    group: &ConsumerGroup,
    settings: &GroupSettings,
    committers: &mut [Box<dyn Committer>],
    clock: &dyn Clock,
    metrics: &GroupMetrics,
) -> Result<(), WorkerError> {
    let mut attempt = 0;
    for committer in committers {
        loop {
            let why = match committer.start(&[]).await {
                Ok(_) => break,
                Err(CommitError::Outage(why) | CommitError::OutcomeUnknown(why)) => why,
                Err(error) => {
                    let (group, why) = (group.id.clone(), error.to_string());
                    metrics.trouble("group", Some(&why));
                    return Err(match error {
                        CommitError::Failed(_) => WorkerError::Failed { group, why },
                        _ => WorkerError::Halted { group, why },
                    });
                }
            };
            attempt += 1;
            if metrics.trouble("store", Some(&why)) {
                tracing::warn!(group = %group.id, error = %why, "the store does not answer; the group does not join before");
            }
            clock.sleep(settings.backoff.after(attempt)).await;
        }
    }
    metrics.trouble("store", None);
    Ok(())
}

async fn encoders(
    group: &ConsumerGroup,
    settings: &GroupSettings,
    schemas: &SchemaCache,
    clock: &dyn Clock,
    metrics: &GroupMetrics,
) -> Result<Encoders, WorkerError> {
    if !group.work.is_processor() {
        return Ok(Encoders::default());
    }
    let mut emits = group.work.emits();
    emits.extend(group.fallback.iter().flat_map(|fallback| fallback.emits()));
    let mut attempt = 0;
    loop {
        match schemas.encoders(&emits, settings.max_event_bytes).await {
            Ok(encoders) => {
                metrics.trouble("registry", None);
                return Ok(encoders);
            }
            Err(SchemaError::Unknown(why)) => {
                let why = format!("{why}: register what the pipeline emits with `headwater topology apply`");
                metrics.trouble("group", Some(&why));
                return Err(WorkerError::Schemas { group: group.id.clone(), why });
            }
            Err(SchemaError::Outage(why)) => {
                attempt += 1;
                if metrics.trouble("registry", Some(&why)) {
                    tracing::warn!(group = %group.id, error = %why, "the schema registry does not answer; waiting for it");
                }
                clock.sleep(settings.backoff.after(attempt)).await;
            }
        }
    }
}
