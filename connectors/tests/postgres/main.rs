//! The Postgres connector against a real server: one server for all tests, a fresh database for each.

#![allow(clippy::unwrap_used, reason = "clippy spares the tests themselves, but not what they share")]

mod harness;

mod conformance;
mod dead_letter_queries;
mod dead_lettering;
mod dead_letters;
mod group_offsets;
mod guard;
mod offsets;
mod outage;
mod refusals;
mod tables;
