//! The statements that change a sink's table: a whole batch in each, as one array per column.

use std::collections::BTreeMap;

use headwater::{Meta, Mode, Sink};
use sqlx::{AssertSqlSafe, Postgres, postgres::PgArguments, query::Query};

use super::{
    batch::{Batch, Delete, Round, Write},
    refusal::WriteError,
    table::{OWN_COLUMNS, Table, key_columns},
};
use crate::postgres::{
    columns::{encode::Array, types::SqlType},
    database::session::Transaction,
    error::PostgresError,
    offsets::topic_ids::TopicId,
    sql::{TableName, quote},
};

/// What a batch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct WriteCounts {
    pub(crate) written: u64,
    pub(crate) superseded: u64,
    pub(crate) deleted: u64,
}

impl WriteCounts {
    pub(crate) fn add(&mut self, more: Self) {
        self.written += more.written;
        self.superseded += more.superseded;
        self.deleted += more.deleted;
    }
}

/// Where a group's rows go.
#[derive(Clone, Copy)]
pub(crate) struct TableWriter<'a> {
    pub(crate) sink: &'a Sink,
    pub(crate) name: &'a TableName,
    pub(crate) table: &'a Table,
    pub(crate) group: &'a str,
}

impl TableWriter<'_> {
    /// Runs a batch's statements in the caller's transaction.
    pub(crate) async fn run(self, tx: &mut Transaction<'_>, batch: &Batch<'_>) -> Result<WriteCounts, WriteError> {
        let mut done = WriteCounts { superseded: batch.superseded, ..WriteCounts::default() };
        for round in &batch.rounds {
            self.run_round(tx, round, &mut done).await?;
        }
        Ok(done)
    }

    async fn run_round(
        self,
        tx: &mut Transaction<'_>,
        round: &Round<'_>,
        done: &mut WriteCounts,
    ) -> Result<(), WriteError> {
        // A row leaves columns alone that its schema does not have, so rows are grouped by what they have. An insert's
        // rows that were sent back come last: they must see the others.
        let mut groups: BTreeMap<(bool, Guard, &[String]), Vec<&Write<'_>>> = BTreeMap::new();
        for write in &round.writes {
            let once = self.sink.mode == Mode::Insert && write.returned;
            groups.entry((once, Guard::of(&write.topic), &write.layout.column_set)).or_default().push(write);
        }
        for ((once, guard, columns), rows) in groups {
            let statement = Statement { to: self, columns, once, guard };
            let sql = statement.insert()?;
            let written = bind(sql, statement.arrays(&rows)?)?.execute(&mut *tx).await?.rows_affected();
            done.written += written;
            done.superseded += (rows.len() as u64).saturating_sub(written);
        }
        let mut groups: BTreeMap<Guard, Vec<&Delete<'_>>> = BTreeMap::new();
        round.deletes.iter().for_each(|delete| groups.entry(Guard::of(&delete.topic)).or_default().push(delete));
        for (guard, rows) in groups {
            let (sql, arrays) = self.delete(guard, &rows)?;
            let found: (i64, i64) = take_row(bind(sql, arrays)?.fetch_one(&mut *tx).await?)?;
            let (there, deleted) = (u64::try_from(found.0).unwrap_or(0), u64::try_from(found.1).unwrap_or(0));
            done.deleted += deleted;
            done.superseded += there.saturating_sub(deleted);
        }
        Ok(())
    }

    /// Counts the rows that are there, and deletes those that the guard lets go.
    fn delete(self, guard: Guard, deletes: &[&Delete<'_>]) -> Result<(String, Vec<Array>), PostgresError> {
        let [column] = self.sink.key.as_slice() else {
            return Err(PostgresError::Config(format!(
                "`delete` on `{}` needs exactly one key column",
                self.sink.table
            )));
        };
        let kind = self.table.kind(column)?;
        let key = quote(column)?;
        let mut keys = Array::new(kind.wire(), deletes.len());
        deletes.iter().try_for_each(|d| keys.record_key(d.key)).map_err(|why| refused(column, why))?;
        let mut arrays = vec![keys];
        let mut parameters = vec![format!("$1::{}[]", kind.wire().wire())];
        for (i, own) in GUARDING.into_iter().enumerate() {
            let sql = own_type(own);
            let mut array = Array::new(sql, deletes.len());
            let mut fill = deletes.iter().map(|d| own_value(&mut array, own, d.meta, &d.topic));
            fill.try_for_each(|filled| filled).map_err(|why| refused(own, why))?;
            arrays.push(array);
            parameters.push(format!("${}::{}[]", i + 2, sql.wire()));
        }
        if guard == Guard::Before {
            arrays.push(self.group_array()?);
        }
        let sql = format!(
            "with u as (select k{} as k, {own} from unnest({}) as u (k, {own})), \
             gone as (delete from {table} t using u where t.{key} = u.k and {guard} returning 1) \
             select (select count(*) from {table} t join u on t.{key} = u.k), (select count(*) from gone)",
            kind.cast(),
            parameters.join(", "),
            own = GUARDING.join(", "),
            table = self.name.sql(),
            guard = guard.sql("u", arrays.len()),
        );
        Ok((sql, arrays))
    }

    /// The group's name, as the parameter that a guard looks for.
    fn group_array(self) -> Result<Array, PostgresError> {
        let mut array = Array::new(SqlType::Text, 1);
        array.text(self.group).map_err(|why| PostgresError::Config(format!("group `{}`: {why}", self.group)))?;
        Ok(array)
    }
}

