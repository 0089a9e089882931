//! The consumer of a group's member, whose callbacks tell a listener what happens when the group deals its partitions anew.

use std::sync::{Arc, Mutex, PoisonError};

use rdkafka::{
    ClientContext, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::KafkaError as ClientError,
    types::RDKafkaRespErr,
};

use crate::kafka::{
    librdkafka::{live_clients::ClientHandle, membership::GroupMetadata},
    logs,
};

/// A consumer whose callbacks reach the member.
pub(crate) type GroupConsumer = BaseConsumer<GroupContext>;

/// The same as its owner has it.
pub(crate) type MemberConsumer = ClientHandle<GroupConsumer>;

/// Who takes partitions over and gives them up. librdkafka calls it on the polling thread, within `poll`.
pub(crate) trait RebalanceListener: Send {
    /// These come.
    fn assigned(&mut self, consumer: &GroupConsumer, list: &mut TopicPartitionList);

    /// These leave, or are lost.
    fn revoked(&mut self, consumer: &GroupConsumer, list: &TopicPartitionList);
}

/// librdkafka's callbacks, all of them on the polling thread.
pub(crate) struct GroupContext {
    /// Never locked across a `poll`.
    listener: Arc<Mutex<dyn RebalanceListener>>,
    /// The text of the last error event; the error that `poll` returns has only a code.
    reason: Mutex<String>,
}

impl GroupContext {
    pub(crate) fn new(listener: Arc<Mutex<dyn RebalanceListener>>) -> Self {
        Self { listener, reason: Mutex::default() }
    }

    /// The text of the last error event.
    pub(crate) fn reason(&self) -> String {
        self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        logs::line(level, facility, text);
    }

    fn error(&self, _error: ClientError, reason: &str) {
        // What there is to say about a token stands behind it.
        let reason = reason.strip_prefix("Failed to acquire SASL OAUTHBEARER token: ").unwrap_or(reason);
        reason.clone_into(&mut self.reason.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &GroupConsumer, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        let mut listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner);
        if error == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            listener.assigned(consumer, list);
        } else {
            listener.revoked(consumer, list);
        }
    }
}

/// The generation of the group that the consumer is in, if it is in one.
pub(crate) fn generation(consumer: &GroupConsumer) -> Option<i32> {
    let metadata = GroupMetadata::of(consumer.client()).filter(GroupMetadata::is_member);
    metadata.map(|metadata| metadata.generation())
}
