//! What goes wrong with Postgres, told apart by what helps: a person, time, or another row.

use headwater::CommitError;
use sqlx::{error::DatabaseError, postgres::PgDatabaseError};

/// Why the database did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PostgresError {
    /// The configuration cannot work; the message says what to change.
    #[error("{0}")]
    Config(String),
    /// The server does not answer, or cannot do this now; trying again later may help.
    #[error("{0}")]
    Outage(String),
    /// A row's own data cannot be stored; trying again changes nothing.
    #[error("{0}")]
    Refused(String),
    /// The server chose this transaction as the one to be repeated: a deadlock or a serialization failure.
    #[error("{0}")]
    Repeat(String),
}

impl From<PostgresError> for CommitError {
    fn from(error: PostgresError) -> Self {
        match error {
            PostgresError::Config(text) => Self::Fatal(text),
            PostgresError::Outage(text) | PostgresError::Repeat(text) => Self::Outage(text),
            PostgresError::Refused(text) => Self::Refused(text),
        }
    }
}

impl From<sqlx::Error> for PostgresError {
    fn from(error: sqlx::Error) -> Self {
        match error {
            sqlx::Error::Database(database) => from_database(database.as_ref()),
            sqlx::Error::PoolTimedOut => Self::Outage("postgres gave no connection in time".to_owned()),
            sqlx::Error::Io(io) => Self::Outage(format!("postgres cannot be reached: {io}")),
            other => Self::Outage(format!("postgres: {other}")),
        }
    }
}

/// By SQLSTATE class. Messages of classes 22 and 23 quote the value, so they are not passed on.
fn from_database(error: &dyn DatabaseError) -> PostgresError {
    let code = error.code().unwrap_or_default().into_owned();
    let message = error.message();
    match code.get(..2) {
        Some("22" | "23") => {
            PostgresError::Refused(format!("postgres refuses it{}: {} ({code})", place(error), condition(&code)))
        }
        Some("40") => PostgresError::Repeat(format!("postgres asks to repeat the transaction: {message} ({code})")),
        _ => PostgresError::Outage(format!("postgres: {message} ({code}){}", remedy(&code))),
    }
}

/// ", column `c`, constraint `k`, table `t`", as far as the server says.
fn place(error: &dyn DatabaseError) -> String {
    let error = error.try_downcast_ref::<PgDatabaseError>();
    let parts = [
        (", column", error.and_then(PgDatabaseError::column)),
        (", constraint", error.and_then(PgDatabaseError::constraint)),
        (", table", error.and_then(PgDatabaseError::table)),
    ];
    parts.into_iter().filter_map(|(what, name)| name.map(|n| format!("{what} `{n}`"))).collect()
}

/// The condition's name, from appendix A of the PostgreSQL manual.
fn condition(code: &str) -> &'static str {
    match code {
        "22001" => "text too long for its column",
        "22003" => "number out of range",
        "22007" | "22008" => "date or time out of range",
        "22021" => "character that the database's encoding does not have",
        "22P02" => "text that is not of the column's type",
        "22P05" => "character that text cannot hold",
        "23502" => "null in a column that must not be null",
        "23503" => "foreign key violation",
        "23505" => "unique violation",
        "23514" => "check violation",
        "23P01" => "exclusion violation",
        _ if code.starts_with("22") => "data exception",
        _ => "integrity constraint violation",
    }
}

fn remedy(code: &str) -> &'static str {
    match code {
        "25006" => "; the server is a read-only replica: point the url at the primary",
        "42501" => "; grant the right to the user of the url",
        "42P10" => "; an upsert needs a primary key or unique index on exactly the sink's key columns",
        "53100" => "; free disk space on the server",
        "53300" => "; lower max_connections of the sinks or raise the server's",
        _ => "",
    }
}

/// Whether the error means that what was asked about does not exist (any more).
pub(super) fn is_undefined(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    matches!(code.as_deref(), Some("42P01" | "3F000"))
}

/// Whether somebody else has just created the same thing.
pub(super) fn is_duplicate(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(DatabaseError::code);
    matches!(code.as_deref(), Some("42P07" | "42701" | "42P06" | "42710" | "23505"))
}
