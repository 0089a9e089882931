//! Where a group stands in what it reads, and what is left to do of it.

use std::time::Duration;

/// Where an owned partition stands, as the engine knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartitionProgress {
    /// The offset of the first record that is not durable; `None` while only the broker knows.
    pub next: Option<i64>,
    /// That record's timestamp, where it has been read, milliseconds since the epoch.
    pub oldest_ms: Option<i64>,
}

/// What is left to do of one topic's partitions that are owned here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lag {
    /// Records that are not durable.
    pub records: u64,
    /// How long the oldest of those has waited since its timestamp.
    pub time: Duration,
    /// Those of them that cannot be read: they lie behind a transaction that somebody has open.
    pub behind_transactions: u64,
}
