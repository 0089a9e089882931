//! The Postgres connector against a real server: one server for all tests, a fresh database for each.

#![allow(clippy::unwrap_used, reason = "clippy spares the tests themselves, but not what they share")]

mod harness;

mod columns;
mod conformance;
mod dead_letters;
mod guard;
mod lettered;
mod letters;
mod offsets;
mod outage;
mod refusals;
mod schemas;
mod stored;
mod tables;
mod topic_ids;
