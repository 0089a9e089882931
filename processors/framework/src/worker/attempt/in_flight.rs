//! A record on its way through a group, and what becomes of it.

use std::{sync::Arc, time::Duration};

use crate::{
    event::{Meta, time::Time},
    failure::{DeadLetterKind, breaker::Try},
    ports::{
        BoxFuture,
        unit::{Marker, RowData, StateChange},
    },
    telemetry::spans::{Attempt, Span},
    wire::{
        group_topics::TopicRole,
        record::{Outgoing, Record, TopicPartition},
    },
    worker::partition::lanes::Lane,
};

/// A record on its way through a group.
#[derive(Debug)]
pub(crate) struct InFlightRecord {
    pub(crate) partition: TopicPartition,
    /// What its topic is to the group.
    pub(crate) role: TopicRole,
    /// Which start of the partition it belongs to.
    pub(crate) start: u64,
    pub(crate) lane: Option<Lane>,
    /// Attempts that failed here, since the record was read.
    pub(crate) failed: u32,
    /// When the first of those failed, milliseconds since the epoch.
    pub(crate) first_failed_ms: Option<i64>,
    /// Attempts that failed and were an outage's.
    pub(crate) probed: u32,
    /// Whether it was begun before: what its headers count was counted then.
    pub(crate) begun: bool,
    /// Whether it holds its partition up, for a failure or a pause.
    pub(crate) blocks: bool,
    pub(crate) record: Record,
}

impl InFlightRecord {
    /// Whether a dependency is called for the first time for this record, as far as can be told without its headers: what is
    /// read from a topic of the group's own has failed before, or stands behind what has.
    pub(crate) fn which_try(&self) -> Try {
        let first = self.role == TopicRole::Input && self.failed == 0 && self.probed == 0;
        if first { Try::First } else { Try::Again }
    }
}

/// What became of one attempt.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "most are done, and a box for those would cost each of them an allocation"
)]
pub(crate) enum Outcome {
    /// The record is done with here: processed, or on its way to another attempt, or a dead letter.
    Done(Effects),
    /// It failed: its partition waits this long and tries it again.
    Retry(Duration, String),
    /// Not its fault: try again after this, and do not count it.
    Wait(Duration, String),
    /// A circuit does not let it through before this time.
    Refused(Duration, String),
    /// It failed as a dependency's probe, or with what opened its circuit: ask again after this, and do not count it.
    Outage(Duration, String),
}

/// An attempt that is already over, or one that goes on. Most are over at once: a box for the larger variant would cost
/// each of them an allocation.
#[expect(clippy::large_enum_variant)]
pub(crate) enum AttemptState {
    Over(InFlightRecord, Outcome),
    Running(BoxFuture<'static, (InFlightRecord, Outcome)>),
    /// It waits for its schema: then it begins again, unless there is an outcome.
    Fetching(BoxFuture<'static, (InFlightRecord, Option<Outcome>)>),
}

/// What a record asks for.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) outgoing: Vec<Outgoing>,
    /// The row, without its record: that is still in the record.
    pub(crate) row: Option<(Arc<Meta>, Option<RowData>)>,
    /// What it has made of its key's state, where that is not what it was.
    pub(crate) change: Option<StateChange>,
    /// What it changes of the records that wait: nothing, mostly.
    pub(crate) waiting: Option<Box<StateChange>>,
    /// Few records have one.
    pub(crate) marker: Option<Box<Marker>>,
    /// When the event happened, where that is known.
    pub(crate) event_time: Option<Time>,
    /// Spans that end when all this is durable.
    pub(crate) spans: Vec<Span>,
    pub(crate) disposition: Disposition,
}

/// What a record that is done with has become.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Disposition {
    /// What its processor made of it.
    #[default]
    Processed,
    /// It goes on under another key.
    Repartitioned,
    /// It has come before, and the store has what it changed.
    Replayed,
    /// It waits for another attempt, on a retry topic or in the group's state.
    Retried,
    /// It waits behind one of its key.
    Queued,
    /// It is a dead letter.
    Dead(DeadLetterKind),
}

/// A record as far as an attempt at it has understood it, and the attempt's span.
#[derive(Debug, Default)]
pub(crate) struct AttemptContext {
    /// Nothing where the record's headers are too broken to say which trace it belongs to.
    pub(crate) meta: Option<Arc<Meta>>,
    pub(crate) attempt: Attempt,
    /// The step of the group that has seen it, where that is not the group's only processor.
    pub(crate) step: Option<Arc<str>>,
}

impl AttemptContext {
    pub(crate) fn new(meta: Arc<Meta>, attempt: Attempt) -> Self {
        Self { meta: Some(meta), attempt, step: None }
    }

    pub(crate) fn of_step(meta: Arc<Meta>, attempt: Attempt, step: Arc<str>) -> Self {
        Self { step: Some(step), ..Self::new(meta, attempt) }
    }
}
