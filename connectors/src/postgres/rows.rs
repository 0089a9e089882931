//! A sink's table: what is known of it, and how a unit's rows go there.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use headwater::{CommitError, Kind, RefusedRow, Row, Sink, Unit};
use sqlx::PgConnection;

use super::{
    batch::Batch,
    error::PostgresError,
    layout::Layout,
    refusal::WriteError,
    sql::{TableName, quote},
    table::{self, OWN_COLUMNS, Table},
    trial::{self, Streak},
    write::{self, Done},
};

/// Schemas remembered at once; more than any topic has, and a bound.
const MAX_SCHEMAS: usize = 1_000;

/// How a sink's rows are written, and what is known of its table.
#[derive(Debug)]
pub(super) struct Rows {
    sink: Sink,
    pub(super) name: TableName,
    layouts: HashMap<u32, Arc<Layout>>,
    /// Schemas that no table can serve, and why.
    unfit: HashMap<u32, String>,
    /// The table, once it fits every schema in `layouts`.
    table: Option<Table>,
    /// Rows that were refused last, alike.
    streak: Streak,
    /// Whether the unit under way was tried row by row.
    tried: bool,
}

/// What came of a unit's rows.
#[derive(Debug)]
pub(super) enum Written {
    /// They are stored.
    All(Done),
    /// One is refused, or all are.
    Refused,
    /// These are refused.
    Rows(Vec<RefusedRow>),
}

impl Rows {
    /// # Errors
    /// [`PostgresError::Config`] for a sink that cannot work.
    pub(super) fn new(sink: Sink) -> Result<Self, PostgresError> {
        if let Some(problem) = sink.problem() {
            return Err(PostgresError::Config(problem));
        }
        sink.key.iter().try_for_each(|key| quote(key).map(drop))?;
        let name = TableName::parse(&sink.table)?;
        Ok(Self {
            sink,
            name,
            layouts: HashMap::new(),
            unfit: HashMap::new(),
            table: None,
            streak: Streak::default(),
            tried: false,
        })
    }

    /// The table's name as it is configured.
    pub(super) fn table(&self) -> &str {
        &self.sink.table
    }

    /// Knows every schema of the unit, and sees to it that the table fits them. Tells the rows whose schemas no table can
    /// serve.
    pub(super) async fn prepare(
        &mut self,
        conn: &mut PgConnection,
        unit: &Unit,
    ) -> Result<Vec<RefusedRow>, PostgresError> {
        if self.layouts.len() + self.unfit.len() > MAX_SCHEMAS {
            self.layouts.clear();
            self.unfit.clear();
            self.table = None;
        }
        let mut new: BTreeMap<u32, Arc<Layout>> = BTreeMap::new();
        let mut refused = Vec::new();
        for (row, data) in unit.rows.iter().enumerate().filter_map(|(row, one)| Some((row, one.data.as_ref()?))) {
            let id = data.schema.id();
            if !self.layouts.contains_key(&id) && !self.unfit.contains_key(&id) && !new.contains_key(&id) {
                let layout = Layout::of(id, data.schema.schema());
                match layout.and_then(|layout| table::serves(&self.sink, &layout).map(|()| layout)) {
                    Ok(layout) => _ = new.insert(id, Arc::new(layout)),
                    Err(PostgresError::Refused(why)) => _ = self.unfit.insert(id, why),
                    Err(error) => return Err(error),
                }
            }
            if let Some(why) = self.unfit.get(&id) {
                refused.push(RefusedRow { row, kind: Kind::Row, why: self.refuses(why) });
            }
        }
        if refused.is_empty() && (self.table.is_none() || !new.is_empty()) {
            self.fit(conn, new).await?;
        }
        Ok(refused)
    }

    /// Fits the table to these schemas too.
    async fn fit(&mut self, conn: &mut PgConnection, new: BTreeMap<u32, Arc<Layout>>) -> Result<(), PostgresError> {
        let mut layouts: Vec<&Layout> = self.layouts.values().chain(new.values()).map(Arc::as_ref).collect();
        layouts.sort_unstable_by_key(|layout| layout.id);
        let none = Layout::default();
        if layouts.is_empty() {
            // Tombstones alone: a table that is there must still have the columns that guard its rows.
            layouts.push(&none);
        }
        self.table = table::fit(conn, &self.sink, &self.name, &layouts).await.map_err(PostgresError::of_no_row)?;
        // Only now: a schema that the table does not fit yet must not stand in the way of the others.
        self.layouts.extend(new);
        Ok(())
    }

    /// Writes rows whose schemas were prepared, in the caller's transaction.
    pub(super) async fn write(&self, conn: &mut PgConnection, rows: &[&Row]) -> Result<Done, WriteError> {
        let batch = Batch::of(rows, &self.sink, self.table.as_ref(), &self.layouts)?;
        write::run(conn, &self.sink, &self.name, self.table.as_ref(), &batch).await
    }

    /// The same where a row is refused, or all: finds out which.
    pub(super) async fn write_apart(
        &mut self,
        conn: &mut PgConnection,
        unit: &Unit,
        rows: &[&Row],
    ) -> Result<Written, PostgresError> {
        let found = trial::run(conn, self, rows, self.streak.clone()).await?;
        if found.refused.is_empty() {
            return Ok(Written::All(found.done));
        }
        let place = |row: &Row| unit.rows.iter().position(|one| std::ptr::eq(one, row));
        let refused = found.refused.into_iter().filter_map(|(row, why)| Some((place(row)?, why)));
        let refused = refused.map(|(row, why)| RefusedRow { row, kind: Kind::Row, why: self.refuses(&why) }).collect();
        (self.streak, self.tried) = (found.streak, true);
        Ok(Written::Rows(refused))
    }

    /// A unit is durable.
    pub(super) fn stored(&mut self, done: Done) {
        // The rest of a unit that was tried row by row has been counted with it.
        if !std::mem::take(&mut self.tried) && done.written + done.deleted > 0 {
            self.streak = Streak::default();
        }
    }

    fn refuses(&self, why: &str) -> String {
        format!("a row cannot go into `{}`: {why}", self.sink.table)
    }

    /// A row is refused because this column is null: the error says where it is one that the row's schema does not have.
    pub(super) fn check_required(&self, row: &Row, column: &str) -> Result<(), PostgresError> {
        let Some(data) = &row.data else { return Ok(()) };
        let layout = self.layouts.get(&data.schema.id());
        let has = layout.is_none_or(|layout| layout.position(column).is_some());
        if has || OWN_COLUMNS.iter().any(|(own, ..)| *own == column) {
            return Ok(());
        }
        let (id, table, quoted) = (data.schema.id(), self.name.sql(), quote(column)?);
        Err(PostgresError::Outage(format!(
            "column `{column}` of {} must not be null, and schema {id} of `{}` has no such field: give it a default, or run \
             alter table {table} alter column {quoted} drop not null",
            self.name, self.sink.event
        )))
    }

    /// What the outcome of a unit means to whoever asked for it.
    pub(super) fn settle<T>(&mut self, outcome: Result<T, PostgresError>) -> Result<T, CommitError> {
        outcome.map_err(|error| {
            if matches!(error, PostgresError::Outage(_)) {
                // Perhaps somebody has changed the table: it is looked at again.
                self.table = None;
            }
            error.into()
        })
    }
}
