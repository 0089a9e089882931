//! A sink's table: what is known of it, and how a unit's rows go there.

use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use headwater::{
    Sink,
    spi::{CommitError, DeadLetterKind, RefusedRow, Row, SinkConfig as _, Unit},
};

use super::{
    fit::{self, NewSchema, SchemaRefusal},
    prepared_table::PreparedTable,
    table_comment::TableComment,
    trial::{self, Streak},
    write::WriteCounts,
};
use crate::postgres::{
    columns::layout::Layout,
    database::session::{Session, Transaction},
    error::PostgresError,
    offsets::OwnedOffsets,
    sql::{TableName, quote},
};

/// Schemas remembered at once; more than any topic has, and a bound.
const MAX_SCHEMAS: usize = 1_000;

/// How a sink's rows are written, and what is known of its table.
#[derive(Debug)]
pub(crate) struct Rows {
    pub(crate) prepared: PreparedTable,
    /// Of each schema that the table fits, the topics whose records have it.
    known: HashMap<(u32, u32), HashSet<String>>,
    /// Whether the unit under way was tried row by row.
    tried: bool,
    common: Arc<Common>,
}

/// What the connections of a sink find out together: over how many it writes does not say whose fault a refusal is.
#[derive(Debug, Default)]
struct Common {
    /// What is remembered of a table that is not ours to comment on.
    note: tokio::sync::Mutex<TableComment>,
    /// Rows that were refused last, alike.
    streak: Mutex<Streak>,
}

impl Common {
    fn streak(&self) -> MutexGuard<'_, Streak> {
        self.streak.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What came of a unit's rows.
#[derive(Debug)]
pub(crate) enum WriteOutcome {
    /// They are stored.
    All(WriteCounts),
    /// One is refused, or all are.
    Refused,
    /// These are refused.
    Rows(Vec<RefusedRow>),
}

impl Rows {
    /// # Errors
    /// [`PostgresError::Config`] for a sink that cannot work.
    pub(crate) fn new(sink: Sink) -> Result<Self, PostgresError> {
        if let Some(problem) = sink.problem() {
            return Err(PostgresError::Config(problem));
        }
        sink.key.iter().try_for_each(|key| quote(key).map(drop))?;
        let name = TableName::parse(&sink.table)?;
        Ok(Self::of(sink, name, Arc::default()))
    }

    /// The same, for another connection.
    pub(crate) fn beside(&self) -> Self {
        Self::of(self.prepared.sink.clone(), self.prepared.name.clone(), Arc::clone(&self.common))
    }

    fn of(sink: Sink, name: TableName, common: Arc<Common>) -> Self {
        Self { prepared: PreparedTable::new(sink, name), known: HashMap::new(), tried: false, common }
    }

    /// The table's name as it is configured.
    pub(crate) fn table(&self) -> &str {
        &self.prepared.sink.table
    }

    /// Knows every schema of the unit, and sees to it that the table fits them. Tells the rows whose schemas are not ones for
    /// it.
    pub(crate) async fn prepare(
        &mut self,
        session: &mut Session,
        unit: &Unit,
    ) -> Result<Vec<RefusedRow>, PostgresError> {
        if self.known.len() > MAX_SCHEMAS {
            self.look_again();
        }
        let new = self.look(unit);
        if !new.is_empty() {
            // It may be changed below, and be left before it is read again.
            self.prepared.table = None;
        }
        let mut unfit = Vec::new();
        for row in &new {
            unfit.extend(self.learn(session, row).await?.map(|why| (schema_of(row), why)));
        }
        if !unfit.is_empty() {
            return Ok(self.refused(unit, &unfit));
        }
        if self.prepared.table.is_some() && new.is_empty() {
            return Ok(Vec::new());
        }
        if new.is_empty() {
            // Tombstones alone: a table that is there must still have the columns that guard its rows.
            let new = NewSchema { layout: &Layout::default(), record: None };
            _ = fit::fit(session, &self.prepared.sink, &self.prepared.name, new, &mut *self.common.note.lock().await)
                .await?;
        }
        self.prepared.table = fit::look(session, &self.prepared.name, &self.prepared.sink.key).await?.table;
        Ok(Vec::new())
    }

