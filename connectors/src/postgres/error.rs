//! What goes wrong with Postgres, told apart by what helps: a person, time, or another row.

use headwater::CommitError;
use sqlx::error::DatabaseError;

use super::sink::refusal::{condition, place};

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

impl PostgresError {
    /// Of a statement that writes no row: what is refused there is no row's fault.
    pub(super) fn of_no_row(self) -> Self {
        match self {
            Self::Refused(why) => Self::Outage(why),
            other => other,
        }
    }
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

/// By SQLSTATE class, of what is about no sink's row: see [`super::sink::refusal`] for those. Messages of classes 22 and 23 quote the value, so they are not passed on.
fn from_database(error: &dyn DatabaseError) -> PostgresError {
    let code = error.code().unwrap_or_default().into_owned();
    let message = error.message();
    match code.get(..2) {
        Some("22" | "23") => {
            let place = error.try_downcast_ref().map(place).unwrap_or_default();
            PostgresError::Refused(format!("postgres refuses it{place}: {} ({code})", condition(&code)))
        }
        Some("40") => PostgresError::Repeat(format!("postgres asks to repeat the transaction: {message} ({code})")),
        _ => PostgresError::Outage(format!("postgres: {message} ({code}){}", remedy(&code))),
    }
}

fn remedy(code: &str) -> &'static str {
    match code {
        "25006" => "; the server is a read-only replica: point the url at the primary",
        "42501" => "; grant the right to the user of the url",
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
