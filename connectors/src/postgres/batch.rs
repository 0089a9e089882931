//! What a unit's rows come down to: of each key one change, the last, in the keys' order.

use std::{
    cmp::Ordering,
    collections::{HashMap, HashSet},
    sync::Arc,
};

use apache_avro::types::Value;
use headwater::{Meta, Mode, Row, Sink, TopicPartition};

use super::{
    encode::{Array, is_null},
    error::PostgresError,
    layout::Layout,
    number,
    table::Table,
    types::SqlType,
};

/// A longer key does not fit a page of a B-tree index, which Postgres reports as if it were an outage.
const MAX_KEY_BYTES: usize = 2_600;

/// The changes of a unit.
#[derive(Debug, Default)]
pub(super) struct Batch<'a> {
    /// Rows to write.
    pub(super) writes: Vec<Write<'a>>,
    /// Rows to delete, by key.
    pub(super) deletes: Vec<Delete<'a>>,
    /// Changes that a later one of the same key makes void.
    pub(super) superseded: u64,
}

/// One row to write.
#[derive(Debug)]
pub(super) struct Write<'a> {
    pub(super) meta: &'a Meta,
    /// Whether it was read from elsewhere than where it first stood: it was sent back, perhaps more than once.
    pub(super) returned: bool,
    pub(super) layout: Arc<Layout>,
    pub(super) fields: &'a [(String, Value)],
}

/// One row to delete.
#[derive(Debug)]
pub(super) struct Delete<'a> {
    pub(super) meta: &'a Meta,
    pub(super) key: &'a [u8],
}

enum Change<'a> {
    Write(Write<'a>),
    Delete(Delete<'a>),
}

impl<'a> Batch<'a> {
    /// # Errors
    /// [`PostgresError::Refused`] for a row without a key or with one that no index can hold.
    pub(super) fn of(
        rows: &[&'a Row],
        sink: &Sink,
        table: Option<&Table>,
        layouts: &HashMap<(u32, u32), Arc<Layout>>,
    ) -> Result<Self, PostgresError> {
        let mut batch = Self::default();
        let Some(table) = table else {
            // Any row with data has made the table; without one there is nothing to delete from.
            return match rows.iter().any(|row| row.data.is_some()) {
                true => Err(PostgresError::Outage(format!("the table {} is gone: try again", sink.table))),
                false => Ok(batch),
            };
        };
        let mut returned: HashSet<(&TopicPartition, i64)> = HashSet::new();
        let mut last: HashMap<Vec<u8>, Change<'a>> = HashMap::new();
        for &row in rows {
            let change = Change::of(row, layouts)?;
            if sink.mode == Mode::Insert {
                match change {
                    Change::Write(write) if write.returned && !returned.insert(write.origin()) => {
                        batch.superseded += 1;
                    }
                    Change::Write(write) => batch.writes.push(write),
                    Change::Delete(_) => return Err(refused("an insert sink takes no tombstone")),
                }
                continue;
            }
            let key = change.key(sink, table)?;
            if let Some(earlier) = last.get(&key) {
                batch.superseded += 1;
                if !applies_over(change.meta(), earlier.meta()) {
                    continue;
                }
            }
            last.insert(key, change);
        }
        let mut changes: Vec<_> = last.into_iter().collect();
        // Everybody locks rows in the same order.
        changes.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        for (_, change) in changes {
            match change {
                Change::Write(write) => batch.writes.push(write),
                Change::Delete(delete) => batch.deletes.push(delete),
            }
        }
        Ok(batch)
    }
}

impl<'a> Change<'a> {
    fn of(row: &'a Row, layouts: &HashMap<(u32, u32), Arc<Layout>>) -> Result<Self, PostgresError> {
        let meta = row.meta.as_ref();
        let Some(data) = &row.data else {
            let key = row.record.key.as_deref().ok_or_else(|| refused("it is a tombstone without a key"))?;
            return Ok(Self::Delete(Delete { meta, key }));
        };
        let Value::Record(fields) = &data.value else {
            return Err(refused("its value is no record, and a row needs fields"));
        };
        let layout = layouts.get(&data.schema.key()).cloned();
        let layout =
            layout.ok_or_else(|| PostgresError::Outage("a schema was not looked at yet: try again".to_owned()))?;
        let returned = meta.origin.partition != row.record.place();
        Ok(Self::Write(Write { meta, returned, layout, fields }))
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
    /// Where the record first stood.
    fn origin(&self) -> (&'a TopicPartition, i64) {
        (&self.meta.origin.partition, self.meta.origin.offset)
    }

    /// The value of the field at `position` of the row's own layout.
    pub(super) fn value(&self, position: usize) -> Result<&'a Value, &'static str> {
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

/// Whether `new` may replace `old`, wherever each stands: DESIGN's guard, the same as in the statements.
fn applies_over(new: &Meta, old: &Meta) -> bool {
    if new.origin.partition == old.origin.partition {
        new.origin.offset.cmp(&old.origin.offset) == Ordering::Greater
    } else {
        old.time <= new.time
    }
}

fn refused(why: &str) -> PostgresError {
    PostgresError::Refused(why.to_owned())
}
