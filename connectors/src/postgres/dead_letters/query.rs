//! The table of dead letters, as people look into it and decide what becomes of each letter.
//!
//! The group `dead-letters` fills the table; here it is read, and in `change` letters are sent back, edited and discarded. A letter
//! that is sent back is locked until its record is acknowledged, so it is never lost: whoever is killed in between has
//! sent it without saying so, and it is sent once more with the same ids. Two who send back at once send each letter once.

pub(crate) mod change;
mod row;

use std::collections::BTreeMap;

use headwater::{Origin, Time, TopicPartition, spi::says_cut};
use sqlx::{
    AssertSqlSafe, Postgres, Row as _,
    postgres::{PgArguments, PgRow},
    query::Query,
};
use uuid::Uuid;

use self::row::{COLUMNS, stored_letter};
use crate::postgres::{
    database::Database,
    error::{PostgresError, is_undefined},
};

pub use row::{Status, StoredLetter};

/// Which letters are meant: those to which everything applies that is said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// Letters of this group, by its full id.
    pub group: Option<String>,
    /// These letters, whatever their number; any when empty.
    pub ids: Vec<Uuid>,
    /// Letters with this fingerprint.
    pub fingerprint: Option<String>,
    /// Letters of this kind.
    pub kind: Option<String>,
    /// Letters that became dead letters then or later.
    pub since: Option<Time>,
    /// Letters in one of these; in any when empty.
    pub statuses: Vec<Status>,
    /// Letters that were there when this was noted: see [`Letters::selection`].
    pub until: Option<Moment>,
}

/// When a letter became one, exactly as the database has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moment(String);

/// Letters that failed in the same way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailureGroup {
    /// The group.
    pub group: String,
    /// What they have in common.
    pub fingerprint: String,
    /// Why they failed.
    pub kind: String,
    /// The message of one of them.
    pub message: String,
    /// How many of them are in each status; those without any are left out.
    pub counts: BTreeMap<Status, u64>,
    /// When the oldest became a dead letter.
    pub first: Time,
    /// When the newest did.
    pub last: Time,
}

/// A letter without its contents.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// The row's id.
    pub id: Uuid,
    /// The group that could not process the record.
    pub group: String,
    /// Its processor or sink.
    pub processor: String,
    /// The event's id.
    pub event_id: String,
    /// The event's type, where it is known.
    pub event_type: Option<String>,
    /// Why it failed.
    pub kind: String,
    /// The failure, at most 512 bytes.
    pub message: String,
    /// What failures of its make have in common.
    pub fingerprint: String,
    /// What becomes of it.
    pub status: Status,
    /// Attempts made.
    pub attempts: u32,
    /// How often it was sent back before it failed again.
    pub redrives: u32,
    /// Where the record first stood.
    pub origin: Origin,
    /// When it became a dead letter.
    pub dead_lettered: Time,
    /// Bytes of key, value and headers, roughly.
    pub bytes: u64,
    /// Whether it was too large to be kept whole: [`DeadLetter::cut`](headwater::spi::DeadLetter::cut) says what it lacks.
    pub is_cut: bool,
    /// The same as `dead_lettered`, exactly.
    moment: Moment,
}

/// The dead letters of a database, to be looked into. What becomes of them [`LetterActions`](change::LetterActions) does.
#[derive(Clone, Debug)]
pub struct Letters {
    database: Database,
}

impl Letters {
    /// The dead letters that this database keeps.
    pub fn of(database: &Database) -> Self {
        Self { database: database.clone() }
    }

    /// Letters by group and fingerprint, those first of which most wait for a person; at most `limit`.
    ///
    /// # Errors
    /// [`PostgresError::Config`] when the table is missing; [`PostgresError::Outage`] when the server does not answer.
    pub async fn failure_groups(&self, filter: &LetterFilter, limit: u32) -> Result<Vec<FailureGroup>, PostgresError> {
        let counts = Status::ALL.map(|s| format!("count(*) filter (where status = '{s}') as {s}")).join(", ");
        // A fingerprint is of one kind; of the messages any will do, and the least one costs no sorting.
        let sql = format!(
            "select consumer_group, fingerprint, min(kind) as kind, min(message) as message, {counts}, \
             {first} as first_ms, {last} as last_ms from headwater.dead_letters d where {WANTED} \
             group by consumer_group, fingerprint \
             order by count(*) filter (where status in ('open', 'parked')) desc, max(dead_lettered_at) desc, \
             consumer_group, fingerprint limit $8",
            first = row::millis("min(dead_lettered_at)"),
            last = row::millis("max(dead_lettered_at)"),
        );
        let rows = self.rows(sql, filter, |query| query.bind(i64::from(limit))).await?;
        rows.iter().map(|row| failure_group(row).map_err(PostgresError::from)).collect()
    }