/// The columns that a guard looks at.
const GUARDING: [&str; 5] = ["hw_topic", "hw_topic_id", "hw_partition", "hw_offset", "hw_event_time"];

/// When a change may apply over the stored row `t`. A row that no sink wrote yields to any, and one that
/// does not say its topic's id counts as of the topic that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Guard {
    /// The record is of the topic that is there: it goes over all of one that had the name before.
    Now,
    /// It is of one that had the name before: it goes over nothing of the one that is there.
    Before,
}

impl Guard {
    fn of(topic: &TopicId) -> Self {
        match topic {
            TopicId::Untold | TopicId::Now(_) => Self::Now,
            TopicId::Before => Self::Before,
        }
    }

    /// As a condition on the row `new`; the parameter of this number holds the group's name.
    fn sql(self, new: &str, group: usize) -> String {
        let by_time = format!("coalesce(t.hw_event_time <= {new}.hw_event_time, true)");
        match self {
            Self::Now => format!(
                "case when t.hw_topic = {new}.hw_topic and t.hw_topic_id <> {new}.hw_topic_id then true \
                 when t.hw_topic = {new}.hw_topic and t.hw_partition = {new}.hw_partition \
                 then t.hw_offset < {new}.hw_offset else {by_time} end"
            ),
            Self::Before => format!(
                "case when t.hw_topic = {new}.hw_topic and (t.hw_topic_id is null or exists ( \
                    select from headwater.consumer_offsets o where o.consumer_group = any(${group}::text[]) \
                    and o.topic = t.hw_topic and o.partition = t.hw_partition and o.topic_id = t.hw_topic_id)) \
                 then false else {by_time} end"
            ),
        }
    }
}

/// One insert: rows with the same columns.
struct Statement<'a> {
    to: TableWriter<'a>,
    columns: &'a [String],
    /// Whether a row is left out where one of the same origin stands.
    once: bool,
    guard: Guard,
}

