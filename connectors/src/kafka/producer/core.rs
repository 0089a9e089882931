//! What every producer stands on: its settings and what it has learned of the cluster; counting, hand-over, waits.
//!
//! It never knows what its records are together: a batch, a prefix, a transaction. That is each face's own, and so are the client
//! that a face has at the moment, and when it takes another.

pub(crate) mod hand_over;

pub(crate) mod batch_size;
pub(crate) mod flush;
pub(crate) mod partition_counts;
pub(crate) mod produce_error;
pub(crate) mod reports;

use std::{
    borrow::Borrow,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use headwater::spi::Outgoing;
use rdkafka::{
    client::{Client, ClientContext},
    producer::{ProducerContext, ThreadedProducer},
};

use self::{
    batch_size::BatchBytes,
    hand_over::HandOver,
    partition_counts::{CountAnswer, PartitionCounts},
    produce_error::{BatchError, BatchErrors, ProduceError},
};
use crate::kafka::{
    config::{KafkaConfig, client_settings::ClientSettings},
    consumer::membership::lease::PublishPermit,
    credentials,
    librdkafka::{bootstrap::Bootstrap, live_clients::ClientHandle},
};

/// So long takes what is done for a client that reaches a broker.
const SLOW: Duration = Duration::from_secs(2);
/// Between two questions how many partitions a topic has, while nobody answers.
const COUNT_WAIT: Duration = Duration::from_millis(200);

/// The client that a producer has at the moment; a thread of its own takes the reports.
pub(crate) type ProducerClient<C> = ClientHandle<ThreadedProducer<C>>;

/// What a producer knows, whichever client it has at the moment.
pub(crate) struct Core {
    settings: ClientSettings,
    batches: BatchBytes,
    max_bytes: u32,
    counts: PartitionCounts,
    bootstrap: Bootstrap,
    /// How long an outage is ridden out.
    pub(crate) patience: Duration,
}

impl Core {
    /// Of clients with these settings.
    pub(crate) fn new(config: &KafkaConfig, settings: ClientSettings, patience: Duration) -> Self {
        Self {
            settings,
            batches: BatchBytes::new(config.producer.batch_bytes),
            max_bytes: config.max_record_bytes,
            counts: PartitionCounts::default(),
            bootstrap: Bootstrap::new(&config.bootstrap),
            patience,
        }
    }

    /// A new client, whose batches are as small as is known to be needed. Does not connect yet.
    ///
    /// # Errors
    /// When the settings cannot work.
    pub(crate) fn client<C: ProducerContext + 'static>(&self, context: C) -> Result<ProducerClient<C>, String> {
        credentials::create(&self.batches.applied(&self.settings), context)
    }

    /// Waits for what a client does. One that takes long may know no broker any more: it is told the bootstrap servers again.
    pub(crate) async fn wait<C: ClientContext, T>(&self, client: &Client<C>, work: impl Future<Output = T>) -> T {
        let mut work = pin!(work);
        loop {
            match tokio::time::timeout(SLOW, &mut work).await {
                Ok(done) => return done,
                Err(_) => self.bootstrap.again(client),
            }
        }
    }

    /// From now on records for these topics which name no partition go where their key has one of so many.
    pub(crate) fn fix_counts(&mut self, topics: impl IntoIterator<Item = String>, count: i32) {
        self.counts.fix(topics, count);
    }

    /// Those records, with their places among all, that name a partition of a topic whose partitions are not counted.
    pub(crate) fn uncounted<'a, R: Borrow<Outgoing>>(
        &'a self,
        records: &'a [R],
    ) -> impl Iterator<Item = (usize, &'a Outgoing)> {
        let records = records.iter().map(Borrow::borrow).enumerate();
        records.filter(|(_, record)| record.partition.is_some() && self.counts.get(&record.topic).is_none())
    }

    /// Learns how many partitions a topic has: `ask` asks the cluster through this client, until it answers or the time is over.
    ///
    /// # Errors
    /// Why that is not known: what `ask` says, what the cluster does, or that it did not answer.
    pub(crate) async fn count<C: ClientContext, F: Future<Output = Result<CountAnswer, ProduceError>>>(
        &self,
        client: &Client<C>,
        topic: &Arc<str>,
        deadline: Instant,
        ask: impl Fn() -> F,
    ) -> Result<(), ProduceError> {
        loop {
            match ask().await? {
                CountAnswer::Count(count) => {
                    self.counts.insert(topic, count);
                    return Ok(());
                }
                CountAnswer::Refused(error) => return Err(ProduceError::Client(error)),
                CountAnswer::Nobody => self.bootstrap.again(client),
            }
            if Instant::now() >= deadline {
                return Err(ProduceError::Closed(format!(
                    "the partitions of topic {topic} cannot be counted: the broker may be down"
                )));
            }
            tokio::time::sleep(COUNT_WAIT).await;
        }
    }

    /// Hands records over one after another, as long as the right to it stands.
    pub(crate) fn hand_over<'a>(&'a self, permit: &'a PublishPermit) -> HandOver<'a> {
        HandOver::new(&self.counts, permit)
    }

    /// Whether smaller batches may help some of the records that were refused as too large: then the next client's are.
    pub(crate) fn narrow<R: Borrow<Outgoing>>(&self, errors: &[(usize, ProduceError)], records: &[R]) -> bool {
        self.batches.narrow(errors, |index| records[index].borrow())
    }

    /// Whether a record travels in a batch of its own.
    pub(crate) fn is_alone(&self, record: &Outgoing) -> bool {
        self.batches.is_alone(record)
    }

    /// Topics that are not what they were when their partitions were counted are counted anew for the next records.
    pub(crate) fn recount<R: Borrow<Outgoing>>(&self, errors: &[(usize, ProduceError)], records: &[R]) {
        let another = errors.iter().filter(|(_, error)| error.is_of_another_topic());
        another.for_each(|(index, _)| self.counts.forget(&records[*index].borrow().topic));
    }

    /// What a record failed of, in words.
    pub(crate) fn error(&self, (index, error): (usize, ProduceError), record: &Outgoing) -> BatchError {
        error.describe(index, record, self.max_bytes)
    }

    /// What records failed of, in words.
    pub(crate) fn errors<R: Borrow<Outgoing>>(&self, errors: Vec<(usize, ProduceError)>, records: &[R]) -> BatchErrors {
        let error = |error: (usize, ProduceError)| {
            let record = records[error.0].borrow();
            self.error(error, record)
        };
        BatchErrors(errors.into_iter().map(error).collect())
    }
}
