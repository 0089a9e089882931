//! Producers: each record is acknowledged by all in-sync replicas, or is an error with its index.

pub(crate) mod callback;
pub(crate) mod gapless;
pub(crate) mod idempotent;
pub(crate) mod transactional;

pub(crate) mod core;
