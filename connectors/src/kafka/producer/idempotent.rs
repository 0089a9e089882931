//! An idempotent producer with one completion per batch.
//!
//! Every record that was handed over ends as an acknowledgement or as an error of its batch, also when the producer
//! is closed or replaced: what is still queued then is purged, and purging reports each record.

mod delivery;

use std::{
    ffi::CStr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use headwater::{Origin, spi::Outgoing};
use rdkafka::producer::Producer as _;

use self::delivery::{BatchState, Context, Delivery};
use super::core::{
    Core, ProducerClient,
    flush::give_up,
    partition_counts::ask_aside,
    produce_error::{BatchError, BatchErrors, ProduceError},
};
use crate::kafka::{
    config::KafkaConfig, consumer::membership::lease::PublishPermit, error::KafkaError, librdkafka::produce::produce,
};

/// How long to wait for room in a full queue before trying again.
const ROOM_WAIT: Duration = Duration::from_millis(5);

/// A producer; clones share one connection.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

/// Records that were not acknowledged when the producer was closed; their batches ended with errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} records were not acknowledged in time")]
pub struct CloseError(pub usize);

struct Shared {
    core: Core,
    client: Mutex<Slot>,
}

/// The client that a producer has.
enum Slot {
    /// None before the first record: a client asks for a producer id as soon as it is there, and a process that publishes nothing
    /// need not have the right to.
    Unused,
    Open(Arc<Client>),
    Closed,
}

type Client = ProducerClient<Context>;

impl Producer {
    /// A producer for this cluster. It connects when it is given the first record.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(config: &KafkaConfig) -> Result<Self, KafkaError> {
        let core = Core::new(config, config.producer_of_members()?, config.producer.delivery_timeout);
        Ok(Self { shared: Arc::new(Shared { core, client: Mutex::new(Slot::Unused) }) })
    }

    /// Publishes a batch in this order and waits until every record of it is acknowledged or has failed.
    /// While the queue is full it waits for room. Dropping the future does not take back what was handed over.
    ///
    /// A batch that the broker refuses as too large is sent again in smaller ones, until a record fails alone, and so is all that
    /// stands behind it in this call: of what had passed a suffix is there again. `batch_bytes` below the topic's limit avoids it.
    ///
    /// # Errors
    /// Each record that is not on its topic, by index; all others are.
    pub async fn send(&self, records: &[Outgoing]) -> Result<(), BatchErrors> {
        self.send_under(records, &PublishPermit::unconditional()).await
    }

    /// The same for what a member of a group has read, as long as its right to it stands; the rest is an error that passes.
    pub(crate) async fn send_under(&self, records: &[Outgoing], permit: &PublishPermit) -> Result<(), BatchErrors> {
        if records.is_empty() {
            return Ok(());
        }
        let mut errors = self.publish(records, 0, permit).await;
        while self.shared.core.narrow(&errors, records) {
            let first = errors.iter().find(|(_, error)| error.is_too_large()).map_or(0, |(index, _)| *index);
            self.shared.replace();
            errors.retain(|(index, _)| *index < first);
            errors.extend(self.publish(records, first, permit).await);
        }
        if errors.is_empty() { Ok(()) } else { Err(self.shared.core.errors(errors, records)) }
    }

    /// Publishes one record as [`Producer::send`] does, and says where it stands, with the timestamp that it has there.
    ///
    /// # Errors
    /// Why it is not on its topic.
    pub async fn place(&self, record: &Outgoing) -> Result<Origin, BatchError> {
        let batch = Arc::new(BatchState::new(1));
        let errors = self.publish_as(&batch, std::slice::from_ref(record), 0, &PublishPermit::unconditional()).await;
        match (errors.into_iter().next(), batch.place()) {
            (Some(error), _) => Err(self.shared.core.error(error, record)),
            (None, Some(origin)) => Ok(origin),
            (None, None) => {
                let reason = "the broker acknowledged the record without saying where it stands".to_owned();
                Err(BatchError { index: 0, reason, permanent: false })
            }
        }
    }

    /// Publishes these records from `first` on, in this order, and gives back those that failed.
    async fn publish(&self, records: &[Outgoing], first: usize, permit: &PublishPermit) -> Vec<(usize, ProduceError)> {
        self.publish_as(&Arc::new(BatchState::new(records.len() - first)), records, first, permit).await
    }

    async fn publish_as(
        &self,
        batch: &Arc<BatchState>,
        records: &[Outgoing],
        first: usize,
        permit: &PublishPermit,
    ) -> Vec<(usize, ProduceError)> {
        match self.shared.current() {
            Ok(client) => {
                self.shared.hand_over((&client, permit), records, first, batch).await;
                // The client is held until here: one that is dropped purges its queue.
                self.shared.core.wait(client.client(), batch.settled()).await;
            }
            Err(error) => (first..records.len()).for_each(|index| batch.settle(index, Err(error.clone()))),
        }
        let errors = batch.take_errors();
        self.shared.core.recount(&errors, records);
        self.shared.replace_if_fatal(&errors);
        errors
    }

    /// Waits until all that was sent is acknowledged, at most `timeout`, and closes the producer for every clone.
    ///
    /// # Errors
    /// How many records were not acknowledged in time: their batches end with errors.
    pub async fn close(&self, timeout: Duration) -> Result<(), CloseError> {
        let Slot::Open(client) = std::mem::replace(&mut *self.shared.client(), Slot::Closed) else { return Ok(()) };
        let flush = move || {
            let flushed = client.flush(timeout);
            let left = usize::try_from(client.in_flight_count()).unwrap_or(0);
            give_up(&client);
            if flushed.is_err() && left > 0 { Err(CloseError(left)) } else { Ok(()) }
        };
        // A thread that panicked is no reason to claim that everything was delivered.
        tokio::task::spawn_blocking(flush).await.unwrap_or(Err(CloseError(0)))
    }
}

