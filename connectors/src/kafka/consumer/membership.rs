//! What other threads may know of a group's member: its present membership, as long as the source lives.

pub(crate) mod group_consumer;
pub(crate) mod instance_claim;
pub(crate) mod lease;
pub(crate) mod tenure;

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
};

use headwater::TopicPartition;
use rdkafka::{consumer::Consumer as _, error::RDKafkaErrorCode as Code};

use self::group_consumer::MemberConsumer;
use super::partition;
use crate::kafka::librdkafka::membership::GroupMetadata;

/// The membership of a [`KafkaSource`](super::source::KafkaSource) in its group, read afresh whenever it is asked for. Clones share it.
///
/// The consumer stays with the source's thread, which closes it: it is borrowed under a lock that the end waits for, each
/// time for as long as librdkafka takes to read its own state.
#[derive(Clone)]
pub struct Membership(Arc<Mutex<Weak<MemberConsumer>>>);

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Membership").finish_non_exhaustive()
    }
}

impl Membership {
    pub(crate) fn of(consumer: &Arc<MemberConsumer>) -> Self {
        Self(Arc::new(Mutex::new(Arc::downgrade(consumer))))
    }

    /// The group's generation that the member is in; `None` while it is in none, and once the source is closing.
    /// Asks librdkafka's own thread, which answers within microseconds.
    pub fn generation(&self) -> Option<i32> {
        let consumer = self.consumer();
        let metadata = GroupMetadata::of(consumer.upgrade()?.client())?;
        metadata.is_member().then(|| metadata.generation())
    }

    /// The member's id, which the coordinator gave it; `None` while it is in no generation.
    pub(crate) fn id(&self) -> Option<String> {
        let consumer = self.consumer();
        GroupMetadata::of(consumer.upgrade()?.client()).filter(GroupMetadata::is_member)?.member_id()
    }

    /// Whether another has the member's name in the group, which the source is judging.
    pub(crate) fn is_fenced(&self) -> bool {
        let consumer = self.consumer();
        let fatal = consumer.upgrade().and_then(|consumer| consumer.client().fatal_error());
        fatal.is_some_and(|(code, _)| code == Code::FencedInstanceId)
    }

    /// What a transaction needs to commit offsets of these partitions.
    ///
    /// # Errors
    /// Why we have no say about them, in words.
    pub(crate) fn of_owner(&self, partitions: &[TopicPartition]) -> Result<GroupMetadata, String> {
        let consumer = self.consumer();
        let Some(consumer) = consumer.upgrade() else { return Err("the source is closed".to_owned()) };
        // In this order: who lost them in between has metadata that the broker refuses.
        let metadata = GroupMetadata::of(consumer.client()).filter(GroupMetadata::is_member);
        let metadata = metadata.ok_or_else(|| "the consumer is not in its group at the moment".to_owned())?;
        let assigned = consumer.assignment().map_err(|error| error.to_string())?;
        let assigned = partition::names(&assigned);
        match partitions.iter().find(|name| !assigned.contains(name)) {
            Some(name) => Err(format!("partition {name} is not assigned to this member any more")),
            None => Ok(metadata),
        }
    }

    /// Nobody gets the consumer any more; waits for who has it.
    pub(crate) fn end(&self) {
        *self.consumer() = Weak::new();
    }

    fn consumer(&self) -> MutexGuard<'_, Weak<MemberConsumer>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
