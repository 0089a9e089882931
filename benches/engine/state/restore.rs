//! How fast state is back where the disk is lost, beside reading the same changelog and doing nothing.

use std::{collections::HashMap, sync::atomic::AtomicBool};

use anyhow::{Context, Result, bail, ensure};
use headwater::{
    State as _, TopicPartition,
    spi::{Clock as _, GroupTopics},
};
use headwater_connectors::{
    kafka::{ChangelogReader, KafkaConfig, ReadOutcome},
    store::local::{LocalStore, StateConfig},
};

use super::count_step::{Count, STEP};
use crate::{
    ground::PARTITIONS,
    meter::{Measurement, Meter},
    place::Place,
};

/// Reads the changelog that the place's group has written.
pub(crate) fn read(place: &Place) -> Result<Measurement> {
    let reading = read_all(place, |_, _, _, _| ())?;
    reading.meter.stop(reading.records)
}

/// Restores from it all partitions into an empty folder, as a member does that takes them.
pub(crate) fn restore(place: &Place) -> Result<Measurement> {
    let config = StateConfig { cache_bytes: place.cache, ..StateConfig::default() };
    let local = LocalStore::open(&place.state.join("restored"), &config)?;
    let now_ms = headwater::spi::SystemClock::default().now().millis();
    let begin = |id: TopicPartition| Ok((id.clone(), local.restore(Count::NAME, id.partition, "", now_ms)?));
    let mut restores: HashMap<_, _> = partitions(place).into_iter().map(begin).collect::<Result<_>>()?;
    let mut failed = None;
    let Reading { meter, records, reached } = read_all(place, |id, key, value, offset| {
        let pushed = restores.get_mut(id).map_or(Ok(()), |restore| restore.push(offset, key, value));
        if let Err(error) = pushed {
            failed.get_or_insert(error);
        }
    })?;
    if let Some(error) = failed {
        bail!(error);
    }
    for (id, reached) in reached {
        let ReadOutcome::End(next) = reached else { bail!("{id:?} has lost records") };
        restores.get_mut(&id).context("a partition that was not asked for")?.finish(next, now_ms)?;
    }
    let measured = meter.stop(records)?;
    let keys: usize = local.stats().iter().map(|stats| stats.keys_approx).sum();
    ensure!(keys > 0, "nothing was restored");
    Ok(measured)
}

fn partitions(place: &Place) -> Vec<TopicPartition> {
    let changelog = GroupTopics::of(&format!("{}.{STEP}", place.group)).changelog(Count::NAME);
    (0..PARTITIONS).map(|partition| TopicPartition::new(changelog.as_str(), partition)).collect()
}

/// Every partition was read to its end.
struct Reading {
    /// Begun with the first record.
    meter: Meter,
    records: u64,
    reached: Vec<(TopicPartition, ReadOutcome)>,
}

fn read_all(place: &Place, mut each: impl FnMut(&TopicPartition, &[u8], Option<&[u8]>, i64)) -> Result<Reading> {
    let kafka = KafkaConfig { bootstrap: place.kafka.clone(), ..KafkaConfig::default() };
    let from: Vec<_> = partitions(place).into_iter().map(|id| (id, None)).collect();
    let (mut meter, mut records) = (None, 0);
    let reader = ChangelogReader::new(&kafka, &place.group)?;
    let counting = |id: &TopicPartition, key: &[u8], value: Option<&[u8]>, offset| {
        meter.get_or_insert_with(Meter::start);
        records += 1;
        each(id, key, value, offset);
    };
    let reached = reader.read(&from, &AtomicBool::new(false), counting, |_| ())?;
    Ok(Reading { meter: meter.context("an empty changelog")?, records, reached })
}
