//! The unit of work: all that a batch of records asked for, committed together or not at all.

use std::sync::Arc;

use crate::{
    codec::WriterSchema,
    event::Meta,
    failure::DeadLetterKind,
    wire::record::{Outgoing, Position, Record, TopicPartition},
};

/// What a batch of records asked for, and the offsets that cover it.
#[derive(Debug, Default)]
pub struct Unit {
    /// Records to publish, in this order, before anything else of the unit is durable.
    pub outgoing: Vec<Outgoing>,
    /// Rows to sink, in the order of their records.
    pub rows: Vec<Row>,
    /// Changes of keyed state, in the order of their records; of one key the last counts.
    pub changes: Vec<StateChange>,
    /// Records to publish once all the rest is durable: that dead letters which were sent back have succeeded.
    pub markers: Vec<Marker>,
    /// Where each touched partition stands once this unit is committed; each partition at most once.
    pub positions: Vec<OffsetRange>,
}

impl Unit {
    /// Whether there is nothing to commit.
    pub fn is_empty(&self) -> bool {
        self.outgoing.is_empty()
            && self.rows.is_empty()
            && self.changes.is_empty()
            && self.markers.is_empty()
            && self.positions.is_empty()
    }
}

/// A change of keyed state. Its bytes are shared, because the engine goes on reading it until it is durable.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateChange {
    /// The store: a `State::NAME`.
    pub store: Arc<str>,
    /// The number of the partition whose state it is.
    pub partition: i32,
    /// The key, UTF-8.
    pub key: Arc<[u8]>,
    /// What the key has from now on; `None` where it is forgotten.
    pub value: Option<Arc<[u8]>>,
    /// Where inputs may come again: how far those of its partition have come with it. A replay of its input has the same.
    pub input: Option<InputPosition>,
}

/// How far the inputs of one partition have come over one route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InputPosition {
    /// Which inputs.
    pub of: InputPartition,
    /// The offset in their partition that comes next.
    pub next: i64,
}

/// The inputs of one partition over one route. They come in the order of their offsets, and those of a suffix may come again;
/// between two routes, and between two topics of one name, there is no order.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InputPartition {
    /// Where they stand.
    pub partition: TopicPartition,
    /// The id of that topic, which another one of its name does not have; empty where it is not known.
    pub topic_id: Arc<str>,
    /// How they reach the step whose state they change.
    pub route: InputRoute,
}

/// How inputs reach a step.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum InputRoute {
    /// They are read where they stand.
    Direct,
    /// Over the repartition topic of this step.
    Over(Arc<str>),
    /// Any: they were noted by a version that did not tell routes apart.
    Any,
}

impl StateChange {
    /// Bytes of key and value.
    pub fn size(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, |value| value.len())
    }
}

/// The news that a dead letter which was sent back has succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The partition that its record was read from: where that is fenced, there is no news.
    pub place: TopicPartition,
    /// What to publish.
    pub record: Outgoing,
}

/// How far a unit moves a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OffsetRange {
    /// Where the partition stands before the unit: what a fenced store must still hold.
    pub from: i64,
    /// Where it stands after it.
    pub to: Position,
}

/// A record on its way to a table.
#[derive(Clone, Debug)]
pub struct Row {
    /// The record's metadata; its origin says where the record first stood.
    pub meta: Arc<Meta>,
    /// The record itself; it says which partition it was read from, whose position covers it.
    pub record: Record,
    /// The record's value, decoded; `None` for a tombstone, which deletes, and for a dead letter, which is kept as it is.
    pub data: Option<RowData>,
}

/// An Avro value and the schema it was written with.
#[derive(Clone, Debug)]
pub struct RowData {
    /// The schema that the value was written with.
    pub schema: Arc<WriterSchema>,
    /// The value, a record.
    pub value: apache_avro::types::Value,
}

/// A row that a store refuses, of a unit whose other rows it would take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedRow {
    /// Its place in [`Unit::rows`].
    pub row: usize,
    /// What kind of dead letter its record is.
    pub kind: DeadLetterKind,
    /// Why, as a sentence without any value of it.
    pub why: String,
}

/// What became of a unit that the store answered for.
#[derive(Debug, PartialEq, Eq)]
pub enum CommitOutcome {
    /// All of it is durable.
    Done,
    /// Another owner holds these partitions: their part of the unit was dropped, the rest is durable.
    Fenced(Vec<TopicPartition>),
}

/// Why a unit was not committed; nothing of it is durable unless said otherwise.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// The store does not answer or cannot take it now: try the same unit again later.
    #[error("{0}")]
    Outage(String),
    /// The store refuses the data itself: another try changes nothing. The rest of the unit was not committed either.
    #[error("{0}")]
    Refused(String),
    /// The store refuses these of the unit's rows and would take all the others: another try changes nothing.
    #[error("{} of the unit's rows are refused", .0.len())]
    RefusedRows(Vec<RefusedRow>),
    /// Whether the unit is durable is not known: the partitions start anew, from what is.
    #[error("{0}")]
    OutcomeUnknown(String),
    /// The store cannot go on, and another in its place may: the group is started anew.
    #[error("{0}")]
    Failed(String),
    /// The group must not go on until a person has acted; the message says how.
    #[error("{0}")]
    Fatal(String),
}
