//! How much each group has left to do, for the metrics: where its partitions stand against where their topics end.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use headwater::{GroupState, Lag, Place, States, Time, TopicPartition};
use headwater_connectors::kafka::{Cluster, KafkaError, Start};

/// How often it is looked at.
const EVERY: Duration = Duration::from_secs(5);

type Offsets = BTreeMap<TopicPartition, i64>;

/// Tells the metrics for as long as it is let.
pub(crate) async fn watch(cluster: Cluster, states: States) {
    let mut every = tokio::time::interval(EVERY);
    // While a broker is away the questions take longer than that.
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        if let Err(error) = look(&cluster, &states).await {
            // The groups say that the cluster does not answer.
            tracing::debug!(%error, "the lag of the groups could not be found");
        }
    }
}

async fn look(cluster: &Cluster, states: &States) -> Result<(), KafkaError> {
    let groups: Vec<(String, Arc<GroupState>, BTreeMap<TopicPartition, Place>)> =
        states.all().into_iter().map(|(id, state)| (id, state.clone(), state.places())).collect();
    let all: BTreeSet<TopicPartition> = groups.iter().flat_map(|(.., places)| places.keys().cloned()).collect();
    let ends = cluster.offsets(&all.into_iter().collect::<Vec<_>>(), Start::Latest).await?;
    for (id, state, places) in groups {
        let unplaced: Vec<TopicPartition> =
            places.iter().filter(|(_, place)| place.next.is_none()).map(|(partition, _)| partition.clone()).collect();
        let committed = cluster.committed(&id, &unplaced).await?;
        let committed = committed.into_iter().map(|(partition, offset)| (partition, offset.next)).collect();
        state.set_lags(lags(&places, &committed, &ends, Time::now()));
    }
    Ok(())
}

/// By topic. A partition of which nobody knows where it stands has no lag that could be told.
fn lags(
    places: &BTreeMap<TopicPartition, Place>,
    committed: &Offsets,
    ends: &Offsets,
    now: Time,
) -> BTreeMap<Arc<str>, Lag> {
    let mut lags: BTreeMap<Arc<str>, Lag> = BTreeMap::new();
    for (partition, place) in places {
        let lag = lags.entry(partition.topic.clone()).or_default();
        let next = place.next.or_else(|| committed.get(partition).copied());
        let (Some(next), Some(end)) = (next, ends.get(partition)) else { continue };
        let records = u64::try_from(end - next).unwrap_or(0);
        lag.records += records;
        if let Some(oldest) = place.oldest_ms.filter(|_| records > 0) {
            lag.time = lag.time.max(now.since(Time::from_millis(oldest)));
        }
    }
    lags
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when partitions of a topic are not added up, the oldest record is not the one that counts, a partition that is
    /// done counts with the age of what it did last, or one that has not begun here is left out.
    #[test]
    fn lag_is_told_by_topic() {
        let at = |partition| TopicPartition::new("t", partition);
        let place = |next, oldest_ms| Place { next, oldest_ms };
        let places = BTreeMap::from([
            (at(0), place(Some(5), Some(1_000))),
            (at(1), place(Some(9), Some(500))),
            (at(2), place(None, None)),
            (at(3), place(Some(7), None)),
            (at(4), place(None, None)),
        ]);
        let ends = (0..5).map(|n| (at(n), 9)).collect();
        let lags = lags(&places, &BTreeMap::from([(at(2), 8)]), &ends, Time::from_millis(4_000));
        let lag = Lag { records: 4 + 1 + 2, time: Duration::from_secs(3) };
        assert_eq!(lags, BTreeMap::from([(Arc::from("t"), lag)]));
    }
}