    /// Letters without their contents, at most `limit` of those that come after `after`: the oldest first, or the newest.
    ///
    /// # Errors
    /// As [`Letters::failure_groups`].
    pub async fn page(
        &self,
        filter: &LetterFilter,
        after: Option<&Summary>,
        newest_first: bool,
        limit: u32,
    ) -> Result<Vec<Summary>, PostgresError> {
        let (beyond, order) = if newest_first { ("<", "desc") } else { (">", "asc") };
        // In the order in which a partition's letters were made, which a millisecond does not tell.
        let sql = format!(
            "select {SUMMARY} from headwater.dead_letters d where {WANTED} and ($8::text is null or \
             (dead_lettered_at, origin_topic, origin_partition, origin_offset, id) {beyond} \
             ($8::timestamptz, $9, $10::int4, $11::int8, $12::uuid)) \
             order by dead_lettered_at {order}, origin_topic {order}, origin_partition {order}, origin_offset {order}, \
             id {order} limit $13",
            SUMMARY = row::summary_columns(),
        );
        let rows = self.rows(sql, filter, |query| {
            let origin = after.map(|after| &after.origin);
            query
                .bind(after.map(|after| after.moment.0.clone()))
                .bind(origin.map(|origin| origin.partition.topic.to_string()))
                .bind(origin.map(|origin| origin.partition.partition))
                .bind(origin.map(|origin| origin.offset))
                .bind(after.map(|after| after.id.to_string()))
                .bind(i64::from(limit))
        });
        rows.await?.iter().map(summary).collect()
    }

    /// How many letters are meant, and when the newest of them became one: with that in [`LetterFilter::until`], letters
    /// that come later are not among those that are meant.
    ///
    /// # Errors
    /// As [`Letters::failure_groups`].
    pub async fn selection(&self, filter: &LetterFilter) -> Result<(u64, Option<Moment>), PostgresError> {
        let sql = format!(
            "select count(*) as letters, max(dead_lettered_at)::text as newest from headwater.dead_letters d where {WANTED}"
        );
        let rows = self.rows(sql, filter, |query| query).await?;
        let Some(row) = rows.first() else { return Ok((0, None)) };
        let newest: Option<String> = row.try_get("newest")?;
        Ok((count(row, "letters")?, newest.map(Moment)))
    }

    /// One letter with everything that is kept of it.
    ///
    /// # Errors
    /// As [`Letters::failure_groups`].
    pub async fn get(&self, id: Uuid) -> Result<Option<StoredLetter>, PostgresError> {
        let sql = format!("select {COLUMNS} from headwater.dead_letters d where {WANTED}");
        let filter = LetterFilter { ids: vec![id], ..LetterFilter::default() };
        let rows = self.rows(sql, &filter, |query| query).await?;
        rows.first().map(stored_letter).transpose()
    }

    /// The letter that is an edited copy of this one.
    ///
    /// # Errors
    /// As [`Letters::failure_groups`].
    pub async fn edited_as(&self, id: Uuid) -> Result<Option<Uuid>, PostgresError> {
        let sql =
            format!("select id::text from headwater.dead_letters d where edited_from = $8::uuid and {WANTED} limit 1");
        let rows = self.rows(sql, &LetterFilter::default(), |query| query.bind(id.to_string())).await?;
        rows.first().map(|row| row::id(row, "id")).transpose()
    }

    /// Letters that wait for a person, open and parked, by group: for a gauge.
    ///
    /// # Errors
    /// As [`Letters::failure_groups`].
    pub async fn waiting(&self) -> Result<BTreeMap<String, u64>, PostgresError> {
        let sql = format!(
            "select consumer_group, count(*) as letters from headwater.dead_letters d where {WANTED} group by consumer_group"
        );
        let filter = LetterFilter { statuses: vec![Status::Open, Status::Parked], ..LetterFilter::default() };
        let rows = self.rows(sql, &filter, |query| query).await?;
        rows.iter().map(|row| Ok((row.try_get("consumer_group")?, count(row, "letters")?))).collect()
    }

