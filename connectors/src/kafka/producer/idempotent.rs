//! An idempotent producer with one completion per batch.
//!
//! Every record that was handed over ends as an acknowledgement or as an error of its batch, also when the producer
//! is closed or replaced: what is still queued then is purged, and purging reports each record.

use std::{
    ffi::{CStr, CString, NulError},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use headwater::{Origin, Outgoing, TopicPartition};
use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
    message::{BorrowedMessage, DeliveryResult, Message as _},
    producer::{Producer as _, ProducerContext, PurgeConfig, ThreadedProducer},
};

use super::core::{
    batch_size::BatchBytes,
    fault::{BatchError, BatchErrors, BatchState, Delivery, Fault},
    partition_counts::{Asked, Counts},
};
use crate::kafka::{
    config::KafkaConfig,
    consumer::membership::lease::Held,
    error::KafkaError,
    librdkafka::{self, bootstrap::Bootstrap},
    logs,
};

/// How long to wait for room in a full queue before trying again.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(5);
/// Between two questions how many partitions a topic has, while nobody answers.
const COUNT_WAIT: Duration = Duration::from_millis(200);
/// A batch that takes longer may have no broker left to go to.
const SLOW: Duration = Duration::from_secs(5);
/// After so many records it is asked again whether the rest may be published.
const STRETCH: usize = 16;

/// A producer; clones share one connection.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

/// Records that were not acknowledged when the producer was closed; their batches ended with errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} records were not acknowledged in time")]
pub struct Undelivered(pub usize);

impl Producer {
    /// A producer for this cluster. Does not connect yet.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(config: &KafkaConfig) -> Result<Self, KafkaError> {
        let settings = config.producer_of_members()?;
        let batches = BatchBytes::new(config.producer.batch_bytes);
        let client = connect(&settings).map_err(|error| KafkaError::Config(error.to_string()))?;
        let shared = Shared {
            settings,
            batches,
            max_bytes: config.max_record_bytes,
            patience: config.producer.delivery_timeout,
            counts: Counts::default(),
            bootstrap: Bootstrap::new(&config.bootstrap),
            client: Mutex::new(Some(Arc::new(client))),
        };
        Ok(Self { shared: Arc::new(shared) })
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
        self.send_under(records, &Held::free()).await
    }

    /// The same for what a member of a group has read, as long as its right to it stands; the rest is an error that passes.
    pub(crate) async fn send_under(&self, records: &[Outgoing], held: &Held) -> Result<(), BatchErrors> {
        if records.is_empty() {
            return Ok(());
        }
        let all: Vec<usize> = (0..records.len()).collect();
        let mut faults = self.publish(records, &all, held).await;
        while self.shared.batches.narrow(&faults, |index| &records[index]) {
            let first = faults.iter().find(|(_, fault)| fault.is_too_large()).map_or(0, |(index, _)| *index);
            self.shared.replace();
            faults.retain(|(index, _)| *index < first);
            let rest: Vec<usize> = (first..records.len()).collect();
            faults.extend(self.publish(records, &rest, held).await);
        }
        if faults.is_empty() {
            return Ok(());
        }
        let max_bytes = self.shared.max_bytes;
        let describe = |(index, fault): (usize, Fault)| fault.describe(index, &records[index], max_bytes);
        Err(BatchErrors(faults.into_iter().map(describe).collect()))
    }

    /// Publishes one record as [`Producer::send`] does, and says where it stands, with the timestamp that it has there.
    ///
    /// # Errors
    /// Why it is not on its topic.
    pub async fn place(&self, record: &Outgoing) -> Result<Origin, BatchError> {
        let batch = Arc::new(BatchState::new(1));
        let faults = self.publish_as(&batch, std::slice::from_ref(record), &[0], &Held::free()).await;
        match (faults.into_iter().next(), batch.place()) {
            (Some((index, fault)), _) => Err(fault.describe(index, record, self.shared.max_bytes)),
            (None, Some(origin)) => Ok(origin),
            (None, None) => {
                let reason = "the broker acknowledged the record without saying where it stands".to_owned();
                Err(BatchError { index: 0, reason, permanent: false })
            }
        }
    }

    /// Publishes these records in this order, and gives back those that failed.
    async fn publish(&self, records: &[Outgoing], indices: &[usize], held: &Held) -> Vec<(usize, Fault)> {
        self.publish_as(&Arc::new(BatchState::new(indices.len())), records, indices, held).await
    }

    async fn publish_as(
        &self,
        batch: &Arc<BatchState>,
        records: &[Outgoing],
        indices: &[usize],
        held: &Held,
    ) -> Vec<(usize, Fault)> {
        match self.shared.current() {
            Ok(client) => {
                // Of all of them before the first is handed over, so that none overtakes one whose topic is new.
                let uncounted = self.shared.count(&client, records, indices).await;
                let mut names = Names::default();
                let mut stands = Ok(());
                for (nth, index) in indices.iter().enumerate() {
                    let record = &records[*index];
                    if nth % STRETCH == 0 && stands.is_ok() {
                        stands = held.stands().await;
                    }
                    if let Err(why) = &stands {
                        batch.settle(*index, Err(Fault::Closed(why.clone())));
                        continue;
                    }
                    match uncounted.iter().find(|(topic, _)| record.partition.is_some() && *topic == record.topic) {
                        Some((_, fault)) => batch.settle(*index, Err(fault.clone())),
                        None => match names.of(&record.topic) {
                            Ok(name) => self.shared.enqueue((&client, held), name, record, *index, batch).await,
                            Err(error) => batch.settle(*index, Err(Fault::Client(ClientError::Nul(error)))),
                        },
                    }
                }
                // The client is held until here: one that is dropped purges its queue.
                if tokio::time::timeout(SLOW, batch.settled()).await.is_err() {
                    self.shared.bootstrap.again(client.client());
                    batch.settled().await;
                }
            }
            Err(reason) => indices.iter().for_each(|index| batch.settle(*index, Err(Fault::Closed(reason.clone())))),
        }
        let faults = batch.take_faults();
        faults
            .iter()
            .filter(|(_, fault)| fault.is_of_another_topic())
            .for_each(|(index, _)| self.shared.counts.forget(&records[*index].topic));
        self.shared.replace_if_fatal(&faults);
        faults
    }

    /// Waits until all that was sent is acknowledged, at most `timeout`, and closes the producer for every clone.
    ///
    /// # Errors
    /// How many records were not acknowledged in time: their batches end with errors.
    pub async fn close(&self, timeout: Duration) -> Result<(), Undelivered> {
        let Some(client) = self.shared.client().take() else { return Ok(()) };
        let flush = move || {
            let flushed = client.flush(timeout);
            let left = usize::try_from(client.in_flight_count()).unwrap_or(0);
            client.purge(PurgeConfig::default().queue().inflight());
            // Purging reports every record; this delivers the reports.
            let reported = client.flush(Duration::from_secs(1));
            match (flushed, reported) {
                (Err(_), _) if left > 0 => Err(Undelivered(left)),
                _ => Ok(()),
            }
        };
        // A thread that panicked is no reason to claim that everything was delivered.
        tokio::task::spawn_blocking(flush).await.unwrap_or(Err(Undelivered(0)))
    }
}

