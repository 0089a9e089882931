//! Where groups stand, as seen from outside: what their coordinators, the logs and Postgres say.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::Result;
use futures_util::future::try_join_all;
use headwater::{TopicPartition, spi::DEAD_LETTERS};
use headwater_connectors::{
    kafka::{
        Cluster, CommittedOffset, GroupAdmin, GroupState, GroupStatus, LogEnd, OffsetRange, Start, Topic, count_records,
    },
    postgres::stored_offsets,
};

use crate::{
    app::{App, ConfiguredGroup},
    clients::Clients,
    config::{Problems, nearest},
};

/// Offsets of one partition, and of all of a group, that are read at most to tell records from markers.
const COUNTED: i64 = 1_000;
const COUNTED_ALL: i64 = 20_000;

type StoredOffsets = BTreeMap<String, BTreeMap<TopicPartition, i64>>;

/// A group as it stands.
pub(crate) struct GroupOverview {
    pub(crate) configured: ConfiguredGroup,
    pub(crate) status: GroupStatus,
    /// Every partition that it reads, by purpose.
    pub(crate) places: Vec<PartitionPosition>,
    /// Topics that it should read and that do not exist.
    pub(crate) missing: Vec<String>,
}

/// A partition as a group stands in it.
#[derive(Clone, Debug)]
pub(crate) struct PartitionPosition {
    pub(crate) partition: TopicPartition,
    pub(crate) purpose: Purpose,
    /// The offset that comes next; `None` where nothing was committed.
    pub(crate) committed: Option<i64>,
    /// What the group says of it; empty where it flows.
    pub(crate) note: String,
    /// Where it goes on.
    pub(crate) next: i64,
    /// The first offset that the log still has.
    pub(crate) first: i64,
    /// The offset behind the last record that can be read: where somebody's open transaction begins, or the end.
    pub(crate) stable: i64,
    /// The offset behind the last record.
    pub(crate) end: i64,
    /// Offsets before `stable` that hold no record: markers of transactions, and what was aborted.
    pub(crate) void: i64,
}

/// What a group reads a topic for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Purpose {
    Input,
    /// What it has repartitioned for a stateful step.
    Repartition,
    Retry,
    Redrive,
}

/// What a group is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RunState {
    Running,
    Rebalancing,
    Stopped,
    NeverStarted,
}

impl RunState {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Rebalancing => "rebalancing",
            Self::Stopped => "stopped",
            Self::NeverStarted => "never started",
        }
    }
}

impl GroupOverview {
    pub(crate) fn activity(&self) -> RunState {
        match self.status.state {
            GroupState::Rebalancing => RunState::Rebalancing,
            _ if !self.status.members.is_empty() => RunState::Running,
            _ if self.places.iter().any(|place| place.committed.is_some()) => RunState::Stopped,
            _ => RunState::NeverStarted,
        }
    }

    /// Records that wait to be processed for the first time; `None` where there are no such topics.
    pub(crate) fn behind(&self) -> Option<i64> {
        let counted = [Purpose::Input, Purpose::Repartition].map(|purpose| self.lag(purpose));
        counted.into_iter().flatten().reduce(|a, b| a + b)
    }

    /// Records that wait on the topics of a purpose; `None` where there is no such topic.
    pub(crate) fn lag(&self, purpose: Purpose) -> Option<i64> {
        let mut of = self.places.iter().filter(|place| place.purpose == purpose).map(PartitionPosition::lag).peekable();
        of.peek()?;
        Some(of.sum())
    }
}

impl PartitionPosition {
    /// Records that are still to be processed. Where there are many, an offset without a record counts as one.
    pub(crate) fn lag(&self) -> i64 {
        (self.end - self.begin() - self.void).max(0)
    }

    /// Where the records begin that are still to be processed.
    fn begin(&self) -> i64 {
        self.next.max(self.first)
    }

    /// Offsets that may hold records which can be read.
    fn readable(&self) -> i64 {
        (self.stable - self.begin()).max(0)
    }

    /// Those that lie behind an open transaction, where nothing else is left to do.
    fn behind_transaction(&self) -> i64 {
        if self.readable() <= self.void { (self.end - self.begin().max(self.stable)).max(0) } else { 0 }
    }

    /// What is to be said of it beside the numbers.
    pub(crate) fn remark(&self) -> Option<String> {
        match self.committed {
            Some(next) if next > self.end => {
                Some("committed beyond the log's end: the topic was created anew or truncated".to_owned())
            }
            Some(next) if next < self.first => Some(format!("{} deleted unread by retention", self.first - next)),
            _ if !self.note.is_empty() => Some(self.note.clone()),
            _ => match self.behind_transaction() {
                0 => None,
                waiting => Some(format!(
                    "{waiting} wait behind a transaction that another client has open: they can be read once that is over"
                )),
            },
        }
    }
}

