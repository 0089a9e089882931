//! What a unit's rows come down to: of each key the last change, in the keys' order.
//!
//! Which change is the last, only the stored row tells: "may replace" is no order. A row that is stored may yield to the
//! first of two changes and not to the second, which yet replaces the first. So a change is left out only where a later
//! one has its effect whatever is stored, as almost always where a key's changes come from one partition. The others of a
//! key are written one after the other, in rounds, as if each had come alone.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use apache_avro::types::Value;
use headwater::{Meta, Mode, Sink, TopicPartition, spi::Row};

use super::table::Table;
use crate::postgres::{
    columns::{
        encode::{Array, is_null},
        layout::Layout,
        number,
        types::SqlType,
    },
    error::PostgresError,
    offsets::{Origins, is_returned, topic_ids::TopicId},
};

/// A longer key does not fit a page of a B-tree index, which Postgres reports as if it were an outage.
const MAX_KEY_BYTES: usize = 2_600;

/// The changes of a unit.
#[derive(Debug, Default)]
pub(crate) struct Batch<'a> {
    /// To be written one after the other; most often there is one.
    pub(crate) rounds: Vec<Round<'a>>,
    /// Changes that a later one of the same key makes void, whatever is stored.
    pub(crate) superseded: u64,
}

/// Changes of different keys, in the keys' order.
#[derive(Debug, Default)]
pub(crate) struct Round<'a> {
    /// Rows to write.
    pub(crate) writes: Vec<Write<'a>>,
    /// Rows to delete, by key.
    pub(crate) deletes: Vec<Delete<'a>>,
}

/// One row to write.
#[derive(Debug)]
pub(crate) struct Write<'a> {
    pub(crate) meta: &'a Meta,
    pub(crate) topic: TopicId,
    /// Whether it was read from elsewhere than where it first stood: it was sent back, perhaps more than once.
    pub(crate) returned: bool,
    pub(crate) layout: Arc<Layout>,
    pub(crate) fields: &'a [(String, Value)],
}

/// One row to delete.
#[derive(Debug)]
pub(crate) struct Delete<'a> {
    pub(crate) meta: &'a Meta,
    pub(crate) topic: TopicId,
    pub(crate) key: &'a [u8],
}

