//! Records of a stateful group whose effects the store has refused: they become dead letters when they are read again.

use std::collections::{BTreeMap, HashMap};

use crate::wire::record::TopicPartition;

/// Why the store has refused records, by where they stand.
#[derive(Default)]
pub(crate) struct Refusals(HashMap<(TopicPartition, i64), String>);

impl Refusals {
    pub(crate) fn insert(&mut self, partition: TopicPartition, offset: i64, why: &str) {
        self.0.insert((partition, offset), why.to_owned());
    }

    /// Why this record was refused, if it was.
    pub(crate) fn get(&self, partition: &TopicPartition, offset: i64) -> Option<&str> {
        if self.0.is_empty() {
            return None;
        }
        self.0.get(&(partition.clone(), offset)).map(String::as_str)
    }

    /// This record is done with.
    pub(crate) fn remove(&mut self, partition: &TopicPartition, offset: i64) {
        self.0.remove(&(partition.clone(), offset));
    }

    /// Everything before these offsets is durable.
    pub(crate) fn pass(&mut self, moved: &BTreeMap<TopicPartition, i64>) {
        self.0.retain(|(id, offset), _| moved.get(id).is_none_or(|next| offset >= next));
    }

    /// A partition is not ours any more.
    pub(crate) fn forget(&mut self, partition: &TopicPartition) {
        self.0.retain(|(id, _), _| id != partition);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a refusal stays though its record is durable, or its partition has gone; or when one of a record behind
    /// those, or of another partition, goes with it.
    #[test]
    fn a_refusal_goes_with_its_record_and_its_partition() {
        let [one, other] = [0, 1].map(|number| TopicPartition::new("t", number));
        let mut refusals = Refusals::default();
        for (partition, offset) in [(&one, 7), (&one, 8), (&other, 3)] {
            refusals.insert(partition.clone(), offset, "why");
        }
        refusals.pass(&BTreeMap::from([(one.clone(), 8)]));
        assert_eq!(
            (refusals.get(&one, 7), refusals.get(&one, 8), refusals.get(&other, 3)),
            (None, Some("why"), Some("why"))
        );
        refusals.forget(&one);
        assert_eq!((refusals.get(&one, 8), refusals.get(&other, 3)), (None, Some("why")));
        refusals.remove(&other, 3);
        assert_eq!(refusals.get(&other, 3), None);
    }
}
