//! Whose fault a refusal is, found out by trying the rows of a unit: halves of it, down to one row, each behind a savepoint
//! of the unit's own transaction.
//!
//! A row that stands alone while its neighbours are stored is at fault itself. Rows that are all refused alike are not:
//! then the table is, and none of them is given up. Of a unit that holds them all no row becomes a dead letter; where rows
//! come in one by one, fewer than [`ALIKE`] have before it is clear.
//!
//! What is only refused beside others (two keys that are one to the database) is stored in statements of its own, and what
//! needs a neighbour that comes later is tried again behind it.

use headwater::Row;
use sqlx::{Connection, PgConnection};

use super::{
    error::PostgresError,
    offsets::Offsets,
    refusal::{Cause, Refusal, WriteError},
    rows::Rows,
    write::Done,
};

/// So many rows refused one after the other, alike and none stored between, are the table's fault.
const ALIKE: u32 = 20;
/// So many rows of a unit are put aside at once: what comes after them is tried with the rest of it.
const AT_ONCE: usize = 100;

/// Rows that were refused one after the other, alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Streak {
    cause: Option<Cause>,
    rows: u32,
}

impl Streak {
    /// Another row is refused; the error says that it is the table's fault.
    fn refused(&mut self, refusal: &Refusal) -> Result<(), PostgresError> {
        let Some(cause) = &refusal.cause else { return Ok(()) };
        if self.cause.as_ref() == Some(cause) {
            self.rows += 1;
        } else {
            *self = Self { cause: Some(cause.clone()), rows: 1 };
        }
        if self.rows < ALIKE {
            return Ok(());
        }
        Err(PostgresError::Outage(format!(
            "{ALIKE} rows in a row were refused alike, and none was stored between: {}: mend the table, or what its triggers \
             use; if the rows are at fault, move the group past them (`headwater offsets reset` with --topic and --partition), which \
             makes no dead letters of them",
            refusal.why
        )))
    }
}

/// What a trial has found.
#[derive(Debug)]
pub(super) struct Found<'a> {
    /// What the rows that are stored did.
    pub(super) done: Done,
    /// The rows that are refused, and why.
    pub(super) refused: Vec<(&'a Row, String)>,
    pub(super) streak: Streak,
}

/// Stores what can be stored of `rows` in the caller's transaction, and tells what cannot.
///
/// # Errors
/// [`PostgresError::Outage`] where the table is at fault, with what to mend.
pub(super) async fn run<'a>(
    conn: &mut PgConnection,
    to: (&Rows, &Offsets),
    rows: &[&'a Row],
    streak: Streak,
) -> Result<Found<'a>, PostgresError> {
    // What is checked at the end of the transaction would name no row.
    sqlx::query("set constraints all immediate").execute(&mut *conn).await?;
    let mut found = Found { done: Done::default(), refused: Vec::new(), streak };
    let mut stored = false;
    let mut parts = vec![rows];
    while let Some(part) = parts.pop() {
        match (store(conn, to, part).await?, part) {
            (Ok(done), _) => {
                found.done.add(done);
                found.streak = Streak::default();
                stored = true;
            }
            (Err(refusal), [row]) => {
                if let Some(column) = &refusal.required {
                    to.0.check_required(row, column)?;
                }
                found.streak.refused(&refusal)?;
                found.refused.push((row, refusal.why));
                if found.refused.len() >= AT_ONCE {
                    return Ok(found);
                }
            }
            (Err(_), part) => {
                let (first, second) = part.split_at(part.len() / 2);
                parts.extend([second, first].into_iter().filter(|half| !half.is_empty()));
            }
        }
    }
    if stored {
        again(conn, to, &mut found).await?;
    }
    Ok(found)
}

/// Tries the refused rows again, now that all others are there.
async fn again(conn: &mut PgConnection, to: (&Rows, &Offsets), found: &mut Found<'_>) -> Result<(), PostgresError> {
    for (row, why) in std::mem::take(&mut found.refused) {
        match store(conn, to, &[row]).await? {
            Ok(done) => found.done.add(done),
            Err(_) => found.refused.push((row, why)),
        }
    }
    Ok(())
}

/// Stores a part, or leaves everything as it was.
async fn store(
    conn: &mut PgConnection,
    (table, offsets): (&Rows, &Offsets),
    part: &[&Row],
) -> Result<Result<Done, Refusal>, PostgresError> {
    let mut savepoint = conn.begin().await?;
    match table.write(&mut savepoint, part, offsets).await {
        Ok(done) => {
            savepoint.commit().await?;
            Ok(Ok(done))
        }
        Err(WriteError::Refused(refusal)) => {
            savepoint.rollback().await?;
            Ok(Err(refusal))
        }
        Err(WriteError::Other(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(code: &str) -> Refusal {
        Refusal { why: code.to_owned(), cause: Some(Cause::test(code)), required: None }
    }

    /// Red when one less than [`ALIKE`] is enough, one of another cause does not count anew, or what the server has not
    /// refused counts.
    #[test]
    fn only_rows_that_are_refused_alike_in_a_row_are_the_tables_fault() {
        let mut streak = Streak::default();
        (0..19).for_each(|_| streak.refused(&refusal("23514")).unwrap());
        streak.refused(&refusal("54000")).unwrap();
        (0..19).for_each(|_| streak.refused(&refusal("23514")).unwrap());
        streak.refused(&Refusal { cause: None, ..refusal("ours") }).unwrap();
        let why = streak.refused(&refusal("23514")).unwrap_err().to_string();
        assert!(why.contains("20 rows in a row") && why.contains("offsets reset"), "{why}");
    }
}
