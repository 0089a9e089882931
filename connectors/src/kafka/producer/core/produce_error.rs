//! Why records are not on their topics.

use std::fmt;

use headwater::spi::Outgoing;
use rdkafka::error::{KafkaError as ClientError, RDKafkaErrorCode as Code};

use crate::kafka::diagnosis::rights::{ResourceNames, Right, lacking};

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

/// Why a record failed.
#[derive(Clone, Debug)]
pub(crate) enum ProduceError {
    /// librdkafka or the broker says so.
    Client(ClientError),
    /// It is larger than this program passes on; it was not sent.
    Oversize,
    /// It was not handed over: the producer is closed or another one.
    Closed(String),
}

impl ProduceError {
    /// What librdkafka or the broker says of a record.
    pub(crate) fn of(code: Code) -> Self {
        Self::Client(ClientError::MessageProduction(code))
    }

    /// What librdkafka says of a record that it does not take.
    pub(crate) fn untaken(code: Code) -> Self {
        if code == Code::MessageSizeTooLarge { Self::Oversize } else { Self::of(code) }
    }

    /// What librdkafka or the broker said.
    pub(crate) fn code(&self) -> Option<Code> {
        match self {
            Self::Client(error) => error.rdkafka_error_code(),
            Self::Oversize | Self::Closed(_) => None,
        }
    }

    /// Whether there was no room for the record.
    pub(crate) fn is_queue_full(&self) -> bool {
        self.code() == Some(Code::QueueFull)
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
            ClientError::MessageProduction(code)
                if let Some(why) = lacking(code, Right::Write, ResourceNames::topic(topic)) =>
            {
                (why, false)
            }
            ClientError::Nul(_) => (format!("{topic:?} is no topic name"), true),
            error => (format!("record for topic {topic} was not published: {error}"), false),
        };
        BatchError { index, reason, permanent }
    }
}
