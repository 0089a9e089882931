//! The harness of the end-to-end tests: real servers, real processes, foreign clients.
//!
//! One stack serves all tests of a run; each test has a [`Space`] of its own: its names, its database. What stays behind
//! is kept under the target folder until the next run. It deliberately knows nothing of the engine's inside: what it
//! produces is encoded by apache-avro and sent by a plain client, as a foreign producer does it.

mod stack;

mod space;

mod engine;
mod foreign_client;
mod otlp;
mod process;
mod proxy;

pub mod secured;

mod polling;

#[cfg(test)]
mod house;

pub use engine::{Engine, Group};
pub use foreign_client::{ConsumedRecord, ForeignClient, Payments, RawRecord, encode, register};
pub use otlp::{Answer, Kind, Otlp, Span, Trace};
pub use polling::{eventually, full, patience};
pub use process::Process;
pub use proxy::{Gate, HeldRequest, Proxy, Side};
pub use space::Space;
pub use stack::{SharedStack, apicurio, quiet_stack, stack};
