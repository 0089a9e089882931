//! Which keys the payments have, and whether somebody has counted them right.

use std::{collections::HashMap, sync::atomic::AtomicBool};

use anyhow::{Result, ensure};
use headwater::TopicPartition;
use headwater_connectors::kafka::{ChangelogReader, KafkaConfig};

use crate::{equality::Ends, place::Place};

/// Keys, evenly at random, the same in every run.
#[derive(Clone, Copy)]
pub(super) struct Keys {
    keys: u64,
    records: u64,
}

impl Keys {
    pub(super) fn new(keys: u64, records: u64) -> Self {
        Self { keys, records }
    }

    /// The key of the payment of each number.
    pub(super) fn of(self) -> impl Fn(u64) -> String + Send + 'static {
        move |number| key(self.index(number))
    }

    fn index(self, number: u64) -> u64 {
        mix(number) % self.keys
    }

    /// Fails when the last count of each key, of those that were written behind `before`, is not how often it was paid.
    pub(super) fn compare(
        self,
        who: &str,
        place: &Place,
        (topic, before): (&str, &Ends),
        read: fn(&[u8]) -> Result<i64>,
    ) -> Result<()> {
        let mut wanted: HashMap<Vec<u8>, i64> = HashMap::new();
        for number in 0..self.records {
            *wanted.entry(key(self.index(number)).into_bytes()).or_default() += 1;
        }
        let mut found: HashMap<Vec<u8>, i64> = HashMap::with_capacity(wanted.len());
        let mut failed = None;
        let kafka = KafkaConfig { bootstrap: place.kafka.clone(), ..KafkaConfig::default() };
        let from = before.iter().map(|(partition, next)| (TopicPartition::new(topic, partition), Some(next)));
        let each = |_: &TopicPartition, key: &[u8], value: Option<&[u8]>, _| match read(value.unwrap_or_default()) {
            Ok(count) => drop(found.insert(key.to_vec(), count)),
            Err(error) => drop(failed.get_or_insert(error)),
        };
        // It reads committed records only, to where the topic ends.
        let reader = ChangelogReader::new(&kafka, &place.group)?;
        reader.read(&from.collect::<Vec<_>>(), &AtomicBool::new(false), each, |_| ())?;
        failed.map_or(Ok(()), Err)?;
        for (key, wanted) in &wanted {
            let (name, found) = (String::from_utf8_lossy(key), found.get(key));
            ensure!(found == Some(wanted), "{who} counted {found:?} of {name}, which was paid {wanted} times");
        }
        ensure!(found.len() == wanted.len(), "{who} counted {} keys of {}", found.len(), wanted.len());
        Ok(())
    }
}

fn key(index: u64) -> String {
    format!("k{index:08}")
}

/// The finaliser of SplitMix64.
fn mix(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
