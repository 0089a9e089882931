//! Offsets that live beside the rows, and who may move them.

pub(crate) mod group_offsets;
pub(crate) mod topic_ids;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use headwater::{
    TopicPartition,
    spi::{OffsetRange, Row, StartFrom as Start},
};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};

use self::topic_ids::TopicId;
use super::error::{PostgresError, is_undefined};
use crate::kafka::topic_recreated::created_anew;

/// `next_offset` of a partition that nobody has committed yet.
const NOT_STARTED: i64 = -1;
/// Locks the rows in (topic, partition) order, so that two owners wait for each other instead of deadlocking.
const LOCKED: &str = "order by o.topic, o.partition for update of o";

/// The partitions that one sink owns.
#[derive(Debug)]
pub(super) struct OwnedOffsets {
    group: String,
    owned: HashMap<TopicPartition, Ownership>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Ownership {
    epoch: i64,
    /// Which topic the offset belongs to; the partition's records stand on it.
    topic: TopicId,
    /// Whether the store holds no offset yet; the first commit then expects [`NOT_STARTED`].
    fresh: bool,
}

/// A partition's row as the store has it.
#[derive(Debug)]
struct OffsetRow {
    next: i64,
    epoch: i64,
    topic: TopicId,
}

/// What a unit of work may do, with its offset rows locked.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fences {
    /// Partitions that another owner has.
    pub(super) fenced: HashSet<TopicPartition>,
    /// Partitions whose offsets have moved with this transaction.
    pub(super) moved: Vec<TopicPartition>,
    /// An earlier try of the same unit is durable already, for all but the fenced partitions.
    pub(super) done: bool,
}

impl OwnedOffsets {
    pub(super) fn new(group: String) -> Self {
        Self { group, owned: HashMap::new() }
    }

    /// The group whose offsets these are.
    pub(super) fn group(&self) -> &str {
        &self.group
    }

    /// Takes each partition's next epoch and reads its offset, in one statement; `ids` are those of the topics, where
    /// somebody tells them. Where a topic has another id than its offset, nothing is taken.
    pub(super) async fn start(
        &mut self,
        conn: &mut PgConnection,
        partitions: &[TopicPartition],
        ids: Option<&BTreeMap<String, String>>,
    ) -> Result<Vec<Start>, PostgresError> {
        let (topics, numbers) = columns(partitions.iter());
        let known: Vec<Option<&String>> = topics.iter().map(|topic| ids?.get(topic)).collect();
        let mut tx = conn.begin().await?;
        let rows: Vec<(String, i32, i64, i64, Option<String>)> = sqlx::query_as(
            "insert into headwater.consumer_offsets as o \
             (consumer_group, topic, partition, next_offset, owner_epoch, topic_id) \
             select distinct $1, t, p, $4::int8, 1, i from unnest($2::text[], $3::int4[], $5::text[]) as u (t, p, i) \
             order by t, p \
             on conflict (consumer_group, topic, partition) do update \
             set owner_epoch = o.owner_epoch + 1, topic_id = coalesce(o.topic_id, excluded.topic_id) \
             returning topic, partition, next_offset, owner_epoch, topic_id",
        )
        .bind(&self.group)
        .bind(&topics)
        .bind(numbers)
        .bind(NOT_STARTED)
        .bind(known)
        .fetch_all(&mut *tx)
        .await
        .map_err(explain)?;
        if let Some(problem) = rows.iter().find_map(|(topic, .., id)| self.other_id(topic, id.as_deref()?, ids?)) {
            tx.rollback().await?;
            return Err(problem);
        }
        tx.commit().await?;
        let mut starts = HashMap::new();
        for (topic, partition, next, epoch, id) in rows {
            let partition = TopicPartition::new(topic, partition);
            let topic = told(id);
            self.owned.insert(partition.clone(), Ownership { epoch, topic, fresh: next == NOT_STARTED });
            starts.insert(partition, if next == NOT_STARTED { Start::Policy } else { Start::Offset(next) });
        }
        let start_of =
            |p| starts.get(p).copied().ok_or_else(|| PostgresError::Outage(format!("postgres did not start {p}")));
        partitions.iter().map(start_of).collect()
    }

