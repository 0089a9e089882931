//! Who has which partition, as Kafka says; what it said is good for a second.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, Instant},
};

use headwater_connectors::kafka::{Cluster, GroupAdmin, GroupMember, GroupState, KafkaError};
use tokio::sync::Mutex;

use super::{
    answer::{RefusalKind, StateError},
    stores::Store,
};

/// How long an answer is good.
const GOOD: Duration = Duration::from_secs(1);
/// How long Kafka may take to say.
const ANSWER: Duration = Duration::from_secs(5);

/// How old an answer may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct MaxAge(Option<Instant>);

impl MaxAge {
    /// No older than a second.
    pub(super) fn enough() -> Self {
        Self(Instant::now().checked_sub(GOOD))
    }

    /// Asked from now on.
    pub(super) fn now() -> Self {
        Self(Some(Instant::now()))
    }
}

/// The members of each group, asked for when they are needed.
pub(super) struct Owners {
    cluster: Cluster,
    /// Each behind a lock of its own, so that Kafka is asked once, however many wait.
    views: BTreeMap<String, Mutex<Option<Arc<GroupView>>>>,
}

/// A group as Kafka described it.
pub(super) struct GroupView {
    group: String,
    /// When it was asked for.
    at: Instant,
    state: GroupState,
    members: Vec<GroupMember>,
    /// How many partitions topics have.
    counts: BTreeMap<String, i32>,
}

impl Owners {
    pub(super) fn new(cluster: Cluster, groups: Vec<String>) -> Self {
        Self { cluster, views: groups.into_iter().map(|group| (group, Mutex::default())).collect() }
    }

    /// The group as it was described no longer ago than that.
    ///
    /// # Errors
    /// When Kafka does not say.
    pub(super) async fn view(&self, group: &str, fresh: MaxAge) -> Result<Arc<GroupView>, StateError> {
        let Some(slot) = self.views.get(group) else {
            return Err(RefusalKind::Unknown.because(format!("there is no group `{group}` that keeps state")));
        };
        let mut slot = slot.lock().await;
        if let Some(view) = slot.as_ref().filter(|view| fresh.0.is_none_or(|since| view.at >= since)) {
            return Ok(view.clone());
        }
        let silent =
            |why: String| RefusalKind::Away.because(format!("who has the partitions of {group} is unknown: {why}"));
        let view = match tokio::time::timeout(ANSWER, self.ask(group)).await {
            Ok(view) => Arc::new(view.map_err(|error| silent(error.to_string()))?),
            Err(_) => return Err(silent(format!("kafka does not answer within {ANSWER:?}"))),
        };
        *slot = Some(view.clone());
        Ok(view)
    }

    async fn ask(&self, group: &str) -> Result<GroupView, KafkaError> {
        let at = Instant::now();
        let asked = [group];
        let (topics, mut groups) =
            tokio::try_join!(self.cluster.topics(), GroupAdmin::of(&self.cluster).describe(&asked))?;
        let status = groups.remove(group).unwrap_or_default();
        let counts = topics.into_iter().map(|topic| (topic.name, topic.partitions)).collect();
        Ok(GroupView { group: group.to_owned(), at, state: status.state, members: status.members, counts })
    }
}

impl GroupView {
    pub(super) fn members(&self) -> &[GroupMember] {
        &self.members
    }

    /// How many partitions a store has.
    pub(super) fn count(&self, store: &Store) -> Result<i32, StateError> {
        self.counts.get(&store.changelog).copied().ok_or_else(|| {
            let text = format!("topic {} does not exist: run `headwater topology apply`", store.changelog);
            RefusalKind::Away.because(text)
        })
    }

    /// The member that has a partition of a store.
    pub(super) fn owner(&self, store: &Store, partition: i32) -> Result<&GroupMember, StateError> {
        let has = |member: &&GroupMember| {
            let brings = |topic: &str| store.feeds.iter().any(|feed| feed == topic);
            member.partitions.iter().any(|id| id.partition == partition && brings(&id.topic))
        };
        self.members.iter().find(has).ok_or_else(|| {
            let why = match self.state {
                _ if self.members.is_empty() => "no instance runs it: start one",
                GroupState::Rebalancing => "its partitions are being dealt out: try again shortly",
                _ => "nobody has it now: try again shortly",
            };
            RefusalKind::Away
                .because(format!("partition {partition} of {} {} cannot be read: {why}", self.group, store.name))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{address::tests::member, stores::tests::store},
        *,
    };

    fn view(state: GroupState, members: Vec<GroupMember>) -> GroupView {
        GroupView { group: "shop.g".to_owned(), at: Instant::now(), state, members, counts: BTreeMap::new() }
    }

    /// Red when a partition of that number of a topic that does not bring the state makes an owner, or it is not said why
    /// there is none.
    #[test]
    fn the_owner_reads_what_brings_the_state() {
        let mut other = member("two", "x", &[]);
        other.partitions = vec![headwater::TopicPartition::new("elsewhere", 0)];
        let stable = view(GroupState::Stable, vec![other, member("one", "x", &[0, 2])]);
        let owner =
            |partition| stable.owner(&store(), partition).map(|owner| owner.instance.clone().unwrap_or_default());
        assert_eq!((owner(0).unwrap(), owner(2).unwrap()), ("one".to_owned(), "one".to_owned()));
        let why = owner(1).unwrap_err();
        assert!(why.status() == 503 && why.to_string().contains("partition 1 of shop.g spend"), "{why}");
        let rebalancing = view(GroupState::Rebalancing, vec![member("one", "x", &[])]);
        assert!(rebalancing.owner(&store(), 0).unwrap_err().to_string().contains("being dealt out"));
        assert!(view(GroupState::Empty, Vec::new()).owner(&store(), 0).unwrap_err().to_string().contains("start one"));
    }
}