/// The latest topic's name as C has it: records of one topic mostly follow each other.
#[derive(Default)]
pub(crate) struct Names(Option<(Arc<str>, CString)>);

impl Names {
    pub(crate) fn of(&mut self, topic: &Arc<str>) -> Result<&CStr, NulError> {
        let latest = self.0.take().filter(|(known, _)| known == topic);
        let name = match latest {
            Some((_, name)) => name,
            None => CString::new(&**topic)?,
        };
        Ok(&self.0.insert((Arc::clone(topic), name)).1)
    }
}

struct Shared {
    settings: ClientConfig,
    batches: BatchBytes,
    max_bytes: u32,
    /// How long an outage is ridden out.
    patience: Duration,
    counts: Counts,
    bootstrap: Bootstrap,
    client: Mutex<Option<Arc<Client>>>,
}

type Client = ThreadedProducer<Context>;

fn connect(settings: &ClientConfig) -> Result<Client, ClientError> {
    settings.create_with_context(Context::default())
}

impl Shared {
    fn client(&self) -> MutexGuard<'_, Option<Arc<Client>>> {
        self.client.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Result<Arc<Client>, String> {
        self.client().clone().ok_or_else(|| "the producer is closed".to_owned())
    }

    /// Learns how many partitions those topics have whose partition a record names; why not, of those it cannot.
    async fn count(&self, client: &Arc<Client>, records: &[Outgoing], indices: &[usize]) -> Vec<(Arc<str>, Fault)> {
        let named = indices.iter().map(|index| &records[*index]).filter(|record| record.partition.is_some());
        let mut missing: Vec<Arc<str>> =
            named.filter(|record| self.counts.get(&record.topic).is_none()).map(|r| Arc::clone(&r.topic)).collect();
        missing.sort_unstable();
        missing.dedup();
        let mut faults = Vec::new();
        for topic in missing {
            if let Err(fault) = self.count_one(client, &topic).await {
                faults.push((topic, fault));
            }
        }
        faults
    }

