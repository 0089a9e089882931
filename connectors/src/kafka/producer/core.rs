//! What every producer stands on.

pub(crate) mod batch_size;
pub(crate) mod fault;
pub(crate) mod partition_counts;
pub(crate) mod reports;
