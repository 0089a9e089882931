//! What is answered, as it goes over HTTP, and why nothing is.

use headwater_connectors::store::local::StoreStats;
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;

/// A key and what it has.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) partition: i32,
    /// The name of the instance that has the partition.
    pub(crate) owner: String,
    /// The version of the state's type.
    pub(crate) version: u32,
    pub(crate) value: Json,
}

/// The answer for one key.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct KeyAnswer {
    pub(crate) group: String,
    pub(crate) store: String,
    #[serde(flatten)]
    pub(crate) entry: Entry,
}

/// The answer for several.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ListAnswer {
    pub(crate) group: String,
    pub(crate) store: String,
    /// By key, in order.
    pub(crate) entries: Vec<Entry>,
}

/// What one instance has.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct InstanceStats {
    pub(crate) instance: String,
    pub(crate) groups: Vec<GroupStats>,
}

/// What it has of a group.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct GroupStats {
    pub(crate) group: String,
    pub(crate) stores: Vec<StoreUsage>,
}

/// What it has of a store.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StoreUsage {
    pub(crate) store: String,
    pub(crate) partitions: Vec<PartitionStats>,
}

/// What it has of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartitionStats {
    pub(crate) partition: i32,
    /// About how many keys are on disk.
    pub(crate) keys_approx: usize,
    pub(crate) disk_bytes: u64,
    /// Entries in memory, and their bytes.
    pub(crate) cached: usize,
    pub(crate) cached_bytes: usize,
    /// Those of them that wait to be written to disk.
    pub(crate) dirty: usize,
    /// The changelog's offset up to which memory and disk together are complete.
    pub(crate) changelog_next: i64,
}

impl From<&StoreStats> for PartitionStats {
    fn from(stats: &StoreStats) -> Self {
        Self {
            partition: stats.partition,
            keys_approx: stats.keys_approx,
            disk_bytes: stats.disk_bytes,
            cached: stats.cached,
            cached_bytes: stats.cached_bytes,
            dirty: stats.dirty,
            changelog_next: stats.checkpoint.next,
        }
    }
}

/// Why there is no answer, for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct StateError {
    pub(super) why: RefusalKind,
    pub(super) text: String,
}

/// The kinds of reasons.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RefusalKind {
    /// The question is wrong.
    Wrong,
    /// There is no such group or store, or the key has no state.
    Unknown,
    /// Who was asked is not the owner.
    Moved,
    /// What is saved cannot be shown, or the disk fails.
    Broken,
    /// The owner does not answer.
    Silent,
    /// It can be read later: nobody has the partition, it is being restored, or there is too much to do.
    Away,
}

impl RefusalKind {
    pub(super) fn because(self, text: impl Into<String>) -> StateError {
        StateError { why: self, text: text.into() }
    }

    /// What a status of the owner's answer means.
    pub(super) fn told(status: u16) -> Self {
        match status {
            400 => Self::Wrong,
            404 => Self::Unknown,
            421 => Self::Moved,
            503 => Self::Away,
            _ => Self::Broken,
        }
    }
}

impl StateError {
    /// The status that says it.
    pub(super) fn status(&self) -> u16 {
        match self.why {
            RefusalKind::Wrong => 400,
            RefusalKind::Unknown => 404,
            RefusalKind::Moved => 421,
            RefusalKind::Broken => 500,
            RefusalKind::Silent => 502,
            RefusalKind::Away => 503,
        }
    }

    /// Whether it is worth asking Kafka anew who the owner is.
    pub(super) fn may_have_moved(&self) -> bool {
        matches!(self.why, RefusalKind::Moved | RefusalKind::Away | RefusalKind::Silent)
    }

    /// A list without this part would have a gap: whatever is wrong, the whole cannot be read now.
    pub(super) fn of_partitions(self, partitions: &str) -> Self {
        let why =
            if matches!(self.why, RefusalKind::Wrong | RefusalKind::Moved) { self.why } else { RefusalKind::Away };
        why.because(format!("partitions {partitions} cannot be read: {}", self.text))
    }
}
