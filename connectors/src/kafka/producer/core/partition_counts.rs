//! How many partitions topics have, asked once of each.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use headwater::spi::{Outgoing, partition_for};
use rdkafka::{
    client::{Client, ClientContext},
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
    producer::{Producer as _, ProducerContext, ThreadedProducer},
};

use super::produce_error::ProduceError;
use crate::kafka::librdkafka::live_clients::ClientHandle;

/// Topics remembered at most; beyond that all are asked about anew.
const KEPT: usize = 10_000;
/// How long one question may take, and so how long a closed producer may hold up the end of the process.
const ANSWER: Duration = Duration::from_secs(2);

/// Partition counts by topic. One that has grown meanwhile keeps its old count here until the process ends: a number
/// that is valid, and the same for all records of a partition.
#[derive(Default)]
pub(crate) struct PartitionCounts {
    known: Mutex<HashMap<Arc<str>, i32>>,
    /// Topics whose records go to partitions by a count that was decided once, whatever the cluster says meanwhile: with another
    /// one a key would come to another partition, and get a second state there.
    fixed: Vec<(String, i32)>,
}

/// What the cluster says.
pub(crate) enum CountAnswer {
    /// So many, at least 1.
    Count(i32),
    /// Another question changes nothing now.
    Refused(ClientError),
    /// Nothing that helps; it may later.
    Nobody,
}

impl PartitionCounts {
    /// From now on these topics have so many partitions, at least 1.
    pub(crate) fn fix(&mut self, topics: impl IntoIterator<Item = String>, count: i32) {
        self.fixed = topics.into_iter().map(|topic| (topic, count)).collect();
    }

    /// Where a record goes; -1 where the client's own partitioner says it.
    pub(crate) fn place(&self, record: &Outgoing) -> i32 {
        match record.partition {
            // Without a count, since another batch has just forgotten it, the number itself: the broker says if it is none.
            Some(number) => self.get(&record.topic).map_or(number.max(0), |count| number.rem_euclid(count)),
            None => self.place_of_key(record),
        }
    }

    fn place_of_key(&self, record: &Outgoing) -> i32 {
        let fixed = self.fixed.iter().find(|(topic, _)| **topic == *record.topic);
        fixed.zip(record.key.as_deref()).map_or(-1, |((_, count), key)| partition_for(key, *count))
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Arc<str>, i32>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, topic: &str) -> Option<i32> {
        self.known().get(topic).copied()
    }

    pub(crate) fn insert(&self, topic: &Arc<str>, count: i32) {
        let mut known = self.known();
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(Arc::clone(topic), count);
    }

    pub(crate) fn forget(&self, topic: &str) {
        self.known().remove(topic);
    }
}

/// Asks the cluster on a thread that may block.
///
/// # Errors
/// When there is no such thread any more.
pub(crate) async fn ask_aside<C: ProducerContext + 'static>(
    client: &Arc<ClientHandle<ThreadedProducer<C>>>,
    topic: &Arc<str>,
) -> Result<CountAnswer, ProduceError> {
    let (client, topic) = (Arc::clone(client), Arc::clone(topic));
    let asked = tokio::task::spawn_blocking(move || ask(client.client(), &topic)).await;
    asked.map_err(|error| ProduceError::Closed(error.to_string()))
}

/// Asks the cluster; blocks.
pub(crate) fn ask<C: ClientContext>(client: &Client<C>, topic: &str) -> CountAnswer {
    let refused = |code| CountAnswer::Refused(ClientError::MessageProduction(code));
    let metadata = match client.fetch_metadata(Some(topic), ANSWER) {
        Ok(metadata) => metadata,
        Err(error @ ClientError::Nul(_)) => return CountAnswer::Refused(error),
        Err(_) => return CountAnswer::Nobody,
    };
    let Some(topic) = metadata.topics().first() else { return CountAnswer::Nobody };
    match topic.error().map(Code::from) {
        None => match i32::try_from(topic.partitions().len()) {
            Ok(count @ 1..) => CountAnswer::Count(count),
            _ => CountAnswer::Nobody,
        },
        // A topic that is just being created has none of it yet.
        Some(Code::LeaderNotAvailable) => CountAnswer::Nobody,
        Some(code) => refused(code),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a key goes by another count than the one that was fixed, or a record of another topic, or without a key, by any.
    #[test]
    fn a_key_goes_by_the_count_that_was_fixed() {
        let mut fixed = PartitionCounts::default();
        let record = |topic: &str, key: Option<&str>| Outgoing {
            topic: topic.into(),
            partition: None,
            key: key.map(|key| key.as_bytes().to_vec()),
            value: None,
            headers: headwater::Headers::default(),
        };
        assert_eq!(fixed.place(&record("g.a.repartition", Some("customer-7"))), -1);
        fixed.fix(["g.a.repartition".to_owned(), "g.b.repartition".to_owned()], 6);
        for n in 0..50 {
            let key = format!("customer-{n}");
            assert_eq!(fixed.place(&record("g.b.repartition", Some(&key))), partition_for(key.as_bytes(), 6));
        }
        assert_eq!(fixed.place(&record("g.a.repartition", None)), -1);
        assert_eq!(fixed.place(&record("events.a", Some("customer-7"))), -1);
    }
}
