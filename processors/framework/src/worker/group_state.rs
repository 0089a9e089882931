//! What a group keeps by partition number: the state of its keys, and the records that wait.
//!
//! One member has all partitions of a number, so what is kept goes and comes with them.

use std::{collections::BTreeSet, sync::Arc};

use super::{attempt::uncommitted_state::UncommittedState, schedule::delay_queue::DelayQueue};
use crate::{ports::unit::StateChange, wire::record::TopicPartition};

/// What one group keeps; nothing, where it keeps no state.
pub(crate) struct GroupState {
    stores: Option<UncommittedState>,
    /// Under the order `key`.
    waiting: Option<Arc<DelayQueue>>,
    /// The topics of which one member has all partitions of a number.
    co_partitioned: Vec<String>,
}

impl GroupState {
    pub(crate) fn new(
        stores: Option<UncommittedState>,
        waiting: Option<Arc<DelayQueue>>,
        co_partitioned: Vec<String>,
    ) -> Self {
        Self { stores, waiting, co_partitioned }
    }

    /// The state of keys, if the group keeps some.
    pub(crate) fn stores(&self) -> Option<&UncommittedState> {
        self.stores.as_ref()
    }

    /// Whether anything is kept.
    pub(crate) fn is_kept(&self) -> bool {
        self.stores.is_some()
    }

    /// The records that wait, if any may.
    pub(crate) fn waiting(&self) -> Option<&DelayQueue> {
        self.waiting.as_deref()
    }

    /// The partition that the records of a number which wait count as.
    pub(crate) fn waiting_place(&self, number: i32) -> Option<TopicPartition> {
        self.waiting.as_ref().map(|waiting| waiting.place(number))
    }

    /// These changes are committed.
    pub(crate) fn committed(&self, changes: &[&StateChange]) {
        self.stores.iter().for_each(|stores| changes.iter().for_each(|change| stores.committed(change)));
        self.waiting.iter().for_each(|waiting| changes.iter().for_each(|change| waiting.committed(change)));
    }

    /// Forgets what is not committed of a number.
    pub(crate) fn forget(&self, number: i32) {
        self.stores.iter().for_each(|stores| stores.forget(number));
        self.waiting.iter().for_each(|waiting| waiting.forget(number));
    }

    /// The topics of which one member has all partitions of a number.
    pub(crate) fn co_partitioned(&self) -> &[String] {
        &self.co_partitioned
    }

    /// Whether the partition's number belongs to what is kept.
    pub(crate) fn is_co_partitioned(&self, id: &TopicPartition) -> bool {
        self.co_partitioned.iter().any(|topic| **topic == *id.topic)
    }

    /// Of the numbers of these partitions those of which one is missing, and the topic of that.
    pub(crate) fn apart<'a>(&self, assigned: impl Iterator<Item = &'a TopicPartition>) -> Vec<(i32, &str)> {
        let assigned: BTreeSet<(i32, &str)> =
            assigned.filter(|id| self.is_co_partitioned(id)).map(|id| (id.partition, &*id.topic)).collect();
        let numbers: BTreeSet<i32> = assigned.iter().map(|(number, _)| *number).collect();
        let missing = |number: i32| {
            let mut topics = self.co_partitioned.iter().map(String::as_str);
            topics.find(|topic| !assigned.contains(&(number, *topic))).map(|topic| (number, topic))
        };
        numbers.into_iter().filter_map(missing).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a number that lacks a partition is taken for whole, a whole one is not, or other topics count.
    #[test]
    fn a_number_is_apart_while_one_of_its_partitions_is_missing() {
        let state = GroupState::new(None, None, vec!["a".to_owned(), "b".to_owned()]);
        let assigned = [("a", 0), ("b", 0), ("a", 1), ("b", 2), ("other", 3)];
        let assigned = assigned.map(|(topic, number)| TopicPartition::new(topic, number));
        assert_eq!(state.apart(assigned.iter()), [(1, "b"), (2, "a")]);
    }
}
