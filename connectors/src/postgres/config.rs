//! How to reach the database, and the handle that everything else is made from.

use std::{fmt, str::FromStr, time::Duration};

use sqlx::{
    ConnectOptions, Connection, PgPool,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions, PgSslMode, Postgres},
};

use super::error::PostgresError;

/// How long the question may take why there is no connection.
const WHY: Duration = Duration::from_secs(2);

/// How to reach the database.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// `postgres://user:password@host:port/database`; secret, and never printed.
    pub url: String,
    /// Connections open at once, shared by all sinks of the process; each commit uses one.
    pub max_connections: u32,
    /// How long to wait for a connection, a new one or one in use.
    pub connect_timeout: Duration,
    /// How long the server works on one statement, waits for a lock, or lets a silent transaction live.
    pub statement_timeout: Duration,
    /// What the server shows in `pg_stat_activity`.
    pub application_name: String,
}

impl Config {
    /// This URL, with 8 connections, 10 s to connect and 30 s for a statement.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            max_connections: 8,
            connect_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(30),
            application_name: "headwater".to_owned(),
        }
    }

    /// Why the URL cannot be read, if it cannot.
    pub fn problem(&self) -> Option<String> {
        options(&self.url).err().map(|error| error.to_string())
    }

    /// A handle on the database. Connects when it is first used, so that a database that is down is no reason not to
    /// start; must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`PostgresError::Config`] when the URL or a bound makes no sense.
    pub fn build(&self) -> Result<Database, PostgresError> {
        if self.max_connections == 0 || self.connect_timeout.is_zero() || self.statement_timeout.is_zero() {
            return Err(PostgresError::Config(
                "postgres needs at least one connection and time-outs above 0".to_owned(),
            ));
        }
        let statement_ms = self.statement_timeout.as_millis().to_string();
        let options = options(&self.url)?
            .application_name(&self.application_name)
            .options([
                ("statement_timeout", statement_ms.as_str()),
                // A stopped owner must not hold its offset rows against the next one for ever.
                ("idle_in_transaction_session_timeout", statement_ms.as_str()),
                // A schema that is called as the user is would come before the one where tables without a schema are.
                ("search_path", "public"),
                // The guard of an upsert relies on seeing what others have committed.
                ("default_transaction_isolation", "read committed"),
            ])
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(self.max_connections)
            .acquire_timeout(self.connect_timeout)
            .connect_lazy_with(options);
        Ok(Database { pool, limit: self.connect_timeout + 2 * self.statement_timeout })
    }

    /// [`Config::build`], and a first answer of the server.
    ///
    /// # Errors
    /// As `build`; [`PostgresError::Outage`] when the server does not answer within the time-outs.
    pub async fn connect(&self) -> Result<Database, PostgresError> {
        let database = self.build()?;
        database.ping().await?;
        Ok(database)
    }
}

/// What an address says, and nothing else: sqlx fills in from `PGSSLMODE` and its like what the address leaves out, and those
/// are set for other programs. It also looks for a host in brackets where an IPv6 address stands in them.
fn options(url: &str) -> Result<PgConnectOptions, PostgresError> {
    let unread = |e: &dyn fmt::Display| PostgresError::Config(format!("the database url cannot be read: {e}"));
    let mut options = PgConnectOptions::from_str(url).map_err(|e| unread(&e))?;
    let said = reqwest::Url::parse(url).map_err(|e| unread(&e))?;
    let says = |names: &[&str]| said.query_pairs().any(|(name, _)| names.contains(&name.as_ref()));
    if !says(&["sslmode", "ssl-mode"]) {
        options = options.ssl_mode(PgSslMode::Prefer);
    }
    if !says(&["port"]) {
        options = options.port(said.port().unwrap_or(5432));
    }
    match said.host_str().filter(|host| !host.is_empty()) {
        // A socket's folder, its slashes escaped, or an address in brackets.
        Some(host) if !says(&["host", "hostaddr"]) && !host.contains('%') => {
            options = options.host(host.trim_start_matches('[').trim_end_matches(']'));
        }
        None if !says(&["host", "hostaddr"]) => options = options.host("localhost"),
        _ => {}
    }
    Ok(options)
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Config")
            .field("url", &"***")
            .field("max_connections", &self.max_connections)
            .field("connect_timeout", &self.connect_timeout)
            .field("statement_timeout", &self.statement_timeout)
            .field("application_name", &self.application_name)
            .finish()
    }
}

