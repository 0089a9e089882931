//! What a failed transaction means for who asked for it.

use rdkafka::error::RDKafkaErrorCode as Code;

use crate::kafka::{
    diagnosis::rights::{ResourceNames, Right, lacking},
    librdkafka::transactions::TransactionFault,
};

/// Why a unit is not durable, or may not be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// Nothing of it is durable, which was confirmed; the same unit may be committed again.
    #[error("{0}")]
    Aborted(String),
    /// The member has no say about these partitions any more; nothing of it is durable.
    #[error("{0}")]
    Fenced(String),
    /// A record can never be sent; nothing of the unit is durable.
    #[error("record {index}: {why}")]
    Refused {
        /// The record's place among those of the unit, from 0.
        index: usize,
        /// What is wrong with it, and what to do.
        why: String,
    },
    /// Nobody knows whether it is durable: [`settle`](super::TransactionalProducer::settle), then read what is committed.
    #[error("{0}")]
    OutcomeUnknown(String),
    /// The id was given to another producer, and nothing can be committed by this one any more: the coordinator does so for
    /// another process of the same name, and by itself when it has ended a transaction whose process stood still.
    #[error("{0}")]
    Taken(String),
    /// No try can succeed until somebody changes something.
    #[error("{0}")]
    Fatal(String),
}

/// What a call's failure says of the producer, before anything is known of the transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FaultCause {
    /// This transaction only: it is to be aborted.
    Passing,
    /// The group has given the partitions, or the member's place, to others.
    Member,
    /// The coordinator knows a later epoch of the producer.
    Epoch,
    /// The cluster does not let us do this.
    Forbidden,
    /// The producer is broken; a new one may do.
    Producer,
}

impl FaultCause {
    pub(crate) fn of(fault: &TransactionFault) -> Self {
        match fault.code {
            Code::IllegalGeneration | Code::UnknownMemberId | Code::FencedInstanceId => Self::Member,
            // librdkafka makes one of the first of the two others.
            Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch => Self::Epoch,
            Code::TransactionalIdAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::TopicAuthorizationFailed
            | Code::InvalidTransactionTimeout
            | Code::UnsupportedVersion
            | Code::UnsupportedFeature
            | Code::UnsupportedForMessageFormat => Self::Forbidden,
            _ if fault.fatal => Self::Producer,
            _ => Self::Passing,
        }
    }
}

/// What to do about [`FaultCause::Forbidden`].
pub(crate) fn forbidden(id: &str, fault: &TransactionFault) -> String {
    let text = &fault.text;
    match fault.code {
        Code::InvalidTransactionTimeout => format!(
            "the broker refuses kafka.producer.transaction_timeout: {text}: lower it, or raise the broker's transaction.max.timeout.ms"
        ),
        Code::UnsupportedVersion | Code::UnsupportedFeature | Code::UnsupportedForMessageFormat => {
            format!("the cluster has no transactions as they are needed: {text}: use Kafka 3.6 or later")
        }
        code => match lacking(code, Right::Write, ResourceNames::transactional_id(id)) {
            Some(why) => format!("the cluster does not let us write transactions as `{id}`: {why}: {text}"),
            None => format!("the cluster does not let us write transactions as `{id}`: {text}"),
        },
    }
}

/// What to do about [`FaultCause::Epoch`].
pub(crate) fn taken(id: &str) -> String {
    format!(
        "the coordinator has given the transactional id `{id}` to another producer: this process stood still for longer than kafka.producer.transaction_timeout, or two processes share one instance name, and each needs an `instance` of its own"
    )
}
