//! How records are taken over: many at a time, partition by partition, in batches that are no larger than they may be.

use std::time::Duration;

use headwater::{TopicPartition, spi::Record};
use rdkafka::consumer::Consumer as _;

use super::{
    health::warn_lost,
    membership::group_consumer::GroupConsumer,
    offsets::topic_identity::KnownTopicIds,
    outlets::Outlets,
    partition::{OffsetVerdict, Partitions},
};
use crate::kafka::{
    config::ConsumerConfig,
    librdkafka::{
        self,
        fetch::{FetchQueue, Message},
    },
};

/// How long a round waits for records, and so how long the engine waits to be heard.
pub(crate) const ROUND: Duration = Duration::from_millis(20);

/// What was taken since the last seal.
#[derive(Debug, Default)]
struct Round {
    bytes: usize,
    records: usize,
}

impl Round {
    /// Counts a record; whether that is enough.
    fn add(&mut self, record: &Record, config: &ConsumerConfig) -> bool {
        self.bytes += record.size();
        self.records += 1;
        self.is_full(config)
    }

    fn is_full(&self, config: &ConsumerConfig) -> bool {
        self.records >= config.batch_records || self.bytes >= config.batch_bytes
    }
}

/// Takes over what librdkafka has fetched.
pub(crate) struct Fetcher {
    config: ConsumerConfig,
    /// Until the consumer is closed.
    queue: Option<FetchQueue>,
    round: Round,
}

impl Fetcher {
    pub(crate) fn new(config: &ConsumerConfig) -> Self {
        Self { config: config.clone(), queue: None, round: Round::default() }
    }

    /// Makes the queue that records come to.
    pub(crate) fn equip(&mut self, consumer: &GroupConsumer, outlets: &mut Outlets) {
        self.queue = FetchQueue::new(consumer.client());
        if self.queue.is_none() {
            outlets.fail("there is no memory for a kafka consumer".to_owned());
        }
    }

    /// Lets the records of these partitions come to our queue; of a consumer that is closing nobody takes any.
    pub(crate) fn attach<'a>(
        &self,
        consumer: &GroupConsumer,
        mut names: impl Iterator<Item = &'a TopicPartition>,
        outlets: &mut Outlets,
    ) {
        let Some(queue) = &self.queue else { return };
        if !names.all(|name| queue.attach(consumer.client(), name)) {
            outlets.fail("there is no memory for the queues of assigned partitions".to_owned());
        }
    }

    /// Whether librdkafka has anything to say beside records.
    pub(crate) fn has_events(&self) -> bool {
        self.queue.as_ref().is_some_and(FetchQueue::has_events)
    }

    /// What has been fetched, a part of it; at least one message if one comes within the time.
    pub(crate) fn fetched<'a>(&self, consumer: &'a GroupConsumer, wait: Duration) -> Vec<Message<'a>> {
        self.queue.as_ref().map(|queue| queue.take(consumer.client(), wait)).unwrap_or_default()
    }

    /// Takes over records of one partition, and seals each time that there is enough for a batch.
    pub(crate) fn take(
        &mut self,
        consumer: &GroupConsumer,
        run: &[Message<'_>],
        partitions: &mut Partitions,
        ids: &mut KnownTopicIds,
        outlets: &mut Outlets,
    ) {
        let (name, number) = (run[0].topic(), run[0].partition());
        let mut left = run.iter();
        while left.len() > 0 {
            let Some((topic, partition)) = partitions.find(&name, number) else { return };
            let mut lost = 0;
            for message in left.by_ref() {
                match partition.accept(message.offset(), || librdkafka::log_start(consumer.client(), &name, number)) {
                    OffsetVerdict::Stale => {}
                    OffsetVerdict::Backwards { expected } => {
                        let name = TopicPartition::new(topic, number);
                        // What came before it counts.
                        self.seal(partitions, outlets);
                        return ids.doubt(partitions, &outlets.group, &name, (message.offset(), expected));
                    }
                    OffsetVerdict::Take { lost: before, .. } => {
                        lost += before;
                        let record = message.record(&topic);
                        let full = self.round.add(&record, &self.config);
                        partition.push(record);
                        if full {
                            break;
                        }
                    }
                }
            }
            if lost > 0 {
                warn_lost(&outlets.group, &name, number, lost);
            }
            if self.round.is_full(&self.config) {
                self.seal(partitions, outlets);
            }
        }
    }

    /// Lets what was taken over go to the engine.
    pub(crate) fn seal(&mut self, partitions: &mut Partitions, outlets: &mut Outlets) {
        outlets.queue(partitions.seal());
        self.round = Round::default();
    }

    /// The queue may not outlive the consumer.
    pub(crate) fn end(&mut self) {
        self.queue = None;
    }
}
