//! What the records of a stateful step are named by.

use std::sync::Arc;

use crate::{
    pipeline::steps::Step,
    wire::{group_topics::GroupTopics, ids},
};

/// What the records of one step are named by, made once.
pub(crate) struct StepTopics {
    /// The topic over which they come.
    pub(crate) repartition: Arc<str>,
    /// What the events that it emits name as their source.
    pub(crate) source: String,
}

impl StepTopics {
    pub(crate) fn of(step: &Step, topics: &GroupTopics) -> Self {
        Self { repartition: topics.repartition(&step.name).into(), source: ids::emitted_source(&step.name) }
    }
}
