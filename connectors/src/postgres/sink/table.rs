//! The table of a sink: what it is, what a schema needs it to be, and how it gets there.

use std::collections::HashMap;

use headwater::{Mode, Sink};

use super::table_comment::TableComment;
use crate::postgres::{
    columns::{
        layout::{Field, Layout},
        types::{ColumnType, SqlType, Widening},
    },
    database::session::Transaction,
    error::PostgresError,
    sql::{TableName, quote},
};

/// The columns that every sink's table has beside the schema's: name, type, whether each row has a value.
pub(crate) const OWN_COLUMNS: [(&str, SqlType, bool); 8] = [
    ("hw_event_id", SqlType::Text, true),
    ("hw_correlation_id", SqlType::Text, true),
    ("hw_causation_id", SqlType::Text, false),
    ("hw_topic", SqlType::Text, true),
    ("hw_topic_id", SqlType::Text, false),
    ("hw_event_time", SqlType::TimestampTz, true),
    ("hw_partition", SqlType::Int4, true),
    ("hw_offset", SqlType::Int8, true),
];

/// The column of ours whose comment holds what the sink remembers.
pub(crate) const NOTED: &str = "hw_topic";

/// The columns that every table of postgres has already (`catalog/heap.c`).
const SYSTEM_COLUMNS: [&str; 6] = ["ctid", "xmin", "cmin", "xmax", "cmax", "tableoid"];

/// What there is under a table's name.
#[derive(Debug, Default)]
pub(crate) struct FoundTable {
    /// Whether there is a schema to put a table in. Asked first, since `create schema if not exists` needs a right that
    /// few users have, even where the schema exists.
    schema: bool,
    pub(crate) table: Option<Table>,
}

/// A table as it is.
#[derive(Clone, Debug, Default)]
pub(crate) struct Table {
    columns: HashMap<String, Column>,
    /// Whether a unique index covers exactly the sink's key.
    keyed: bool,
    /// Whether it is ours to alter, and to comment on.
    pub(crate) owned: bool,
    /// What is said of [`NOTED`].
    pub(crate) comment: Option<String>,
    /// What is said of the table, where a sink wrote its note before.
    older: Option<String>,
}

#[derive(Clone, Debug)]
struct Column {
    kind: ColumnType,
    /// The type as the server writes it.
    shown: String,
    /// Whether it is `not null`.
    required: bool,
}

impl FoundTable {
    /// Looks the table up.
    pub(crate) async fn read(
        tx: &mut Transaction<'_>,
        name: &TableName,
        key: &[String],
    ) -> Result<Self, PostgresError> {
        let (schema,): (bool,) = sqlx::query_as("select exists (select 1 from pg_namespace where nspname = $1)")
            .bind(&name.schema)
            .fetch_one(&mut *tx)
            .await?;
        Ok(Self { schema, table: Table::read(tx, name, key).await? })
    }
}

impl FoundTable {
    /// What is remembered of the table, as far as a comment says.
    pub(crate) fn note(&self) -> TableComment {
        let table = self.table.as_ref().filter(|table| table.owned);
        let read = |table: &Table| {
            TableComment::read(table.comment.as_deref()).or_else(|| TableComment::read(table.older.as_deref()))
        };
        table.and_then(read).unwrap_or_default()
    }
}