impl Statement<'_> {
    fn insert(&self) -> Result<String, PostgresError> {
        let mut names = Vec::new();
        let (mut arrays, mut aliases, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let own = OWN_COLUMNS.iter().map(|(own, ..)| *own);
        for (i, column) in self.columns.iter().map(String::as_str).chain(own).enumerate() {
            let kind = self.to.table.kind(column)?;
            names.push(quote(column)?);
            arrays.push(format!("${}::{}[]", i + 1, kind.wire().wire()));
            aliases.push(format!("c{i}"));
            values.push(format!("u.c{i}{}", kind.cast()));
        }
        let mut sql = format!(
            "insert into {} as t ({}) select {} from unnest({}) as u ({})",
            self.to.name.sql(),
            names.join(", "),
            values.join(", "),
            arrays.join(", "),
            aliases.join(", ")
        );
        if self.once {
            sql += &format!(" where not exists (select from {} as s where {})", self.to.name.sql(), self.same_origin());
        }
        if self.to.sink.mode == Mode::Upsert {
            let key: Vec<String> = self.to.sink.key.iter().map(|k| quote(k)).collect::<Result<_, _>>()?;
            let changes: Vec<String> =
                names.iter().filter(|n| !key.contains(n)).map(|n| format!("{n} = excluded.{n}")).collect();
            sql += &format!(
                " on conflict ({}) do update set {} where {}",
                key_columns(self.to.sink)?,
                changes.join(", "),
                self.guard.sql("excluded", names.len() + 1)
            );
        }
        Ok(sql)
    }

    /// Whether the stored row `s` and the new one are of one record: from the same place and, since the topic may have been
    /// created anew, with the same id.
    fn same_origin(&self) -> String {
        let place = |own: &str| matches!(own, "hw_topic" | "hw_partition" | "hw_offset" | "hw_event_id");
        let own = (self.columns.len()..).zip(OWN_COLUMNS).filter(|(_, (own, ..))| place(own));
        own.map(|(i, (own, ..))| format!("s.{own} = u.c{i}")).collect::<Vec<_>>().join(" and ")
    }

    fn arrays(&self, rows: &[&Write<'_>]) -> Result<Vec<Array>, PostgresError> {
        let mut arrays = Vec::with_capacity(self.columns.len() + OWN_COLUMNS.len());
        for column in self.columns {
            let kind = self.to.table.kind(column)?;
            let mut array = Array::new(kind.wire(), rows.len());
            // Rows of one group may have been written with different schemas; most follow one of their own.
            let mut found: Option<((u32, u32), usize)> = None;
            for row in rows {
                let known = found.filter(|(schema, _)| *schema == row.layout.key).map(|(_, position)| position);
                let position = known.or_else(|| row.layout.position(column));
                found = position.map(|position| (row.layout.key, position));
                let pushed = position.ok_or("a record lacks a field of its schema").and_then(|position| {
                    array.value(row.value(position)?, &row.layout.fields[position], &row.layout, kind)
                });
                pushed.map_err(|why| refused(column, why))?;
            }
            arrays.push(array);
        }
        for (column, ..) in OWN_COLUMNS {
            let mut array = Array::new(self.to.table.kind(column)?.wire(), rows.len());
            rows.iter()
                .try_for_each(|row| own_value(&mut array, column, row.meta, &row.topic))
                .map_err(|why| refused(column, why))?;
            arrays.push(array);
        }
        if self.guard == Guard::Before && self.to.sink.mode == Mode::Upsert {
            arrays.push(self.to.group_array()?);
        }
        Ok(arrays)
    }
}

fn own_type(column: &str) -> SqlType {
    OWN_COLUMNS.iter().find(|(own, ..)| *own == column).map_or(SqlType::Text, |(_, sql, _)| *sql)
}

fn own_value(array: &mut Array, column: &str, meta: &Meta, topic: &TopicId) -> Result<(), &'static str> {
    let optional = |array: &mut Array, text: Option<&str>| match text {
        Some(text) => array.text(text),
        None => {
            array.null();
            Ok(())
        }
    };
    match column {
        "hw_event_id" => array.text(&meta.id),
        "hw_correlation_id" => array.text(&meta.correlation_id),
        "hw_causation_id" => optional(array, meta.causation_id.as_deref()),
        "hw_topic" => array.text(&meta.origin.partition.topic),
        "hw_topic_id" => optional(array, topic.shown()),
        "hw_event_time" => array.timestamp(meta.time.micros()),
        "hw_partition" => array.int4(meta.origin.partition.partition),
        _ => array.int8(meta.origin.offset),
    }
}

pub(crate) fn bind(sql: String, arrays: Vec<Array>) -> Result<Query<'static, Postgres, PgArguments>, PostgresError> {
    let mut query = sqlx::query(AssertSqlSafe(sql));
    for array in arrays {
        query.try_bind(array).map_err(|e| PostgresError::Refused(format!("it cannot be sent: {e}")))?;
    }
    Ok(query)
}

fn take_row(row: sqlx::postgres::PgRow) -> Result<(i64, i64), PostgresError> {
    use sqlx::FromRow;
    Ok(<(i64, i64)>::from_row(&row)?)
}

fn refused(column: &str, why: &str) -> PostgresError {
    PostgresError::Refused(format!("column `{column}`: {why}"))
}
