//! One record's attempt: what the record is, whether it may begin, what its processor makes of it.
//!
//! An attempt knows nothing of partitions, batches and commits: it gives back an outcome.

pub(crate) mod in_flight;

pub(crate) mod dispatch;

pub(crate) mod circuits;
pub(crate) mod record_parts;
pub(crate) mod record_processor;

pub(crate) mod stateful;
pub(crate) mod step_topics;
pub(crate) mod uncommitted_state;
