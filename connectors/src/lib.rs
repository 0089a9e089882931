//! Headwater's connectors: Kafka, the schema registry, Postgres, HTTP and keyed state on the local disk, each behind a port of
//! [`headwater::ports`], and the way of spans to an OpenTelemetry back end.
//!
//! This is the only crate that names a client library, and it deliberately knows no business word: what a record means
//! is the business of processors and of the engine.

pub mod units;

mod anew;

pub mod kafka;
pub mod registry;

pub mod http;
pub mod postgres;
mod proxies;

pub mod state;

pub mod otlp;

mod kept;
mod trim;

mod acknowledged;
mod lettered;
mod transactional;

pub use acknowledged::{Acknowledged, Replayed};
pub use lettered::Lettered;
pub use transactional::Transactional;
