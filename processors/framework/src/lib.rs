//! Headwater: a Kafka stream-processing engine whose processors are plain functions.
//!
//! A developer writes `async fn(E) -> Result<impl Emit>`; the engine reads events, keeps correlation, causation and
//! trace, runs the function with order per key, and gathers what it asked for into one [`Unit`] of work that a
//! connector commits together with the offsets. See [`Pipeline`] for registration and [`Driver`] for tests without a
//! broker.
//!
//! This crate deliberately knows no broker, database or HTTP client, no socket, and no business word: those stand behind
//! the ports in [`ports`]. Apache Avro is its codec, not a client.

// Lets the macro name this crate by its public path from within it.
extern crate self as headwater;

mod event;
mod payload;
mod record;
mod time;

mod emit;
mod failure;
mod input;
mod pattern;
mod processor;
mod state;
mod stateful;
mod steps;

mod catalogue;
mod pipeline;
mod policy;
mod sink;
mod topology;

pub mod ports;
mod unit;

mod headers;
mod ids;
mod trace;

mod spans;

mod cut;
mod delivered;
mod fault;
mod ladder;
mod letter;
mod owned;

pub mod codec;
mod schemas;

mod backoff;
mod breaker;
mod clock;
mod lanes;
mod metrics;
mod murmur2;
mod watermark;
mod worker;

mod driver;

mod bench;

pub use backoff::Backoff;
pub use breaker::{
    Admission, Breaker, BreakerSettings, CircuitState, Permit, Transition, Try, Verdict, Window as BreakerWindow,
};
pub use catalogue::{Binding, Catalogue, KeyFormat, Subscription, topic_of};
pub use clock::SystemClock;
pub use cut::{Cut, HEADER_ROOM, says_cut};
pub use driver::Driver;
pub use emit::{Emit, Outbox};
pub use event::{Draft, Event, Meta, Origin};
pub use failure::{Cause, Failure, Kind, OrReject, OrRetry, Result};
pub use headers::first_headers;
pub use headwater_macros::on_event;
pub use ids::foreign_id;
pub use input::{Any, Delivery, Input};
pub use ladder::{Delay, Ladder};
pub use letter::Letter;
pub use metrics::{Activity, Down, GroupState, Lag, Metric, Next, Place, SpanCounts, States};
pub use murmur2::partition_for;
pub use owned::Owned;
pub use pattern::{Pattern, PatternError};
pub use payload::{Category, EventType, Payload, Priority};
pub use pipeline::{ConsumerGroup, DEAD_LETTERS, Pipeline, Work};
pub use policy::{Order, Policy};
pub use processor::{Function, Interest, IntoProcessor, Matching, Processor, With, matching, with};
pub use record::{Headers, Outgoing, Position, Record, TopicPartition};
pub use schemas::SchemaCache;
pub use sink::{Mode, Sink};
pub use spans::{CurrentTrace, Message, Sampler, Span, Tracing, current_trace};
pub use state::{Saved, Slot, State, show};
pub use stateful::{CoPartitioned, Keyed, KeyedBy, StatefulProcessor};
pub use steps::{Group, Step, Steps};
pub use time::Time;
pub use topology::{Subject, Topology};
pub use trace::TraceContext;
pub use unit::{
    Change, CommitError, Committed, InputPartition, InputPosition, Marker, Progress, RefusedRow, Row, RowData, Unit,
    Way,
};
pub use worker::{Parts, Settings, Worker, WorkerError};

/// What `#[on_event]` expands to; not part of the public API.
#[doc(hidden)]
pub mod __private {
    pub use crate::pattern::label_matches;
}

/// Pieces of the hot path, for the benches; not part of the public API.
#[doc(hidden)]
pub mod __bench {
    pub use crate::bench::{Handler, emitted_id, lane, metadata, watermark};
}