impl Table {
    async fn read(tx: &mut Transaction<'_>, name: &TableName, key: &[String]) -> Result<Option<Self>, PostgresError> {
        let rows: Vec<(String, String, String, i32, String, String, bool)> = sqlx::query_as(
            "select a.attname::text, t.typname::text, format_type(a.atttypid, -1), a.atttypmod, t.typtype::text, \
                    format_type(a.atttypid, a.atttypmod), a.attnotnull \
             from pg_attribute a join pg_class c on c.oid = a.attrelid join pg_namespace n on n.oid = c.relnamespace \
             join pg_type t on t.oid = a.atttypid \
             where n.nspname = $1 and c.relname = $2 and a.attnum > 0 and not a.attisdropped",
        )
        .bind(&name.schema)
        .bind(&name.table)
        .fetch_all(&mut *tx)
        .await?;
        if rows.is_empty() {
            return Ok(None);
        }
        let columns = rows.into_iter().map(|(column, plain, formatted, modifier, kind, shown, required)| {
            (column, Column { kind: ColumnType::of(&plain, &formatted, modifier, &kind), shown, required })
        });
        let columns = columns.collect();
        let keyed = Self::is_keyed(tx, name, key).await?;
        let (owned, comment, older): (bool, Option<String>, Option<String>) = sqlx::query_as(
            "select pg_has_role(c.relowner, 'USAGE') and c.relkind in ('r', 'p'), \
             (select col_description(c.oid, a.attnum) from pg_attribute a \
                where a.attrelid = c.oid and a.attname = $3 and not a.attisdropped), \
             obj_description(c.oid, 'pg_class') \
             from pg_class c join pg_namespace n on n.oid = c.relnamespace where n.nspname = $1 and c.relname = $2",
        )
        .bind(&name.schema)
        .bind(&name.table)
        .bind(NOTED)
        .fetch_one(tx)
        .await?;
        Ok(Some(Self { columns, keyed, owned, comment, older }))
    }

    async fn is_keyed(tx: &mut Transaction<'_>, name: &TableName, key: &[String]) -> Result<bool, PostgresError> {
        let mut key = key.to_vec();
        key.sort_unstable();
        let (keyed,): (bool,) = sqlx::query_as(
            "select exists (select 1 from pg_index i join pg_class c on c.oid = i.indrelid \
             join pg_namespace n on n.oid = c.relnamespace \
             where n.nspname = $1 and c.relname = $2 and i.indisunique and i.indisvalid and i.indpred is null \
             and i.indexprs is null and $3::text[] = (select array_agg(a.attname::text order by a.attname::text collate \"C\") \
                from unnest(i.indkey::int2[]) with ordinality k (number, place) \
                join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.number \
                where k.place <= i.indnkeyatts))",
        )
        .bind(&name.schema)
        .bind(&name.table)
        .bind(key)
        .fetch_one(tx)
        .await?;
        Ok(keyed)
    }

    /// The type of a column that is known to be there.
    pub(crate) fn kind(&self, column: &str) -> Result<&ColumnType, PostgresError> {
        let missing = || PostgresError::Outage(format!("column `{column}` is gone: it is looked for again"));
        self.columns.get(column).map(|c| &c.kind).ok_or_else(missing)
    }
}

/// Whether any table can take rows of this schema.
///
/// # Errors
/// [`PostgresError::Refused`] for a schema that none can serve.
fn serves(sink: &Sink, layout: &Layout) -> Result<(), PostgresError> {
    layout.fields.iter().try_for_each(check_field)?;
    if sink.mode == Mode::Upsert && !layout.is_none() {
        for key in &sink.key {
            if layout.position(key).is_none() {
                return Err(no_key_field(sink, key, layout));
            }
        }
    }
    Ok(())
}

/// What fits a table to a schema.
#[derive(Debug)]
pub(crate) struct Plan {
    /// Empty where it fits.
    pub(crate) sql: Vec<String>,
    /// What is to be remembered of the table then.
    pub(crate) note: TableComment,
}

/// The SQL that fits what is there to rows of this schema; `note` is what is remembered of it.
///
/// # Errors
/// [`PostgresError::Refused`] for a schema that no table can serve, [`PostgresError::Config`] for such a sink;
/// [`PostgresError::Outage`] for what a person must change in the database, with the SQL.
pub(crate) fn plan(
    sink: &Sink,
    name: &TableName,
    layout: &Layout,
    found: &FoundTable,
    mut note: TableComment,
) -> Result<Plan, PostgresError> {
    serves(sink, layout)?;
    let (sql, allowed) = match &found.table {
        None => (create(sink, name, layout, found.schema, &mut note)?, sink.create),
        Some(table) => {
            let mut sql = check_columns(sink, name, layout, table)?;
            sql.extend(evolve(sink, name, layout, table, &mut note)?);
            (sql, sink.evolve)
        }
    };
    if sql.is_empty() || allowed {
        return Ok(Plan { sql, note });
    }
    let what = match &found.table {
        None => format!("there is no table {name} and the sink has create = false"),
        Some(_) => format!("{name} does not fit schema {} and the sink has evolve = false", layout.id),
    };
    Err(PostgresError::Outage(format!("{what}: run {}", sql.join("; "))))
}

