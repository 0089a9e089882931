//! The table of dead letters: one row for each record in one processor, whatever came of it since.
//!
//! The rows of a unit's places are locked first, in the order of their places. What its records come to is then worked
//! out here, one record after the other, so that each row is written once: new ones, ones that tell of another failure,
//! and ones that have only been resolved.

pub(crate) mod query;

mod columns;
mod row_status;

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use headwater::spi::{Catalogue, CommitError, DeadLetter, Row};
use sqlx::FromRow;

use self::{
    columns::{ColumnArrays, LetterPlace, LetterRow},
    row_status::{RowStatus, apply},
};
use super::{
    database::session::Transaction,
    error::PostgresError,
    offsets::explain,
    sink::write::{WriteCounts, bind},
};

/// Bytes of letters that go into one statement; a larger one goes alone. Postgres takes 1 GiB at once.
const STATEMENT_BYTES: usize = 16 << 20;
/// What a letter takes beside what it carries, about: numbers, times and texts.
const ROW_BYTES: usize = 4_096;
/// What a byte of a header takes at most as JSON: a control character is written `\u0001`.
const JSON_GROWTH: usize = 6;

/// How dead letters are kept.
#[derive(Debug)]
pub(super) struct DeadLetters {
    catalogue: Arc<Catalogue>,
    /// Bytes of letters that go into one statement; 0 while one of them is looked for that Postgres refuses.
    statement_bytes: usize,
}

impl DeadLetters {
    pub(super) fn new(catalogue: Arc<Catalogue>) -> Self {
        Self { catalogue, statement_bytes: STATEMENT_BYTES }
    }

    /// Writes what these records of dead-letter topics come to, in the caller's transaction.
    pub(super) async fn write(&self, tx: &mut Transaction<'_>, rows: &[&Row]) -> Result<WriteCounts, PostgresError> {
        if rows.is_empty() {
            return Ok(WriteCounts::default());
        }
        let letters: Vec<DeadLetter> = rows.iter().map(|row| DeadLetter::read(&row.record, &self.catalogue)).collect();
        let mut places: BTreeMap<LetterPlace, Vec<&DeadLetter>> = BTreeMap::new();
        for letter in &letters {
            places.entry(LetterPlace::of(letter)).or_default().push(letter);
        }
        let mut stored = lock(tx, places.keys()).await?;
        let mut outcome = Outcome::default();
        for (i, (place, letters)) in places.iter().enumerate() {
            outcome.add(place, stored.remove(&i), letters);
        }
        for told in chunks(&outcome.new, self.statement_bytes) {
            insert(tx, told).await.map_err(|error| named(error, told))?;
        }
        for told in chunks(&outcome.failed_again, self.statement_bytes) {
            fail_again(tx, told).await.map_err(|error| named(error, told))?;
        }
        resolve(tx, &outcome.resolved).await?;
        Ok(outcome.done)
    }

    /// After a refusal: whether another try, one letter at a time, would say which one it is about.
    pub(super) fn narrow(&mut self) -> bool {
        std::mem::replace(&mut self.statement_bytes, 0) > 0
    }

    /// What the outcome of a unit means: there is nowhere else to put a letter, so that none is refused.
    pub(super) fn settle<T>(&mut self, outcome: Result<T, PostgresError>) -> Result<T, CommitError> {
        self.statement_bytes = STATEMENT_BYTES;
        outcome.map_err(|error| match error {
            PostgresError::Refused(why) => CommitError::Outage(format!("dead letters cannot be kept: {why}")),
            error => error.into(),
        })
    }
}

/// What a unit's records come to.
#[derive(Debug, Default)]
struct Outcome<'a> {
    done: WriteCounts,
    new: Vec<LetterRow<'a>>,
    failed_again: Vec<LetterRow<'a>>,
    /// Ids, and how these rows stand now.
    resolved: Vec<(String, RowStatus<'a>)>,
}

impl<'a> Outcome<'a> {
    /// Applies the records of one place, in order, to the row that is stored.
    fn add(&mut self, place: &'a LetterPlace, stored: Option<(String, RowStatus<'a>)>, letters: &[&'a DeadLetter]) {
        let (id, mut row) = stored.unzip();
        let changes = letters.iter().filter(|letter| apply(&mut row, letter)).count();
        self.done.written += changes as u64;
        self.done.superseded += (letters.len() - changes) as u64;
        let Some(standing) = row.filter(|_| changes > 0) else { return };
        match (standing.letter, id) {
            (Some(letter), None) => self.new.push(LetterRow { place, id: None, standing, letter }),
            (Some(letter), id) => self.failed_again.push(LetterRow { place, id, standing, letter }),
            (None, id) => self.resolved.extend(id.map(|id| (id, standing))),
        }
    }
}