/// The group of this name, with or without the prefix.
///
/// # Errors
/// That there is none, with the nearest.
pub(crate) fn find<'a>(app: &'a App, name: &str) -> Result<&'a ConfiguredGroup, Problems> {
    let found = app.groups.iter().find(|configured| configured.group.name == name || configured.group.id == name);
    found.ok_or_else(|| {
        let known: Vec<&str> = app.groups.iter().map(|configured| configured.group.name.as_str()).collect();
        let hint = nearest(name, &known)
            .map_or_else(|| format!("there are {}", known.join(", ")), |near| format!("did you mean `{near}`?"));
        Problems::one(format!("there is no group `{name}`; {hint}"))
    })
}

/// How these groups stand. Where Postgres does not answer, the copy in Kafka is taken and `warn` is told.
///
/// # Errors
/// When the cluster does not answer.
pub(crate) async fn of(
    clients: &Clients,
    groups: &[ConfiguredGroup],
    warn: impl FnOnce(String),
) -> Result<Vec<GroupOverview>> {
    let ids: Vec<&str> = groups.iter().map(|configured| configured.group.id.as_str()).collect();
    let (cluster, admin) = (&clients.cluster, GroupAdmin::of(&clients.cluster));
    let (topics, mut statuses) = tokio::try_join!(cluster.topics(), admin.describe(&ids))?;
    let reads: Vec<GroupInputs> = groups.iter().map(|configured| GroupInputs::of(configured, &topics)).collect();
    // Before the ends of the logs, so that nothing seems to be committed beyond them.
    let asked = ids.iter().zip(&reads).map(|(id, reads)| async move {
        admin.committed(id, &reads.partitions.keys().cloned().collect::<Vec<_>>()).await
    });
    let told = try_join_all(asked).await?;
    let mut all_stored = stored(clients, groups).await.map_err(warn).ok();
    let all: BTreeSet<&TopicPartition> = reads.iter().flat_map(|reads| reads.partitions.keys()).collect();
    let all: Vec<TopicPartition> = all.into_iter().cloned().collect();
    let (firsts, ends) = tokio::try_join!(admin.offsets(&all, Start::Earliest), admin.ends(&all))?;
    let logs = Logs { firsts, ends };
    let mut overviews = Vec::new();
    for ((configured, told), reads) in groups.iter().zip(told).zip(reads) {
        let id = &configured.group.id;
        let stored =
            all_stored.as_mut().filter(|_| configured.is_stored()).map(|all| all.remove(id).unwrap_or_default());
        let committed = CommittedOffsets { told, stored };
        overviews.push(GroupOverview {
            places: counted(clients, places(cluster, configured, &reads, &committed, &logs).await?).await?,
            status: statuses.remove(id).unwrap_or_default(),
            configured: configured.clone(),
            missing: reads.missing,
        });
    }
    Ok(overviews)
}

/// What Postgres says; a sentence where it says nothing.
async fn stored(clients: &Clients, groups: &[ConfiguredGroup]) -> Result<StoredOffsets, String> {
    let ids: Vec<&str> = groups
        .iter()
        .filter(|configured| configured.is_stored())
        .map(|configured| configured.group.id.as_str())
        .collect();
    if ids.is_empty() {
        return Ok(StoredOffsets::new());
    }
    stored_offsets(&clients.database, &ids)
        .await
        .map_err(|error| format!("{error}: the offsets of {} are those that kafka was told last", ids.join(", ")))
}

/// What a group reads.
struct GroupInputs {
    partitions: BTreeMap<TopicPartition, Purpose>,
    missing: Vec<String>,
}

impl GroupInputs {
    fn of(configured: &ConfiguredGroup, topics: &[Topic]) -> Self {
        let group = &configured.group;
        let dead_letters = group.id.strip_suffix(DEAD_LETTERS).filter(|_| group.name == DEAD_LETTERS);
        let (retry, redrive) = (format!("{}.retry.", group.id), format!("{}.redrive", group.id));
        let purpose = |topic: &str| {
            let named = group.subscription.topics.iter().any(|name| name == topic);
            let event = group.subscription.all_events && topic.starts_with("events.");
            let letters = dead_letters.is_some_and(|prefix| topic.starts_with(prefix) && topic.ends_with(".dlq"));
            match topic {
                _ if named || event || letters => Some(Purpose::Input),
                _ if topic.starts_with(&retry) => Some(Purpose::Retry),
                _ if topic == redrive => Some(Purpose::Redrive),
                _ if group.own_topics.iter().any(|own| own == topic) => Some(Purpose::Repartition),
                _ => None,
            }
        };
        let mut partitions = BTreeMap::new();
        for topic in topics {
            let Some(purpose) = purpose(&topic.name) else { continue };
            partitions.extend((0..topic.partitions).map(|n| (TopicPartition::new(topic.name.as_str(), n), purpose)));
        }
        let missing = group.subscription.topics.iter().filter(|name| topics.iter().all(|topic| topic.name != **name));
        Self { partitions, missing: missing.cloned().collect() }
    }
}

