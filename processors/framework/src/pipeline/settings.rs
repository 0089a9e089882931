//! The bounds of a group: how much it holds, how long it waits, and how often it tries.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};

use crate::failure::{backoff::Backoff, breaker::BreakerSettings, ladder::Ladder};

/// What becomes of the order of a key's records while one of them waits for another attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// The failed record waits on a retry topic; later records of its key may overtake it.
    #[default]
    None,
    /// The failed record's partition waits with it: nothing overtakes, and everything behind it waits too.
    Partition,
    /// The failed record and every later one of its key wait in the group's state; other keys go on. The group's effects
    /// are Kafka transactions then.
    Key,
}

/// The bounds of one group.
#[derive(Clone, Debug, PartialEq)]
pub struct GroupSettings {
    /// Processors that run side by side.
    pub concurrency: usize,
    /// Records that are under way at most: begun, or finished and not yet durable.
    pub in_flight: usize,
    /// Records read ahead of those, at most, but for the last batch.
    pub prefetch: usize,
    /// Bytes of all those and of what they publish: nothing more is read or begun while there are as many. Partitions that
    /// stand still have half of them at most; what is more they let go of, and read it again later.
    pub in_flight_bytes: usize,
    /// How long one attempt may take.
    pub time_limit: Duration,
    /// The largest event that may be emitted, bytes.
    pub max_event_bytes: usize,
    /// A unit of work is committed when it holds this many records.
    pub batch_records: usize,
    /// A unit of work is committed when it holds this many bytes.
    pub batch_bytes: usize,
    /// A unit of work is committed this long after its first record at the latest.
    pub linger: Duration,
    /// The delays between attempts at one record.
    pub ladder: Ladder,
    /// What becomes of a key's order while one of its records waits for another attempt.
    pub order: Order,
    /// Under the order `key`: records of one partition number that wait at most; what comes then waits in its place.
    pub waiting_records: usize,
    /// Bytes of those.
    pub waiting_bytes: usize,
    /// The circuit breakers that the processor stands behind, by the dependency's name.
    pub breakers: BTreeMap<String, BreakerSettings>,
    /// The largest record that is read, bytes of its value; a larger one is a dead letter.
    pub max_record_bytes: usize,
    /// Pauses after an outage.
    pub backoff: Backoff,
    /// How long what is under way may take when a partition leaves or the process stops.
    pub drain: Duration,
}

impl Default for GroupSettings {
    fn default() -> Self {
        Self {
            concurrency: 256,
            in_flight: 10_000,
            prefetch: 5_000,
            in_flight_bytes: 64 << 20,
            time_limit: Duration::from_secs(60),
            max_event_bytes: 1_000_000,
            batch_records: 5_000,
            batch_bytes: 8 << 20,
            linger: Duration::ZERO,
            ladder: Ladder::default(),
            order: Order::default(),
            waiting_records: 1_000,
            waiting_bytes: 16 << 20,
            breakers: BTreeMap::new(),
            max_record_bytes: 16 << 20,
            backoff: Backoff::default(),
            drain: Duration::from_secs(20),
        }
    }
}
