//! Committers: how a group's units of work become durable. One for each promise.
//!
//! They know what a unit is and in which order its parts must become durable; how a record reaches a broker, a row a table
//! and a change the disk, they leave to the connectors.

pub(crate) mod at_least_once;
pub(crate) mod dead_lettering;
pub(crate) mod exactly_once;
pub(crate) mod stateful_at_least_once;
