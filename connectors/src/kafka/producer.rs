//! An idempotent producer with one completion per batch.
//!
//! Every record that was handed over ends as an acknowledgement or as an error of its batch, also when the producer
//! is closed or replaced: what is still queued then is purged, and purging reports each record.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use headwater::Outgoing;
use rdkafka::{
    ClientConfig, ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
    message::{DeliveryResult, Header, OwnedHeaders},
    producer::{BaseRecord, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer},
};
use tokio::sync::Notify;

use super::{KafkaError, config::KafkaConfig, logs};

/// How long to wait for room in a full queue before trying again.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(5);

/// A producer; clones share one connection.
#[derive(Clone)]
pub struct Producer {
    shared: Arc<Shared>,
}

/// Why records of a batch are not on their topics; those that are not named are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchErrors(pub Vec<BatchError>);

/// Why one record of a batch is not on its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchError {
    /// The record's place in the batch, from 0.
    pub index: usize,
    /// What happened, and what to do.
    pub reason: String,
    /// Whether another try changes nothing.
    pub permanent: bool,
}

/// Records that were not acknowledged when the producer was closed; their batches ended with errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} records were not acknowledged in time")]
pub struct Undelivered(pub usize);

impl fmt::Display for BatchErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_slice() {
            [] => f.write_str("no record failed"),
            [one] => write!(f, "record {}: {}", one.index, one.reason),
            [first, rest @ ..] => write!(f, "record {}: {} (and {} more)", first.index, first.reason, rest.len()),
        }
    }
}

impl std::error::Error for BatchErrors {}

