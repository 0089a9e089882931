//! From finished records to what is durable: units of work, the queue in which they are committed, and the store's answers.

pub(crate) mod finished_record;
pub(crate) mod unit_share;

pub(crate) mod batch;

pub(crate) mod accumulator;
pub(crate) mod committer_task;
pub(crate) mod outage;

pub(crate) mod commit_queue;
pub(crate) mod commit_queues;

pub(crate) mod commit_results;
pub(crate) mod refusals;
