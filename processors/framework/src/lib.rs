//! Headwater: a Kafka stream-processing engine whose processors are plain functions.
//!
//! A developer writes `async fn(E) -> Result<impl Emit>`; the engine reads events, keeps correlation, causation and
//! trace, runs the function with order per key, and gathers what it asked for into one [`Unit`] of work that a
//! connector commits together with the offsets. See [`Pipeline`] for registration and [`Driver`] for tests without a
//! broker.
//!
//! This crate deliberately knows no broker, database or HTTP client, no socket, and no business word: those stand behind
//! the ports in [`ports`]. Apache Avro is its codec, not a client.

mod event;
mod wire;

pub mod codec;

mod processor;

mod pipeline;

pub mod ports;

mod failure;

mod telemetry;

mod worker;

mod driver;

mod bench;

// Lets the macro name this crate by its public path from within it.
extern crate self as headwater;

pub use driver::Driver;
pub use event::pattern::{Pattern, PatternError};
pub use event::time::Time;
pub use event::{Draft, Event, Meta};
pub use event::{
    event_type::EventType,
    payload::{Category, Payload, Priority},
};
pub use failure::backoff::Backoff;
pub use failure::breaker::{
    Admission, Breaker, BreakerSettings, CircuitState, Permit, Transition, Try, Verdict, Window as BreakerWindow,
};
pub use failure::cut::{Cut, HEADER_ROOM};
pub use failure::dead_letter::DeadLetter;
pub use failure::ladder::{Delay, Ladder};
pub use failure::{Cause, DeadLetterKind, Failure, OrReject, OrRetry, Result};
pub use headwater_macros::on_event;
pub use pipeline::catalogue::{Binding, Catalogue, KeyFormat, Subscription, topic_of};
pub use pipeline::policy::Policy;
pub use pipeline::schema_cache::SchemaCache;
pub use pipeline::settings::{GroupSettings, Order};
pub use pipeline::sink::{Mode, Sink, SinkConfig};
pub use pipeline::steps::{Group, Step, Steps};
pub use pipeline::topology::{Subject, Topology};
pub use pipeline::{ConsumerGroup, DEAD_LETTERS, Pipeline, Work};
pub use ports::clock::SystemClock;
pub use ports::unit::{
    Change, CommitError, Committed, InputPartition, InputPosition, Marker, Progress, RefusedRow, Row, RowData, Unit,
    Way,
};
pub use processor::emit::{Emit, Outbox};
pub use processor::input::{Any, Delivery, Input};
pub use processor::state::{Saved, Slot, State, show};
pub use processor::stateful::{CoPartitioned, Keyed, KeyedBy};
pub use processor::{Function, Interest, IntoProcessor, Matching, Processor, StatefulProcessor, With, matching, with};
pub use telemetry::metrics::{Activity, Down, GroupMetrics, Lag, Metric, Next, PartitionProgress, SpanCounts, States};
pub use telemetry::spans::{CurrentTrace, Message, Sampler, Span, Tracing, current_trace};
pub use wire::delivery_headers::says_cut;
pub use wire::group_topics::{GroupTopics, WAITING};
pub use wire::headers::first_headers;
pub use wire::ids::foreign_id;
pub use wire::murmur2::partition_for;
pub use wire::record::{Headers, Origin, Outgoing, Position, Record, TopicPartition};
pub use wire::trace_context::TraceContext;
pub use worker::{Worker, WorkerError, deps::WorkerDeps};

/// What `#[on_event]` expands to; not part of the public API.
#[doc(hidden)]
pub mod __private {
    pub use crate::event::pattern::label_matches;
}

/// Pieces of the hot path, for the benches; not part of the public API.
#[doc(hidden)]
pub mod __bench {
    pub use crate::bench::{Handler, emitted_id, lane, metadata, watermark};
}
