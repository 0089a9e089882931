//! Which partitions librdkafka delivers: everywhere else it is paused, and where it goes on it is told the place.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use headwater::{TopicPartition, spi::SourceEvent};
use rdkafka::consumer::Consumer as _;

use super::{self as partition, Partition, PartitionPhase, Partitions};
use crate::kafka::consumer::{
    fetch::{Fetcher, ROUND},
    membership::group_consumer::GroupConsumer,
    outlets::Outlets,
};

/// Partitions asked about to wake their brokers, at most; more brokers than that notice a little later.
const NUDGES: usize = 16;
/// How long a partition may refuse to be placed before the engine is asked again.
const SEEK_LIMIT: Duration = Duration::from_secs(30);
const SEEK_TIMEOUT: Duration = Duration::from_secs(2);

/// Pauses what flows and should not.
pub(crate) fn halt_unwanted(consumer: &GroupConsumer, partitions: &mut Partitions, outlets: &Outlets) {
    let held = outlets.is_held();
    halt(consumer, partitions, outlets, |partition| held || !partition.wants_records());
}

/// Pauses all that flows, within a rebalance: what stays ours is placed anew after it. librdkafka would go on by itself behind the
/// last thing that it delivered, and skips a record where that was the end of the log (2.12: `rd_kafka_q_serve_rkmessages` counts
/// the event of an end at offset n as the record n).
pub(crate) fn halt_all(consumer: &GroupConsumer, partitions: &mut Partitions, outlets: &Outlets) {
    halt(consumer, partitions, outlets, |_| true);
}

fn halt(
    consumer: &GroupConsumer,
    partitions: &mut Partitions,
    outlets: &Outlets,
    is_unwanted: impl Fn(&Partition) -> bool,
) {
    let names = partitions.select(|partition| partition.flowing && is_unwanted(partition));
    if names.is_empty() {
        return;
    }
    if let Err(error) = consumer.pause(&partition::list(&names)) {
        tracing::warn!(group = outlets.group, %error, "cannot pause partitions");
    }
    for name in &names {
        if let Some(partition) = partitions.get_mut(name) {
            partition.flowing = false;
        }
    }
}

/// Lets flow what should and does not.
pub(crate) fn set_off_wanted(
    consumer: &GroupConsumer,
    partitions: &mut Partitions,
    fetcher: &Fetcher,
    outlets: &mut Outlets,
) {
    if outlets.is_held() {
        return;
    }
    let now = Instant::now();
    let places: Vec<(TopicPartition, i64)> = partitions
        .iter_mut()
        .filter(|(_, p)| !p.flowing && !p.paused && now >= p.not_before)
        .filter_map(|(name, p)| match p.phase {
            PartitionPhase::Delivering { next, .. } => Some((name, next)),
            _ => None,
        })
        .collect();
    if places.is_empty() {
        return;
    }
    let flowing = set_off(consumer, &places, fetcher, outlets);
    let mut asked_again = Vec::new();
    for (name, _) in places {
        let Some(partition) = partitions.get_mut(&name) else { continue };
        if flowing.contains(&name) {
            partition.flowing = true;
            partition.step(now);
        } else if partition.postpone(now, ROUND, SEEK_LIMIT) {
            partition.phase = PartitionPhase::Waiting { asked: true };
            asked_again.push(name);
        }
    }
    if !asked_again.is_empty() {
        tracing::warn!(group = outlets.group, partitions = ?asked_again, "partitions could not be placed: they begin again");
        outlets.report(SourceEvent::Assigned(asked_again));
    }
}

/// Places partitions and lets them flow; those that do. Just after an assignment librdkafka may refuse a place for a moment.
fn set_off(
    consumer: &GroupConsumer,
    places: &[(TopicPartition, i64)],
    fetcher: &Fetcher,
    outlets: &mut Outlets,
) -> HashSet<TopicPartition> {
    let placed = place(consumer, places, &outlets.group);
    let go: Vec<_> = places.iter().filter(|(name, _)| placed.contains(name)).cloned().collect();
    // They are since the assignment; but one that were not would stand still for ever and not say so.
    fetcher.attach(consumer, go.iter().map(|(name, _)| name), outlets);
    if go.is_empty() || consumer.resume(&partition::list(go.iter().map(|(name, _)| name))).is_err() {
        return HashSet::new();
    }
    // Placing waits for an answer, and by it until the resumption, which does not, is in force.
    place(consumer, &go, &outlets.group);
    nudge(consumer, &go);
    placed
}

/// Tells librdkafka where each goes on; those that took it.
fn place(consumer: &GroupConsumer, places: &[(TopicPartition, i64)], group: &str) -> HashSet<TopicPartition> {
    let list = partition::list_at(places.iter().map(|(name, next)| (name, *next))).map_err(|error| error.to_string());
    match list.and_then(|list| consumer.seek_partitions(list, SEEK_TIMEOUT).map_err(|error| error.to_string())) {
        Ok(list) => partition::names_where(&list, |element| element.error().is_ok()).into_iter().collect(),
        Err(error) => {
            tracing::debug!(group, error, "partitions cannot be placed yet");
            HashSet::new()
        }
    }
}

/// Wakes the brokers' threads of librdkafka 2.12, which notice a resumed partition only up to a second later, unless
/// there is something to send: a question whose answer nobody waits for.
fn nudge(consumer: &GroupConsumer, places: &[(TopicPartition, i64)]) {
    for (name, _) in places.iter().take(NUDGES) {
        // The answer would only tell the log's ends.
        let _ = consumer.fetch_watermarks(&name.topic, name.partition, Duration::from_millis(1));
    }
}
