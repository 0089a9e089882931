//! Events from and to people: `produce` and `tail`.

pub(crate) mod produce_target;

pub(super) mod produce;
pub(super) mod tail;