/// What a group has committed: as Kafka was told, and as Postgres holds it, where it does.
struct CommittedOffsets {
    told: BTreeMap<TopicPartition, CommittedOffset>,
    stored: Option<BTreeMap<TopicPartition, i64>>,
}

impl CommittedOffsets {
    fn next(&self, partition: &TopicPartition) -> Option<i64> {
        match &self.stored {
            Some(stored) => stored.get(partition).copied(),
            None => self.told.get(partition).map(|told| told.next),
        }
    }
}

/// Where logs begin and end.
struct Logs {
    firsts: BTreeMap<TopicPartition, i64>,
    ends: BTreeMap<TopicPartition, LogEnd>,
}

/// Finds how many offsets hold no record, where so few are left that they can be read for it: a group that has done
/// everything has its place before the markers of the last transaction.
async fn counted(clients: &Clients, mut places: Vec<PartitionPosition>) -> Result<Vec<PartitionPosition>> {
    let mut left = COUNTED_ALL;
    let mut stretches = Vec::new();
    for place in places.iter().filter(|place| (1..=COUNTED).contains(&place.readable())) {
        left -= place.readable();
        if left >= 0 {
            stretches.push(OffsetRange { partition: place.partition.clone(), from: place.begin(), to: place.stable });
        }
    }
    let records = count_records(&clients.kafka, &stretches).await?;
    for place in &mut places {
        if let Some(records) = records.get(&place.partition) {
            place.void = place.readable() - records;
        }
    }
    Ok(places)
}

async fn places(
    cluster: &Cluster,
    configured: &ConfiguredGroup,
    reads: &GroupInputs,
    committed: &CommittedOffsets,
    logs: &Logs,
) -> Result<Vec<PartitionPosition>> {
    let never = reads.partitions.keys().all(|partition| committed.next(partition).is_none());
    let inputs: Vec<TopicPartition> = reads
        .partitions
        .iter()
        .filter(|(_, purpose)| **purpose == Purpose::Input)
        .map(|(name, _)| name.clone())
        .collect();
    // Only a group that is wholly new begins by its start; what appears later is read from its beginning.
    let begins = if never && configured.start != Start::Earliest {
        GroupAdmin::of(cluster).offsets(&inputs, configured.start).await?
    } else {
        BTreeMap::new()
    };
    let place = |(partition, purpose): (&TopicPartition, &Purpose)| {
        let (first, end) = (logs.firsts.get(partition).copied()?, logs.ends.get(partition).copied()?);
        let begin = begins.get(partition).copied().unwrap_or(first);
        let next = committed.next(partition);
        Some(PartitionPosition {
            partition: partition.clone(),
            purpose: *purpose,
            committed: next,
            note: committed.told.get(partition).map(|told| told.note.clone()).unwrap_or_default(),
            next: next.unwrap_or(begin),
            first,
            stable: end.stable,
            end: end.high,
            void: 0,
        })
    };
    let mut places: Vec<PartitionPosition> = reads.partitions.iter().filter_map(place).collect();
    places.sort_by_key(|place| place.purpose);
    Ok(places)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A place in a log that has the offsets 10 to 19.
    pub(in crate::command) fn place(committed: Option<i64>) -> PartitionPosition {
        PartitionPosition {
            partition: TopicPartition::new("t", 0),
            purpose: Purpose::Input,
            committed,
            note: String::new(),
            next: committed.unwrap_or(10),
            first: 10,
            stable: 20,
            end: 20,
            void: 0,
        }
    }

    /// Red when what retention deleted counts as waiting, or a place outside of the log is not said.
    #[test]
    fn a_place_outside_of_the_log_is_said() {
        let of = |committed| (place(committed).lag(), place(committed).remark().unwrap_or_default());
        assert_eq!(of(None), (10, String::new()));
        assert_eq!(of(Some(15)), (5, String::new()));
        assert_eq!(of(Some(7)), (10, "3 deleted unread by retention".to_owned()));
        let (lag, remark) = of(Some(99));
        assert!(lag == 0 && remark.contains("created anew"), "{lag} {remark}");
    }

    /// Red when markers count as waiting, what lies behind an open transaction does not or has no reason, or that is the reason
    /// while there are records that can be read.
    #[test]
    fn markers_are_no_lag_and_an_open_transaction_is() {
        let of = |void, stable, committed| {
            let place = PartitionPosition { void, stable, ..place(Some(committed)) };
            (place.lag(), place.remark().is_some_and(|remark| remark.contains("transaction")))
        };
        assert_eq!(of(2, 20, 18), (0, false), "markers at the end");
        assert_eq!(of(0, 15, 15), (5, true));
        assert_eq!(of(1, 15, 14), (5, true), "a marker before the transaction");
        assert_eq!(of(1, 15, 13), (6, false), "one record can be read");
    }
}