/// Locks the rows of these places, in this order, and tells id and standing of those that are there, by their index.
async fn lock<'a>(
    tx: &mut Transaction<'_>,
    places: impl ExactSizeIterator<Item = &'a LetterPlace> + Clone,
) -> Result<HashMap<usize, (String, RowStatus<'static>)>, PostgresError> {
    let mut columns = ColumnArrays::default();
    columns.place(places)?;
    let of = |table: &str| columns.names.iter().map(|name| format!("{table}.{name}")).collect::<Vec<_>>().join(", ");
    let sql = format!(
        "select u.i, d.id::text, d.status, d.redrive_count from headwater.dead_letters d \
         join unnest({}) with ordinality as u ({}, i) on ({}) = ({}) order by {} for update of d",
        columns.parameters(),
        columns.names.join(", "),
        of("d"),
        of("u"),
        of("d"),
    );
    // Waits for a record that is being edited: what came of it must find its row.
    let wait = "lock table headwater.dead_letters in row exclusive mode";
    sqlx::query(wait).execute(&mut *tx).await.map_err(explain)?;
    let rows = bind(sql, columns.arrays)?.fetch_all(tx).await.map_err(explain)?;
    let mut stored = HashMap::with_capacity(rows.len());
    for row in &rows {
        let (i, id, status, redrives) = <(i64, String, String, i32)>::from_row(row)?;
        let status = status.parse().map_err(PostgresError::Outage)?;
        let index = usize::try_from(i - 1).unwrap_or(usize::MAX);
        stored.insert(index, (id, RowStatus::stored(status, redrives)));
    }
    Ok(stored)
}

async fn insert(tx: &mut Transaction<'_>, told: &[LetterRow<'_>]) -> Result<(), PostgresError> {
    let mut columns = ColumnArrays::default();
    columns.place(told.iter().map(|told| told.place))?;
    let place = columns.names.join(", ");
    columns.record(told)?;
    columns.failure(told)?;
    columns.standing(told.iter().map(|told| &told.standing))?;
    let sql = format!(
        "insert into headwater.dead_letters ({}) select * from unnest({}) on conflict ({place}) do nothing",
        columns.names.join(", "),
        columns.parameters()
    );
    expect(told.len(), bind(sql, columns.arrays)?.execute(tx).await?.rows_affected())
}

async fn fail_again(tx: &mut Transaction<'_>, told: &[LetterRow<'_>]) -> Result<(), PostgresError> {
    let mut columns = ColumnArrays::default();
    columns.failure(told)?;
    columns.standing(told.iter().map(|told| &told.standing))?;
    update(tx, columns, told.iter().map(|told| told.id.as_deref().unwrap_or_default())).await
}

async fn resolve(tx: &mut Transaction<'_>, rows: &[(String, RowStatus<'_>)]) -> Result<(), PostgresError> {
    if rows.is_empty() {
        return Ok(());
    }
    let mut columns = ColumnArrays::default();
    columns.standing(rows.iter().map(|(_, standing)| standing))?;
    update(tx, columns, rows.iter().map(|(id, _)| id.as_str())).await
}

/// Sets these columns on the rows of these ids, which are locked.
async fn update<'a>(
    tx: &mut Transaction<'_>,
    mut columns: ColumnArrays,
    ids: impl ExactSizeIterator<Item = &'a str>,
) -> Result<(), PostgresError> {
    let set = |name: &&str| match *name {
        "first_failed_at" => "first_failed_at = least(d.first_failed_at, u.first_failed_at)".to_owned(),
        name => format!("{name} = u.{name}"),
    };
    let changes: Vec<String> = columns.names.iter().map(set).collect();
    let rows = ids.len();
    columns.ids(ids)?;
    let sql = format!(
        "update headwater.dead_letters d set {} from unnest({}) as u ({}) where d.id = u.id::uuid",
        changes.join(", "),
        columns.parameters(),
        columns.names.join(", ")
    );
    expect(rows, bind(sql, columns.arrays)?.execute(tx).await?.rows_affected())
}

/// Every row was written, or somebody else was quicker: then all of it is looked at again.
fn expect(rows: usize, written: u64) -> Result<(), PostgresError> {
    if written == rows as u64 {
        return Ok(());
    }
    Err(PostgresError::Repeat("somebody else has just stored one of these dead letters".to_owned()))
}

/// Runs of letters whose bytes fit one statement, each at least one.
fn chunks<'a, 'b>(told: &'b [LetterRow<'a>], bytes: usize) -> impl Iterator<Item = &'b [LetterRow<'a>]> {
    let mut rest = told;
    std::iter::from_fn(move || {
        let (mut length, mut sum) = (0, 0_usize);
        for told in rest {
            sum = sum.saturating_add(size(told.letter));
            if length > 0 && sum > bytes {
                break;
            }
            length += 1;
        }
        let (chunk, after) = rest.split_at(length);
        rest = after;
        (!chunk.is_empty()).then_some(chunk)
    })
}

fn size(letter: &DeadLetter) -> usize {
    let bytes = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
    bytes(&letter.key) + bytes(&letter.value) + JSON_GROWTH * letter.headers.size() + ROW_BYTES
}

/// What Postgres refuses is an outage as soon as it is known which letter it is about: only a person can help.
fn named(error: PostgresError, told: &[LetterRow<'_>]) -> PostgresError {
    match (error, told) {
        (PostgresError::Refused(why), [one]) => PostgresError::Outage(format!(
            "the dead letter of {} cannot be kept: {why}: mend the table headwater.dead_letters, or the database's \
                 encoding",
            one.place
        )),
        (error, _) => error,
    }
}
