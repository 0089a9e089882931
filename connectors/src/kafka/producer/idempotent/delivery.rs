//! What became of a batch's records, told by librdkafka one by one.

use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use headwater::{Origin, TopicPartition};
use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    error::KafkaError as ClientError,
    message::{BorrowedMessage, DeliveryResult, Message as _},
    producer::ProducerContext,
};
use tokio::sync::Notify;

use crate::kafka::{logs, producer::core::produce_error::ProduceError};

/// What librdkafka hands back with a record's fate. A `Box`, because a batch's records share the state behind it.
pub(super) struct Delivery {
    pub(super) batch: Arc<BatchState>,
    pub(super) index: usize,
}

/// What is still to come of a batch, and what has failed.
pub(super) struct BatchState {
    left: AtomicUsize,
    errors: Mutex<Vec<(usize, ProduceError)>>,
    /// Where the first record stands that was acknowledged.
    place: OnceLock<Origin>,
    done: Notify,
}

impl BatchState {
    pub(super) fn new(count: usize) -> Self {
        Self { left: AtomicUsize::new(count), errors: Mutex::default(), place: OnceLock::new(), done: Notify::new() }
    }

    /// Keeps where a record stands; the first to come is asked for alone.
    pub(super) fn stands(&self, place: impl FnOnce() -> Origin) {
        self.place.get_or_init(place);
    }

    pub(super) fn place(&self) -> Option<Origin> {
        self.place.get().cloned()
    }

    pub(super) fn settle(&self, index: usize, fate: Result<(), ProduceError>) {
        if let Err(error) = fate {
            self.errors().push((index, error));
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Keeps a permit when nobody waits yet.
            self.done.notify_one();
        }
    }

    pub(super) async fn settled(&self) {
        while self.left.load(Ordering::Acquire) > 0 {
            self.done.notified().await;
        }
    }

    fn errors(&self) -> MutexGuard<'_, Vec<(usize, ProduceError)>> {
        self.errors.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take_errors(&self) -> Vec<(usize, ProduceError)> {
        let mut errors = std::mem::take(&mut *self.errors());
        errors.sort_unstable_by_key(|(index, _)| *index);
        errors
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
pub(super) struct Context {
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
            Err((error, _)) => Err(ProduceError::Client(error.clone())),
        };
        delivery.batch.settle(delivery.index, fate);
    }
}