impl Shared {
    fn client(&self) -> MutexGuard<'_, Slot> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Result<Arc<Client>, ProduceError> {
        let mut current = self.client();
        if matches!(*current, Slot::Unused) {
            let client = self.core.client(Context::default()).map_err(ProduceError::Closed)?;
            *current = Slot::Open(Arc::new(client));
        }
        current.open().cloned().ok_or_else(|| ProduceError::Closed("the producer is closed".to_owned()))
    }

    /// Hands the records from `first` on over; what is not taken is settled at once.
    async fn hand_over(
        &self,
        (client, permit): (&Arc<Client>, &PublishPermit),
        records: &[Outgoing],
        first: usize,
        batch: &Arc<BatchState>,
    ) {
        // Of all of them before the first is handed over, so that none overtakes one whose topic is new.
        let uncounted = self.count(client, &records[first..]).await;
        let mut hand_over = self.core.hand_over(permit);
        for (index, record) in records.iter().enumerate().skip(first) {
            let topic = uncounted.iter().find(|(topic, _)| record.partition.is_some() && *topic == record.topic);
            let taken = match topic {
                Some((_, error)) => Err(error.clone()),
                None => {
                    let produce = |name: &CStr, partition| {
                        let delivery = Box::new(Delivery { batch: Arc::clone(batch), index });
                        self.produce(client, (name, partition), record, delivery)
                    };
                    hand_over.next(record, produce, || Some(ROOM_WAIT)).await
                }
            };
            if let Err(error) = taken {
                batch.settle(index, Err(error));
            }
        }
    }

    /// Hands one record to the client, if that is still the one.
    fn produce(
        &self,
        client: &Arc<Client>,
        (name, partition): (&CStr, i32),
        record: &Outgoing,
        delivery: Box<Delivery>,
    ) -> Result<(), ProduceError> {
        {
            // Held until it is handed over: what is handed over before the producer is closed is reported by that,
            // and nothing may be handed over after.
            let current = self.client();
            if current.open().is_some_and(|current| Arc::ptr_eq(current, client)) {
                let taken = produce(client.client(), name, record, partition, delivery);
                return taken.map_err(|(code, _)| ProduceError::untaken(code));
            }
        }
        self.current().and_then(|_| Err(ProduceError::Closed("the producer failed and was built anew".to_owned())))
    }

    /// Learns how many partitions those topics have whose partition a record names; why not, of those it cannot.
    async fn count(&self, client: &Arc<Client>, records: &[Outgoing]) -> Vec<(Arc<str>, ProduceError)> {
        let mut errors: Vec<(Arc<str>, ProduceError)> = Vec::new();
        for (_, record) in self.core.uncounted(records) {
            let topic = &record.topic;
            if errors.iter().any(|(failed, _)| failed == topic) {
                continue;
            }
            let ask = || async {
                let asked = ask_aside(client, topic).await;
                // Who waits for an answer is told when the producer was closed meanwhile.
                self.current().and(asked)
            };
            let deadline = Instant::now() + self.core.patience;
            if let Err(error) = self.core.count(client.client(), topic, deadline, ask).await {
                errors.push((Arc::clone(topic), error));
            }
        }
        errors
    }

    /// After a fatal error an idempotent producer refuses everything: a new one, with an id of its own, takes over.
    fn replace_if_fatal(&self, errors: &[(usize, ProduceError)]) {
        if errors.is_empty() {
            return;
        }
        let mut current = self.client();
        let Some(fatal) = current.open().and_then(|client| client.client().fatal_error()) else { return };
        tracing::warn!(code = ?fatal.0, reason = fatal.1, "the kafka producer failed for good and is built anew");
        self.replace_in(&mut current);
    }

    /// A new one takes over, unless the producer is closed; who has handed records to the old one still waits for those.
    fn replace(&self) {
        let mut current = self.client();
        if current.open().is_some() {
            self.replace_in(&mut current);
        }
    }

    fn replace_in(&self, current: &mut Slot) {
        match self.core.client(Context::default()) {
            Ok(client) => *current = Slot::Open(Arc::new(client)),
            Err(error) => tracing::error!(%error, "the kafka producer could not be built anew: records wait"),
        }
    }
}

impl Slot {
    fn open(&self) -> Option<&Arc<Client>> {
        if let Self::Open(client) = self { Some(client) } else { None }
    }
}