    /// The rows of a query whose first seven arguments are the filter's.
    async fn rows(
        &self,
        sql: String,
        filter: &LetterFilter,
        bind: impl FnOnce(FilterQuery) -> FilterQuery,
    ) -> Result<Vec<PgRow>, PostgresError> {
        self.database.transaction(async |tx| bind(filtered(sql, filter)).fetch_all(tx).await.map_err(explain)).await
    }
}

type FilterQuery = Query<'static, Postgres, PgArguments>;

/// A letter that is meant, by the filter's arguments, which are the first seven.
const WANTED: &str = "($1::text is null or consumer_group = $1) \
    and (cardinality($2::text[]) = 0 or id = any($2::text[]::uuid[])) \
    and ($3::text is null or fingerprint = $3) and ($4::text is null or kind = $4) \
    and ($5::int8 is null or dead_lettered_at >= timestamptz 'epoch' + $5 * interval '1 microsecond') \
    and (cardinality($6::text[]) = 0 or status = any($6::text[])) \
    and ($7::text is null or dead_lettered_at <= $7::timestamptz)";

fn filtered(sql: String, filter: &LetterFilter) -> FilterQuery {
    let ids: Vec<String> = filter.ids.iter().map(Uuid::to_string).collect();
    let statuses: Vec<&str> = filter.statuses.iter().map(|status| status.name()).collect();
    sqlx::query(AssertSqlSafe(sql))
        .bind(filter.group.clone())
        .bind(ids)
        .bind(filter.fingerprint.clone())
        .bind(filter.kind.clone())
        .bind(filter.since.map(Time::micros))
        .bind(statuses)
        .bind(filter.until.as_ref().map(|moment| moment.0.clone()))
}

fn failure_group(row: &PgRow) -> Result<FailureGroup, sqlx::Error> {
    let mut counts = BTreeMap::new();
    for status in Status::ALL {
        let letters = count(row, status.name())?;
        if letters > 0 {
            counts.insert(status, letters);
        }
    }
    Ok(FailureGroup {
        group: row.try_get("consumer_group")?,
        fingerprint: row.try_get("fingerprint")?,
        kind: row.try_get("kind")?,
        message: row.try_get("message")?,
        counts,
        first: Time::from_millis(row.try_get("first_ms")?),
        last: Time::from_millis(row.try_get("last_ms")?),
    })
}

fn summary(row: &PgRow) -> Result<Summary, PostgresError> {
    let topic: String = row.try_get("origin_topic")?;
    let own: Vec<String> = row.try_get("own_headers")?;
    Ok(Summary {
        id: row::id(row, "id")?,
        group: row.try_get("consumer_group")?,
        processor: row.try_get("processor")?,
        event_id: row.try_get("event_id")?,
        event_type: row.try_get("event_type")?,
        kind: row.try_get("kind")?,
        message: row.try_get("message")?,
        fingerprint: row.try_get("fingerprint")?,
        status: row::status(row)?,
        attempts: row::number(row, "attempts")?,
        redrives: row::number(row, "redrive_count")?,
        origin: Origin {
            partition: TopicPartition::new(topic, row.try_get("origin_partition")?),
            offset: row.try_get("origin_offset")?,
            timestamp_ms: row.try_get("origin_ms")?,
        },
        dead_lettered: Time::from_millis(row.try_get("dead_lettered_ms")?),
        bytes: count(row, "bytes")?,
        is_cut: own.iter().any(|name| says_cut(name)),
        moment: Moment(row.try_get("moment")?),
    })
}

fn count(row: &PgRow, column: &str) -> Result<u64, sqlx::Error> {
    Ok(u64::try_from(row.try_get::<i64, _>(column)?).unwrap_or(0))
}

fn explain(error: sqlx::Error) -> PostgresError {
    if is_undefined(&error) {
        return PostgresError::Config(
            "the table headwater.dead_letters is missing: run `headwater topology apply`".to_owned(),
        );
    }
    error.into()
}
