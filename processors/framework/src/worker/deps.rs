//! What a worker is made of, and how it is put together.

use std::sync::Arc;

use super::{
    attempt::{
        circuits::Circuits, outcomes::Outcomes, processor_runner::ProcessorRunner, record_processor::RecordWork,
        row_maker::RowMaker, step_runner::StepRunner, uncommitted_state::UncommittedState,
    },
    error::WorkerError,
    group_state::GroupState,
    schedule::{
        delay_queue::{DelayQueue, Limits},
        failures::RetryMode,
    },
};
use crate::{
    pipeline::{
        ConsumerGroup, Work,
        catalogue::Catalogue,
        schema_cache::SchemaCache,
        settings::{GroupSettings, Order},
    },
    ports::{Clock, Committer, SchemaError, Source, Stores, unit::CommitError},
    processor::emit::Encoders,
    telemetry::{metrics::GroupMetrics, spans::Tracing},
    wire::group_topics::GroupTopics,
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

/// The breakers that the processor stands behind.
pub(super) fn circuits(
    group: &ConsumerGroup,
    settings: &GroupSettings,
    metrics: &GroupMetrics,
) -> Result<Circuits, WorkerError> {
    Circuits::try_new(&group.id, &settings.breakers, metrics)
        .map_err(|why| WorkerError::Halted { group: group.id.clone(), why })
}

/// Where records wait for another attempt.
pub(super) fn retry_mode(
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

/// What the group keeps by partition number.
pub(super) fn state(
    group: &ConsumerGroup,
    settings: &GroupSettings,
    stores: Option<Arc<dyn Stores>>,
    retry_mode: &RetryMode,
    catalogue: &Catalogue,
) -> Result<GroupState, WorkerError> {
    let names = group.stores(settings.order);
    let stores = match stores {
        _ if names.is_empty() => None,
        Some(stores) => Some(UncommittedState::new(stores, names)),
        None => return Err(without_stores(group)),
    };
    let waiting = if let RetryMode::State(waiting) = retry_mode { Some(Arc::clone(waiting)) } else { None };
    Ok(GroupState::new(stores, waiting, group.co_partitioned(settings.order, catalogue)))
}

/// What the group makes of its records.
pub(super) fn record_work(
    group: &ConsumerGroup,
    settings: &GroupSettings,
    circuits: Circuits,
    encoders: Encoders,
    state: &Arc<GroupState>,
    outcomes: &Arc<Outcomes>,
) -> RecordWork {
    let (encoders, outcomes) = (Arc::new(encoders), Arc::clone(outcomes));
    match &group.work {
        Work::Process(processor) => {
            let (processor, time_limit) = (Arc::clone(processor), settings.time_limit);
            let runner = ProcessorRunner::new(group, processor, circuits, time_limit, encoders, outcomes);
            RecordWork::Process(Arc::new(runner))
        }
        Work::Stateful(steps) => {
            let (topics, limit) = (GroupTopics::of(&group.id), settings.max_event_bytes);
            let runner = StepRunner::new(steps, &topics, Arc::clone(state), limit, encoders, outcomes);
            RecordWork::Stateful(runner)
        }
        Work::Sink(sink) => {
            let schema = outcomes.catalogue.get(sink.event()).map(|facts| facts.schema);
            RecordWork::Sink(RowMaker { sink: Arc::clone(sink), schema, outcomes })
        }
        Work::DeadLetters => RecordWork::DeadLetters,
    }
}

fn without_stores(group: &ConsumerGroup) -> WorkerError {
    WorkerError::Halted { group: group.id.clone(), why: "it keeps state and was given no stores".to_owned() }
}

/// Waits until every store answers.
pub(super) async fn reach(
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

/// What encodes the events that the group emits; waits until the registry answers.
pub(super) async fn encoders(
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
