//! Events: a payload with the metadata that travels in its headers.

pub(crate) mod event_type;
pub(crate) mod pattern;
pub(crate) mod payload;
pub(crate) mod time;

use std::{ops::Deref, sync::Arc};

use self::{
    payload::{Category, Payload, Priority},
    time::Time,
};
use crate::wire::{
    record::{Headers, Origin},
    trace_context::TraceContext,
};

/// A received event: the payload, and what its headers say of it.
#[derive(Clone, Debug)]
pub struct Event<T> {
    /// The metadata.
    pub meta: Arc<Meta>,
    /// The payload.
    pub data: T,
}

impl<T> Deref for Event<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.data
    }
}

/// An event's metadata: its headers, with what a foreign producer left out filled in.
#[derive(Clone, Debug, PartialEq)]
pub struct Meta {
    /// The event's id, unique within its source; at most 256 characters.
    pub id: String,
    /// Who made the event, `kafka://<topic>` or `headwater/<processor>`.
    pub source: String,
    /// The dotted event type.
    pub event_type: String,
    /// When it happened.
    pub time: Time,
    /// The id of the aggregate it is about.
    pub subject: Option<String>,
    /// The aggregate's type.
    pub aggregate_type: Option<String>,
    /// The aggregate's version after this event.
    pub aggregate_version: Option<i64>,
    /// The category.
    pub category: Category,
    /// The priority.
    pub priority: Priority,
    /// The schema's version in our subject.
    pub data_version: Option<i32>,
    /// The id of the whole conversation.
    pub correlation_id: String,
    /// The id of the event that directly caused this one.
    pub causation_id: Option<String>,
    /// The acting user.
    pub user_id: Option<String>,
    /// The trace it belongs to.
    pub trace: TraceContext,
    /// Attempts made before this one.
    pub attempt: u32,
    /// Where the record was first read from.
    pub origin: Origin,
    /// Headers that are none of the above, as the producer wrote them.
    pub extra: Headers,
}

/// An event to be emitted whose metadata the processor sets in part; a plain payload leaves all of it to the engine.
#[derive(Clone, Debug)]
pub struct Draft<T> {
    pub(crate) data: T,
    pub(crate) facts: Facts,
}

/// What a processor may say about an event that it emits.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Facts {
    pub(crate) time: Option<Time>,
    pub(crate) aggregate: Option<(String, i64)>,
    pub(crate) user_id: Option<String>,
}

impl<T: Payload> Draft<T> {
    /// An event with this payload.
    pub fn new(data: T) -> Self {
        Self { data, facts: Facts::default() }
    }

    /// When it happened; without this, the time of the event that caused it.
    #[must_use]
    pub fn at(mut self, time: Time) -> Self {
        self.facts.time = Some(time);
        self
    }

    /// The aggregate's type, and its version after this event.
    #[must_use]
    pub fn aggregate(mut self, kind: impl Into<String>, version: i64) -> Self {
        self.facts.aggregate = Some((kind.into(), version));
        self
    }

    /// The acting user; without this, the user of the event that caused it.
    #[must_use]
    pub fn user(mut self, id: impl Into<String>) -> Self {
        self.facts.user_id = Some(id.into());
        self
    }
}
