//! Changes of state as records of their changelogs.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use headwater::{
    Headers,
    spi::{GroupTopics, Outgoing, StateChange, Unit},
};

use crate::{kafka::EndOffsets, store::local::End};

/// The changes of one unit: of each key the last.
pub(crate) struct Changes {
    pub(crate) last: Vec<StateChange>,
    /// The same as records, in the same order.
    pub(crate) records: Vec<Outgoing>,
}

impl Changes {
    pub(crate) fn of(unit: &Unit, owned: &GroupTopics) -> Self {
        let last = last(unit);
        let mut topics: HashMap<&str, Arc<str>> = HashMap::new();
        let records = last
            .iter()
            .map(|change| {
                let topic = topics.entry(&change.store).or_insert_with(|| owned.changelog(&change.store).into());
                record(change, topic, Headers::default())
            })
            .collect();
        Self { last, records }
    }
}

/// Of each key the last change of a unit, in their order.
pub(crate) fn last(unit: &Unit) -> Vec<StateChange> {
    let mut seen = HashSet::with_capacity(unit.changes.len());
    let newest = unit.changes.iter().rev();
    let mut last: Vec<StateChange> =
        newest.filter(|change| seen.insert((&*change.store, change.partition, &*change.key))).cloned().collect();
    last.reverse();
    last
}

/// A change as a record of its changelog.
pub(crate) fn record(change: &StateChange, topic: &Arc<str>, headers: Headers) -> Outgoing {
    Outgoing {
        topic: Arc::clone(topic),
        partition: Some(change.partition),
        key: Some(change.key.to_vec()),
        value: change.value.as_ref().map(|value| value.to_vec()),
        headers,
    }
}

/// How far each changelog has come with what was sent.
pub(crate) fn ends(end_offsets: &EndOffsets, owned: &GroupTopics) -> Vec<End> {
    let end =
        |(topic, partition, next)| Some(End { store: owned.store_of(topic)?.into(), partition, next, inputs: None });
    end_offsets.places().filter_map(end).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(key: &str, value: Option<&str>) -> StateChange {
        let bytes = |text: &str| Arc::<[u8]>::from(text.as_bytes());
        StateChange { store: "s".into(), partition: 3, key: bytes(key), value: value.map(bytes), input: None }
    }

    /// Red when an older change of a key is sent too, or the newest is not where it was: a changelog is read in order.
    #[test]
    fn of_each_key_the_last_change_is_sent() {
        let unit = Unit {
            changes: vec![change("a", Some("1")), change("b", Some("2")), change("a", None), change("c", Some("4"))],
            ..Unit::default()
        };
        let changes = Changes::of(&unit, &GroupTopics::of("g"));
        assert_eq!(changes.last, [change("b", Some("2")), change("a", None), change("c", Some("4"))]);
        let records: Vec<_> = changes.records.iter().map(|r| (r.key.clone(), r.value.clone())).collect();
        let bytes = |text: &str| Some(text.as_bytes().to_vec());
        assert_eq!(records, [(bytes("b"), bytes("2")), (bytes("a"), None), (bytes("c"), bytes("4"))]);
        assert!(changes.records.iter().all(|r| &*r.topic == "g.s.changelog" && r.partition == Some(3)));
    }
}
