//! Several keys at once: who has which, and what the owners say as one list.

use std::collections::{BTreeMap, BTreeSet};

use headwater_connectors::kafka::GroupMember;

use super::{
    answer::{Entry, StateError},
    owners::GroupView,
    stores::Store,
};

/// What a record that waits is kept under, where only its number is said.
pub(super) fn waiting_name(key: &str) -> String {
    key.parse::<u64>().map_or_else(|_| key.to_owned(), |number| format!("{number:020}"))
}

/// Partitions by the owner who has them.
pub(super) type PartitionsByOwner<'a> = BTreeMap<&'a str, (&'a GroupMember, Vec<i32>)>;

pub(super) fn by_owner<'a>(
    view: &'a GroupView,
    store: &Store,
    partitions: &BTreeSet<i32>,
) -> Result<PartitionsByOwner<'a>, StateError> {
    let mut owned = PartitionsByOwner::new();
    for partition in partitions {
        let owner = view.owner(store, *partition)?;
        owned.entry(&owner.id).or_insert_with(|| (owner, Vec::new())).1.push(*partition);
    }
    Ok(owned)
}

/// Both in order of their keys, and no more than the limit.
pub(super) fn merged(mut entries: Vec<Entry>, more: Vec<Entry>, limit: usize) -> Vec<Entry> {
    entries.extend(more);
    entries.sort_by(|a, b| (&a.key, a.partition).cmp(&(&b.key, b.partition)));
    entries.truncate(limit);
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when the limit is taken before the merge, or keys stand in the order of their owners.
    #[test]
    fn what_owners_say_is_merged_by_key() {
        let entry = |key: &str, partition| Entry {
            key: key.to_owned(),
            partition,
            owner: "one".to_owned(),
            version: 1,
            value: serde_json::Value::Null,
        };
        let first = merged(Vec::new(), vec![entry("b", 0), entry("d", 0)], 3);
        let both = merged(first, vec![entry("a", 1), entry("c", 1)], 3);
        assert_eq!(both, [entry("a", 1), entry("b", 0), entry("c", 1)]);
    }

    /// Red when a number finds nothing: records that wait are kept under 20 digits.
    #[test]
    fn a_record_that_waits_is_found_by_its_number() {
        assert_eq!(waiting_name("7"), "00000000000000000007");
        assert_eq!(waiting_name("00000000000000000007"), "00000000000000000007");
        assert_eq!(waiting_name("o-7"), "o-7");
    }
}
