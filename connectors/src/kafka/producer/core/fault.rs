//! One batch of the producer: what is still to come of it, and what its records failed of.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use headwater::{Origin, Outgoing};
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode as Code};
use tokio::sync::Notify;

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

/// What librdkafka hands back with a record's fate. A `Box`, because a batch's records share the state behind it.
pub(crate) struct Delivery {
    pub(crate) batch: Arc<BatchState>,
    pub(crate) index: usize,
}

/// What is still to come of a batch, and what has failed.
pub(crate) struct BatchState {
    left: AtomicUsize,
    faults: Mutex<Vec<(usize, Fault)>>,
    /// Where the first record stands that was acknowledged.
    place: OnceLock<Origin>,
    done: Notify,
}

/// Why a record failed.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// librdkafka or the broker says so.
    Client(ClientError),
    /// It is larger than this program passes on; it was not sent.
    Oversize,
    /// It was not handed over: the producer is closed or another one.
    Closed(String),
}

impl BatchState {
    pub(crate) fn new(count: usize) -> Self {
        Self { left: AtomicUsize::new(count), faults: Mutex::default(), place: OnceLock::new(), done: Notify::new() }
    }

    /// Keeps where a record stands; the first to come is asked for alone.
    pub(crate) fn stands(&self, place: impl FnOnce() -> Origin) {
        self.place.get_or_init(place);
    }

    pub(crate) fn place(&self) -> Option<Origin> {
        self.place.get().cloned()
    }

    pub(crate) fn settle(&self, index: usize, fate: Result<(), Fault>) {
        if let Err(fault) = fate {
            self.faults().push((index, fault));
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            // Keeps a permit when nobody waits yet.
            self.done.notify_one();
        }
    }

    pub(crate) async fn settled(&self) {
        while self.left.load(Ordering::Acquire) > 0 {
            self.done.notified().await;
        }
    }

    fn faults(&self) -> MutexGuard<'_, Vec<(usize, Fault)>> {
        self.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn take_faults(&self) -> Vec<(usize, Fault)> {
        let mut faults = std::mem::take(&mut *self.faults());
        faults.sort_unstable_by_key(|(index, _)| *index);
        faults
    }
}

impl Fault {
    /// What librdkafka or the broker says of a record.
    pub(crate) fn of(code: Code) -> Self {
        Self::Client(ClientError::MessageProduction(code))
    }

    /// What librdkafka or the broker said.
    pub(crate) fn code(&self) -> Option<Code> {
        match self {
            Self::Client(error) => error.rdkafka_error_code(),
            Self::Oversize | Self::Closed(_) => None,
        }
    }

    /// Whether the broker refused the record's whole batch as too large.
    pub(crate) fn is_too_large(&self) -> bool {
        matches!(self, Self::Client(ClientError::MessageProduction(Code::MessageSizeTooLarge)))
    }

    /// Whether the topic is not what it was when its partitions were counted.
    pub(crate) fn is_of_another_topic(&self) -> bool {
        use Code::{UnknownPartition, UnknownTopic, UnknownTopicOrPartition};
        matches!(
            self,
            Self::Client(ClientError::MessageProduction(UnknownPartition | UnknownTopic | UnknownTopicOrPartition))
        )
    }

    /// In words, `max_bytes` being `kafka.max_record_bytes`.
    pub(crate) fn describe(self, index: usize, record: &Outgoing, max_bytes: u32) -> BatchError {
        let (topic, size) = (&record.topic, record.size());
        let error = match self {
            Self::Closed(reason) => return BatchError { index, reason, permanent: false },
            Self::Oversize => {
                let hint = format!("raise kafka.max_record_bytes (now {max_bytes}), or send less");
                let reason = format!("a record of {size} bytes for topic {topic} is too large: {hint}");
                return BatchError { index, reason, permanent: true };
            }
            Self::Client(error) => error,
        };
        let (reason, permanent) = match error {
            ClientError::MessageProduction(Code::MessageSizeTooLarge | Code::InvalidMessageSize) => {
                let hint = "raise the topic's max.message.bytes, or send less";
                (format!("a record of {size} bytes is too large for topic {topic}: {hint}"), true)
            }
            ClientError::MessageProduction(Code::UnknownTopic | Code::UnknownTopicOrPartition) => {
                (format!("topic {topic} does not exist: run `headwater topology apply`"), false)
            }
            ClientError::MessageProduction(Code::UnknownPartition) => {
                (format!("topic {topic} has fewer partitions than it had: they are counted anew"), false)
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
