//! What a sink's rows go to: the table as it is known, and the schemas that it fits.

use std::{collections::HashMap, sync::Arc};

use headwater::{Sink, spi::Row};

use super::{
    batch::{Batch, key_of},
    refusal::WriteError,
    table::{OWN_COLUMNS, Table},
    write::{TableWriter, WriteCounts},
};
use crate::postgres::{
    columns::layout::Layout,
    database::session::Transaction,
    error::PostgresError,
    offsets::OwnedOffsets,
    sql::{TableName, quote},
};

/// A sink's table, as far as its rows need it.
#[derive(Debug)]
pub(crate) struct PreparedTable {
    pub(crate) sink: Sink,
    pub(crate) name: TableName,
    pub(crate) layouts: HashMap<(u32, u32), Arc<Layout>>,
    /// The table, once it fits every schema in `layouts`.
    pub(crate) table: Option<Table>,
}

impl PreparedTable {
    pub(crate) fn new(sink: Sink, name: TableName) -> Self {
        Self { sink, name, layouts: HashMap::new(), table: None }
    }

    /// Writes rows whose schemas were prepared, in the caller's transaction.
    pub(crate) async fn write(
        &self,
        tx: &mut Transaction<'_>,
        rows: &[&Row],
        offsets: &OwnedOffsets,
    ) -> Result<WriteCounts, WriteError> {
        let origins = offsets.origins(tx, rows).await.map_err(PostgresError::of_no_row)?;
        let batch = Batch::of(rows, &self.sink, self.table.as_ref(), &self.layouts, &origins)?;
        let Some(table) = &self.table else { return Ok(WriteCounts::default()) };
        TableWriter { sink: &self.sink, name: &self.name, table, group: offsets.group() }.run(tx, &batch).await
    }

    /// A row that is stored only now, with what has come behind it of its key where one of that deletes: else it would come
    /// back behind its tombstone.
    pub(crate) fn with_its_tombstone<'a>(&self, row: &'a Row, behind: impl Iterator<Item = &'a Row>) -> Vec<&'a Row> {
        let mut part = vec![row];
        let Some(table) = self.table.as_ref().filter(|_| self.sink.delete) else { return part };
        let key_of = |row| key_of(row, &self.sink, table, &self.layouts);
        let Some(key) = key_of(row) else { return part };
        part.extend(behind.filter(|row| key_of(row).as_ref() == Some(&key)));
        if part.iter().all(|row| row.data.is_some()) {
            part.truncate(1);
        }
        part
    }

    /// A row is refused because this column is null: the error says where it is one that the row's schema does not have.
    pub(crate) fn check_required(&self, row: &Row, column: &str) -> Result<(), PostgresError> {
        let Some(data) = &row.data else { return Ok(()) };
        let layout = self.layouts.get(&data.schema.key());
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

    /// As a sentence for people.
    pub(crate) fn refuses(&self, why: &str) -> String {
        format!("a row cannot go into `{}`: {why}", self.sink.table)
    }
}
