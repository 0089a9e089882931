//! The columns of the table of dead letters, filled from letters: whatever a letter holds, it fits.

use std::{borrow::Cow, fmt};

use headwater::{Headers, spi::DeadLetter};

use super::row_status::RowStatus;
use crate::{
    http::base64::base64,
    postgres::{
        columns::{
            encode::{Array, nearest_millis},
            types::SqlType,
        },
        error::PostgresError,
    },
};

/// Names in a row's place are cut here: an index holds no more than 2,704 bytes of them together.
const NAME_BYTES: usize = 255;

/// Which row a record of a dead-letter topic belongs to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct LetterPlace {
    group: String,
    processor: String,
    topic: String,
    partition: i32,
    offset: i64,
    timestamp_ms: i64,
}

impl LetterPlace {
    pub(super) fn of(letter: &DeadLetter) -> Self {
        let name = |text: &str| clean(&text[..text.floor_char_boundary(NAME_BYTES)]).into_owned();
        Self {
            group: name(&letter.group),
            processor: name(&letter.processor),
            topic: name(&letter.origin.partition.topic),
            partition: letter.origin.partition.partition,
            offset: letter.origin.offset,
            timestamp_ms: nearest_millis(letter.origin.timestamp_ms),
        }
    }
}

impl fmt::Display for LetterPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{} offset {} in group {}", self.topic, self.partition, self.offset, self.group)
    }
}

/// A row that tells of a letter.
#[derive(Debug)]
pub(super) struct LetterRow<'a> {
    pub(super) place: &'a LetterPlace,
    /// The row's id, where there is one.
    pub(super) id: Option<String>,
    pub(super) standing: RowStatus<'a>,
    pub(super) letter: &'a DeadLetter,
}

/// Arrays of one length, each a column of a statement.
#[derive(Debug, Default)]
pub(super) struct ColumnArrays {
    pub(super) names: Vec<&'static str>,
    types: Vec<SqlType>,
    pub(super) arrays: Vec<Array>,
}

impl ColumnArrays {
    /// `$1::text[], $2::int4[]` and so on, for `unnest`.
    pub(super) fn parameters(&self) -> String {
        let parameter = |(i, sql): (usize, &SqlType)| format!("${}::{}[]", i + 1, sql.wire());
        self.types.iter().enumerate().map(parameter).collect::<Vec<_>>().join(", ")
    }

