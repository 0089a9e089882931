//! How much each group has left to do, for the metrics: where its partitions stand against where their topics end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use headwater::{
    Time, TopicPartition,
    spi::{GroupMetrics, Lag, PartitionProgress, ProcessMetrics},
};
use headwater_connectors::kafka::{Cluster, GroupAdmin, KafkaError, LogEnd};

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(5);

type Offsets = BTreeMap<TopicPartition, i64>;
type Ends = BTreeMap<TopicPartition, LogEnd>;

/// Tells the metrics for as long as it is let.
pub(crate) async fn watch(cluster: Cluster, states: ProcessMetrics) {
    let mut every = tokio::time::interval(EVERY);
    // While a broker is away the questions take longer than that.
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut seen = BTreeMap::new();
    loop {
        every.tick().await;
        if let Err(error) = look(&cluster, &states, &mut seen).await {
            // The groups say that the cluster does not answer.
            tracing::debug!(%error, "the lag of the groups could not be found");
        }
    }
}

async fn look(
    cluster: &Cluster,
    states: &ProcessMetrics,
    seen: &mut BTreeMap<String, Backlog>,
) -> Result<(), KafkaError> {
    let admin = GroupAdmin::of(cluster);
    let groups: Vec<(String, Arc<GroupMetrics>, BTreeMap<TopicPartition, PartitionProgress>)> =
        states.all().into_iter().map(|(id, state)| (id, state.clone(), state.progress())).collect();
    let all: BTreeSet<TopicPartition> = groups.iter().flat_map(|(.., places)| places.keys().cloned()).collect();
    let ends = admin.ends(&all.into_iter().collect::<Vec<_>>()).await?;
    for (id, state, places) in groups {
        let unplaced: Vec<TopicPartition> =
            places.iter().filter(|(_, place)| place.next.is_none()).map(|(partition, _)| partition.clone()).collect();
        let committed = admin.committed(&id, &unplaced).await?;
        let committed = committed.into_iter().map(|(partition, offset)| (partition, offset.next)).collect();
        state.set_lags(lags(&places, &committed, &ends, seen.entry(id).or_default(), Time::now()));
    }
    Ok(())
}

/// Partitions with records that nobody here has read yet: where they begin, and when that was first seen. It is the least
/// that the oldest of them has waited.
type Backlog = BTreeMap<TopicPartition, (i64, Time)>;

/// By topic. A partition of which nobody knows where it stands has no lag that could be told.
fn lags(
    places: &BTreeMap<TopicPartition, PartitionProgress>,
    committed: &Offsets,
    ends: &Ends,
    unread: &mut Backlog,
    now: Time,
) -> BTreeMap<Arc<str>, Lag> {
    let mut lags: BTreeMap<Arc<str>, Lag> = BTreeMap::new();
    let before = std::mem::take(unread);
    for (partition, place) in places {
        let lag = lags.entry(partition.topic.clone()).or_default();
        let next = place.next.or_else(|| committed.get(partition).copied());
        let (Some(next), Some(end)) = (next, ends.get(partition)) else { continue };
        let records = u64::try_from(end.high - next).unwrap_or(0);
        if records == 0 {
            continue;
        }
        lag.records += records;
        if next >= end.stable {
            lag.behind_transactions += records;
        }
        let since = place.oldest_ms.map(Time::from_millis).unwrap_or_else(|| {
            let known = before.get(partition).filter(|(known, _)| *known == next);
            let (_, since) = *unread.entry(partition.clone()).or_insert((next, known.map_or(now, |(_, since)| *since)));
            since
        });
        lag.time = lag.time.max(now.since(since));
    }
    lags
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: i32) -> TopicPartition {
        TopicPartition::new("t", partition)
    }

    fn place(next: Option<i64>, oldest_ms: Option<i64>) -> PartitionProgress {
        PartitionProgress { next, oldest_ms }
    }

    /// Red when partitions of a topic are not added up, the oldest record is not the one that counts, a partition that is
    /// done counts with the age of what it did last, or one that has not begun here is left out.
    #[test]
    fn lag_is_told_by_topic() {
        let places = BTreeMap::from([
            (at(0), place(Some(5), Some(1_000))),
            (at(1), place(Some(9), Some(500))),
            (at(2), place(None, None)),
            (at(3), place(Some(7), None)),
            (at(4), place(None, None)),
        ]);
        let ends = (0..5).map(|n| (at(n), LogEnd { stable: 9, high: 9 })).collect();
        let committed = BTreeMap::from([(at(2), 8)]);
        let lags = lags(&places, &committed, &ends, &mut Backlog::new(), Time::from_millis(4_000));
        let lag = Lag { records: 4 + 1 + 2, time: Duration::from_secs(3), behind_transactions: 0 };
        assert_eq!(lags, BTreeMap::from([(Arc::from("t"), lag)]));
    }

    /// Red when what lies behind an open transaction is no lag or is not told apart, or its time does not grow while it waits and
    /// begin anew for what comes after.
    #[test]
    fn what_waits_behind_an_open_transaction_is_lag() {
        let ends = BTreeMap::from([(at(0), LogEnd { stable: 5, high: 25 })]);
        let (mut unread, none) = (Backlog::new(), Offsets::new());
        let mut at_ms = |next, now| {
            let places = BTreeMap::from([(at(0), place(Some(next), None))]);
            lags(&places, &none, &ends, &mut unread, Time::from_millis(now))["t"]
        };
        let lag = |records, seconds, behind_transactions| {
            let time = Duration::from_secs(seconds);
            Lag { records, time, behind_transactions }
        };
        assert_eq!(at_ms(3, 1_000), lag(22, 0, 0), "two can be read");
        assert_eq!(at_ms(5, 6_000), lag(20, 0, 20));
        assert_eq!(at_ms(5, 11_000), lag(20, 5, 20));
        assert_eq!(at_ms(25, 12_000), lag(0, 0, 0));
        assert_eq!(at_ms(24, 13_000), lag(1, 0, 1));
    }
}