    /// A row of each schema and topic that is not known, in the order in which they come.
    fn look<'a>(&self, unit: &'a Unit) -> Vec<&'a Row> {
        let mut new: Vec<&Row> = Vec::new();
        let mut last = None;
        for row in &unit.rows {
            let Some((key, topic)) = schema_of(row) else { continue };
            if last == Some((key, topic)) {
                continue;
            }
            last = Some((key, topic));
            let known = self.known.get(&key).is_some_and(|topics| topics.contains(topic));
            if !known && !new.iter().any(|row| schema_of(row) == last) {
                new.push(row);
            }
        }
        new
    }

    /// Fits the table to the schema of this row, or tells why it is not one for it. That is not remembered: what the table is
    /// made from may be known by then.
    async fn learn(&mut self, session: &mut Session, row: &Row) -> Result<Option<SchemaRefusal>, PostgresError> {
        let (Some(data), Some((key, topic))) = (&row.data, schema_of(row)) else { return Ok(None) };
        let layout = match Layout::of(&data.schema) {
            Ok(layout) => layout,
            Err(PostgresError::Refused(why)) => return Ok(Some(SchemaRefusal { kind: DeadLetterKind::Row, why })),
            Err(error) => return Err(error),
        };
        let new = NewSchema { layout: &layout, record: Some((topic, &data.schema)) };
        if let Err(unfit) =
            fit::fit(session, &self.prepared.sink, &self.prepared.name, new, &mut *self.common.note.lock().await)
                .await?
        {
            return Ok(Some(unfit));
        }
        self.prepared.layouts.insert(layout.key, Arc::new(layout));
        self.known.entry(key).or_default().insert(topic.to_owned());
        Ok(None)
    }

    /// The rows whose schemas are not ones for the table.
    fn refused(&self, unit: &Unit, unfit: &[(Option<SchemaUse<'_>>, SchemaRefusal)]) -> Vec<RefusedRow> {
        let of = |row: &Row| {
            let schema = schema_of(row)?;
            unfit.iter().find(|(of, _)| *of == Some(schema)).map(|(_, why)| why)
        };
        let refused = unit.rows.iter().enumerate().filter_map(|(place, row)| Some((place, of(row)?)));
        refused
            .map(|(row, SchemaRefusal { kind, why })| RefusedRow { row, kind: *kind, why: self.prepared.refuses(why) })
            .collect()
    }

    fn look_again(&mut self) {
        self.known.clear();
        self.prepared.layouts.clear();
        self.prepared.table = None;
    }

    /// The same where a row is refused, or all: finds out which.
    pub(crate) async fn write_apart(
        &mut self,
        tx: &mut Transaction<'_>,
        unit: &Unit,
        rows: &[&Row],
        offsets: &OwnedOffsets,
    ) -> Result<WriteOutcome, PostgresError> {
        let found = trial::run(tx, (&self.prepared, offsets), rows).await?;
        if found.refused.is_empty() {
            return Ok(WriteOutcome::All(found.done));
        }
        self.common.streak().judge(&found)?;
        self.tried = true;
        let place = |row: &Row| unit.rows.iter().position(|one| std::ptr::eq(one, row));
        let refused = found.refused.into_iter().filter_map(|(at, refusal)| Some((place(rows[at])?, refusal.why)));
        let refused = refused
            .map(|(row, why)| RefusedRow { row, kind: DeadLetterKind::Row, why: self.prepared.refuses(&why) })
            .collect();
        Ok(WriteOutcome::Rows(refused))
    }

    /// A unit is durable.
    pub(crate) fn stored(&mut self, done: WriteCounts) {
        // The rest of a unit that was tried row by row has been counted with it.
        if !std::mem::take(&mut self.tried) && done.written + done.deleted > 0 {
            *self.common.streak() = Streak::default();
        }
    }

    /// What the outcome of a unit means to whoever asked for it.
    pub(crate) fn settle<T>(&mut self, outcome: Result<T, PostgresError>) -> Result<T, CommitError> {
        outcome.map_err(|error| {
            if matches!(error, PostgresError::Outage(_)) {
                // Perhaps somebody has changed the table.
                self.look_again();
            }
            error.into()
        })
    }
}

/// What tells a row's schema from any other, and the topic where its record first stood.
type SchemaUse<'a> = ((u32, u32), &'a str);

fn schema_of(row: &Row) -> Option<SchemaUse<'_>> {
    Some((row.data.as_ref()?.schema.key(), &row.meta.origin.partition.topic))
}
