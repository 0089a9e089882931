//! What has come into a sink's table, seen from outside, without an index and without becoming the load itself.
//!
//! New row versions are told by their transaction: those that a look may have missed are not older than the oldest
//! transaction that was under way at the look before. Where rows are appended they stand at the table's end, so a usual
//! look reads only that (a TID range scan, PostgreSQL 14); a sweep reads the whole table, for rows that took the place of
//! others.

use sqlx::AssertSqlSafe;

use crate::postgres::{
    database::Database,
    error::{PostgresError, is_undefined},
    sql::TableName,
};

/// Pages before the table's former end that a look reads again: several writers fill pages out of turn.
const MARGIN_PAGES: i64 = 256;

/// Looks at one table again and again.
#[derive(Debug)]
pub struct TableWatch {
    database: Database,
    table: TableName,
    /// The oldest transaction that was under way at the last look, and at the last sweep; `None` while there is no table.
    looked: Option<String>,
    swept: Option<String>,
    /// The table's pages at the last look.
    pages: i64,
}

impl TableWatch {
    /// A watch on `orders` or `schema.orders`; a table that is not there yet is an empty one.
    ///
    /// # Errors
    /// [`PostgresError::Config`] for what cannot be a table's name; [`PostgresError::Outage`] when the server does not
    /// answer.
    pub async fn start(database: &Database, table: &str) -> Result<Self, PostgresError> {
        let table = TableName::parse(table)?;
        let mut watch = Self { database: database.clone(), table, looked: None, swept: None, pages: 0 };
        if let Some((now, pages)) = watch.now().await? {
            (watch.looked, watch.swept, watch.pages) = (Some(now.clone()), Some(now), pages);
        }
        Ok(watch)
    }

    /// The correlation ids of the rows that were written since the last look, some of them again; with `sweep` those
    /// since the last sweep, wherever they stand in the table.
    ///
    /// # Errors
    /// [`PostgresError::Outage`] when the server does not answer.
    pub async fn look(&mut self, sweep: bool) -> Result<Vec<String>, PostgresError> {
        // Noted first: what is committed between the two questions is found again by the next look.
        let Some((now, pages)) = self.now().await? else { return Ok(Vec::new()) };
        let (since, first) = match sweep {
            true => (self.swept.clone(), 0),
            false => (self.looked.clone(), (self.pages - MARGIN_PAGES).max(0)),
        };
        let sql = format!(
            "select hw_correlation_id from {} where ctid >= $1::text::tid \
             and ($2::text is null or age(xmin) <= age($2::text::xid))",
            self.table.sql()
        );
        let ids = self
            .database
            .transaction(async |tx| {
                let query = sqlx::query_scalar(AssertSqlSafe(sql)).bind(format!("({first},0)")).bind(since);
                query.fetch_all(tx).await.map_err(PostgresError::from)
            })
            .await?;
        if sweep {
            self.swept = Some(now.clone());
        }
        (self.looked, self.pages) = (Some(now), pages);
        Ok(ids)
    }

    /// The oldest transaction that is under way, and the table's pages; `None` while there is no table.
    async fn now(&self) -> Result<Option<(String, i64)>, PostgresError> {
        self.database
            .transaction(async |tx| {
                let asked = sqlx::query_as(
                    "select pg_snapshot_xmin(pg_current_snapshot())::xid::text, \
                     pg_relation_size($1::text::regclass) / current_setting('block_size')::int8",
                )
                .bind(self.table.sql())
                .fetch_one(tx)
                .await;
                match asked {
                    Ok(now) => Ok(Some(now)),
                    Err(error) if is_undefined(&error) => Ok(None),
                    Err(error) => Err(error.into()),
                }
            })
            .await
    }
}
