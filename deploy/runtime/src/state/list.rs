//! Several keys at once: from every owner, merged, and nothing where one of them cannot be read.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, stream};
use headwater::spi::WAITING;
use headwater_connectors::kafka::GroupMember;

use super::{
    answer::{Entry, RefusalKind, StateError},
    owners::{GroupView, MaxAge},
    query::{Hop, ListQuery, MOST},
    reader::{LIST, StateReader},
    stores::Store,
};

/// Owners that are asked at the same time.
const OWNERS: usize = 8;

/// What a record that waits is kept under, where only its number is said.
fn waiting_name(key: &str) -> String {
    key.parse::<u64>().map_or_else(|_| key.to_owned(), |number| format!("{number:020}"))
}

impl StateReader {
    /// What a key has; of records that wait, which are numbered in each partition from 0 on, what each partition has.
    ///
    /// # Errors
    /// When it has nothing, or cannot be read now.
    pub(crate) async fn find(&self, store: &Store, key: &str, hop: Hop) -> Result<Vec<Entry>, StateError> {
        if store.name != WAITING {
            return Ok(vec![self.get(store, key, hop).await?]);
        }
        let name = waiting_name(key);
        let mut entries = self.list(store, &ListQuery::new(Some(name.clone()), Some(MOST))?, hop).await?;
        entries.retain(|entry| entry.key == name);
        if entries.is_empty() {
            let text = format!("{store} has no record `{}` in any partition", key.escape_debug());
            return Err(RefusalKind::Unknown.because(text));
        }
        Ok(entries)
    }

    /// The first keys that begin with the prefix, in order over all partitions.
    ///
    /// # Errors
    /// When one partition cannot be read.
    pub(crate) async fn list(&self, store: &Store, asked: &ListQuery, hop: Hop) -> Result<Vec<Entry>, StateError> {
        let _room = self.room(LIST)?;
        let found = match self.list_once(store, asked, hop, MaxAge::enough()).await {
            Err(refusal) if refusal.may_have_moved() => self.list_once(store, asked, hop, MaxAge::now()).await,
            found => found,
        };
        found.map_err(|refusal| hop.told(refusal))
    }

    async fn list_once(
        &self,
        store: &Store,
        asked: &ListQuery,
        hop: Hop,
        fresh: MaxAge,
    ) -> Result<Vec<Entry>, StateError> {
        let view = self.owners.view(&store.group, fresh).await?;
        let all: BTreeSet<i32> = (0..view.count(store)?).collect();
        let wanted = asked.partitions.as_ref().map_or(all.clone(), |some| all.intersection(some).copied().collect());
        let owned = by_owner(&view, store, &wanted)?;
        let parts = owned.into_values().map(|(owner, partitions)| self.list_of(owner, partitions, store, asked, hop));
        let mut parts = stream::iter(parts.collect::<Vec<_>>()).buffer_unordered(OWNERS);
        let mut entries = Vec::new();
        while let Some(part) = parts.next().await {
            entries = merged(entries, part?, asked.limit);
        }
        Ok(entries)
    }

    async fn list_of(
        &self,
        owner: &GroupMember,
        partitions: Vec<i32>,
        store: &Store,
        asked: &ListQuery,
        hop: Hop,
    ) -> Result<Vec<Entry>, StateError> {
        let named = partitions.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        match self.kept(store, owner, hop) {
            Ok(Some(kept)) => kept.list(store, partitions, &asked.prefix, asked.limit).await,
            Ok(None) => {
                let listed = self.asker.list(owner, store, &partitions, asked).await;
                listed.map_err(|refusal| refusal.of_partitions(&named))
            }
            Err(refusal) => Err(refusal),
        }
    }
}

type PartitionsByOwner<'a> = BTreeMap<&'a str, (&'a GroupMember, Vec<i32>)>;

fn by_owner<'a>(
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
fn merged(mut entries: Vec<Entry>, more: Vec<Entry>, limit: usize) -> Vec<Entry> {
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
