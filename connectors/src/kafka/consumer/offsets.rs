//! A partition's offsets: where it begins, what is committed, and whether they still belong to the topic that is there.

pub(crate) mod commit_requests;
pub(crate) mod commits;
pub(crate) mod log_bounds;
pub(crate) mod offset_metadata;
pub(crate) mod start_offset;
pub(crate) mod topic_identity;
