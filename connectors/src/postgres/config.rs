//! How to reach the database.

use std::{path::PathBuf, time::Duration};

use super::{
    database::{Database, session::SessionSettings},
    error::PostgresError,
    login::LoginSource,
};
use crate::units::{Secret, SecretSource};

/// How to reach the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// `postgres://user:password@host:port/database`, or the file that holds it. Its `sslmode`, `sslrootcert`, `sslcert` and
    /// `sslkey` say how TLS is spoken. A file that changes counts for the next connection.
    pub url: SecretSource,
    /// The file that holds the password, where the URL has none; it may change, too.
    pub password_file: Option<PathBuf>,
    /// Whether a transaction pooler stands before the server, such as PgBouncer: nothing is named and nothing kept from one
    /// transaction to the next.
    pub pooler: bool,
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
        Self::of(SecretSource::Text(Secret::new(url)))
    }

    /// The same with a URL that stands in a file, perhaps.
    pub fn of(url: SecretSource) -> Self {
        Self {
            url,
            password_file: None,
            pooler: false,
            max_connections: 8,
            connect_timeout: Duration::from_secs(10),
            statement_timeout: Duration::from_secs(30),
            application_name: "headwater".to_owned(),
        }
    }

    /// What is wrong with URL, password and certificates as their files are now, a sentence each, which begins with the
    /// setting's name.
    pub fn problems(&self) -> Vec<String> {
        self.login().read().err().unwrap_or_default()
    }

    /// A handle on the database. Connects when it is first used, so that a database that is down is no reason not to
    /// start; must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`PostgresError::Config`] when URL, password, certificates or a bound make no sense.
    pub fn build(&self) -> Result<Database, PostgresError> {
        if self.max_connections == 0 || self.connect_timeout.is_zero() || self.statement_timeout.is_zero() {
            return Err(PostgresError::Config(
                "postgres needs at least one connection and time-outs above 0".to_owned(),
            ));
        }
        let settings = SessionSettings {
            application_name: self.application_name.clone(),
            statement_timeout: self.statement_timeout,
            pooler: self.pooler,
        };
        Database::open(self.login(), settings, self.max_connections, self.connect_timeout)
    }

    /// [`Config::build`], and a first answer of the server.
    ///
    /// # Errors
    /// As `build`; [`PostgresError::Credentials`] when the server does not let us in; [`PostgresError::Outage`] when it does not
    /// answer within the time-outs.
    pub async fn connect(&self) -> Result<Database, PostgresError> {
        let database = self.build()?;
        database.ping().await?;
        Ok(database)
    }

    fn login(&self) -> LoginSource {
        LoginSource { url: self.url.clone(), password_file: self.password_file.clone(), pooler: self.pooler }
    }
}
