//! Headwater's connectors: Kafka, the schema registry, Postgres, files, HTTP and keyed state on the local disk, each behind a port of
//! [`headwater::spi`], and the way of spans to an OpenTelemetry back end.
//!
//! This is the only crate that names a client library, and it deliberately knows no business word: what a record means
//! is the business of processors and of the engine.

mod security;
pub mod units;

pub mod kafka;
pub mod registry;

pub mod http;
pub mod postgres;

pub mod files;

pub mod sinks;

pub mod store;

mod committers;

pub mod otlp;

pub use committers::at_least_once::AtLeastOnceCommitter;
pub use committers::dead_lettering::DeadLetteringCommitter;
pub use committers::exactly_once::{ExactlyOnceCommitter, fencing::Arrival};
pub use committers::stateful_at_least_once::{ReplayStores, StatefulAtLeastOnceCommitter};
pub use security::tls;
#[allow(unused_imports, reason = "the short way to it")]
pub(crate) use security::watched_files;
pub use store::group::StateTopics;
