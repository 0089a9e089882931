//! What a person decides about letters: sent back, discarded, edited. Each is one transaction.

use headwater::{
    Origin,
    spi::{DeadLetter, Outgoing},
};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::{
    Letters, Summary, explain,
    row::{self, COLUMNS, HEADERS, HeaderColumns, Status, StoredLetter, stored_letter},
};
use crate::postgres::{
    database::{Database, session::Transaction},
    error::PostgresError,
};

/// How often a statement is begun anew that the server ended for the sake of another one.
const REPEATS: u32 = 5;

/// What became of one letter's record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendOutcome {
    /// It is on its topic.
    Sent,
    /// The broker will never take it; the letter stays as it is.
    Refused(String),
    /// It may not be on its topic; the letter stays as it is.
    Unsent(String),
}

/// What became of letters that were to be sent back.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RedriveResult {
    /// They are on their topic, and `redriven`.
    pub sent: Vec<Uuid>,
    /// The broker will never take them: why.
    pub refused: Vec<(Uuid, String)>,
    /// They may not be on their topic: why.
    pub unsent: Vec<(Uuid, String)>,
    /// They are not what they were, or somebody else has them in hand.
    pub passed: Vec<Uuid>,
}

/// What became of letters that were to be discarded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscardResult {
    /// They are `discarded` now.
    pub done: Vec<Uuid>,
    /// They are in a status that this does not change.
    pub refused: Vec<(Uuid, Status)>,
    /// There are no such letters.
    pub missing: Vec<Uuid>,
}

/// An edited letter's place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EditResult {
    /// The new letter's row.
    pub id: Uuid,
    /// Where its record stands.
    pub origin: Origin,
}

/// Why a letter was not edited; nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LetterError {
    /// There is no such letter.
    #[error("there is no dead letter {0}")]
    Missing(Uuid),
    /// It is not a person's to decide any more.
    #[error("dead letter {0} is {1}: only one that is open or parked can be edited")]
    Closed(Uuid, Status),
    /// Somebody else decides about it at this moment.
    #[error("somebody else has dead letter {0} in hand: try again")]
    Busy(Uuid),
    /// Its record may not be on its topic.
    #[error("the edited record was not sent: {0}")]
    Unsent(String),
    /// The database did not do what was asked.
    #[error(transparent)]
    Database(#[from] PostgresError),
}

/// What a person can do with dead letters.
#[derive(Clone, Copy, Debug)]
pub struct LetterActions<'a> {
    database: &'a Database,
}

impl<'a> LetterActions<'a> {
    /// What can be done with these.
    pub fn of(letters: &'a Letters) -> Self {
        Self { database: &letters.database }
    }

    /// Sends letters back: locks those that are still as `chosen` says and in one of these statuses, hands them to `send`,
    /// which publishes [`DeadLetter::redriven`] of each and waits for every acknowledgement, and marks those that were sent.
    ///
    /// The locks are held meanwhile, and the group `dead-letters` waits for them: choose few at a time, and what else `send`
    /// needs have at hand before. Killed before the commit, what was sent is still open, and is sent once more with the same
    /// ids.
    ///
    /// # Errors
    /// As [`Letters::failure_groups`]; what was sent is then still open.
    pub async fn redrive(
        self,
        chosen: &[Summary],
        statuses: &[Status],
        send: impl AsyncFnOnce(&[StoredLetter]) -> Vec<SendOutcome>,
    ) -> Result<RedriveResult, PostgresError> {
        let ids: Vec<String> = chosen.iter().map(|letter| letter.id.to_string()).collect();
        let counts: Vec<i32> = chosen.iter().map(|letter| i32::try_from(letter.redrives).unwrap_or(i32::MAX)).collect();
        let statuses: Vec<&str> = statuses.iter().map(|status| status.name()).collect();
        self.database
            .transaction(async |tx| {
                let sql = format!(
                    "select {COLUMNS} from headwater.dead_letters d \
                     join unnest($1::text[]::uuid[], $2::int4[]) with ordinality as p (of_id, of_count, place) \
                     on d.id = of_id and redrive_count = of_count where status = any($3::text[]) \
                     order by place for update of d skip locked"
                );
                let query = sqlx::query(AssertSqlSafe(sql)).bind(&ids).bind(&counts).bind(&statuses);
                let rows = query.fetch_all(&mut *tx).await.map_err(explain)?;
                let locked = rows.iter().map(stored_letter).collect::<Result<Vec<_>, _>>()?;
                drop(rows);
                let outcomes = if locked.is_empty() { Vec::new() } else { send(&locked).await };
                let done = sorted(chosen, &locked, outcomes);
                set_status(tx, &done.sent, Status::Redriven).await?;
                Ok(done)
            })
            .await
    }

