//! One record's attempt: what the record is, whether it may begin, what its processor makes of it.
//!
//! An attempt knows nothing of partitions, batches and commits: it gives back an outcome.

pub(crate) mod in_flight;

pub(crate) mod attempt_pool;
pub(crate) mod schema_prefetch;

pub(crate) mod record_processor;

pub(crate) mod outcomes;
pub(crate) mod record_reader;

pub(crate) mod circuits;
pub(crate) mod processor_runner;

pub(crate) mod step_runner;
pub(crate) mod step_topics;
pub(crate) mod uncommitted_state;

pub(crate) mod row_maker;
