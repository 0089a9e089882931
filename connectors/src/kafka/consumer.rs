//! A member of a consumer group: the thread that polls, what it may deliver and commit, and whether it still has its place.
//!
//! It never knows what a record means, and begins no partition before the engine has said where.

pub(crate) mod config;
pub(crate) mod subscription;

pub(crate) mod source;

pub(crate) mod mailbox;
pub(crate) mod outlets;

pub(crate) mod poll_loop;
pub(crate) mod thread;

pub(crate) mod fetch;
pub(crate) mod partition;

pub(crate) mod offsets;

pub(crate) mod membership;

pub(crate) mod health;
