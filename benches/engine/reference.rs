//! The references: loops written by hand that do the same work as the engine, and what they share.

pub(crate) mod forward;
pub(crate) mod unnest;

mod timestamp;
mod wire;