    /// Why a stored offset is not one of the topic that there is now.
    fn other_id(&self, topic: &str, stored: &str, ids: &BTreeMap<String, String>) -> Option<PostgresError> {
        match ids.get(topic) {
            Some(now) if now == stored => None,
            Some(now) => {
                let what = format!("its id is {now}, and the group's offsets belong to {stored}");
                Some(PostgresError::Config(created_anew(&self.group, topic, None, &what)))
            }
            // Between its deletion and whatever comes next: going on would miss that it is another topic.
            None => Some(PostgresError::Outage(format!(
                "kafka tells no id of topic {topic}, which group {} has read under the id {stored}: waiting for the topic",
                self.group
            ))),
        }
    }

    /// Which topics these rows' records first stood on.
    ///
    /// A record that was sent back says its place, and not whether the topic has been created anew since. The group had
    /// read it before it could be sent back: where it has not come as far on the topic that is there, it read it on
    /// another one.
    pub(super) async fn origins(&self, conn: &mut PgConnection, rows: &[&Row]) -> Result<Origins<'_>, PostgresError> {
        let mut origins = Origins { offsets: self, read: HashMap::new() };
        let returned: BTreeSet<_> =
            rows.iter().filter(|row| is_returned(row)).map(|row| &row.meta.origin.partition).collect();
        if returned.is_empty() {
            return Ok(origins);
        }
        origins.read = self.stored(conn, returned.into_iter(), "").await?;
        Ok(origins)
    }

    pub(super) fn forget(&mut self, partitions: &[TopicPartition]) {
        for partition in partitions {
            self.owned.remove(partition);
        }
    }

    /// Moves the offsets that are ours to move, first thing in the unit's transaction: from here to its end nobody
    /// else can take the partitions over.
    pub(super) async fn advance(
        &self,
        conn: &mut PgConnection,
        positions: &[OffsetRange],
    ) -> Result<Fences, PostgresError> {
        let stored = self.stored(conn, positions.iter().map(|p| &p.to.partition), LOCKED).await?;
        let mut fences = Fences { fenced: HashSet::new(), moved: Vec::new(), done: false };
        let mut repeated = Vec::new();
        for progress in positions {
            let partition = &progress.to.partition;
            match (self.owned.get(partition), stored.get(partition)) {
                (Some(mine), Some(row)) if row.epoch == mine.epoch && row.next == mine.expects(progress) => {
                    fences.moved.push(partition.clone());
                }
                (Some(mine), Some(row)) if row.epoch == mine.epoch && row.next == progress.to.next => {
                    repeated.push(partition.clone());
                }
                _ => {
                    fences.fenced.insert(partition.clone());
                }
            }
        }
        // One transaction moved them all, or none: only where none is left to move was this unit committed before.
        if fences.moved.is_empty() {
            fences.done = !repeated.is_empty();
        } else {
            fences.fenced.extend(repeated);
        }
        self.update(conn, positions, &fences).await?;
        Ok(fences)
    }

    /// After the transaction has committed: what the store now holds of `moved`, and who is out.
    pub(super) fn settle(&mut self, fences: &Fences, positions: &[OffsetRange]) {
        for partition in &fences.fenced {
            self.owned.remove(partition);
        }
        for progress in positions {
            if let Some(owned) = self.owned.get_mut(&progress.to.partition) {
                owned.fresh = false;
            }
        }
    }

    /// The group's rows of these partitions; `how` ends the query.
    async fn stored(
        &self,
        conn: &mut PgConnection,
        partitions: impl Iterator<Item = &TopicPartition>,
        how: &'static str,
    ) -> Result<HashMap<TopicPartition, OffsetRow>, PostgresError> {
        let (topics, numbers) = columns(partitions);
        let sql = format!(
            "select o.topic, o.partition, o.next_offset, o.owner_epoch, o.topic_id from headwater.consumer_offsets o \
             join unnest($2::text[], $3::int4[]) as u (t, p) on o.topic = u.t and o.partition = u.p \
             where o.consumer_group = $1 {how}"
        );
        let rows: Vec<(String, i32, i64, i64, Option<String>)> = sqlx::query_as(AssertSqlSafe(sql))
            .bind(&self.group)
            .bind(topics)
            .bind(numbers)
            .fetch_all(conn)
            .await
            .map_err(explain)?;
        let row = |(topic, partition, next, epoch, id): (String, i32, i64, i64, Option<String>)| {
            (TopicPartition::new(topic, partition), OffsetRow { next, epoch, topic: told(id) })
        };
        Ok(rows.into_iter().map(row).collect())
    }

    async fn update(
        &self,
        conn: &mut PgConnection,
        positions: &[OffsetRange],
        fences: &Fences,
    ) -> Result<(), PostgresError> {
        let moving: Vec<(&OffsetRange, &Ownership)> = positions
            .iter()
            .filter(|p| fences.moved.contains(&p.to.partition))
            .filter_map(|p| self.owned.get(&p.to.partition).map(|owned| (p, owned)))
            .collect();
        if moving.is_empty() {
            return Ok(());
        }
        let (topics, numbers) = columns(moving.iter().map(|(p, _)| &p.to.partition));
        let expected: Vec<i64> = moving.iter().map(|(p, owned)| owned.expects(p)).collect();
        let next: Vec<i64> = moving.iter().map(|(p, _)| p.to.next).collect();
        let epochs: Vec<i64> = moving.iter().map(|(_, owned)| owned.epoch).collect();
        let done = sqlx::query(
            "update headwater.consumer_offsets o set next_offset = u.next \
             from unnest($2::text[], $3::int4[], $4::int8[], $5::int8[], $6::int8[]) as u (t, p, expected, next, epoch) \
             where o.consumer_group = $1 and o.topic = u.t and o.partition = u.p \
             and o.owner_epoch = u.epoch and o.next_offset = u.expected",
        )
        .bind(&self.group)
        .bind(topics)
        .bind(numbers)
        .bind(expected)
        .bind(next)
        .bind(epochs)
        .execute(conn)
        .await?;
        if done.rows_affected() == moving.len() as u64 {
            Ok(())
        } else {
            Err(PostgresError::Outage("offset rows changed under their lock: try again".to_owned()))
        }
    }
}

