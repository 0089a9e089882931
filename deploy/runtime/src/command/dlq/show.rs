//! `dlq show`: everything that is known of one letter.

use std::{fmt::Display, io::Write as _, process::ExitCode};

use anyhow::Result;
use headwater::{Time, spi::DeadLetter};
use headwater_connectors::postgres::{Status, StoredLetter};
use serde_json::{Map, Value as Json, json};
use uuid::Uuid;

use super::{
    context::DlqContext,
    source_record::{self, SourceRecordError},
    text::{hex, note, plain, shown},
    value::{self, DecodedValue},
};
use crate::{command::arguments::DlqShowArguments, process::output::Output};

/// Characters of a text that is a record's.
const LIMIT: usize = 4_096;

pub(super) async fn run(context: &DlqContext, arguments: &DlqShowArguments) -> Result<ExitCode> {
    let stored = context.letter(arguments.id).await?;
    if arguments.raw {
        return raw(context, &stored).await;
    }
    let edited_as = match stored.status {
        Status::Edited => context.letters.edited_as(stored.id).await?,
        _ => None,
    };
    let decoded = match &stored.letter.value {
        Some(_) if let Some(cut) = stored.letter.cut() => {
            let why = format!("{cut}; `headwater dlq redrive` fetches it whole from its origin, while that holds it");
            Some(DecodedValue { schema_id: None, data: Err(why) })
        }
        Some(value) => Some(value::decode(context, value).await),
        None => None,
    };
    let shown = LetterReport { stored: &stored, edited_as, decoded: decoded.as_ref() };
    let mut out = Output::new();
    if arguments.json {
        out.line(shown.json())?;
    } else {
        shown.lines().into_iter().try_for_each(|line| out.line(line).map(drop))?;
    }
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}

/// Writes the value: of one that was cut the whole, where that can be had, else its beginning, and says so.
async fn raw(context: &DlqContext, stored: &StoredLetter) -> Result<ExitCode> {
    let letter = &stored.letter;
    let Some(kept) = &letter.value else {
        anyhow::bail!("dead letter {} has no value: it is a tombstone", stored.id);
    };
    if !letter.cut().is_some_and(|cut| cut.is_of_the_value()) {
        return write(kept).map(|()| ExitCode::SUCCESS);
    }
    match fetched(context, letter).await {
        Ok(whole) => write(whole.value.as_deref().unwrap_or_default()).map(|()| ExitCode::SUCCESS),
        Err(why) => {
            write(kept)?;
            note(format_args!("what was written of dead letter {} is its beginning: {why}", stored.id));
            Ok(ExitCode::FAILURE)
        }
    }
}

fn write(value: &[u8]) -> Result<()> {
    let mut out = std::io::stdout().lock();
    Ok(out.write_all(value).and_then(|()| out.flush())?)
}

/// The letter with what was cut off it; why not, as a sentence.
async fn fetched(context: &DlqContext, letter: &DeadLetter) -> Result<DeadLetter, String> {
    let whole = match source_record::record(&context.app.config.kafka, &letter.group, &letter.origin).await {
        Ok(record) => letter.whole(&record),
        Err(SourceRecordError::Never(why)) => Err(why),
        Err(SourceRecordError::Outage(why)) => Err(format!("{why}; the same command fetches it once kafka answers")),
    };
    whole.map_err(|why| source_record::lacks(letter, &why))
}

/// A letter and what was found out about it.
struct LetterReport<'a> {
    stored: &'a StoredLetter,
    edited_as: Option<Uuid>,
    decoded: Option<&'a DecodedValue>,
}

