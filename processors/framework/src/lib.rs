//! Headwater: a Kafka stream-processing engine whose processors are plain functions.
//!
//! A developer writes `async fn(E) -> Result<impl Emit>`; the engine reads events, keeps correlation, causation and
//! trace, runs the function with order per key, and gathers what it asked for into one [`Unit`](spi::Unit) of work that a
//! connector commits together with the offsets.
//!
//! The face has two halves:
//!
//! - **The root** is what processors and pipelines are written against: [`Event`] and [`Payload`], [`on_event`], [`State`],
//!   [`Emit`], [`Pipeline`] with its [`Sink`]s and [`Policy`], [`Failure`], and the [`Driver`], which tests a pipeline without
//!   a broker; in [`http`] the client that a processor may be given.
//! - **[`spi`]** is what connectors implement and what a program needs that runs groups: the ports, units of work, records on
//!   the wire, the codec, groups with their settings, dead letters, telemetry, and the worker. No processor needs it.
//!
//! This crate deliberately knows no broker, database or HTTP client, no socket, and no business word: those stand behind
//! the ports. Apache Avro is its codec, not a client.

#![warn(unnameable_types)]

mod event;
mod wire;

mod codec;

mod processor;

mod pipeline;

mod ports;

mod failure;

mod telemetry;

mod worker;

mod driver;

mod bench;

// Lets the macro name this crate by its public path from within it.
extern crate self as headwater;

pub use event::pattern::{Pattern, PatternError};
pub use event::time::Time;
pub use event::{
    Draft, Event, Meta,
    event_type::EventType,
    payload::{Category, Payload, Priority},
};
pub use headwater_macros::on_event;
pub use processor::emit::Emit;
pub use processor::input::{Any, Input};
pub use processor::state::{SavedState, Slot, State};
pub use processor::stateful::{CoPartitioned, Keyed, KeyedBy};
pub use processor::{IntoProcessor, Matching, With, matching, with};
// What metadata is made of.
pub use wire::record::{Headers, Origin, TopicPartition};
pub use wire::trace_context::TraceContext;

pub use failure::breaker::{BreakerSettings, Window as BreakerWindow};
pub use failure::ladder::{Delay, Ladder};
pub use failure::{Cause, Failure, OrReject, OrRetry, Result};
pub use pipeline::Pipeline;
pub use pipeline::catalogue::{Binding, KeyFormat};
pub use pipeline::policy::Policy;
pub use pipeline::settings::Order;
pub use pipeline::sink::{Mode, Sink};
pub use pipeline::steps::Group;

pub use driver::Driver;

/// The HTTP client that a processor may be given, as a port: a connector sends, a test answers.
pub mod http {
    pub use crate::ports::{Http, HttpError, Request, Response};
}

/// What connectors implement, and what a program needs that runs groups; no processor needs it.
pub mod spi {
    // The ports.
    pub use crate::ports::{
        Batch, BoxFuture, Clock, Committer, Control, Entry, Replays, SchemaError, SchemaText, Schemas, Source,
        SourceEvent, StartFrom, StoreError, Stores, clock::SystemClock, conformance,
    };

    // Units of work.
    pub use crate::ports::unit::{
        CommitError, CommitOutcome, InputPartition, InputPosition, InputRoute, Marker, OffsetRange, RefusedRow, Row,
        RowData, StateChange, Unit,
    };

    // Records on the wire.
    pub use crate::pipeline::catalogue::topic_of;
    pub use crate::wire::delivery_headers::says_cut;
    pub use crate::wire::group_topics::{GroupTopics, WAITING};
    pub use crate::wire::headers::first_headers;
    pub use crate::wire::ids::foreign_id;
    pub use crate::wire::murmur2::partition_for;
    pub use crate::wire::record::{Outgoing, Position, Record};

    /// The codec: values in Confluent's wire format to payloads and back.
    pub mod codec {
        pub use crate::codec::{CodecError, Encoder, FieldError, WriterSchema, can_read, limit_allocations, split};
    }

    // Groups: what they do, by which settings, over which topics and schemas.
    pub use crate::failure::backoff::Backoff;
    pub use crate::pipeline::catalogue::{Catalogue, SourceTopics};
    pub use crate::pipeline::schema_cache::SchemaCache;
    pub use crate::pipeline::settings::GroupSettings;
    pub use crate::pipeline::sink::SinkConfig;
    pub use crate::pipeline::steps::{Step, Steps};
    pub use crate::pipeline::topology::{Subject, Topology};
    pub use crate::pipeline::{ConsumerGroup, DEAD_LETTERS, Work};
    pub use crate::processor::emit::Outbox;
    pub use crate::processor::input::Delivery;
    pub use crate::processor::state::show;
    pub use crate::processor::{Function, Interest, Processor, StatefulProcessor, function::ProcessError};

    // Dead letters.
    pub use crate::failure::DeadLetterKind;
    pub use crate::failure::cut::{HEADER_ROOM, Truncation};
    pub use crate::failure::dead_letter::DeadLetter;

    // Telemetry.
    pub use crate::telemetry::metrics::{
        Activity, AfterFailure, Down, GroupMetrics, Lag, Metric, PartitionProgress, ProcessMetrics, SpanCounts,
    };
    pub use crate::telemetry::spans::{CurrentTrace, Message, Sampler, Span, Tracing, current_trace};

    // What runs a group.
    pub use crate::worker::{Worker, WorkerError, deps::WorkerDeps};
}

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