    /// Gives letters up, and keeps their rows. One that was sent back or has succeeded is not touched, nor one that was
    /// edited; one that is discarded already counts as done.
    ///
    /// # Errors
    /// As [`Letters::failure_groups`]; nothing has changed then.
    pub async fn discard(self, ids: &[Uuid], note: Option<&str>) -> Result<DiscardResult, PostgresError> {
        let mut repeats = 0;
        loop {
            match self.try_discard(ids, note).await {
                Err(PostgresError::Repeat(_)) if repeats < REPEATS => repeats += 1,
                outcome => return outcome,
            }
        }
    }

    async fn try_discard(self, ids: &[Uuid], note: Option<&str>) -> Result<DiscardResult, PostgresError> {
        let asked: Vec<String> = ids.iter().map(Uuid::to_string).collect();
        self.database
            .transaction(async |tx| {
                let rows = sqlx::query(
                    "select id::text, status from headwater.dead_letters where id = any($1::text[]::uuid[]) \
                     order by id for update",
                )
                .bind(&asked)
                .fetch_all(&mut *tx)
                .await
                .map_err(explain)?;
                let mut done = DiscardResult::default();
                for row in &rows {
                    let (id, status) = (row::id(row, "id")?, row::status(row)?);
                    match status {
                        Status::Open | Status::Parked | Status::Discarded => done.done.push(id),
                        status => done.refused.push((id, status)),
                    }
                }
                let found =
                    |id: &&Uuid| done.done.contains(id) || done.refused.iter().any(|(refused, _)| refused == *id);
                done.missing = ids.iter().filter(|id| !found(id)).copied().collect();
                let discarded: Vec<String> = done.done.iter().map(Uuid::to_string).collect();
                sqlx::query(
                    "update headwater.dead_letters set status = 'discarded', note = coalesce($2, note) \
                     where id = any($1::text[]::uuid[])",
                )
                .bind(discarded)
                .bind(note)
                .execute(&mut *tx)
                .await?;
                Ok(done)
            })
            .await
    }

    /// Puts another record in a letter's place: `send` publishes [`DeadLetter::edited`] and says where it stands; its row is
    /// linked to the old one, which becomes `edited`.
    ///
    /// Nothing else is written to the table until this is done, so that what the group makes of the new record finds its
    /// row. Killed before the commit, the letter is as it was, and the new record of another try has the same id.
    ///
    /// # Errors
    /// [`LetterError`]; the letter is as it was.
    pub async fn edit(
        self,
        id: Uuid,
        value: Vec<u8>,
        send: impl AsyncFnOnce(Outgoing) -> Result<Origin, String>,
    ) -> Result<EditResult, LetterError> {
        let outcome = self.database.with(async |session| {
            let mut tx = session.begin().await?;
            let old = match take(&mut tx, id).await? {
                Ok(old) => old,
                Err(error) => return Ok(Err(error)),
            };
            let record = old.letter.edited(&id.to_string(), value);
            let origin = match send(record.clone()).await {
                Ok(origin) => origin,
                Err(why) => return Ok(Err(LetterError::Unsent(why))),
            };
            let new = insert(&mut tx, id, &record, &origin).await?;
            set_status(&mut tx, &[id], Status::Edited).await?;
            tx.commit().await?;
            Ok(Ok(EditResult { id: new, origin }))
        });
        outcome.await?
    }
}

