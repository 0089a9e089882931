//! A sink's table made to fit a schema that is new to the sink, by one process at a time.

use headwater::{
    Sink,
    spi::{DeadLetterKind, codec::WriterSchema},
};
use sqlx::AssertSqlSafe;

use super::{
    table::{self, FoundTable, NOTED, Plan},
    table_comment::TableComment,
};
use crate::postgres::{
    columns::layout::Layout,
    database::session::Session,
    error::{PostgresError, is_duplicate},
    sql::TableName,
};

/// How often somebody else's change of the same table is waited out.
const TRIES: usize = 3;

/// A schema that is new to a sink.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewSchema<'a> {
    pub(crate) layout: &'a Layout,
    /// The topic of its record, and the schema itself; `None` where it is the catalogue's.
    pub(crate) record: Option<(&'a str, &'a WriterSchema)>,
}

/// Why there is no row of a schema's records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SchemaRefusal {
    pub(crate) kind: DeadLetterKind,
    pub(crate) why: String,
}

/// Makes the table fit, unless the schema is not one for it. Several processes at once agree by an advisory lock. `memory` is
/// what is remembered of a table that is not ours to comment on.
pub(crate) async fn fit(
    session: &mut Session,
    sink: &Sink,
    name: &TableName,
    new: NewSchema<'_>,
    memory: &mut TableComment,
) -> Result<Result<(), SchemaRefusal>, PostgresError> {
    for _ in 0..TRIES {
        let found = look(session, name, &sink.key).await?;
        let plan = match decide(sink, name, new, &found, memory)? {
            Ok(plan) => plan,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if plan.sql.is_empty() && comment(name, &found, &plan).is_none() {
            *memory = plan.note;
            return Ok(Ok(()));
        }
        match change(session, sink, name, new, memory).await {
            Ok(sql) => sql.iter().for_each(|sql| tracing::info!(table = %name, sql, "table changed")),
            // Somebody who does not take our lock was quicker: look again.
            Err(PostgresError::Repeat(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Err(PostgresError::Outage(format!("the table {name} keeps changing: is another program altering it?")))
}

/// The table as it is now.
pub(crate) async fn look(session: &mut Session, name: &TableName, key: &[String]) -> Result<FoundTable, PostgresError> {
    let mut tx = session.begin().await?;
    let found = FoundTable::read(&mut tx, name, key).await?;
    tx.commit().await?;
    Ok(found)
}

/// What is to be done for a schema, or why it is not one for this table.
fn decide(
    sink: &Sink,
    name: &TableName,
    new: NewSchema<'_>,
    found: &FoundTable,
    memory: &TableComment,
) -> Result<Result<Plan, SchemaRefusal>, PostgresError> {
    let note = match &found.table {
        Some(table) if !table.owned => memory.clone(),
        _ => found.note(),
    };
    if let Some((topic, schema)) = new.record
        && let Err(why) = note.admits(topic, schema)
    {
        return Ok(Err(SchemaRefusal { kind: DeadLetterKind::Contract, why }));
    }
    let is_evidence = new.record.is_none_or(|(topic, _)| TableComment::is_evidence(topic));
    let mut plan = match table::plan(sink, name, new.layout, found, note) {
        Ok(plan) if plan.sql.is_empty() || is_evidence => plan,
        Ok(plan) => return Ok(Err(edited(name, new.layout, &plan.sql.join("; ")))),
        Err(PostgresError::Refused(why)) => return Ok(Err(SchemaRefusal { kind: DeadLetterKind::Row, why })),
        Err(PostgresError::Outage(why) | PostgresError::Config(why)) if !is_evidence => {
            return Ok(Err(edited(name, new.layout, &why)));
        }
        Err(error) => return Err(error),
    };
    if let Some((topic, schema)) = new.record {
        plan.note.learn(topic, schema);
    }
    Ok(Ok(plan))
}

/// Why a record that was edited is no row: whoever edits writes what he likes, and neither alters a table nor holds it up.
fn edited(name: &TableName, layout: &Layout, needs: &str) -> SchemaRefusal {
    let why = format!(
        "{name} does not fit schema {}, and a record that was edited changes no table: send it again once a record of this \
         schema has come on its own topic; it needs: {needs}",
        layout.id
    );
    SchemaRefusal { kind: DeadLetterKind::Contract, why }
}

/// The SQL that writes down what is to be remembered, where something is and it is not there yet.
fn comment(name: &TableName, found: &FoundTable, plan: &Plan) -> Option<String> {
    let before = match &found.table {
        None if plan.sql.is_empty() => return None,
        None => None,
        Some(table) if !table.owned => return None,
        Some(table) => table.comment.as_deref(),
    };
    if TableComment::read(before).unwrap_or_default() == plan.note {
        return None;
    }
    let text = plan.note.write(before).replace('\\', "\\\\").replace('\'', "''");
    Some(format!("comment on column {}.{NOTED} is E'{text}'", name.sql()))
}

/// Runs what is still to do under the lock, in one transaction.
async fn change(
    session: &mut Session,
    sink: &Sink,
    name: &TableName,
    new: NewSchema<'_>,
    memory: &TableComment,
) -> Result<Vec<String>, PostgresError> {
    let mut tx = session.begin().await?;
    sqlx::query("select pg_advisory_xact_lock(hashtextextended($1, 0))")
        .bind(format!("headwater table {name}"))
        .execute(&mut tx)
        .await?;
    let found = FoundTable::read(&mut tx, name, &sink.key).await?;
    let Ok(plan) = decide(sink, name, new, &found, memory)? else {
        return Err(PostgresError::Repeat(format!("{name} has just been made from another record")));
    };
    for statement in plan.sql.iter().cloned().chain(comment(name, &found, &plan)) {
        sqlx::query(AssertSqlSafe(statement.clone())).execute(&mut tx).await.map_err(|error| {
            if is_duplicate(&error) {
                PostgresError::Repeat(format!("{name} has just been changed"))
            } else {
                by_hand(error.into(), &statement)
            }
        })?;
    }
    tx.commit().await?;
    Ok(plan.sql)
}

/// Who may not change the table learns what somebody else can run for him. No row is at fault where a change is refused.
fn by_hand(error: PostgresError, sql: &str) -> PostgresError {
    match error.of_no_row() {
        PostgresError::Outage(why) => PostgresError::Outage(format!("{why}; needed for {sql}")),
        error => error,
    }
}
