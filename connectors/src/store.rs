//! Keyed state: on this machine's disk, restored from the changelogs in which it is durable.

pub mod local;

pub(crate) mod group;
pub(crate) mod repartition_purger;