    async fn count_one(&self, client: &Arc<Client>, topic: &Arc<str>) -> Result<(), Fault> {
        let deadline = Instant::now() + self.patience;
        loop {
            let (asked, name) = (Arc::clone(client), Arc::clone(topic));
            let answer = tokio::task::spawn_blocking(move || Counts::ask(asked.client(), &name)).await;
            match answer.map_err(|error| Fault::Closed(error.to_string()))? {
                Asked::Count(count) => {
                    self.counts.keep(topic, count);
                    return Ok(());
                }
                Asked::Refused(error) => return Err(Fault::Client(error)),
                Asked::Nobody => self.bootstrap.again(client.client()),
            }
            self.current().map_err(Fault::Closed)?;
            if Instant::now() > deadline {
                return Err(Fault::Client(ClientError::MessageProduction(Code::MessageTimedOut)));
            }
            tokio::time::sleep(COUNT_WAIT).await;
        }
    }

    /// Hands one record to librdkafka, which copies it; an error of its own settles the record at once.
    async fn enqueue(
        &self,
        (client, held): (&Arc<Client>, &Held),
        topic: &CStr,
        record: &Outgoing,
        index: usize,
        batch: &Arc<BatchState>,
    ) {
        let mut delivery = Box::new(Delivery { batch: Arc::clone(batch), index });
        let partition = record.partition.map_or(-1, |number| self.counts.place(&record.topic, number));
        loop {
            let sent = {
                // Held until it is handed over: what is handed over before the producer is closed is reported by that,
                // and nothing may be handed over after.
                let current = self.client();
                if !current.as_ref().is_some_and(|current| Arc::ptr_eq(current, client)) {
                    break;
                }
                librdkafka::produce::produce(client.client(), topic, record, partition, delivery)
            };
            match sent {
                Ok(()) => return,
                Err((Code::QueueFull, same)) => {
                    delivery = same;
                    tokio::time::sleep(QUEUE_FULL_WAIT).await;
                    if let Err(why) = held.stands().await {
                        return batch.settle(index, Err(Fault::Closed(why)));
                    }
                }
                Err((Code::MessageSizeTooLarge, _)) => return batch.settle(index, Err(Fault::Oversize)),
                Err((code, _)) => {
                    return batch.settle(index, Err(Fault::Client(ClientError::MessageProduction(code))));
                }
            }
        }
        let why = self.current().err().unwrap_or_else(|| "the producer failed and was built anew".to_owned());
        batch.settle(index, Err(Fault::Closed(why)));
    }

    /// After a fatal error an idempotent producer refuses everything: a new one, with an id of its own, takes over.
    fn replace_if_fatal(&self, faults: &[(usize, Fault)]) {
        if faults.is_empty() {
            return;
        }
        let mut current = self.client();
        let Some(fatal) = current.as_ref().and_then(|client| client.client().fatal_error()) else { return };
        tracing::warn!(code = ?fatal.0, reason = fatal.1, "the kafka producer failed for good and is built anew");
        self.replace_in(&mut current);
    }

    /// A new one takes over, unless the producer is closed; who has handed records to the old one still waits for those.
    fn replace(&self) {
        let mut current = self.client();
        if current.is_some() {
            self.replace_in(&mut current);
        }
    }

    fn replace_in(&self, current: &mut Option<Arc<Client>>) {
        match connect(&self.batches.applied(&self.settings)) {
            Ok(client) => *current = Some(Arc::new(client)),
            Err(error) => tracing::error!(%error, "the kafka producer could not be built anew: records wait"),
        }
    }
}

/// Where an acknowledged record stands. The timestamp is the broker's where the topic has its own.
fn origin(message: &BorrowedMessage<'_>) -> Origin {
    Origin {
        partition: TopicPartition::new(message.topic(), message.partition()),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
    }
}

/// Receives what became of each record, on the producer's polling thread.
#[derive(Default)]
struct Context {
    unreachable: AtomicBool,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        logs::line(level, facility, text);
    }

    /// Said once per outage; the records' own errors follow when their time is over.
    fn error(&self, error: ClientError, reason: &str) {
        if !self.unreachable.swap(true, Ordering::Relaxed) {
            tracing::warn!(%error, reason, "the kafka producer has trouble");
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Delivery>;

    fn delivery(&self, result: &DeliveryResult<'_>, delivery: Box<Delivery>) {
        let fate = match result {
            Ok(message) => {
                self.unreachable.store(false, Ordering::Relaxed);
                delivery.batch.stands(|| origin(message));
                Ok(())
            }
            Err((error, _)) => Err(Fault::Client(error.clone())),
        };
        delivery.batch.settle(delivery.index, fate);
    }
}