/// A field that cannot be a column makes bad records, not a bad configuration: others of the type may do without it.
fn check_field(field: &Field) -> Result<(), PostgresError> {
    quote(&field.name).map_err(|error| PostgresError::Refused(error.to_string()))?;
    if SYSTEM_COLUMNS.contains(&field.name.as_str()) {
        let why = "has the name of a system column, which postgres lets no table have: rename it in the schema";
        return Err(PostgresError::Refused(format!("field `{}` {why}", field.name)));
    }
    if OWN_COLUMNS.iter().any(|(own, ..)| *own == field.name) {
        let why = "has the name of a column that the sink fills itself: rename it in the schema";
        return Err(PostgresError::Refused(format!("field `{}` {why}", field.name)));
    }
    Ok(())
}

fn create(
    sink: &Sink,
    name: &TableName,
    layout: &Layout,
    schema: bool,
    note: &mut TableComment,
) -> Result<Vec<String>, PostgresError> {
    if layout.is_none() {
        return Ok(Vec::new());
    }
    let mut columns = Vec::with_capacity(layout.fields.len() + OWN_COLUMNS.len() + 1);
    for field in &layout.fields {
        // A later schema may leave a field with a default out, and its rows must still go in.
        let required = !field.nullable && !field.has_default;
        if required && !is_key(sink, &field.name) {
            note.not_null.insert(field.name.clone());
        }
        columns.push(format!("{} {}{}", quote(&field.name)?, field.sql, if required { " not null" } else { "" }));
    }
    for (own, sql, required) in OWN_COLUMNS {
        columns.push(format!("{} {sql}{}", quote(own)?, if required { " not null" } else { "" }));
    }
    if sink.mode == Mode::Upsert {
        for key in &sink.key {
            let field = layout.fields.iter().find(|f| f.name == *key).ok_or_else(|| no_key_field(sink, key, layout))?;
            check_key(sink, key, &ColumnType::Sql(field.sql))?;
        }
        columns.push(format!("primary key ({})", key_columns(sink)?));
    }
    let mut sql = Vec::new();
    if !schema {
        sql.push(format!("create schema {}", name.quoted_schema));
    }
    sql.push(format!("create table {} ({})", name.sql(), columns.join(", ")));
    Ok(sql)
}

/// What is missing is added, and what we have made `not null` is so no longer where the records need not have it. What a
/// person has made so is his: his rows may rely on it.
fn evolve(
    sink: &Sink,
    name: &TableName,
    layout: &Layout,
    table: &Table,
    note: &mut TableComment,
) -> Result<Vec<String>, PostgresError> {
    let own = OWN_COLUMNS.iter().map(|(own, sql, _)| (*own, *sql));
    let wanted = layout.fields.iter().map(|f| (f.name.as_str(), f.sql)).chain(own);
    let missing = wanted.filter(|(column, _)| !table.columns.contains_key(*column));
    let add = |(column, sql)| Ok(format!("alter table {} add column {} {sql}", name.sql(), quote(column)?));
    let mut sql: Vec<String> = missing.map(add).collect::<Result<_, PostgresError>>()?;
    // Where a person has dropped it and sets it again, it is no longer ours.
    note.not_null.retain(|column| table.columns.get(column).is_some_and(|there| there.required));
    if layout.is_none() {
        return Ok(sql);
    }
    let needed = |column: &str| {
        let field = layout.fields.iter().find(|field| field.name == column);
        is_key(sink, column) || field.is_some_and(|field| !field.nullable)
    };
    let optional: Vec<String> = note.not_null.iter().filter(|column| !needed(column)).cloned().collect();
    for column in optional {
        sql.push(format!("alter table {} alter column {} drop not null", name.sql(), quote(&column)?));
        note.not_null.remove(&column);
    }
    Ok(sql)
}

fn is_key(sink: &Sink, column: &str) -> bool {
    sink.mode == Mode::Upsert && sink.key.iter().any(|key| key == column)
}