impl Producer {
    /// A producer for this cluster. Does not connect yet.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(config: &KafkaConfig) -> Result<Self, KafkaError> {
        let settings = config.producer()?;
        let client = connect(&settings).map_err(|error| KafkaError::Config(error.to_string()))?;
        let shared = Shared {
            settings,
            max_bytes: config.producer.message_max_bytes,
            client: Mutex::new(Some(Arc::new(client))),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Publishes a batch in this order and waits until every record of it is acknowledged or has failed.
    /// While the queue is full it waits for room. Dropping the future does not take back what was handed over.
    ///
    /// A batch that the broker refuses as too large is sent again record by record, so that one record fails alone; the
    /// others may then come after later ones of this call, which `batch_bytes` below the topic's limit avoids.
    ///
    /// # Errors
    /// Each record that is not on its topic, by index; all others are.
    pub async fn send(&self, records: &[Outgoing]) -> Result<(), BatchErrors> {
        if records.is_empty() {
            return Ok(());
        }
        let all: Vec<usize> = (0..records.len()).collect();
        let mut faults = self.publish(records, &all).await;
        let refused: Vec<usize> = faults.iter().filter(|(_, f)| f.is_too_large()).map(|(index, _)| *index).collect();
        if refused.len() > 1 {
            // A broker refuses a batch as a whole, and does not say for which record.
            faults.retain(|(_, fault)| !fault.is_too_large());
            faults.extend(self.publish_alone(records, &refused).await);
            faults.sort_unstable_by_key(|(index, _)| *index);
        }
        if faults.is_empty() {
            return Ok(());
        }
        let max_bytes = self.shared.max_bytes;
        let describe = |(index, fault): (usize, Fault)| fault.describe(index, &records[index], max_bytes);
        Err(BatchErrors(faults.into_iter().map(describe).collect()))
    }

    /// Publishes these records in this order, and gives back those that failed.
    async fn publish(&self, records: &[Outgoing], indices: &[usize]) -> Vec<(usize, Fault)> {
        let batch = Arc::new(BatchState::new(indices.len()));
        match self.shared.current() {
            Ok(client) => {
                for index in indices {
                    enqueue(&client, &records[*index], *index, &batch).await;
                }
                // The client is held until here: one that is dropped purges its queue.
                batch.settled().await;
            }
            Err(reason) => indices.iter().for_each(|index| batch.settle(*index, Err(Fault::Closed(reason.clone())))),
        }
        let faults = batch.take_faults();
        self.shared.replace_if_fatal(&faults);
        faults
    }

    async fn publish_alone(&self, records: &[Outgoing], indices: &[usize]) -> Vec<(usize, Fault)> {
        let topic = &records[indices[0]].topic;
        tracing::warn!(%topic, records = indices.len(), "a batch was too large for its topic and is sent record by record: lower kafka.producer.batch_bytes below the topic's max.message.bytes");
        let mut faults = Vec::new();
        for index in indices {
            faults.extend(self.publish(records, std::slice::from_ref(index)).await);
        }
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

struct Shared {
    settings: ClientConfig,
    max_bytes: u32,
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

    /// After a fatal error an idempotent producer refuses everything: a new one, with an id of its own, takes over.
    fn replace_if_fatal(&self, faults: &[(usize, Fault)]) {
        if faults.is_empty() {
            return;
        }
        let mut current = self.client();
        let Some(fatal) = current.as_ref().and_then(|client| client.client().fatal_error()) else { return };
        tracing::warn!(code = ?fatal.0, reason = fatal.1, "the kafka producer failed for good and is built anew");
        match connect(&self.settings) {
            Ok(client) => *current = Some(Arc::new(client)),
            Err(error) => tracing::error!(%error, "the kafka producer could not be built anew: records wait"),
        }
    }
}

/// Hands one record to librdkafka, which copies it; an error of its own settles the record at once.
async fn enqueue(client: &Client, record: &Outgoing, index: usize, batch: &Arc<BatchState>) {
    let delivery = Box::new(Delivery { batch: Arc::clone(batch), index });
    let mut message: BaseRecord<'_, [u8], [u8], _> = BaseRecord::with_opaque_to(&record.topic, delivery);
    message.key = record.key.as_deref();
    message.payload = record.value.as_deref();
    message.partition = record.partition;
    message.headers = headers(record);
    loop {
        match client.send(message) {
            Ok(()) => return,
            Err((ClientError::MessageProduction(Code::QueueFull), same)) => {
                message = same;
                tokio::time::sleep(QUEUE_FULL_WAIT).await;
            }
            Err((error, _)) => return batch.settle(index, Err(Fault::Client(error))),
        }
    }
}

fn headers(record: &Outgoing) -> Option<OwnedHeaders> {
    if record.headers.is_empty() {
        return None;
    }
    let empty = OwnedHeaders::new_with_capacity(record.headers.len());
    Some(record.headers.iter().fold(empty, |headers, (key, value)| headers.insert(Header { key, value })))
}

/// What librdkafka hands back with a record's fate. A `Box`, because a batch's records share the state behind it.
struct Delivery {
    batch: Arc<BatchState>,
    index: usize,
}

struct BatchState {
    left: AtomicUsize,
    faults: Mutex<Vec<(usize, Fault)>>,
    done: Notify,
}

/// Why a record failed.
#[derive(Clone, Debug)]
enum Fault {
    Client(ClientError),
    Closed(String),
}

impl BatchState {
    fn new(count: usize) -> Self {
        Self { left: AtomicUsize::new(count), faults: Mutex::default(), done: Notify::new() }
    }

    fn settle(&self, index: usize, fate: Result<(), Fault>) {
        if let Err(fault) = fate {
            self.faults().push((index, fault));
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Keeps a permit when nobody waits yet.
            self.done.notify_one();
        }
    }

    async fn settled(&self) {
        while self.left.load(Ordering::Acquire) > 0 {
            self.done.notified().await;
        }
    }

    fn faults(&self) -> MutexGuard<'_, Vec<(usize, Fault)>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_faults(&self) -> Vec<(usize, Fault)> {
        let mut faults = std::mem::take(&mut *self.faults());
        faults.sort_unstable_by_key(|(index, _)| *index);
        faults
    }
}

impl Fault {
    fn is_too_large(&self) -> bool {
        matches!(self, Self::Client(ClientError::MessageProduction(Code::MessageSizeTooLarge)))
    }

    fn describe(self, index: usize, record: &Outgoing, max_bytes: u32) -> BatchError {
        let error = match self {
            Self::Closed(reason) => return BatchError { index, reason, permanent: false },
            Self::Client(error) => error,
        };
        let topic = &record.topic;
        let (reason, permanent) = match error {
            ClientError::MessageProduction(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => {
                let size = record.size();
                let hint = format!(
                    "raise kafka.producer.message_max_bytes (now {max_bytes}) and the topic's max.message.bytes, or send less"
                );
                (format!("a record of {size} bytes is too large for topic {topic}: {hint}"), true)
            }
            ClientError::MessageProduction(Code::UnknownTopic | Code::UnknownTopicOrPartition) => {
                (format!("topic {topic} does not exist: run `headwater topology apply`"), false)
            }
            ClientError::MessageProduction(Code::UnknownPartition) => {
                let partition = record.partition.unwrap_or(-1);
                (format!("topic {topic} has no partition {partition}: its partition count was changed"), false)
            }
            ClientError::MessageProduction(Code::MessageTimedOut) => {
                (format!("no acknowledgement from topic {topic} in time: the broker may be down"), false)
            }
            ClientError::MessageProduction(Code::PurgeQueue | Code::PurgeInflight) => {
                ("the producer was closed before the record was acknowledged".to_owned(), false)
            }
            ClientError::MessageProduction(code @ (Code::InvalidRecord | Code::InvalidTimestamp)) => {
                (format!("topic {topic} refuses the record: {code}"), true)
            }
            ClientError::Nul(_) => (format!("{topic:?} is no topic name"), true),
            error => (format!("record for topic {topic} was not published: {error}"), false),
        };
        BatchError { index, reason, permanent }
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
            Ok(_) => {
                self.unreachable.store(false, Ordering::Relaxed);
                Ok(())
            }
            Err((error, _)) => Err(Fault::Client(error.clone())),
        };
        delivery.batch.settle(delivery.index, fate);
    }
}
