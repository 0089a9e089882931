//! Records that wait: for another attempt in their place, on a retry topic, or behind an earlier one of their key.

pub(crate) mod delay_queue;
pub(crate) mod failures;
