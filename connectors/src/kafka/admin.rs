//! What the cluster is asked and told beside records: topics, groups, committed offsets. Whatever waits, waits with a limit.

pub(crate) mod admin_clients;
pub(crate) mod topic_change;
pub(crate) mod topics;

pub(crate) mod groups;
pub(crate) mod stable_offsets;

pub(crate) mod record_counts;
pub(crate) mod retention;
pub(crate) mod single_record;
