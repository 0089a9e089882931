//! The Kafka connector against librdkafka's own mock of a cluster, over real sockets on the loopback interface.

// Test code is held to less than what ships.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "kafka/changelogs.rs"]
mod changelogs;
#[path = "kafka/conformance.rs"]
mod conformance;
#[path = "kafka/harness.rs"]
mod harness;
#[path = "kafka/in_order.rs"]
mod in_order;
#[path = "kafka/lease.rs"]
mod lease;
#[path = "kafka/publishing.rs"]
mod publishing;
#[path = "kafka/reading.rs"]
mod reading;
#[path = "kafka/sharing.rs"]
mod sharing;
#[path = "kafka/starting.rs"]
mod starting;
#[path = "kafka/topics.rs"]
mod topics;
#[path = "kafka/transactions.rs"]
mod transactions;
