//! Producers: each record is acknowledged by all in-sync replicas, or is an error with its index.
//!
//! Four faces on one core. They differ in what records are together, and so in what one of them that fails does to the others:
//! nothing (idempotent), nothing stands behind it (gapless), it is told by itself (callback), none stands (transactional).

pub(crate) mod callback;
pub(crate) mod gapless;
pub(crate) mod idempotent;
pub(crate) mod transactional;

pub(crate) mod core;