/// A database, reached through a pool of connections that is bounded and shared by its clones.
#[derive(Clone)]
pub struct Database {
    pool: PgPool,
    /// How long one operation as a whole may take.
    pub(super) limit: Duration,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("connections", &self.pool.size()).finish_non_exhaustive()
    }
}

impl Database {
    /// Whether the database answers: what `/readyz` asks.
    ///
    /// # Errors
    /// [`PostgresError::Outage`] when it does not.
    pub async fn ping(&self) -> Result<(), PostgresError> {
        self.with(async |conn| conn.ping().await.map_err(PostgresError::from)).await
    }

    /// Closes the connections; whoever still waits for one gets an error.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    /// Runs `work` on one connection within the time limit. After a failure that says nothing about the data the
    /// connection is closed, since its state is in doubt; so it is where the caller is gone before the work is done: sqlx
    /// does not know of a transaction whose beginning it has not heard of, and the next one's work would be part of it.
    pub(super) async fn with<T>(
        &self,
        work: impl AsyncFnOnce(&mut PoolConnection<Postgres>) -> Result<T, PostgresError>,
    ) -> Result<T, PostgresError> {
        let conn = match self.pool.acquire().await {
            Err(sqlx::Error::PoolTimedOut) => return Err(self.why_none().await),
            acquired => acquired?,
        };
        let mut lent = PoolGuard(Some(conn));
        let PoolGuard(Some(conn)) = &mut lent else {
            return Err(PostgresError::Outage("no connection was lent".to_owned()));
        };
        let outcome = tokio::time::timeout(self.limit, work(conn)).await.unwrap_or_else(|_| {
            Err(PostgresError::Outage(format!("postgres gave no answer within {} s", self.limit.as_secs())))
        });
        if !matches!(outcome, Err(PostgresError::Outage(_))) {
            lent.give_back();
        }
        outcome
    }

    /// Why the pool has no connection, which it does not say itself: asked of the server without it.
    async fn why_none(&self) -> PostgresError {
        let options = self.pool.connect_options();
        let server = format!("postgres at {}:{}", options.get_host(), options.get_port());
        match tokio::time::timeout(WHY, options.connect()).await {
            Ok(Err(error)) => PostgresError::Outage(format!("{server}: {}", PostgresError::from(error))),
            Err(_) => PostgresError::Outage(format!("{server} does not answer")),
            Ok(Ok(connection)) => {
                // Closing is a courtesy; the answer is that the server is there.
                drop(connection.close().await);
                PostgresError::Outage(format!("{server} answers, but every connection of the pool is in use"))
            }
        }
    }
}

/// A connection of the pool that is closed unless it is given back.
struct PoolGuard(Option<PoolConnection<Postgres>>);

impl PoolGuard {
    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for PoolGuard {
    fn drop(&mut self) {
        if let Some(conn) = self.0.take() {
            drop(conn.detach());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when an IPv6 address keeps its brackets, which no resolver knows, or host, port or TLS come from what is set for other
    /// programs where the address does not say them.
    #[test]
    fn an_address_says_all_that_counts() {
        if std::env::var_os("PGSSLMODE").is_none() {
            // Itself once more, where that is set.
            let set =
                [("PGSSLMODE", "verify-full"), ("PGPORT", "1"), ("PGHOST", "elsewhere"), ("PGHOSTADDR", "10.0.0.1")];
            let mut own = std::process::Command::new(std::env::current_exe().expect("this test"));
            own.args(["--exact", "postgres::config::tests::an_address_says_all_that_counts"]).envs(set);
            let output = own.output().expect("it runs");
            let said = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success() && said.contains("1 passed"), "{said}");
        }
        let of = |url: &str| {
            let options = options(url).expect("an address");
            (options.get_host().to_owned(), options.get_port(), format!("{:?}", options.get_ssl_mode()))
        };
        let plain = |host: &str, port: u16, mode: &str| (host.to_owned(), port, mode.to_owned());
        assert_eq!(of("postgres://me:pw@[::1]:5433/shop"), plain("::1", 5433, "Prefer"));
        assert_eq!(of("postgres://me@db/shop?sslmode=require"), plain("db", 5432, "Require"));
        assert_eq!(of("postgres://me@db:7/shop?ssl-mode=disable"), plain("db", 7, "Disable"));
        assert_eq!(of("postgres:///shop"), plain("localhost", 5432, "Prefer"));
        assert!(options("postgres//x").is_err());
    }
}
