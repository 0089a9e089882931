//! What one piece of work has of a connection: transactions, and statements within them alone.
//!
//! A transaction pooler lends a server's connection for one transaction. So behind one no statement has a name, which
//! another's connection would not know, and what holds for a session otherwise is said as each transaction begins.

use std::{fmt, time::Duration};

use futures_util::stream::BoxStream;
use headwater::spi::BoxFuture;
use sqlx::{
    AssertSqlSafe, ConnectOptions as _, Connection as _, Either, Execute, Executor, Postgres, SqlSafeStr as _, SqlStr,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgQueryResult, PgRow, PgStatement, PgTypeInfo},
};

/// What holds for every statement.
#[derive(Clone, Debug)]
pub(crate) struct SessionSettings {
    pub(crate) application_name: String,
    pub(crate) statement_timeout: Duration,
    /// Whether a transaction pooler stands before the server.
    pub(crate) pooler: bool,
}

impl SessionSettings {
    /// What a session begins with.
    pub(super) fn apply(&self, options: PgConnectOptions) -> PgConnectOptions {
        let options = options.application_name(&self.application_name).disable_statement_logging();
        if self.pooler {
            // PgBouncer refuses what it does not know, and sqlx reads numbers in binary anyway.
            return options.extra_float_digits(None);
        }
        // The guard of an upsert relies on seeing what others have committed.
        let isolation = ("default_transaction_isolation", "read committed".to_owned());
        options.options(self.parameters().into_iter().chain([isolation]))
    }

    /// How a transaction begins, where a plain `begin` does not do.
    pub(super) fn begin(&self) -> Option<SqlStr> {
        let local = self.parameters().map(|(name, value)| format!("; set local {name} = {value}")).concat();
        self.pooler.then(|| AssertSqlSafe(format!("begin isolation level read committed{local}")).into_sql_str())
    }

    fn parameters(&self) -> [(&'static str, String); 3] {
        let limit = self.statement_timeout.as_millis().to_string();
        [
            ("statement_timeout", limit.clone()),
            // A stopped owner must not hold its offset rows against the next one for ever.
            ("idle_in_transaction_session_timeout", limit),
            // A schema that is called as the user is would come before the one where tables without a schema are.
            ("search_path", "public".to_owned()),
        ]
    }
}

/// A connection of the pool, lent for one piece of work.
#[derive(Debug)]
pub(crate) struct Session {
    conn: PoolConnection<Postgres>,
    /// How a transaction begins behind a pooler.
    begin: Option<SqlStr>,
}

impl Session {
    pub(super) fn new(conn: PoolConnection<Postgres>, begin: Option<SqlStr>) -> Self {
        Self { conn, begin }
    }

    /// Whether the server answers.
    pub(super) async fn ping(&mut self) -> sqlx::Result<()> {
        self.conn.ping().await
    }

    /// Begins a transaction, which is rolled back unless it is committed.
    pub(crate) async fn begin(&mut self) -> sqlx::Result<Transaction<'_>> {
        let is_named = self.begin.is_none();
        let inner = match self.begin.clone() {
            Some(begin) => self.conn.begin_with(begin).await?,
            None => self.conn.begin().await?,
        };
        Ok(Transaction { inner, is_named })
    }

    /// Closes the connection instead of giving it back.
    pub(super) fn detach(self) {
        drop(self.conn.detach());
    }
}

/// A transaction, or a savepoint within one; what runs statements.
pub(crate) struct Transaction<'c> {
    inner: sqlx::Transaction<'c, Postgres>,
    /// Whether statements are kept under a name for the next time.
    is_named: bool,
}

impl Transaction<'_> {
    /// A savepoint.
    pub(crate) async fn begin(&mut self) -> sqlx::Result<Transaction<'_>> {
        Ok(Transaction { inner: self.inner.begin().await?, is_named: self.is_named })
    }

    pub(crate) async fn commit(self) -> sqlx::Result<()> {
        self.inner.commit().await
    }

    pub(crate) async fn rollback(self) -> sqlx::Result<()> {
        self.inner.rollback().await
    }
}

impl fmt::Debug for Transaction<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transaction").finish_non_exhaustive()
    }
}

impl<'c> Executor<'c> for &'c mut Transaction<'_> {
    type Database = Postgres;

    fn fetch_many<'e, 'q: 'e, E>(self, query: E) -> BoxStream<'e, sqlx::Result<Either<PgQueryResult, PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let is_named = self.is_named;
        (&mut *self.inner).fetch_many(Statement { query, is_named })
    }

    fn fetch_optional<'e, 'q: 'e, E>(self, query: E) -> BoxFuture<'e, sqlx::Result<Option<PgRow>>>
    where
        'c: 'e,
        E: 'q + Execute<'q, Postgres>,
    {
        let is_named = self.is_named;
        (&mut *self.inner).fetch_optional(Statement { query, is_named })
    }

    fn prepare_with<'e>(self, sql: SqlStr, parameters: &'e [PgTypeInfo]) -> BoxFuture<'e, sqlx::Result<PgStatement>>
    where
        'c: 'e,
    {
        (&mut *self.inner).prepare_with(sql, parameters)
    }
}

/// A query, and whether it is kept under a name.
struct Statement<E> {
    query: E,
    is_named: bool,
}

impl<'q, E: Execute<'q, Postgres>> Execute<'q, Postgres> for Statement<E> {
    fn sql(self) -> SqlStr {
        self.query.sql()
    }

    fn statement(&self) -> Option<&PgStatement> {
        self.query.statement()
    }

    fn take_arguments(&mut self) -> Result<Option<<Postgres as sqlx::Database>::Arguments>, sqlx::error::BoxDynError> {
        self.query.take_arguments()
    }

    fn persistent(&self) -> bool {
        self.is_named && self.query.persistent()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a session's settings go to a pooler, which keeps none, or a transaction behind one is without them.
    #[test]
    fn behind_a_pooler_each_transaction_says_what_holds() {
        let mut settings = SessionSettings {
            application_name: "headwater".to_owned(),
            statement_timeout: Duration::from_secs(30),
            pooler: false,
        };
        let kept =
            |settings: &SessionSettings| settings.apply(PgConnectOptions::new()).get_options().map(str::to_owned);
        assert!(kept(&settings).is_some_and(|kept| kept.contains("statement_timeout=30000")));
        assert!(settings.begin().is_none());
        settings.pooler = true;
        assert_eq!(kept(&settings), None);
        assert_eq!(
            settings.begin().unwrap().as_str(),
            "begin isolation level read committed; set local statement_timeout = 30000; \
             set local idle_in_transaction_session_timeout = 30000; set local search_path = public"
        );
    }
}
