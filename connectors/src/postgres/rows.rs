//! A sink's table: what is known of it, and how a unit's rows go there.

use std::{collections::HashMap, sync::Arc};

use headwater::{CommitError, Row, Sink, Unit};
use sqlx::PgConnection;

use super::{
    batch::Batch,
    error::PostgresError,
    layout::Layout,
    sql::{TableName, quote},
    table::{self, Table},
    write::{self, Done},
};

/// Schemas remembered at once; more than any topic has, and a bound.
const MAX_SCHEMAS: usize = 1_000;

/// How a sink's rows are written, and what is known of its table.
#[derive(Debug)]
pub(super) struct Rows {
    sink: Sink,
    pub(super) name: TableName,
    layouts: HashMap<(u32, u32), Arc<Layout>>,
    /// The table, once it fits every schema in `layouts`.
    table: Option<Table>,
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
        Ok(Self { sink, name, layouts: HashMap::new(), table: None })
    }

    /// The table's name as it is configured.
    pub(super) fn table(&self) -> &str {
        &self.sink.table
    }

    /// Knows every schema of the unit, and sees to it that the table fits them.
    pub(super) async fn prepare(&mut self, conn: &mut PgConnection, unit: &Unit) -> Result<(), PostgresError> {
        if self.layouts.len() > MAX_SCHEMAS {
            self.layouts.clear();
            self.table = None;
        }
        let mut new = HashMap::new();
        for data in unit.rows.iter().filter_map(|row| row.data.as_ref()) {
            let key = data.schema.key();
            if !self.layouts.contains_key(&key) && !new.contains_key(&key) {
                new.insert(key, Arc::new(Layout::of(data.schema.id(), data.schema.schema())?));
            }
        }
        if self.table.is_some() && new.is_empty() {
            return Ok(());
        }
        let mut layouts: Vec<&Layout> = self.layouts.values().chain(new.values()).map(Arc::as_ref).collect();
        layouts.sort_unstable_by_key(|layout| layout.id);
        let none = Layout::default();
        if layouts.is_empty() {
            // Tombstones alone: a table that is there must still have the columns that guard its rows.
            layouts.push(&none);
        }
        self.table = table::fit(conn, &self.sink, &self.name, &layouts).await?;
        // Only now: a schema that the table cannot serve must not stand in the way of the others.
        self.layouts.extend(new);
        Ok(())
    }

    /// Writes rows whose schemas were prepared, in the caller's transaction.
    pub(super) async fn write(&self, conn: &mut PgConnection, rows: &[&Row]) -> Result<Done, PostgresError> {
        let batch = Batch::of(rows, &self.sink, self.table.as_ref(), &self.layouts)?;
        write::run(conn, &self.sink, &self.name, self.table.as_ref(), &batch).await
    }

    /// What the outcome of a unit means to whoever asked for it.
    pub(super) fn settle<T>(&mut self, outcome: Result<T, PostgresError>) -> Result<T, CommitError> {
        outcome.map_err(|error| match error {
            PostgresError::Refused(why) => {
                CommitError::Refused(format!("a row cannot go into `{}`: {why}", self.sink.table))
            }
            error => {
                if matches!(error, PostgresError::Outage(_)) {
                    // Perhaps somebody has changed the table: it is looked at again.
                    self.table = None;
                }
                error.into()
            }
        })
    }
}
