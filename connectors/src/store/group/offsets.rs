//! Offsets that are gone while the state that was made up to them is there: who read on would count everything again.
//!
//! What changes state commits the offset of its input with it, or behind the place where the group began, which was committed
//! before. So a group that has state of a number has an offset of a partition of that number, and of some input; where it has
//! none, somebody or the broker has deleted them. Which is asked once the state was seen: a group that is new, and under way,
//! has committed by then.

use std::{
    collections::{BTreeSet, HashSet},
    hash::{BuildHasher as _, RandomState},
    sync::{Arc, atomic::AtomicBool},
};

use headwater::{TopicPartition, spi::CommitError};

use super::restore::{RestoreSummary, Restorer};
use crate::kafka::{ChangelogError, stable_offsets};

/// Makes sure that the group goes on where its state is, where it is known to have these offsets.
///
/// # Errors
/// [`CommitError::Fatal`] with both ways out where its offsets are gone.
pub(crate) async fn require_offsets(
    restorer: &Restorer,
    restored: &RestoreSummary,
    known: &[TopicPartition],
) -> Result<(), CommitError> {
    let known: BTreeSet<i32> =
        known.iter().filter(|id| restorer.topics.is_by_number(&id.topic)).map(|id| id.partition).collect();
    let asked: Vec<i32> = restored.full.difference(&known).copied().collect();
    let of_number = |number: &i32| {
        let of = |topic: &String| TopicPartition::new(topic.as_str(), *number);
        restorer.topics.co_partitioned.iter().map(of).collect::<Vec<_>>()
    };
    let there = committed(restorer, asked.iter().flat_map(of_number).collect()).await?;
    match asked.iter().find(|number| !there.iter().any(|id| id.partition == **number)) {
        Some(number) => Err(gone(&restorer.group, &format!("of partition {number}"))),
        None => Ok(()),
    }
}

/// The same of its inputs, for who may have partitions of those alone: it would key everything anew.
pub(crate) async fn require_inputs(
    restorer: &Restorer,
    restored: &RestoreSummary,
    known: &[TopicPartition],
) -> Result<(), CommitError> {
    let inputs = |topic: &String| {
        let count = restored.counts.get(topic).copied().unwrap_or(0);
        (0..count).map(|number| TopicPartition::new(topic.as_str(), number)).collect::<Vec<_>>()
    };
    let inputs: Vec<TopicPartition> = restorer.topics.inputs.iter().flat_map(inputs).collect();
    if known.iter().any(|id| inputs.contains(id)) || !committed(restorer, inputs.clone()).await?.is_empty() {
        return Ok(());
    }
    if restored.full.is_empty()
        && (!has_state(restorer, restored).await? || !committed(restorer, inputs).await?.is_empty())
    {
        return Ok(());
    }
    Err(gone(&restorer.group, "of its inputs"))
}

/// Those of these that the group has an offset of.
async fn committed(restorer: &Restorer, wanted: Vec<TopicPartition>) -> Result<Vec<TopicPartition>, CommitError> {
    let offsets = stable_offsets(&restorer.kafka, &restorer.group, &wanted).await.map_err(CommitError::from)?;
    Ok(wanted.into_iter().zip(offsets).filter_map(|(id, offset)| offset.map(|_| id)).collect())
}

fn gone(group: &str, what: &str) -> CommitError {
    CommitError::Fatal(format!(
        "the offsets {what} that group {group} had committed are gone (expired, deleted or reset) while its state is there: reading on it would count its input a second time. Stop it everywhere, and either wipe the state and read everything again: `headwater offsets reset {group} --to earliest --with-state`; or keep the state and say where reading goes on, by the time at which the group stopped: `headwater offsets reset {group} --to TIME --keep-state` (`latest` skips what has come since)"
    ))
}

/// Whether any changelog has a key.
async fn has_state(restorer: &Restorer, restored: &RestoreSummary) -> Result<bool, CommitError> {
    let all = |(_, topic): &(&'static str, String)| {
        (0..restored.count).map(|number| (TopicPartition::new(topic.as_str(), number), None)).collect::<Vec<_>>()
    };
    let (reader, wanted) = (restorer.reader.clone(), restorer.stores.iter().flat_map(all).collect::<Vec<_>>());
    let (hashes, mut keys) = (RandomState::new(), HashSet::new());
    let cancelled = Arc::new(AtomicBool::new(false));
    let _guard = super::restore::CancelOnDrop(Arc::clone(&cancelled));
    let reading = tokio::task::spawn_blocking(move || {
        let each = |id: &TopicPartition, key: &[u8], value: Option<&[u8]>, _| {
            let key = hashes.hash_one((id, key));
            _ = if value.is_some() { keys.insert(key) } else { keys.remove(&key) };
        };
        reader.read(&wanted, &cancelled, each, |_| ()).map(|_| !keys.is_empty())
    });
    super::restore::ended(reading.await)?.map_err(|error| match error {
        ChangelogError::Kafka(error) => error.into(),
        ChangelogError::Cancelled => CommitError::Outage("reading the changelogs was cancelled".to_owned()),
    })
}