enum RowChange<'a> {
    Write(Write<'a>),
    Delete(Delete<'a>),
}

impl<'a> Batch<'a> {
    /// # Errors
    /// [`PostgresError::Refused`] for a row without a key or with one that no index can hold.
    pub(crate) fn of(
        rows: &[&'a Row],
        sink: &Sink,
        table: Option<&Table>,
        layouts: &HashMap<(u32, u32), Arc<Layout>>,
        origins: &Origins<'_>,
    ) -> Result<Self, PostgresError> {
        let mut batch = Self::default();
        let Some(table) = table else {
            // Any row with data has made the table; without one there is nothing to delete from.
            return match rows.iter().any(|row| row.data.is_some()) {
                true => Err(PostgresError::Outage(format!("the table {} is gone: try again", sink.table))),
                false => Ok(batch),
            };
        };
        let changes = rows.iter().map(|row| RowChange::of(row, layouts, origins.topic(row)));
        match sink.mode {
            Mode::Insert => batch.insert(changes)?,
            Mode::Upsert => batch.upsert(changes, sink, table)?,
        }
        Ok(batch)
    }

    /// Every row; of those that were sent back and first stood at one place, one.
    fn insert(
        &mut self,
        changes: impl Iterator<Item = Result<RowChange<'a>, PostgresError>>,
    ) -> Result<(), PostgresError> {
        let mut returned: HashSet<(&TopicPartition, i64, &str)> = HashSet::new();
        for change in changes {
            match change? {
                RowChange::Write(write) if write.returned && !returned.insert(write.origin()) => self.superseded += 1,
                write @ RowChange::Write(_) => self.add(0, write),
                RowChange::Delete(_) => return Err(refused("an insert sink takes no tombstone")),
            }
        }
        Ok(())
    }

    /// Of each key what makes a difference.
    fn upsert(
        &mut self,
        changes: impl Iterator<Item = Result<RowChange<'a>, PostgresError>>,
        sink: &Sink,
        table: &Table,
    ) -> Result<(), PostgresError> {
        let keyed = changes.map(|change| change.and_then(|change| Ok((change.key(sink, table)?, change))));
        let mut keyed = keyed.collect::<Result<Vec<_>, _>>()?;
        // Everybody locks rows in the same order; those of one key stay in the order in which they came.
        keyed.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut keyed = keyed.into_iter().peekable();
        let mut of_key = Vec::new();
        while let Some((key, change)) = keyed.next() {
            self.superseded += change.follow(&mut of_key);
            if keyed.peek().is_none_or(|(next, _)| *next != key) {
                of_key.drain(..).enumerate().for_each(|(round, change)| self.add(round, change));
            }
        }
        Ok(())
    }

    fn add(&mut self, round: usize, change: RowChange<'a>) {
        if self.rounds.len() <= round {
            self.rounds.resize_with(round + 1, Round::default);
        }
        match change {
            RowChange::Write(write) => self.rounds[round].writes.push(write),
            RowChange::Delete(delete) => self.rounds[round].deletes.push(delete),
        }
    }
}

impl<'a> RowChange<'a> {
    fn of(row: &'a Row, layouts: &HashMap<(u32, u32), Arc<Layout>>, topic: TopicId) -> Result<Self, PostgresError> {
        let meta = row.meta.as_ref();
        let Some(data) = &row.data else {
            let key = row.record.key.as_deref().ok_or_else(|| refused("it is a tombstone without a key"))?;
            return Ok(Self::Delete(Delete { meta, topic, key }));
        };
        let Value::Record(fields) = &data.value else {
            return Err(refused("its value is no record, and a row needs fields"));
        };
        let layout = layouts.get(&data.schema.key()).cloned();
        let layout =
            layout.ok_or_else(|| PostgresError::Outage("a schema was not looked at yet: try again".to_owned()))?;
        Ok(Self::Write(Write { meta, topic, returned: is_returned(row), layout, fields }))
    }

    /// Appends the change to those of its key, leaves out what it makes void, and says how many those are.
    ///
    /// One is void when this one replaces whatever that one would replace, that one itself, and all in between: then
    /// this one is what is left, be the other written or not.
    fn follow(self, earlier: &mut Vec<Self>) -> u64 {
        let mut void = 0;
        for i in (0..earlier.len()).rev() {
            if !self.covers(&earlier[i]) {
                break;
            }
            if self.outdoes(&earlier[i]) {
                earlier.remove(i);
                void += 1;
            }
        }
        earlier.push(self);
        void
    }

    /// Whether nothing is left of `earlier` once this one is written over it.
    fn covers(&self, earlier: &Self) -> bool {
        let all_columns = match (self, earlier) {
            (Self::Delete(_), _) => true,
            (Self::Write(new), Self::Write(old)) => new.has_columns_of(old),
            // The columns that this one does not have are null only in a row that is new.
            (Self::Write(_), Self::Delete(_)) => false,
        };
        // A record of a topic that had the name before is too rare to be thought about.
        all_columns && *self.topic() != TopicId::Before && applies_over(self.meta(), earlier.meta())
    }

    /// Whether this one applies over any stored row that `earlier` applies over.
    fn outdoes(&self, earlier: &Self) -> bool {
        let (new, old) = (self.meta(), earlier.meta());
        let one_partition = new.origin.partition == old.origin.partition && self.topic() == earlier.topic();
        one_partition && new.origin.offset > old.origin.offset && new.time >= old.time
    }

    fn topic(&self) -> &TopicId {
        match self {
            Self::Write(write) => &write.topic,
            Self::Delete(delete) => &delete.topic,
        }
    }

    fn meta(&self) -> &'a Meta {
        match self {
            Self::Write(write) => write.meta,
            Self::Delete(delete) => delete.meta,
        }
    }

    /// The key columns' values in one piece; equal exactly when Postgres finds them equal.
    fn key(&self, sink: &Sink, table: &Table) -> Result<Vec<u8>, PostgresError> {
        let mut whole = Vec::new();
        for column in &sink.key {
            let kind = table.kind(column)?;
            let mut one = Array::new(kind.wire(), 1);
            match self {
                Self::Delete(delete) => one.record_key(delete.key),
                Self::Write(write) => write.key_value(column).and_then(|(value, position)| {
                    if is_cut(value) {
                        return Err("the key is a time of nanoseconds, of which postgres keeps microseconds");
                    }
                    one.value(value, &write.layout.fields[position], &write.layout, kind)
                }),
            }
            .map_err(|why| refused(&format!("column `{column}`: {why}")))?;
            let bytes = one.into_items();
            match kind.wire() {
                // The same number may be written with more or fewer zeros.
                SqlType::Numeric(_) => {
                    let text = std::str::from_utf8(&bytes[4..]).unwrap_or_default();
                    whole.extend_from_slice(number::canonical(text).as_bytes());
                    whole.push(0);
                }
                _ => whole.extend_from_slice(&bytes),
            }
        }
        if whole.len() > MAX_KEY_BYTES {
            return Err(refused("the key is longer than an index can hold (2,600 bytes)"));
        }
        Ok(whole)
    }
}

impl<'a> Write<'a> {
    /// Where the record first stood, and its id, which another one has where the topic was created anew.
    fn origin(&self) -> (&'a TopicPartition, i64, &'a str) {
        (&self.meta.origin.partition, self.meta.origin.offset, &self.meta.id)
    }

    fn has_columns_of(&self, other: &Self) -> bool {
        let (own, others) = (&self.layout.column_set, &other.layout.column_set);
        self.layout.key == other.layout.key || others.iter().all(|column| own.binary_search(column).is_ok())
    }

    /// The value of the field at `position` of the row's own layout.
    pub(crate) fn value(&self, position: usize) -> Result<&'a Value, &'static str> {
        let name = &self.layout.fields[position].name;
        match self.fields.get(position) {
            Some((found, value)) if found == name => Ok(value),
            _ => Err("a record lacks a field of its schema"),
        }
    }

    fn key_value(&self, column: &str) -> Result<(&'a Value, usize), &'static str> {
        let position = self.layout.position(column).ok_or("a record has no such field, which is the key")?;
        let value = self.value(position)?;
        if is_null(value) { Err("the key is null") } else { Ok((value, position)) }
    }
}

/// The key of the row that a record writes or deletes; `None` where it has none, or none that a table can have.
pub(crate) fn key_of(
    row: &Row,
    sink: &Sink,
    table: &Table,
    layouts: &HashMap<(u32, u32), Arc<Layout>>,
) -> Option<Vec<u8>> {
    RowChange::of(row, layouts, TopicId::Untold).and_then(|change| change.key(sink, table)).ok()
}

/// Whether nanoseconds are left out of what is stored.
fn is_cut(value: &Value) -> bool {
    match value {
        Value::Union(_, inner) => is_cut(inner),
        Value::TimestampNanos(n) | Value::LocalTimestampNanos(n) => n % 1_000 != 0,
        _ => false,
    }
}

/// Whether `new` may replace `old`: the same guard as in the statements, of records of the topic that is there.
fn applies_over(new: &Meta, old: &Meta) -> bool {
    if new.origin.partition == old.origin.partition {
        old.origin.offset < new.origin.offset
    } else {
        old.time <= new.time
    }
}

fn refused(why: &str) -> PostgresError {
    PostgresError::Refused(why.to_owned())
}
