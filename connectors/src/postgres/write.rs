//! The statements that change a sink's table: a whole batch in each, as one array per column.

use std::collections::BTreeMap;

use headwater::{Meta, Mode, Sink};
use sqlx::{AssertSqlSafe, PgConnection, Postgres, postgres::PgArguments, query::Query};

use super::{
    batch::{Batch, Delete, Round, Write},
    encode::Array,
    error::PostgresError,
    refusal::WriteError,
    sql::{TableName, quote},
    table::{OWN_COLUMNS, Table, key_columns},
};

/// What a batch did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Done {
    pub(super) written: u64,
    pub(super) superseded: u64,
    pub(super) deleted: u64,
}

impl Done {
    pub(super) fn add(&mut self, more: Self) {
        self.written += more.written;
        self.superseded += more.superseded;
        self.deleted += more.deleted;
    }
}

/// Runs a batch's statements in the caller's transaction.
pub(super) async fn run(
    conn: &mut PgConnection,
    sink: &Sink,
    name: &TableName,
    table: Option<&Table>,
    batch: &Batch<'_>,
) -> Result<Done, WriteError> {
    let mut done = Done { superseded: batch.superseded, ..Done::default() };
    let Some(table) = table else { return Ok(done) };
    for round in &batch.rounds {
        run_round(conn, sink, name, table, round, &mut done).await?;
    }
    Ok(done)
}

async fn run_round(
    conn: &mut PgConnection,
    sink: &Sink,
    name: &TableName,
    table: &Table,
    round: &Round<'_>,
    done: &mut Done,
) -> Result<(), PostgresError> {
    // A row leaves columns alone that its schema does not have, so rows are grouped by what they have. An insert's rows
    // that were sent back come last: they must see the others.
    let mut groups: BTreeMap<(bool, &[String]), Vec<&Write<'_>>> = BTreeMap::new();
    for write in &round.writes {
        let once = sink.mode == Mode::Insert && write.returned;
        groups.entry((once, &write.layout.column_set)).or_default().push(write);
    }
    for ((once, columns), rows) in groups {
        let statement = Statement { sink, name, table, columns, once };
        let sql = statement.insert()?;
        let written = bind(sql, statement.arrays(&rows)?)?.execute(&mut *conn).await?.rows_affected();
        done.written += written;
        done.superseded += (rows.len() as u64).saturating_sub(written);
    }
    if !round.deletes.is_empty() {
        let (sql, arrays) = delete(sink, name, table, &round.deletes)?;
        let found: (i64, i64) = take_row(bind(sql, arrays)?.fetch_one(conn).await?)?;
        let (there, deleted) = (u64::try_from(found.0).unwrap_or(0), u64::try_from(found.1).unwrap_or(0));
        done.deleted += deleted;
        done.superseded += there.saturating_sub(deleted);
    }
    Ok(())
}

/// One insert: rows with the same columns.
struct Statement<'a> {
    sink: &'a Sink,
    name: &'a TableName,
    table: &'a Table,
    columns: &'a [String],
    /// Whether a row is left out where one of the same origin stands.
    once: bool,
}

