//! The handle that everything else is made from: a pool of connections, and who is let in by what.

mod denial;
mod live_login;

pub(crate) mod session;

use std::{fmt, sync::Arc, time::Duration};

use sqlx::{ConnectOptions, Connection, PgPool, postgres::PgPoolOptions};

use self::{
    live_login::LiveLogin,
    session::{Session, SessionSettings, Transaction},
};
use super::{error::PostgresError, login::LoginSource};

/// How long the question may take why there is no connection.
const WHY: Duration = Duration::from_secs(2);
/// So long a connection lives at most: what let it in may have been replaced.
const MAX_LIFETIME: Duration = Duration::from_mins(30);

/// A database, reached through a pool of connections that is bounded and shared by its clones.
#[derive(Clone)]
pub struct Database {
    pool: PgPool,
    login: Arc<LiveLogin>,
    /// How long one operation as a whole may take.
    pub(super) limit: Duration,
}

impl fmt::Debug for Database {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Database").field("connections", &self.pool.size()).finish_non_exhaustive()
    }
}

impl Database {
    /// A pool that is let in by this, and connects when it is first used.
    ///
    /// # Errors
    /// [`PostgresError::Config`] when something of it cannot be read.
    pub(super) fn open(
        source: LoginSource,
        settings: SessionSettings,
        max_connections: u32,
        connect_timeout: Duration,
    ) -> Result<Self, PostgresError> {
        let limit = connect_timeout + 2 * settings.statement_timeout;
        let (login, options) = LiveLogin::new(source, settings)?;
        let pool = PgPoolOptions::new()
            .max_connections(max_connections)
            .acquire_timeout(connect_timeout)
            .max_lifetime(MAX_LIFETIME)
            .connect_lazy_with(options);
        Ok(Self { pool, login: Arc::new(login), limit })
    }

    /// Whether the database answers: what `/readyz` asks.
    ///
    /// # Errors
    /// [`PostgresError::Credentials`] when it does not let us in; [`PostgresError::Outage`] when it does not answer.
    pub async fn ping(&self) -> Result<(), PostgresError> {
        self.with(async |session| session.ping().await.map_err(PostgresError::from)).await
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
        work: impl AsyncFnOnce(&mut Session) -> Result<T, PostgresError>,
    ) -> Result<T, PostgresError> {
        let mut lent = SessionGuard(Some(self.session().await?));
        let SessionGuard(Some(session)) = &mut lent else {
            return Err(PostgresError::Outage("no connection was lent".to_owned()));
        };
        let outcome = tokio::time::timeout(self.limit, work(session)).await.unwrap_or_else(|_| {
            Err(PostgresError::Outage(format!("postgres gave no answer within {} s", self.limit.as_secs())))
        });
        if !matches!(outcome, Err(PostgresError::Outage(_))) {
            lent.give_back();
        }
        outcome
    }

    /// Runs `work` in one transaction, which commits where it succeeds.
    pub(super) async fn transaction<T>(
        &self,
        work: impl AsyncFnOnce(&mut Transaction<'_>) -> Result<T, PostgresError>,
    ) -> Result<T, PostgresError> {
        self.with(async |session| {
            let mut tx = session.begin().await?;
            let outcome = work(&mut tx).await?;
            tx.commit().await?;
            Ok(outcome)
        })
        .await
    }

    /// A connection of the pool.
    async fn session(&self) -> Result<Session, PostgresError> {
        self.login.look(&self.pool);
        let mut acquired = self.pool.acquire().await;
        // Perhaps what lets us in has just been replaced.
        if acquired.as_ref().is_err_and(denial::is_denial) && self.login.look_at_once(&self.pool) {
            acquired = self.pool.acquire().await;
        }
        match acquired {
            Ok(conn) => Ok(Session::new(conn, self.login.begin())),
            Err(sqlx::Error::PoolTimedOut) => Err(self.why_none().await),
            Err(error) => Err(denial::explain(error, &self.pool.connect_options())),
        }
    }

    /// Why the pool has no connection, which it does not say itself: asked of the server without it.
    async fn why_none(&self) -> PostgresError {
        let options = self.pool.connect_options();
        let server = denial::server(&options);
        match tokio::time::timeout(WHY, options.connect()).await {
            Ok(Err(error)) => denial::explain(error, &options),
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
struct SessionGuard(Option<Session>);

impl SessionGuard {
    fn give_back(mut self) {
        drop(self.0.take());
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        if let Some(session) = self.0.take() {
            session.detach();
        }
    }
}