    pub(super) fn ids<'a>(&mut self, ids: impl ExactSizeIterator<Item = &'a str>) -> Result<(), PostgresError> {
        self.add("id", SqlType::Text, ids, |array, id| array.text(id))
    }

    /// The columns that are unique together.
    pub(super) fn place<'a>(
        &mut self,
        places: impl ExactSizeIterator<Item = &'a LetterPlace> + Clone,
    ) -> Result<(), PostgresError> {
        self.add("consumer_group", SqlType::Text, places.clone(), |array, place| array.text(&place.group))?;
        self.add("processor", SqlType::Text, places.clone(), |array, place| array.text(&place.processor))?;
        self.add("origin_topic", SqlType::Text, places.clone(), |array, place| array.text(&place.topic))?;
        self.add("origin_partition", SqlType::Int4, places.clone(), |array, place| array.int4(place.partition))?;
        self.add("origin_offset", SqlType::Int8, places.clone(), |array, place| array.int8(place.offset))?;
        self.add("origin_timestamp", SqlType::TimestampTz, places, |array, place| {
            array.timestamp(place.timestamp_ms.saturating_mul(1_000))
        })
    }

    /// What a record is, however often it fails.
    pub(super) fn record(&mut self, told: &[LetterRow<'_>]) -> Result<(), PostgresError> {
        let letters = told.iter().map(|told| told.letter);
        self.add("event_id", SqlType::Text, letters.clone(), |array, letter| array.text(&clean(&letter.event_id)))?;
        self.add("event_type", SqlType::Text, letters.clone(), |array, letter| match &letter.event_type {
            Some(event_type) => array.text(&clean(event_type)),
            None => nothing(array),
        })?;
        self.add("correlation_id", SqlType::Text, letters.clone(), |array, letter| {
            array.text(&clean(&letter.correlation_id))
        })?;
        self.add("key", SqlType::Bytea, letters.clone(), |array, letter| bytes(array, letter.key.as_deref()))?;
        self.add("value", SqlType::Bytea, letters.clone(), |array, letter| bytes(array, letter.value.as_deref()))?;
        self.add("headers", SqlType::Jsonb, letters, |array, letter| array.json(&headers(&letter.headers)?))
    }

    /// What a row tells of its last failure.
    pub(super) fn failure(&mut self, told: &[LetterRow<'_>]) -> Result<(), PostgresError> {
        let letters = told.iter().map(|told| told.letter);
        self.add("kind", SqlType::Text, letters.clone(), |array, letter| array.text(&clean(&letter.kind)))?;
        self.add("message", SqlType::Text, letters.clone(), |array, letter| array.text(&clean(&letter.message)))?;
        self.add("detail", SqlType::Text, letters.clone(), |array, letter| array.text(&clean(&letter.detail)))?;
        self.add("fingerprint", SqlType::Text, letters.clone(), |array, letter| {
            array.text(&clean(&letter.fingerprint))
        })?;
        self.add("attempts", SqlType::Int4, letters.clone(), |array, letter| {
            array.int4(i32::try_from(letter.attempts).unwrap_or(i32::MAX))
        })?;
        self.add("first_failed_at", SqlType::TimestampTz, told.iter(), |array, told| {
            moment(array, told.standing.first_failed_ms)
        })?;
        self.add("dead_lettered_at", SqlType::TimestampTz, letters, |array, letter| {
            moment(array, letter.dead_lettered_ms)
        })
    }

    /// How a row stands.
    pub(super) fn standing<'a>(
        &mut self,
        rows: impl ExactSizeIterator<Item = &'a RowStatus<'a>> + Clone,
    ) -> Result<(), PostgresError> {
        self.add("status", SqlType::Text, rows.clone(), |array, row| array.text(row.status.name()))?;
        self.add("redrive_count", SqlType::Int4, rows, |array, row| array.int4(row.redrives))
    }

    fn add<T>(
        &mut self,
        name: &'static str,
        sql: SqlType,
        mut items: impl ExactSizeIterator<Item = T>,
        fill: impl Fn(&mut Array, T) -> Result<(), &'static str>,
    ) -> Result<(), PostgresError> {
        let mut array = Array::new(sql, items.len());
        items
            .try_for_each(|item| fill(&mut array, item))
            .map_err(|why| PostgresError::Refused(format!("column `{name}`: {why}")))?;
        self.names.push(name);
        self.types.push(sql);
        self.arrays.push(array);
        Ok(())
    }
}

#[expect(clippy::unnecessary_wraps, reason = "reads as its siblings do")]
fn nothing(array: &mut Array) -> Result<(), &'static str> {
    array.null();
    Ok(())
}

fn bytes(array: &mut Array, bytes: Option<&[u8]>) -> Result<(), &'static str> {
    let Some(bytes) = bytes else { return nothing(array) };
    array.bytes(bytes)
}

fn moment(array: &mut Array, millis: i64) -> Result<(), &'static str> {
    array.timestamp(nearest_millis(millis).saturating_mul(1_000))
}

/// Text without the one character that no text column holds.
fn clean(text: &str) -> Cow<'_, str> {
    if text.contains('\0') { Cow::Owned(text.replace('\0', "\u{fffd}")) } else { Cow::Borrowed(text) }
}

/// `[{"name", "text" or "base64", or neither for null}]`, in order, so that the same headers can be made of it.
fn headers(headers: &Headers) -> Result<Vec<u8>, &'static str> {
    let one = |(name, value): (&str, Option<&[u8]>)| {
        let mut header = serde_json::Map::new();
        header.insert("name".to_owned(), clean(name).into());
        if let Some(value) = value {
            match std::str::from_utf8(value).ok().filter(|text| !text.contains('\0')) {
                Some(text) => header.insert("text".to_owned(), text.into()),
                None => header.insert("base64".to_owned(), base64(value).into()),
            };
        }
        serde_json::Value::Object(header)
    };
    let all: Vec<_> = headers.iter().map(one).collect();
    serde_json::to_vec(&all).map_err(|_| "headers cannot be written as JSON")
}
