//! What Postgres says no to, and whose fault that can be: a row's, the table's, or nobody's who is here.
//!
//! Only where a code cannot mean anything else is it believed. Everything else is found out by trying: see `trial.rs`.

use sqlx::postgres::{PgDatabaseError, PgSeverity};

use crate::postgres::error::{PostgresError, condition, place, raised_in};

/// Why rows were not written.
#[derive(Debug)]
pub(crate) enum WriteError {
    /// One of the rows is refused, or all of them: it is to be found out.
    Refused(Refusal),
    /// It is no row's fault.
    Other(PostgresError),
}

/// What refuses a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    /// As a sentence without any value of it.
    pub(crate) why: String,
    /// What refusals have in common that are alike.
    pub(crate) cause: RefusalCause,
    /// A column that must not be null, which the row's schema perhaps does not have.
    pub(crate) required: Option<String>,
}

/// A code and the object that it is about; of what the sink refuses itself no code, and the sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RefusalCause {
    code: String,
    object: String,
}

impl From<PostgresError> for WriteError {
    fn from(error: PostgresError) -> Self {
        match error {
            PostgresError::Refused(why) => {
                let cause = RefusalCause { code: String::new(), object: why.clone() };
                Self::Refused(Refusal { why, cause, required: None })
            }
            other => Self::Other(other),
        }
    }
}

impl From<sqlx::Error> for WriteError {
    /// Of a statement that writes rows.
    fn from(error: sqlx::Error) -> Self {
        let said = error.as_database_error().and_then(|error| error.try_downcast_ref::<PgDatabaseError>());
        let Some(said) = said else { return Self::Other(error.into()) };
        match Blame::of(said) {
            Blame::Server => Self::Other(error.into()),
            Blame::Table => Self::Other(PostgresError::Outage(format!(
                "the table refuses every row: {} ({}){}",
                said.message(),
                said.code(),
                remedy(said)
            ))),
            Blame::Unknown => Self::Refused(Refusal::of(said)),
        }
    }
}

#[cfg(test)]
impl RefusalCause {
    /// A code, about nothing.
    pub(crate) fn test(code: &str) -> Self {
        Self { code: code.to_owned(), object: String::new() }
    }
}

/// Who can be at fault, as far as an error alone says.
#[derive(Debug, PartialEq, Eq)]
enum Blame {
    /// The server cannot work now, or asks for the same again.
    Server,
    /// Something is missing that every row needs.
    Table,
    /// A row, or the table.
    Unknown,
}

impl Blame {
    fn of(error: &PgDatabaseError) -> Self {
        let (code, routine) = (error.code(), error.routine().unwrap_or_default());
        let ended = matches!(error.severity(), PgSeverity::Fatal | PgSeverity::Panic);
        match code.get(..2).unwrap_or_default() {
            _ if ended || matches!(code, "25006" | "XX001" | "XX002") => Self::Server,
            "08" | "26" | "40" | "53" | "55" | "57" | "58" => Self::Server,
            // What a function raises, or row security refuses, has the code of a missing right and is about this row.
            _ if matches!(routine, "exec_stmt_raise" | "ExecWithCheckOptions") => Self::Unknown,
            // A function of the table's owner may do to each row something else; but what it lacks, it lacks.
            "42" | "3F" if error.r#where().is_none() || lacks(code) => Self::Table,
            "23" if code == "23514" && routine == "ExecFindPartition" => Self::Table,
            _ => Self::Unknown,
        }
    }
}

/// Whether a code says that a table, a column, a schema or a right is missing.
fn lacks(code: &str) -> bool {
    matches!(code, "42P01" | "42703" | "3F000" | "42501")
}

fn remedy(error: &PgDatabaseError) -> &'static str {
    match error.code() {
        "23514" => "; create the partition, or a default one",
        "42501" => "; grant the right to the user of the url",
        "42P10" => "; an upsert needs a primary key or unique index on exactly the sink's key columns",
        _ => "; mend the table, or what its triggers use",
    }
}

impl Refusal {
    fn of(error: &PgDatabaseError) -> Self {
        let code = error.code();
        let object = [error.constraint(), error.column(), raised_in(error), error.table(), error.routine()];
        // A limit's message tells sizes and an index, no value.
        let limit = code.starts_with("54") && error.r#where().is_none();
        let what = if limit { error.message() } else { condition(code) };
        Self {
            why: format!("postgres refuses it{}: {what} ({code})", place(error)),
            cause: RefusalCause {
                code: code.to_owned(),
                object: object.into_iter().flatten().next().unwrap_or_default().to_owned(),
            },
            // What a trigger writes elsewhere is about another table's column.
            required: error.column().filter(|_| code == "23502" && error.r#where().is_none()).map(str::to_owned),
        }
    }
}
