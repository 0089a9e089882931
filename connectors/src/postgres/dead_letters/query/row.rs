//! A row of the table of dead letters as a letter, and a letter's headers as the row has them.

use std::{fmt, str::FromStr};

use headwater::{
    Headers, Origin, TopicPartition,
    spi::{DeadLetter, says_cut},
};
use sqlx::{Row as _, postgres::PgRow};
use uuid::Uuid;

use crate::postgres::error::PostgresError;

/// What becomes of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// Nobody has decided yet.
    Open,
    /// It failed again more often than allowed; only a person who names it sends it back.
    Parked,
    /// It was sent back; what came of it is not known yet.
    Redriven,
    /// It was sent back and succeeded.
    Resolved,
    /// It was given up by a person.
    Discarded,
    /// Another record with an edited value has taken its place.
    Edited,
}

impl Status {
    /// Every status, those first that wait for a person.
    pub const ALL: [Self; 6] =
        [Self::Open, Self::Parked, Self::Redriven, Self::Resolved, Self::Discarded, Self::Edited];

    /// What the table calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Parked => "parked",
            Self::Redriven => "redriven",
            Self::Resolved => "resolved",
            Self::Discarded => "discarded",
            Self::Edited => "edited",
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Status {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|status| status.name() == text).ok_or_else(|| {
            let known = Self::ALL.map(Self::name).join(", ");
            format!("`{text}` is no status of a dead letter; there are {known}")
        })
    }
}

/// A letter with everything that is kept of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLetter {
    /// The row's id.
    pub id: Uuid,
    /// The letter; a redrive's record is made from it.
    pub letter: DeadLetter,
    /// What becomes of it.
    pub status: Status,
    /// The letter that this one is an edited copy of.
    pub edited_from: Option<Uuid>,
    /// What the person who decided has to say.
    pub note: Option<String>,
}

/// Everything of a letter. Headers come as two arrays, so that their bytes are decoded where they were encoded.
pub(crate) const COLUMNS: &str = "d.id::text, consumer_group, processor, event_id, event_type, kind, message, detail, \
    fingerprint, status, attempts, redrive_count, origin_topic, origin_partition, origin_offset, \
    (extract(epoch from origin_timestamp) * 1000)::int8 as origin_ms, key, value, \
    array(select h->>'name' from jsonb_array_elements(headers) with ordinality as e (h, i) order by i) as names, \
    array(select coalesce(convert_to(h->>'text', 'UTF8'), decode(h->>'base64', 'base64')) \
        from jsonb_array_elements(headers) with ordinality as e (h, i) order by i) as contents, \
    correlation_id, (extract(epoch from first_failed_at) * 1000)::int8 as first_failed_ms, \
    (extract(epoch from dead_lettered_at) * 1000)::int8 as dead_lettered_ms, edited_from::text, note";

/// The headers column, from arrays of names, texts and bytes: `$8`, `$9`, `$10`.
pub(crate) const HEADERS: &str = "(select coalesce(jsonb_agg(case \
        when t is not null then jsonb_build_object('name', n, 'text', t) \
        when b is not null then jsonb_build_object('name', n, 'base64', replace(encode(b, 'base64'), E'\\n', '')) \
        else jsonb_build_object('name', n) end order by i), '[]'::jsonb) \
    from unnest($8::text[], $9::text[], $10::bytea[]) with ordinality as e (n, t, b, i))";

/// A letter without its contents, how large those are, and the headers of ours, which say what was cut off it.
pub(crate) fn summary_columns() -> String {
    format!(
        "id::text, consumer_group, processor, event_id, event_type, kind, message, fingerprint, status, attempts, \
         redrive_count, origin_topic, origin_partition, origin_offset, {} as origin_ms, {} as dead_lettered_ms, \
         dead_lettered_at::text as moment, \
         array(select h->>'name' from jsonb_array_elements(headers) as e (h) where starts_with(h->>'name', 'hw_')) \
         as own_headers, \
         (coalesce(octet_length(key), 0) + coalesce(octet_length(value), 0) + pg_column_size(headers))::int8 as bytes",
        millis("origin_timestamp"),
        millis("dead_lettered_at"),
    )
}

