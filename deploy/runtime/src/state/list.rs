//! Several keys at once: from every owner, merged, and nothing where one of them cannot be read.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt as _, stream};
use headwater::WAITING;
use headwater_connectors::kafka::GroupMember;

use super::{
    Fresh, Hop, LIST, Reading, View,
    answer::{Entry, Refusal, Why},
    stores::Store,
};

/// Keys that are listed when nobody says how many, and at most.
const LIMIT: usize = 100;
const MOST: usize = 1_000;
/// Owners that are asked at the same time.
const OWNERS: usize = 8;

/// Which keys are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Asked {
    /// What they begin with.
    pub(super) prefix: String,
    /// How many at most.
    pub(crate) limit: usize,
    /// Of which partitions; of all where that is not said.
    pub(super) partitions: Option<BTreeSet<i32>>,
}

impl Asked {
    /// # Errors
    /// When more keys are wanted than are listed.
    pub(crate) fn new(prefix: Option<String>, limit: Option<usize>) -> Result<Self, Refusal> {
        let limit = limit.unwrap_or(LIMIT);
        if !(1..=MOST).contains(&limit) {
            return Err(Why::Wrong.because(format!("limit must be from 1 to {MOST}")));
        }
        Ok(Self { prefix: prefix.unwrap_or_default(), limit, partitions: None })
    }

    /// Only these partitions, as `0,3,5`.
    pub(super) fn of(self, partitions: &str) -> Result<Self, Refusal> {
        let numbers: Result<BTreeSet<i32>, _> = partitions.split(',').map(str::parse).collect();
        let wrong = |_| Why::Wrong.because("partitions must be numbers such as 0,3,5");
        Ok(Self { partitions: Some(numbers.map_err(wrong)?), ..self })
    }
}

/// What a record that waits is kept under, where only its number is said.
fn waiting_name(key: &str) -> String {
    key.parse::<u64>().map_or_else(|_| key.to_owned(), |number| format!("{number:020}"))
}

impl Reading {
    /// What a key has; of records that wait, which are numbered in each partition from 0 on, what each partition has.
    ///
    /// # Errors
    /// When it has nothing, or cannot be read now.
    pub(crate) async fn find(&self, store: &Store, key: &str, hop: Hop) -> Result<Vec<Entry>, Refusal> {
        if store.name != WAITING {
            return Ok(vec![self.get(store, key, hop).await?]);
        }
        let name = waiting_name(key);
        let mut entries = self.list(store, &Asked::new(Some(name.clone()), Some(MOST))?, hop).await?;
        entries.retain(|entry| entry.key == name);
        if entries.is_empty() {
            let text = format!("{store} has no record `{}` in any partition", key.escape_debug());
            return Err(Why::Unknown.because(text));
        }
        Ok(entries)
    }

    /// The first keys that begin with the prefix, in order over all partitions.
    ///
    /// # Errors
    /// When one partition cannot be read.
    pub(crate) async fn list(&self, store: &Store, asked: &Asked, hop: Hop) -> Result<Vec<Entry>, Refusal> {
        let _room = self.room(LIST)?;
        let found = match self.list_once(store, asked, hop, Fresh::enough()).await {
            Err(refusal) if refusal.may_have_moved() => self.list_once(store, asked, hop, Fresh::now()).await,
            found => found,
        };
        found.map_err(|refusal| refusal.told_at(hop))
    }

    async fn list_once(&self, store: &Store, asked: &Asked, hop: Hop, fresh: Fresh) -> Result<Vec<Entry>, Refusal> {
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
        asked: &Asked,
        hop: Hop,
    ) -> Result<Vec<Entry>, Refusal> {
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

type Owned<'a> = BTreeMap<&'a str, (&'a GroupMember, Vec<i32>)>;

fn by_owner<'a>(view: &'a View, store: &Store, partitions: &BTreeSet<i32>) -> Result<Owned<'a>, Refusal> {
    let mut owned = Owned::new();
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

    /// Red when a list has no bound, or what is no number is passed over.
    #[test]
    fn a_list_is_bounded() {
        assert_eq!(Asked::new(None, None).unwrap().limit, 100);
        assert_eq!(Asked::new(None, Some(1_000)).unwrap().limit, 1_000);
        for wrong in [0, 1_001] {
            assert_eq!(Asked::new(None, Some(wrong)).unwrap_err().status(), 400);
        }
        let asked = || Asked::new(None, None).unwrap();
        assert_eq!(asked().of("3,0").unwrap().partitions, Some(BTreeSet::from([0, 3])));
        assert!(asked().of("0,x").is_err() && asked().of("").is_err());
    }
}
