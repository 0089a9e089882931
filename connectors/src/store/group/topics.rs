//! The topics of a group that keeps state, and that those which go by number have one count.

use std::collections::{BTreeMap, BTreeSet};

use headwater::{
    Order, TopicPartition,
    spi::{Catalogue, ConsumerGroup, GroupTopics},
};

/// What a group that keeps state reads and writes, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StateTopics {
    /// Its stores, each with a changelog.
    pub stores: BTreeSet<&'static str>,
    /// What it reads by number: topics that it owns, and inputs whose records keep their places. With partition n of these
    /// comes the state of number n.
    pub co_partitioned: Vec<String>,
    /// The topics of events that it reads.
    pub inputs: Vec<String>,
}

impl StateTopics {
    /// Those of a group under this order; nothing where it keeps no state.
    pub fn of(group: &ConsumerGroup, decided: Order, catalogue: &Catalogue) -> Self {
        Self {
            stores: group.stores(decided),
            co_partitioned: group.co_partitioned(decided, catalogue),
            inputs: group.subscription.topics.clone(),
        }
    }

    /// Whether partitions of this topic bring the state of their number.
    pub(crate) fn is_by_number(&self, topic: &str) -> bool {
        self.co_partitioned.iter().any(|name| name == topic)
    }

    /// The numbers whose state comes with these partitions. What is only repartitioned may have other numbers than the state, and
    /// its numbers other owners.
    pub(crate) fn numbers(&self, partitions: &[TopicPartition]) -> BTreeSet<i32> {
        partitions.iter().filter(|id| self.is_by_number(&id.topic)).map(|id| id.partition).collect()
    }

    /// The group's own topics of records that were repartitioned.
    pub(crate) fn repartition(&self, owned: &GroupTopics) -> impl Iterator<Item = String> {
        self.co_partitioned.iter().filter(|topic| owned.is_repartition(topic)).cloned()
    }

    /// How many numbers the group has, which its changelogs have kept since it was created. A topic that is missing is
    /// somebody else's trouble.
    ///
    /// # Errors
    /// Where another topic that goes by number has another count: which, and what to do.
    pub(crate) fn count(&self, group: &str, counts: &BTreeMap<String, i32>) -> Result<i32, String> {
        let owned = GroupTopics::of(group);
        let changelogs = self.stores.iter().map(|store| owned.changelog(store));
        let all: Vec<String> = changelogs.chain(self.co_partitioned.iter().cloned()).collect();
        let mut known = all.iter().filter_map(|topic| Some((topic, *counts.get(topic)?)));
        let Some((kept, count)) = known.next() else { return Ok(i32::MAX) };
        let Some((other, differs)) = known.find(|(_, other)| *other != count) else { return Ok(count) };
        Err(format!(
            "topic {other} has {differs} partitions and {kept} has {count}: by another count keys come to other partitions and get a second state there, so the group stands still everywhere. Stop it, add partitions until all of {} have as many, and have everything counted anew: `headwater offsets reset {group} --to earliest --with-state`",
            all.join(", ")
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a partition of an input that is only repartitioned brings the state of its number: another member
    /// may have that.
    #[test]
    fn only_what_goes_by_number_brings_state() {
        let topics = StateTopics {
            co_partitioned: vec!["g.redrive".to_owned(), "g.flag.repartition".to_owned()],
            inputs: vec!["events.payment".to_owned()],
            ..StateTopics::default()
        };
        let at = TopicPartition::new;
        let mine = [at("g.redrive", 0), at("g.flag.repartition", 0), at("events.payment", 1), at("events.payment", 11)];
        assert_eq!(topics.numbers(&mine), BTreeSet::from([0]));
    }

    /// Red when a topic that goes by number may have another count than the state, a changelog among them, or one that does
    /// not go by number may not.
    #[test]
    fn all_topics_that_go_by_number_have_the_count_of_the_state() {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<Vec<_>>();
        let topics = StateTopics {
            stores: BTreeSet::from(["spend", "waiting"]),
            co_partitioned: names(&["g.redrive", "g.flag.repartition"]),
            inputs: names(&["events.payment"]),
        };
        let of = |other: &[(&str, i32)]| {
            let by_number = ["g.spend.changelog", "g.waiting.changelog", "g.redrive", "g.flag.repartition"];
            let six = by_number.into_iter().map(|name| (name, 6)).chain([("events.payment", 12)]);
            topics.count("g", &six.chain(other.iter().copied()).map(|(name, count)| (name.to_owned(), count)).collect())
        };
        assert_eq!(of(&[]), Ok(6));
        for name in ["g.waiting.changelog", "g.redrive", "g.flag.repartition"] {
            let why = of(&[(name, 8)]).unwrap_err();
            assert!(why.contains(&format!("topic {name} has 8 partitions")) && why.contains("--with-state"), "{why}");
        }
        assert!(of(&[("g.spend.changelog", 8)]).is_err());
    }
}
