//! What can be seen of a running group: metrics and health, and the spans of its records. It decides nothing.

pub(crate) mod metrics;
pub(crate) mod spans;