impl LetterReport<'_> {
    fn lines(&self) -> Vec<String> {
        let (stored, letter) = (self.stored, &self.stored.letter);
        let mut lines = Vec::new();
        let mut say =
            |name: &str, text: &dyn Display| lines.push(format!("{name:<14} {}", plain(&text.to_string(), LIMIT)));
        say("letter", &stored.id);
        say("status", &stored.status);
        say("note", &stored.note.as_deref().unwrap_or("-"));
        say("group", &letter.group);
        say("processor", &letter.processor);
        say(
            "event",
            &format_args!("{} {}", letter.event_type.as_deref().unwrap_or("(of no known type)"), letter.event_id),
        );
        say("correlation", &letter.correlation_id);
        say("trace", &self.trace().as_deref().unwrap_or("-"));
        say(
            "origin",
            &format_args!(
                "{} offset {} at {}",
                letter.origin.partition,
                letter.origin.offset,
                Time::from_millis(letter.origin.timestamp_ms)
            ),
        );
        say("kind", &letter.kind);
        say("message", &letter.message);
        say("fingerprint", &letter.fingerprint);
        say("detail", &letter.detail);
        for event in self.history() {
            say("history", &event);
        }
        say("key", &letter.key.as_deref().map_or_else(|| "none".to_owned(), shown));
        for (name, value) in letter.headers.iter() {
            say("header", &format_args!("{name}: {}", value.map_or_else(|| "null".to_owned(), shown)));
        }
        match &letter.value {
            None => say("value", &"none: a tombstone"),
            Some(value) => say("value", &format_args!("{} bytes, sha256 {}", value.len(), value::sha256(value))),
        }
        if let Some(DecodedValue { schema_id, data }) = self.decoded {
            say("schema id", &schema_id.map_or_else(|| "none".to_owned(), |id| id.to_string()));
            match data {
                Ok((_, json)) => lines.extend(format!("{json:#}").lines().map(str::to_owned)),
                Err(why) => say("not decoded", why),
            }
        }
        lines
    }

    /// What has happened to the record, in order.
    fn history(&self) -> Vec<String> {
        let letter = &self.stored.letter;
        let mut events = Vec::new();
        match self.stored.edited_from {
            // It has not failed itself: the times are its original's.
            Some(from) if letter.attempts == 0 => events.push(format!("edited copy of {from}")),
            from => {
                events.extend(from.map(|from| format!("edited copy of {from}")));
                events.push(format!("{} first failed", Time::from_millis(letter.first_failed_ms)));
                let before = match letter.redrives {
                    0 => String::new(),
                    redrives => format!(", sent back {} before", times(redrives, "time")),
                };
                let (at, attempts) = (Time::from_millis(letter.dead_lettered_ms), times(letter.attempts, "attempt"));
                events.push(format!("{at} dead letter after {attempts}{before}"));
            }
        }
        events.extend(match (self.stored.status, self.edited_as) {
            (Status::Open, _) => None,
            (Status::Parked, _) => {
                Some("parked: it failed again too often; `dlq redrive --id` still sends it back".to_owned())
            }
            (Status::Redriven, _) => Some("sent back; what came of it is not known yet".to_owned()),
            (Status::Resolved, _) => Some("sent back, and succeeded".to_owned()),
            (Status::Discarded, _) => Some("discarded".to_owned()),
            (Status::Edited, Some(new)) => Some(format!("edited: {new} has taken its place")),
            (Status::Edited, None) => Some("edited".to_owned()),
        });
        events
    }

    fn trace(&self) -> Option<String> {
        self.stored.letter.trace().map(|trace| trace.trace_id_hex())
    }

    fn json(&self) -> Json {
        let (stored, letter) = (self.stored, &self.stored.letter);
        let time = |ms| Time::from_millis(ms).to_string();
        let header = |(name, value): (&str, Option<&[u8]>)| {
            let mut fields = Map::from_iter([("name".to_owned(), json!(name))]);
            fields.extend(value.map(field));
            Json::Object(fields)
        };
        json!({
            "id": stored.id.to_string(),
            "status": stored.status.name(),
            "note": stored.note,
            "edited_from": stored.edited_from.map(|id| id.to_string()),
            "edited_as": self.edited_as.map(|id| id.to_string()),
            "group": letter.group,
            "processor": letter.processor,
            "event_id": letter.event_id,
            "event_type": letter.event_type,
            "correlation_id": letter.correlation_id,
            "trace_id": self.trace(),
            "topic": &*letter.origin.partition.topic,
            "partition": letter.origin.partition.partition,
            "offset": letter.origin.offset,
            "timestamp": time(letter.origin.timestamp_ms),
            "kind": letter.kind,
            "message": letter.message,
            "detail": letter.detail,
            "fingerprint": letter.fingerprint,
            "attempts": letter.attempts,
            "redrives": letter.redrives,
            "first_failed": time(letter.first_failed_ms),
            "dead_lettered": time(letter.dead_lettered_ms),
            "key": letter.key.as_deref().map(|key| Json::Object(Map::from_iter([field(key)]))),
            "headers": letter.headers.iter().map(header).collect::<Vec<_>>(),
            "value": letter.value.as_deref().map(|value| self.value(value)),
        })
    }

    fn value(&self, value: &[u8]) -> Json {
        let mut fields = Map::new();
        fields.insert("bytes".to_owned(), json!(value.len()));
        fields.insert("sha256".to_owned(), json!(value::sha256(value)));
        if let Some(DecodedValue { schema_id, data }) = self.decoded {
            fields.insert("schema_id".to_owned(), json!(schema_id));
            let (name, data) = match data {
                Ok((_, data)) => ("data", data.clone()),
                Err(why) => ("not_decoded", json!(why)),
            };
            fields.insert(name.to_owned(), data);
        }
        Json::Object(fields)
    }
}

/// `1 attempt`, `2 attempts`.
fn times(count: u32, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}

/// Bytes as `text`, or else as `hex`.
fn field(bytes: &[u8]) -> (String, Json) {
    match std::str::from_utf8(bytes) {
        Ok(text) => ("text".to_owned(), json!(text)),
        Err(_) => ("hex".to_owned(), json!(hex(bytes))),
    }
}
