//! A producer that never waits: each record is taken at once or not at all, and a function hears what became of it.
//!
//! For who keeps to a schedule of its own and wants to know when each record was acknowledged. The engine publishes by
//! batches: see `idempotent.rs`.

use std::{ffi::CStr, time::Duration};

use headwater::spi::Outgoing;
use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
    message::{DeliveryResult, Message as _},
    producer::{Producer as _, ProducerContext},
};

use super::core::{Core, ProducerClient, flush::give_up, produce_error::ProduceError};
use crate::kafka::{
    config::KafkaConfig, consumer::membership::lease::PublishPermit, error::KafkaError, librdkafka::produce::produce,
    logs,
};

/// How often it is asked whether to wait on.
const ASK: Duration = Duration::from_millis(100);

/// Where an acknowledged record stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordMetadata {
    /// The partition's number.
    pub partition: i32,
    /// The offset there.
    pub offset: i64,
    /// The timestamp that it has there, milliseconds since the epoch; -1 when the broker does not say.
    pub timestamp_ms: i64,
}

/// Whether a record was taken. One that was is acknowledged or fails later; of one that was not nobody hears again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EnqueueOutcome {
    /// It is on its way.
    Yes,
    /// The queue is full.
    QueueIsFull,
    /// It cannot be sent; another try changes nothing.
    Refused(String),
}

/// An idempotent producer with an acknowledgement per record, which carries a `T`.
pub struct CallbackProducer<T: Send + Sync + 'static> {
    core: Core,
    client: ProducerClient<Context<T>>,
}

/// What hears of each record, on the producer's polling thread; the producer stands still meanwhile.
type DeliveryCallback<T> = Box<dyn Fn(T, Result<RecordMetadata, String>) + Send + Sync>;

impl<T: Send + Sync + 'static> CallbackProducer<T> {
    /// A producer for this cluster. Does not connect yet.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(
        config: &KafkaConfig,
        callback: impl Fn(T, Result<RecordMetadata, String>) + Send + Sync + 'static,
    ) -> Result<Self, KafkaError> {
        let core = Core::new(config, config.producer()?, config.producer.delivery_timeout);
        let client = core.client(Context { callback: Box::new(callback) }).map_err(KafkaError::Config)?;
        Ok(Self { core, client })
    }

    /// Connects and asks for a topic, so that the first record does not wait for that. Blocks.
    ///
    /// # Errors
    /// When the cluster does not answer in time.
    pub fn connect(&self, topic: &str, timeout: Duration) -> Result<(), KafkaError> {
        let asked = self.client.client().fetch_metadata(Some(topic), timeout);
        asked.map(drop).map_err(|error| KafkaError::Outage(format!("the kafka cluster does not answer: {error}")))
    }

    /// Hands one record over, if there is room for it; `tag` comes back with its fate.
    pub fn hand_over(&self, record: &Outgoing, tag: T) -> EnqueueOutcome {
        let produce = |name: &CStr, partition| {
            let taken = produce(self.client.client(), name, record, partition, Box::new(tag));
            taken.map_err(|(code, _)| ProduceError::untaken(code))
        };
        match self.core.hand_over(&PublishPermit::unconditional()).offer(record, produce) {
            Ok(()) => EnqueueOutcome::Yes,
            Err(error) if error.is_queue_full() => EnqueueOutcome::QueueIsFull,
            Err(error) => EnqueueOutcome::Refused(self.core.error((0, error), record).reason),
        }
    }

    /// Waits until the fate of every record is known, as long as `go_on` says so, which is asked ten times a second; what is
    /// left then fails. Blocks.
    pub fn close(self, go_on: impl Fn() -> bool) {
        while self.client.flush(ASK).is_err() {
            if !go_on() {
                return give_up(&self.client);
            }
        }
    }
}

fn failed(topic: &str, error: &ClientError) -> String {
    match error {
        ClientError::MessageProduction(Code::MessageSizeTooLarge) => {
            format!("the record is too large for topic {topic}: send less, or raise its max.message.bytes")
        }
        ClientError::MessageProduction(Code::MessageTimedOut | Code::PurgeQueue | Code::PurgeInflight) => {
            format!("no acknowledgement from topic {topic} in time: the broker may be down or overloaded")
        }
        error => format!("record for topic {topic} was not published: {error}"),
    }
}

struct Context<T> {
    callback: DeliveryCallback<T>,
}

impl<T: Send + Sync + 'static> ClientContext for Context<T> {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        logs::line(level, facility, text);
    }

    /// Each record's own error follows.
    fn error(&self, error: ClientError, reason: &str) {
        tracing::debug!(%error, reason, "the kafka producer has trouble");
    }
}

impl<T: Send + Sync + 'static> ProducerContext for Context<T> {
    type DeliveryOpaque = Box<T>;

    fn delivery(&self, result: &DeliveryResult<'_>, tag: Box<T>) {
        let fate = match result {
            Ok(message) => Ok(RecordMetadata {
                partition: message.partition(),
                offset: message.offset(),
                timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
            }),
            Err((error, message)) => Err(failed(message.topic(), error)),
        };
        (self.callback)(*tag, fate);
    }
}
