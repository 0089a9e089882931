//! Whose fault a refusal is, found out by trying the rows of a unit: halves of it, down to one row, each behind a savepoint
//! of the unit's own transaction.
//!
//! A row that stands alone while its neighbours are stored is at fault itself. Rows that are all refused alike are not:
//! then the table is, and none of them is given up. Of a unit that holds them all no row becomes a dead letter; where rows
//! come in one by one, fewer than [`ALIKE`] have before it is clear.
//!
//! What is only refused beside others (two keys that are one to the database) is stored in statements of its own, and what
//! needs a neighbour that comes later is tried again behind it.

use headwater::spi::Row;

use super::{
    prepared_table::PreparedTable,
    refusal::{Refusal, RefusalCause, WriteError},
    write::WriteCounts,
};
use crate::postgres::{database::session::Transaction, error::PostgresError, offsets::OwnedOffsets};

/// So many rows refused one after the other, alike and none stored between, are the table's fault.
const ALIKE: u32 = 20;
/// So many rows of a unit are put aside at once: what comes after them is tried with the rest of it.
const AT_ONCE: usize = 100;

/// Rows that were refused one after the other, alike.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Streak {
    cause: Option<RefusalCause>,
    rows: u32,
}

impl Streak {
    /// Goes on with the rows of a trial, in order. The error says that it is the table's fault; then nothing is counted.
    pub(crate) fn judge(&mut self, found: &TrialResult) -> Result<(), PostgresError> {
        let mut streak = self.clone();
        let mut refused = found.refused.iter().peekable();
        for at in 0..found.tried {
            match refused.next_if(|(row, _)| *row == at) {
                Some((_, refusal)) => streak.refused(refusal)?,
                None => streak = Self::default(),
            }
        }
        *self = streak;
        Ok(())
    }

    /// Another row is refused; the error says that it is the table's fault.
    fn refused(&mut self, refusal: &Refusal) -> Result<(), PostgresError> {
        if self.cause.as_ref() == Some(&refusal.cause) {
            self.rows += 1;
        } else {
            *self = Self { cause: Some(refusal.cause.clone()), rows: 1 };
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
#[derive(Debug, Default)]
pub(crate) struct TrialResult {
    /// What the rows that are stored did.
    pub(crate) done: WriteCounts,
    /// The places of the rows that are refused, in order, and why.
    pub(crate) refused: Vec<(usize, Refusal)>,
    /// So many rows were tried, from the first on.
    tried: usize,
}

/// Stores what can be stored of `rows` in the caller's transaction, and tells what cannot.
///
/// # Errors
/// [`PostgresError::Outage`] where a column is at fault that no row of its schema can fill, with what to mend.
pub(crate) async fn run(
    tx: &mut Transaction<'_>,
    to: (&PreparedTable, &OwnedOffsets),
    rows: &[&Row],
) -> Result<TrialResult, PostgresError> {
    // What is checked at the end of the transaction would name no row.
    sqlx::query("set constraints all immediate").execute(&mut *tx).await?;
    let mut found = TrialResult::default();
    let mut parts = Vec::from_iter(std::iter::once(0..rows.len()));
    while !parts.is_empty() && found.refused.len() < AT_ONCE {
        let mut stored = false;
        while found.refused.len() < AT_ONCE
            && let Some(part) = parts.pop()
        {
            match store(tx, to, &rows[part.clone()]).await? {
                Ok(done) => {
                    found.done.add(done);
                    stored = true;
                }
                Err(refusal) if part.len() == 1 => {
                    if let Some(column) = &refusal.required {
                        to.0.check_required(rows[part.start], column)?;
                    }
                    found.refused.push((part.start, refusal));
                }
                Err(_) => {
                    let middle = part.start + part.len() / 2;
                    parts.extend([middle..part.end, part.start..middle]);
                }
            }
        }
        found.tried = parts.last().map_or(rows.len(), |part| part.start);
        if stored {
            again(tx, to, rows, &mut found).await?;
        }
    }
    Ok(found)
}

/// Tries the refused rows again, now that all others are there.
async fn again(
    tx: &mut Transaction<'_>,
    to: (&PreparedTable, &OwnedOffsets),
    rows: &[&Row],
    found: &mut TrialResult,
) -> Result<(), PostgresError> {
    let refused = std::mem::take(&mut found.refused);
    let stands: Vec<usize> = refused.iter().map(|(at, _)| *at).collect();
    for (at, refusal) in refused {
        let behind = (at + 1..found.tried).filter(|later| stands.binary_search(later).is_err());
        let part = to.0.with_its_tombstone(rows[at], behind.map(|later| rows[later]));
        match store(tx, to, &part).await? {
            Ok(done) => found.done.add(done),
            Err(_) => found.refused.push((at, refusal)),
        }
    }
    Ok(())
}

/// Stores a part, or leaves everything as it was.
async fn store(
    tx: &mut Transaction<'_>,
    (table, offsets): (&PreparedTable, &OwnedOffsets),
    part: &[&Row],
) -> Result<Result<WriteCounts, Refusal>, PostgresError> {
    let mut savepoint = tx.begin().await?;
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
        Refusal { why: code.to_owned(), cause: RefusalCause::test(code), required: None }
    }

    /// So many rows that were tried, of which these were refused for `code`.
    fn found(tried: usize, code: &str, refused: std::ops::Range<usize>) -> TrialResult {
        TrialResult { tried, refused: refused.map(|at| (at, refusal(code))).collect(), ..TrialResult::default() }
    }

    /// Red when one less than [`ALIKE`] is enough, one of another cause or that is stored does not count anew, or rows count
    /// that made the group wait.
    #[test]
    fn only_rows_that_are_refused_alike_in_a_row_are_the_tables_fault() {
        let mut streak = Streak::default();
        streak.judge(&found(19, "23514", 0..19)).unwrap();
        streak.judge(&found(1, "54000", 0..1)).unwrap();
        streak.judge(&found(19, "23514", 0..19)).unwrap();
        streak.judge(&found(20, "23514", 1..20)).unwrap();
        let before = streak.clone();
        let why = streak.judge(&found(1, "23514", 0..1)).unwrap_err().to_string();
        assert!(why.contains("20 rows in a row") && why.contains("offsets reset"), "{why}");
        assert_eq!(streak, before);
        streak.judge(&found(2, "23514", 0..1)).unwrap_err();
        streak.judge(&found(1, "23514", 0..0)).unwrap();
        assert_eq!(streak, Streak::default());
    }
}
