//! What becomes of a group's state when its offsets are moved: somebody has to say it, since neither is right for all.

use std::{collections::BTreeMap, fmt};

use anyhow::Result;
use headwater::{TopicPartition, spi::GroupTopics};
use headwater_connectors::kafka::kept_keys;

use super::moves::Move;
use crate::{
    app::ConfiguredGroup,
    clients::Clients,
    command::{
        arguments::ResetArguments,
        groups::group_status::{GroupOverview, PartitionPosition, Purpose},
    },
    config::Problems,
    process::table::thousands,
};

/// What becomes of the state.
pub(super) enum StateReset {
    /// There is none.
    None,
    /// It stays.
    Kept,
    /// It goes: so many keys of each partition of the changelogs.
    Wiped(BTreeMap<TopicPartition, usize>),
}

impl StateReset {
    /// # Errors
    /// [`Problems`] where there is state and nobody says what becomes of it, or there can be none and somebody does.
    pub(super) async fn find(
        clients: &Clients,
        configured: &ConfiguredGroup,
        arguments: &ResetArguments,
    ) -> Result<Self> {
        let (group, stores) = (&configured.group.id, configured.stores());
        let said = arguments.with_state || arguments.keep_state;
        if stores.is_empty() {
            let why =
                || Problems::one(format!("group {group} keeps no state: leave --with-state and --keep-state out"));
            return if said { Err(why().into()) } else { Ok(Self::None) };
        }
        if arguments.keep_state {
            return Ok(Self::Kept);
        }
        let owned = GroupTopics::of(group);
        let changelogs: Vec<String> = stores.into_iter().map(|store| owned.changelog(store)).collect();
        let topics = clients.cluster.topics().await?;
        let theirs = topics.iter().filter(|topic| changelogs.contains(&topic.name));
        let partitions: Vec<TopicPartition> = theirs
            .flat_map(|topic| (0..topic.partitions).map(|n| TopicPartition::new(topic.name.as_str(), n)))
            .collect();
        let keys = kept_keys(&clients.kafka, group, &partitions).await?;
        let count: usize = keys.values().sum();
        match (arguments.with_state, count) {
            (true, _) => Ok(Self::Wiped(keys)),
            (false, 0) => Ok(Self::None),
            (false, count) => Err(Problems::one(undecided(group, count)).into()),
        }
    }

    /// What is moved beside what was asked for. What was repartitioned is read again from the inputs where the state is wiped;
    /// of what the group owns and has no offset of everything counts as done, or it would come again.
    pub(super) fn moves(&self, overview: &GroupOverview, arguments: &ResetArguments) -> Vec<Move> {
        if matches!(self, Self::None) || arguments.topic.is_some() {
            return Vec::new();
        }
        let moved = overview.places.iter().filter(|place| self.passes_over(place));
        moved.map(|place| Move::new(place, place.end)).collect()
    }

    fn passes_over(&self, place: &PartitionPosition) -> bool {
        match place.purpose {
            Purpose::Input | Purpose::Retry => false,
            Purpose::Repartition => place.committed.is_none() || matches!(self, Self::Wiped(_)),
            Purpose::Redrive => place.committed.is_none(),
        }
    }

    pub(super) const fn name(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Kept => "kept",
            Self::Wiped(_) => "wiped",
        }
    }
}

impl fmt::Display for StateReset {
    /// The end of a sentence about the group.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => Ok(()),
            Self::Kept => f.write_str("; its state stays as it is"),
            Self::Wiped(keys) => {
                let count = keys.values().sum::<usize>() as u64;
                write!(f, "; its state is wiped: {} keys", thousands(count))
            }
        }
    }
}

fn undecided(group: &str, count: usize) -> String {
    format!(
        "group {group} keeps state ({} keys), and what is read again would be counted onto it: say what becomes of it. \
         --with-state wipes it, so that everything from there on is counted anew; --keep-state leaves it as it is",
        thousands(count as u64)
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::groups::group_status::tests::place;

    /// Red when what was repartitioned comes again beside its input, or what waits on a redrive topic is passed over.
    #[test]
    fn of_its_own_topics_nothing_comes_a_second_time() {
        let (kept, wiped) = (StateReset::Kept, StateReset::Wiped(BTreeMap::new()));
        let of = |purpose, committed| {
            let place = PartitionPosition { purpose, ..place(committed) };
            (kept.passes_over(&place), wiped.passes_over(&place))
        };
        assert_eq!(of(Purpose::Input, None), (false, false));
        assert_eq!(of(Purpose::Repartition, Some(12)), (false, true));
        assert_eq!(of(Purpose::Repartition, None), (true, true));
        assert_eq!(of(Purpose::Redrive, Some(12)), (false, false));
        assert_eq!(of(Purpose::Redrive, None), (true, true));
    }
}