/// A time in milliseconds since the epoch.
pub(crate) fn millis(time: &str) -> String {
    format!("(extract(epoch from {time}) * 1000)::int8")
}

pub(crate) fn id(row: &PgRow, column: &str) -> Result<Uuid, PostgresError> {
    parsed(&row.try_get::<String, _>(column)?)
}

fn parsed(text: &str) -> Result<Uuid, PostgresError> {
    Uuid::parse_str(text).map_err(|error| PostgresError::Outage(format!("postgres gave no uuid: {error}")))
}

pub(crate) fn status(row: &PgRow) -> Result<Status, PostgresError> {
    row.try_get::<String, _>("status")?.parse().map_err(PostgresError::Outage)
}

/// A count, which the table holds as a signed number.
pub(crate) fn number(row: &PgRow, column: &str) -> Result<u32, sqlx::Error> {
    Ok(u32::try_from(row.try_get::<i32, _>(column)?).unwrap_or(0))
}

/// The letter of a row of [`COLUMNS`].
pub(crate) fn stored_letter(row: &PgRow) -> Result<StoredLetter, PostgresError> {
    let status = status(row)?;
    let edited_from: Option<String> = row.try_get("edited_from")?;
    Ok(StoredLetter {
        id: id(row, "id")?,
        status,
        edited_from: edited_from.as_deref().map(parsed).transpose()?,
        note: row.try_get("note")?,
        letter: DeadLetter {
            group: row.try_get("consumer_group")?,
            processor: row.try_get("processor")?,
            event_id: row.try_get("event_id")?,
            event_type: row.try_get("event_type")?,
            correlation_id: row.try_get("correlation_id")?,
            kind: row.try_get("kind")?,
            message: row.try_get("message")?,
            detail: row.try_get("detail")?,
            fingerprint: row.try_get("fingerprint")?,
            attempts: number(row, "attempts")?,
            redrives: number(row, "redrive_count")?,
            origin: Origin {
                partition: TopicPartition::new(
                    row.try_get::<String, _>("origin_topic")?,
                    row.try_get("origin_partition")?,
                ),
                offset: row.try_get("origin_offset")?,
                timestamp_ms: row.try_get("origin_ms")?,
            },
            first_failed_ms: row.try_get("first_failed_ms")?,
            dead_lettered_ms: row.try_get("dead_lettered_ms")?,
            resolved: status == Status::Resolved,
            key: row.try_get("key")?,
            value: row.try_get("value")?,
            headers: headers(row)?,
        },
    })
}

fn headers(row: &PgRow) -> Result<Headers, PostgresError> {
    let names: Vec<String> = row.try_get("names")?;
    let contents: Vec<Option<Vec<u8>>> = row.try_get("contents")?;
    Ok(names.iter().map(String::as_str).zip(contents.iter().map(Option::as_deref)).collect())
}

/// Headers as arrays of names, of texts, and of bytes where they are no text that the database holds.
#[derive(Debug, Default)]
pub(crate) struct HeaderColumns<'a> {
    pub(crate) names: Vec<&'a str>,
    pub(crate) texts: Vec<Option<&'a str>>,
    pub(crate) bytes: Vec<Option<&'a [u8]>>,
}

impl<'a> HeaderColumns<'a> {
    /// The headers that are kept: none of the delivery's but those that say what was cut off.
    pub(crate) fn of(headers: &'a Headers) -> Self {
        let mut columns = Self::default();
        for (name, value) in headers.iter().filter(|(name, _)| !name.starts_with("hw_") || says_cut(name)) {
            let text = value.and_then(|value| std::str::from_utf8(value).ok()).filter(|text| !text.contains('\0'));
            columns.names.push(name);
            columns.texts.push(text);
            columns.bytes.push(value.filter(|_| text.is_none()));
        }
        columns
    }
}
