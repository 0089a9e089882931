//! The local stack that `headwater dev`, the end-to-end tests and the benches start: Apache Kafka, PostgreSQL, a schema
//! registry and a stand-in warehouse, on free loopback ports, without containers; and, beside it, an Apicurio Registry.
//!
//! The promise: [`Stack::start`] can be dropped at any moment, [`Stack`] too, and this process may be killed in any
//! way: what was started ends with it. A second start on the same folder keeps ports, topics, tables and schema ids.
//!
//! What it does not know: Headwater's pipelines, topics and tables, and any crate of this workspace.

mod stack;

mod kafka;
mod postgres;
mod registry;
mod warehouse;

mod security;

mod endpoints;
mod http_server;
mod maven;
mod ports;
mod process;

pub use endpoints::{Endpoints, quoted, remove_endpoints, write_endpoints};
pub use kafka::Kafka;
pub use postgres::{PgBouncer, Postgres};
pub use registry::{Apicurio, Registry};
pub use security::{ServerSecurity, ServerUser, TokenValidation};
pub use stack::{KafkaChoice, PostgresChoice, RegistryChoice, Stack, StackConfig, remove_data};