/// Takes the table for this transaction alone, and the letter that is to be edited.
async fn take(tx: &mut Transaction<'_>, id: Uuid) -> Result<Result<StoredLetter, LetterError>, PostgresError> {
    let lock = "lock table headwater.dead_letters in share row exclusive mode";
    sqlx::query(lock).execute(&mut *tx).await.map_err(explain)?;
    // Who has the row's lock waits for the table's: waiting for him would never end.
    let sql = format!("select {COLUMNS} from headwater.dead_letters d where id = $1::uuid for update skip locked");
    let row = sqlx::query(AssertSqlSafe(sql)).bind(id.to_string()).fetch_optional(&mut *tx).await?;
    let Some(row) = row else {
        let there = "select exists (select from headwater.dead_letters where id = $1::uuid)";
        let there: bool = sqlx::query_scalar(there).bind(id.to_string()).fetch_one(&mut *tx).await?;
        return Ok(Err(if there { LetterError::Busy(id) } else { LetterError::Missing(id) }));
    };
    let old = stored_letter(&row)?;
    Ok(match old.status {
        Status::Open | Status::Parked => Ok(old),
        status => Err(LetterError::Closed(id, status)),
    })
}

/// The row of the edited record. Its group may have dead-lettered it already: that row then only learns whose it is.
async fn insert(
    tx: &mut Transaction<'_>,
    old: Uuid,
    record: &Outgoing,
    origin: &Origin,
) -> Result<Uuid, PostgresError> {
    let headers = HeaderColumns::of(&record.headers);
    let sql = format!(
        "insert into headwater.dead_letters (consumer_group, processor, event_id, event_type, kind, message, detail, \
         fingerprint, status, attempts, redrive_count, origin_topic, origin_partition, origin_offset, origin_timestamp, \
         key, value, headers, correlation_id, first_failed_at, dead_lettered_at, edited_from) \
         select consumer_group, processor, $2, event_type, kind, message, detail, fingerprint, 'redriven', 0, 0, $3, \
         $4::int4, $5::int8, timestamptz 'epoch' + $6::int8 * interval '1 millisecond', key, $7, {HEADERS}, \
         correlation_id, first_failed_at, dead_lettered_at, id from headwater.dead_letters where id = $1::uuid \
         on conflict (consumer_group, processor, origin_topic, origin_partition, origin_offset, origin_timestamp) \
         do update set edited_from = excluded.edited_from returning id::text"
    );
    let row = sqlx::query(AssertSqlSafe(sql))
        .bind(old.to_string())
        .bind(DeadLetter::edited_id(&old.to_string()))
        .bind(&*origin.partition.topic)
        .bind(origin.partition.partition)
        .bind(origin.offset)
        .bind(origin.timestamp_ms)
        .bind(record.value.as_deref())
        .bind(headers.names)
        .bind(headers.texts)
        .bind(headers.bytes)
        .fetch_one(&mut *tx)
        .await?;
    row::id(&row, "id")
}

async fn set_status(tx: &mut Transaction<'_>, ids: &[Uuid], status: Status) -> Result<(), PostgresError> {
    if ids.is_empty() {
        return Ok(());
    }
    let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    sqlx::query("update headwater.dead_letters set status = $2 where id = any($1::text[]::uuid[])")
        .bind(ids)
        .bind(status.name())
        .execute(&mut *tx)
        .await?;
    Ok(())
}

/// What became of each letter that was chosen; one without an outcome counts as not sent.
fn sorted(chosen: &[Summary], locked: &[StoredLetter], outcomes: Vec<SendOutcome>) -> RedriveResult {
    let mut done = RedriveResult::default();
    let rest = std::iter::repeat_with(|| SendOutcome::Unsent("nothing is known of its record".to_owned()));
    for (letter, outcome) in locked.iter().zip(outcomes.into_iter().chain(rest)) {
        match outcome {
            SendOutcome::Sent => done.sent.push(letter.id),
            SendOutcome::Refused(why) => done.refused.push((letter.id, why)),
            SendOutcome::Unsent(why) => done.unsent.push((letter.id, why)),
        }
    }
    let has = |id: Uuid| locked.iter().any(|letter| letter.id == id);
    done.passed = chosen.iter().map(|letter| letter.id).filter(|id| !has(*id)).collect();
    done
}