/// Which topics the records of a unit's rows first stood on.
#[derive(Debug)]
pub(super) struct Origins<'a> {
    offsets: &'a OwnedOffsets,
    /// How far the group has read where records first stood that were sent back, and on which topic.
    read: HashMap<TopicPartition, OffsetRow>,
}

impl Origins<'_> {
    /// The topic that this row's record first stood on.
    pub(super) fn topic(&self, row: &Row) -> TopicId {
        let origin = &row.meta.origin;
        if is_returned(row) {
            return match self.read.get(&origin.partition) {
                Some(OffsetRow { next, topic: TopicId::Now(_), .. }) if origin.offset >= *next => TopicId::Before,
                read => read.map_or(TopicId::Untold, |read| read.topic.clone()),
            };
        }
        self.offsets.owned.get(&origin.partition).map_or(TopicId::Untold, |owned| owned.topic.clone())
    }
}

/// Whether the record was read from elsewhere than where it first stood: it was sent back, perhaps more than once.
pub(super) fn is_returned(row: &Row) -> bool {
    row.meta.origin.partition.partition != row.record.partition || row.meta.origin.partition.topic != row.record.topic
}

impl Ownership {
    fn expects(&self, progress: &OffsetRange) -> i64 {
        if self.fresh { NOT_STARTED } else { progress.from }
    }
}

fn columns<'a>(partitions: impl Iterator<Item = &'a TopicPartition>) -> (Vec<String>, Vec<i32>) {
    partitions.map(|p| (p.topic.to_string(), p.partition)).unzip()
}

/// The topic that a row names.
fn told(id: Option<String>) -> TopicId {
    id.map_or(TopicId::Untold, |id| TopicId::Now(id.into()))
}

/// An error of a statement on Headwater's own tables.
pub(super) fn explain(error: sqlx::Error) -> PostgresError {
    if is_undefined(&error) {
        return PostgresError::Outage("the schema headwater is missing: run `headwater topology apply`".to_owned());
    }
    error.into()
}