impl Statement<'_> {
    fn insert(&self) -> Result<String, PostgresError> {
        let mut names = Vec::new();
        let (mut arrays, mut aliases, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let own = OWN_COLUMNS.iter().map(|(own, ..)| *own);
        for (i, column) in self.columns.iter().map(String::as_str).chain(own).enumerate() {
            let kind = self.table.kind(column)?;
            names.push(quote(column)?);
            arrays.push(format!("${}::{}[]", i + 1, kind.wire().wire()));
            aliases.push(format!("c{i}"));
            values.push(format!("u.c{i}{}", kind.cast()));
        }
        let mut sql = format!(
            "insert into {} as t ({}) select {} from unnest({}) as u ({})",
            self.name.sql(),
            names.join(", "),
            values.join(", "),
            arrays.join(", "),
            aliases.join(", ")
        );
        if self.once {
            sql += &format!(" where not exists (select from {} as s where {})", self.name.sql(), self.same_origin());
        }
        if self.sink.mode == Mode::Upsert {
            let key: Vec<String> = self.sink.key.iter().map(|k| quote(k)).collect::<Result<_, _>>()?;
            let changes: Vec<String> =
                names.iter().filter(|n| !key.contains(n)).map(|n| format!("{n} = excluded.{n}")).collect();
            sql += &format!(
                " on conflict ({}) do update set {} where {}",
                key_columns(self.sink)?,
                changes.join(", "),
                guard("excluded")
            );
        }
        Ok(sql)
    }

    /// Whether the stored row `s` and the new one come from the same place.
    fn same_origin(&self) -> String {
        let place = |own: &str| matches!(own, "hw_topic" | "hw_partition" | "hw_offset");
        let own = (self.columns.len()..).zip(OWN_COLUMNS).filter(|(_, (own, ..))| place(own));
        own.map(|(i, (own, ..))| format!("s.{own} = u.c{i}")).collect::<Vec<_>>().join(" and ")
    }

    fn arrays(&self, rows: &[&Write<'_>]) -> Result<Vec<Array>, PostgresError> {
        let mut arrays = Vec::with_capacity(self.columns.len() + OWN_COLUMNS.len());
        for column in self.columns {
            let kind = self.table.kind(column)?;
            let mut array = Array::new(kind.wire(), rows.len());
            // Rows of one group may have been written with different schemas; most follow one of their own.
            let mut found: Option<(u32, usize)> = None;
            for row in rows {
                let known = found.filter(|(schema, _)| *schema == row.layout.id).map(|(_, position)| position);
                let position = known.or_else(|| row.layout.position(column));
                found = position.map(|position| (row.layout.id, position));
                let pushed = position.ok_or("a record lacks a field of its schema").and_then(|position| {
                    array.value(row.value(position)?, &row.layout.fields[position], &row.layout, kind)
                });
                pushed.map_err(|why| refused(column, why))?;
            }
            arrays.push(array);
        }
        let metas: Vec<&Meta> = rows.iter().map(|row| row.meta).collect();
        for (column, ..) in OWN_COLUMNS {
            let mut array = Array::new(self.table.kind(column)?.wire(), rows.len());
            metas
                .iter()
                .try_for_each(|meta| own_value(&mut array, column, meta))
                .map_err(|why| refused(column, why))?;
            arrays.push(array);
        }
        Ok(arrays)
    }
}

/// Counts the rows that are there, and deletes those that the guard lets go.
fn delete(
    sink: &Sink,
    name: &TableName,
    table: &Table,
    deletes: &[Delete<'_>],
) -> Result<(String, Vec<Array>), PostgresError> {
    let [column] = sink.key.as_slice() else {
        return Err(PostgresError::Config(format!("`delete` on `{}` needs exactly one key column", sink.table)));
    };
    let kind = table.kind(column)?;
    let key = quote(column)?;
    let sql = format!(
        "with u as (select k{} as k, hw_topic, hw_partition, hw_offset, hw_event_time \
            from unnest($1::{}[], $2::text[], $3::int4[], $4::int8[], $5::timestamptz[]) \
            as u (k, hw_topic, hw_partition, hw_offset, hw_event_time)), \
         gone as (delete from {table} t using u where t.{key} = u.k and {guard} returning 1) \
         select (select count(*) from {table} t join u on t.{key} = u.k), (select count(*) from gone)",
        kind.cast(),
        kind.wire().wire(),
        table = name.sql(),
        guard = guard("u"),
    );
    let mut keys = Array::new(kind.wire(), deletes.len());
    deletes.iter().try_for_each(|d| keys.record_key(d.key)).map_err(|why| refused(column, why))?;
    let mut arrays = vec![keys];
    for own in ["hw_topic", "hw_partition", "hw_offset", "hw_event_time"] {
        let mut array = Array::new(own_type(own), deletes.len());
        deletes.iter().try_for_each(|d| own_value(&mut array, own, d.meta)).map_err(|why| refused(own, why))?;
        arrays.push(array);
    }
    Ok((sql, arrays))
}

/// When a change may apply over the stored row `t`: DESIGN section 5. A row that no sink wrote yields to any.
fn guard(new: &str) -> String {
    format!(
        "case when t.hw_topic = {new}.hw_topic and t.hw_partition = {new}.hw_partition \
         then t.hw_offset < {new}.hw_offset \
         else coalesce(t.hw_event_time <= {new}.hw_event_time, true) end"
    )
}

fn own_type(column: &str) -> super::types::SqlType {
    OWN_COLUMNS.iter().find(|(own, ..)| *own == column).map_or(super::types::SqlType::Text, |(_, sql, _)| *sql)
}

fn own_value(array: &mut Array, column: &str, meta: &Meta) -> Result<(), &'static str> {
    match column {
        "hw_event_id" => array.text(&meta.id),
        "hw_correlation_id" => array.text(&meta.correlation_id),
        "hw_causation_id" => match &meta.causation_id {
            Some(id) => array.text(id),
            None => {
                array.null();
                Ok(())
            }
        },
        "hw_topic" => array.text(&meta.origin.partition.topic),
        "hw_event_time" => array.timestamp(meta.time.micros()),
        "hw_partition" => array.int4(meta.origin.partition.partition),
        _ => array.int8(meta.origin.offset),
    }
}

pub(super) fn bind(sql: String, arrays: Vec<Array>) -> Result<Query<'static, Postgres, PgArguments>, PostgresError> {
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
