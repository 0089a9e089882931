//! Headwater: a Kafka stream-processing engine whose processors are plain functions.
//!
//! A developer writes `async fn(E) -> Result<impl Emit>`; the engine reads events, keeps correlation, causation and
//! trace, runs the function with order per key, and gathers what it asked for into one [`Unit`] of work that a
//! connector commits together with the offsets.
//!
//! This crate deliberately knows no broker, database or HTTP client, no socket, and no business word: those stand behind
//! the ports in [`ports`]. Apache Avro is its codec, not a client.

// Lets the macro name this crate by its public path from within it.
extern crate self as headwater;

mod payload;
mod time;

mod failure;
mod record;

mod event;
mod ids;
mod trace;

pub mod codec;
mod sink;

pub mod ports;
mod unit;

mod murmur2;

pub use event::{Draft, Event, Meta, Origin};
pub use failure::{Cause, Failure, Kind, OrReject, Result};
pub use murmur2::partition_for;
pub use payload::{Category, EventType, Payload, Priority};
pub use record::{Headers, Outgoing, Position, Record, TopicPartition};
pub use sink::{Mode, Sink};
pub use time::Time;
pub use trace::TraceContext;
pub use unit::{CommitError, Committed, Progress, Row, RowData, Unit};
