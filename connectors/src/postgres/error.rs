//! What goes wrong with Postgres, told apart by what helps: a person, time, or another row.

use headwater::spi::CommitError;
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
    /// The server does not let us in, or we do not trust it: a password, a certificate or `sslmode` is wrong. At the start of a
    /// process only a person can mend that; later it is an outage, since it worked before.
    #[error("{0}")]
    Credentials(String),
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
            PostgresError::Outage(text) | PostgresError::Credentials(text) | PostgresError::Repeat(text) => {
                Self::Outage(text)
            }
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

/// ", column `c`, constraint `k`, table `t`", as far as the server says.
pub(super) fn place(error: &PgDatabaseError) -> String {
    let parts = [
        (", column", error.column()),
        (", constraint", error.constraint()),
        (", table", error.table()),
        (", raised by", raised_in(error)),
    ];
    parts.into_iter().filter_map(|(what, name)| name.map(|n| format!("{what} `{n}`"))).collect()
}

/// The function in which it happened, `PL/pgSQL function check_thing() line 3 at RAISE`; its message may quote the row.
pub(super) fn raised_in(error: &PgDatabaseError) -> Option<&str> {
    error.r#where()?.lines().rev().find(|line| line.contains("function "))
}

/// The condition's name, from appendix A of the PostgreSQL manual.
pub(super) fn condition(code: &str) -> &'static str {
    match code {
        "21000" => "two rows of one key in a statement",
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
        "42501" => "row security or a function does not allow it",
        "44000" => "violation of a view's check option",
        "P0001" => "an error that a function raises",
        _ => match code.get(..2).unwrap_or_default() {
            "22" => "data exception",
            "23" => "integrity constraint violation",
            "54" => "past a limit of the server",
            "P0" => "an error in a function",
            "XX" => "internal error",
            _ => "an error that may be the row's",
        },
    }
}
