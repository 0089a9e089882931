//! A member of a consumer group: the thread that polls, what it may deliver and commit, and whether it still has its place.
//!
//! It never knows what a record means, and begins no partition before the engine has said where.

pub(crate) mod source;

pub(crate) mod membership;
pub(crate) mod poll_loop;
pub(crate) mod rebalance;

pub(crate) mod fetch;
pub(crate) mod partition;
pub(crate) mod pause;
pub(crate) mod subscription;

pub(crate) mod offsets;

pub(crate) mod health;
