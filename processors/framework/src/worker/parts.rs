//! What a worker is made of, and how it is put together.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use futures_util::stream::FuturesUnordered;

use super::{
    Worker, ahead::Ahead, assemblies::Assemblies, circuits::Circuits, failures::Failures, states::States, step::Step,
};
use crate::{
    backoff::Backoff,
    breaker::BreakerSettings,
    catalogue::Catalogue,
    emit::Encoders,
    ids,
    ladder::Ladder,
    metrics::GroupState,
    owned::Owned,
    pipeline::{ConsumerGroup, Work},
    policy::Order,
    ports::{Clock, Committer, SchemaError, Source, Stores},
    schemas::SchemaCache,
    spans::Tracing,
};

/// The bounds of one group.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// Processors that run side by side.
    pub concurrency: usize,
    /// Records that are under way at most: begun, or finished and not yet durable.
    pub in_flight: usize,
    /// Records read ahead of those, at most, but for the last batch.
    pub prefetch: usize,
    /// Bytes of all those and of what they publish: nothing more is read or begun while there are as many.
    pub in_flight_bytes: usize,
    /// How long one attempt may take.
    pub time_limit: Duration,
    /// The largest event that may be emitted, bytes.
    pub max_event_bytes: usize,
    /// A unit of work is committed when it holds this many records.
    pub batch_records: usize,
    /// A unit of work is committed when it holds this many bytes.
    pub batch_bytes: usize,
    /// A unit of work is committed this long after its first record at the latest.
    pub linger: Duration,
    /// The delays between attempts at one record.
    pub ladder: Ladder,
    /// What becomes of a key's order while one of its records waits for another attempt.
    pub order: Order,
    /// The circuit breakers that the processor stands behind, by the dependency's name.
    pub breakers: BTreeMap<String, BreakerSettings>,
    /// The largest record that is read, bytes of its value; a larger one is a dead letter.
    pub max_record_bytes: usize,
    /// Pauses after an outage.
    pub backoff: Backoff,
    /// How long what is under way may take when a partition leaves or the process stops.
    pub drain: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            concurrency: 256,
            in_flight: 10_000,
            prefetch: 5_000,
            in_flight_bytes: 64 << 20,
            time_limit: Duration::from_secs(60),
            max_event_bytes: 1_000_000,
            batch_records: 5_000,
            batch_bytes: 8 << 20,
            linger: Duration::ZERO,
            ladder: Ladder::default(),
            order: Order::default(),
            breakers: BTreeMap::new(),
            max_record_bytes: 16 << 20,
            backoff: Backoff::default(),
            drain: Duration::from_secs(20),
        }
    }
}

/// Why a worker ended before it was told to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// The schema of something it emits is not registered.
    #[error("{group}: {why}")]
    Schemas {
        /// The group.
        group: String,
        /// What is missing, and how to mend it.
        why: String,
    },
    /// The source or the store cannot go on.
    #[error("{group}: {why}")]
    Failed {
        /// The group.
        group: String,
        /// What happened, and how to mend it.
        why: String,
    },
}

/// What a worker works with.
pub struct Parts {
    /// The group.
    pub group: ConsumerGroup,
    /// Event types and bindings.
    pub catalogue: Arc<Catalogue>,
    /// The group's bounds.
    pub settings: Settings,
    /// Where records come from.
    pub source: Box<dyn Source>,
    /// Where effects go: one committer or several, of which each commits a share of the partitions.
    pub committers: Vec<Box<dyn Committer>>,
    /// What a stateful group's committer has committed; no other group has any.
    pub stores: Option<Arc<dyn Stores>>,
    /// The schemas.
    pub schemas: Arc<SchemaCache>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What others see of the group.
    pub state: Arc<GroupState>,
    /// How its records are traced.
    pub tracing: Tracing,
}

impl Worker {
    /// Looks up what the group emits in the registry and waits through its outages.
    pub async fn build(parts: Parts) -> Result<Self, WorkerError> {
        let Parts { group, catalogue, settings, source, committers, stores, schemas, clock, state, tracing } = parts;
        let encoders = encoders(&group, &settings, &schemas, clock.as_ref(), &state).await?;
        let interest = group.work.interest();
        let circuits = Circuits::try_new(&group.id, &settings.breakers, &state)
            .map_err(|why| WorkerError::Failed { group: group.id.clone(), why })?;
        // A stateful group has no retry topics: what waits there would be overtaken by later changes of its key.
        let order = if matches!(group.work, Work::Keep(_)) { Order::Partition } else { settings.order };
        let step = Step {
            owned: Owned::of(&group.id),
            states: states(&group, stores)?,
            state_limit: settings.max_event_bytes,
            interest,
            catalogue,
            schemas,
            encoders: Arc::new(encoders),
            state: state.clone(),
            clock: clock.clone(),
            time_limit: settings.time_limit,
            record_limit: settings.max_record_bytes,
            failures: Failures::new(&group.id, &group.name, settings.ladder.clone(), order, tracing.clone()),
            tracing,
            source: ids::emitted_source(&group.name),
            circuits,
            group,
        };
        Ok(Self {
            assemblies: Assemblies::new(committers, &settings),
            settings,
            step: Arc::new(step),
            source,
            clock,
            state,
            partitions: BTreeMap::new(),
            running: FuturesUnordered::new(),
            fetching: FuturesUnordered::new(),
            ready: VecDeque::new(),
            ahead: Ahead::default(),
            moved: BTreeMap::new(),
            refusals: HashMap::new(),
            starts: 0,
            places_changed: false,
            places_at: Duration::ZERO,
            stopping: None,
            closing: false,
        })
    }
}

fn states(group: &ConsumerGroup, stores: Option<Arc<dyn Stores>>) -> Result<Option<States>, WorkerError> {
    let Work::Keep(steps) = &group.work else { return Ok(None) };
    let why = || "it keeps state and was given no stores".to_owned();
    let stores = stores.ok_or_else(|| WorkerError::Failed { group: group.id.clone(), why: why() })?;
    Ok(Some(States::new(stores, steps.stores())))
}

async fn encoders(
    group: &ConsumerGroup,
    settings: &Settings,
    schemas: &SchemaCache,
    clock: &dyn Clock,
    state: &GroupState,
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
                state.trouble("registry", None);
                return Ok(encoders);
            }
            Err(SchemaError::Unknown(why)) => {
                let why = format!("{why}: register what the pipeline emits with `headwater topology apply`");
                state.trouble("group", Some(&why));
                return Err(WorkerError::Schemas { group: group.id.clone(), why });
            }
            Err(SchemaError::Outage(why)) => {
                attempt += 1;
                if state.trouble("registry", Some(&why)) {
                    tracing::warn!(group = %group.id, error = %why, "the schema registry does not answer; waiting for it");
                }
                clock.sleep(settings.backoff.after(attempt)).await;
            }
        }
    }
}
