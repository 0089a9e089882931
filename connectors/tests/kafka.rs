//! The Kafka connector against librdkafka's own mock of a cluster, over real sockets on the loopback interface.

// Test code is held to less than what ships.
#![allow(missing_docs, clippy::unwrap_used)]

#[path = "kafka/changelogs.rs"]
mod changelogs;
#[path = "kafka/conformance.rs"]
mod conformance;
#[path = "kafka/gapless_producer.rs"]
mod gapless_producer;
#[path = "kafka/harness.rs"]
mod harness;
#[path = "kafka/lease.rs"]
mod lease;
#[path = "kafka/logins.rs"]
mod logins;
#[path = "kafka/producer.rs"]
mod producer;
#[path = "kafka/rebalance.rs"]
mod rebalance;
#[path = "kafka/source.rs"]
mod source;
#[path = "kafka/start_offset.rs"]
mod start_offset;
#[path = "kafka/topics.rs"]
mod topics;
#[path = "kafka/transactions.rs"]
mod transactions;