/// What a table that is there must be for this sink and schema, but for missing columns. Tells how columns become wider that
/// the server can widen at once.
fn check_columns(sink: &Sink, name: &TableName, layout: &Layout, table: &Table) -> Result<Vec<String>, PostgresError> {
    let misfit = |column: &str, sql: SqlType, there: &Column, also: &str| {
        let quoted = quote(column)?;
        Err(PostgresError::Outage(format!(
            "column `{column}` of {name} is {}, which cannot take {sql}: change its type (alter table {} alter column \
             {quoted} type {sql}{also}) or sink into another table",
            there.shown,
            name.sql()
        )))
    };
    let mut sql = Vec::new();
    for field in &layout.fields {
        let Some(there) = table.columns.get(&field.name).filter(|there| !there.kind.takes(field.sql)) else { continue };
        match there.kind.widened(field.sql) {
            Some(Widening::InPlace(wide)) => {
                let (table, column) = (name.sql(), quote(&field.name)?);
                sql.push(format!("alter table {table} alter column {column} type {wide}"));
            }
            Some(Widening::Rewritten(wide)) => {
                let also =
                    "; the server then writes the whole table anew and locks it meanwhile, so that it is left to you";
                return misfit(&field.name, wide, there, also);
            }
            None => return misfit(&field.name, field.sql, there, ""),
        }
    }
    for (own, sql, _) in OWN_COLUMNS {
        if let Some(there) = table.columns.get(own).filter(|there| there.kind != ColumnType::Sql(sql)) {
            return misfit(own, sql, there, "");
        }
    }
    if sink.mode == Mode::Insert {
        return Ok(sql);
    }
    for key in &sink.key {
        if let Some(column) = table.columns.get(key) {
            check_key(sink, key, &column.kind)?;
        }
    }
    if !table.keyed {
        return Err(PostgresError::Outage(format!(
            "an upsert into {name} needs a unique index on exactly its key: run create unique index on {} ({})",
            name.sql(),
            key_columns(sink)?
        )));
    }
    Ok(sql)
}

/// Why no row of records with this layout can have the sink's key; `record_key` is the field that is the record's key, where
/// that is known.
pub(crate) fn key_problem(sink: &Sink, layout: &Layout, record_key: Option<&str>) -> Option<String> {
    for key in &sink.key {
        let Some(at) = layout.position(key) else {
            let fields: Vec<&str> = layout.fields.iter().map(|field| field.name.as_str()).collect();
            return Some(format!("its key `{key}` is no field of its events: they have {}", fields.join(", ")));
        };
        let kind = ColumnType::Sql(layout.fields[at].sql);
        if sink.mode == Mode::Upsert
            && let Err(error) = check_key(sink, key, &kind)
        {
            return Some(error.to_string());
        }
    }
    // Of one that deletes the key is one column.
    let record_key = record_key.filter(|field| sink.delete && sink.key.first().is_some_and(|key| key != field))?;
    Some(format!(
        "a tombstone names its row by the record's key, which is `{record_key}`: write key = \"{record_key}\", or leave `delete` out"
    ))
}

fn no_key_field(sink: &Sink, key: &str, layout: &Layout) -> PostgresError {
    // A record without its key is a bad record, not a bad configuration: others of its type may have it.
    PostgresError::Refused(format!("the key column `{key}` is no field of schema {} of `{}`", layout.id, sink.event))
}

fn check_key(sink: &Sink, key: &str, kind: &ColumnType) -> Result<(), PostgresError> {
    if !kind.can_be_key() {
        return Err(PostgresError::Config(format!(
            "column `{key}` of `{}` has a type that cannot be a key",
            sink.table
        )));
    }
    if sink.delete && !crate::postgres::columns::encode::Array::reads_record_key(kind.wire()) {
        return Err(PostgresError::Config(format!(
            "a record's key, which is text, cannot be read as column `{key}` of `{}`: set delete = false",
            sink.table
        )));
    }
    Ok(())
}

/// The key columns as SQL, separated by commas.
pub(crate) fn key_columns(sink: &Sink) -> Result<String, PostgresError> {
    Ok(sink.key.iter().map(|k| quote(k)).collect::<Result<Vec<_>, _>>()?.join(", "))
}
