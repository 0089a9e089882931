//! The template: JSON whose texts may hold placeholders, `{{…}}`.

use std::path::Path;

use anyhow::{Context as _, Result};
use apache_avro::{Schema, schema::UuidSchema};
use headwater_runtime::{Problems, nearest};
use serde_json::Value as Json;

use crate::values::{Node, Number, Piece, Unit};

const OPEN: &str = "{{";
const CLOSE: &str = "}}";
const PLACEHOLDERS: [&str; 7] = ["n", "key", "int", "float", "text", "uuid", "now"];
/// Characters of one random text at most.
const LETTERS_LIMIT: usize = 1 << 20;

/// Reads a template from the command line, or from the file that it names.
///
/// # Errors
/// [`Problems`] when it is no JSON; a file that cannot be read.
pub(crate) fn read(given: &str) -> Result<Json> {
    let inline = given.trim_start().starts_with('{');
    let text = if inline {
        given.to_owned()
    } else {
        std::fs::read_to_string(Path::new(given))
            .with_context(|| format!("the template `{given}` is neither a JSON object nor a file that can be read"))
            .map_err(|error| Problems::one(format!("{error:#}")))?
    };
    Ok(serde_json::from_str(&text).map_err(|error| Problems::one(format!("the template is not JSON: {error}")))?)
}

/// Whether anything in it changes from record to record.
pub(crate) fn has_placeholders(json: &Json) -> bool {
    match json {
        Json::String(text) => text.contains(OPEN),
        Json::Array(items) => items.iter().any(has_placeholders),
        Json::Object(fields) => fields.values().any(has_placeholders),
        Json::Null | Json::Bool(_) | Json::Number(_) => false,
    }
}

/// A text of the template as a part of that type.
///
/// # Errors
/// Why it cannot be one, as a sentence.
pub(crate) fn text(schema: &Schema, text: &str) -> Result<Node, String> {
    let pieces = pieces(text)?;
    let alone = match pieces.as_slice() {
        [piece] => Some(piece),
        _ => None,
    };
    let unit = match schema {
        Schema::String => return Ok(Node::Text(pieces)),
        Schema::Float | Schema::Double => {
            let (low, high) = match alone {
                Some(Piece::Float(low, high)) => (*low, *high),
                #[allow(clippy::cast_precision_loss, reason = "a random float is as good when it is rounded")]
                Some(Piece::Number(Number::Between(low, high))) => (*low as f64, *high as f64),
                _ => return Err(format!("expected a number or {{{{float LOW HIGH}}}}, got \"{text}\"")),
            };
            return Ok(if matches!(schema, Schema::Float) { Node::Float(low, high) } else { Node::Double(low, high) });
        }
        Schema::Uuid(UuidSchema::String) => match alone {
            Some(Piece::Uuid) => return Ok(Node::Text(pieces)),
            Some(Piece::Key) => return Ok(Node::Text(vec![Piece::KeyUuid])),
            _ => return Err(format!("expected a UUID, {{{{uuid}}}} or {{{{key}}}}, got \"{text}\"")),
        },
        Schema::Int | Schema::Long => None,
        Schema::Date => Some(Unit::Days),
        Schema::TimeMillis => Some(Unit::MillisOfDay),
        Schema::TimeMicros => Some(Unit::MicrosOfDay),
        Schema::TimestampMillis | Schema::LocalTimestampMillis => Some(Unit::Millis),
        Schema::TimestampMicros | Schema::LocalTimestampMicros => Some(Unit::Micros),
        Schema::TimestampNanos | Schema::LocalTimestampNanos => Some(Unit::Nanos),
        _ => return Err(format!("\"{text}\": placeholders stand for texts, numbers, times and UUIDs only")),
    };
    let number = match (alone, unit) {
        (Some(Piece::Number(number)), _) => *number,
        (Some(Piece::Key), None) => Number::Key,
        (Some(Piece::Now), Some(unit)) => Number::Now(unit),
        _ => return Err(format!("expected a number, a time, or one placeholder for it, got \"{text}\"")),
    };
    let int = matches!(schema, Schema::Int | Schema::Date | Schema::TimeMillis);
    match number {
        Number::Between(low, high) if int && [low, high].iter().any(|end| i32::try_from(*end).is_err()) => {
            Err(format!("\"{text}\" does not fit into an int"))
        }
        // The one number that may be below zero is bounded already.
        Number::Between(..) => Ok(Node::Whole { number, int: false }),
        number => Ok(Node::Whole { number, int }),
    }
}

fn pieces(text: &str) -> Result<Vec<Piece>, String> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    while let Some((before, after)) = rest.split_once(OPEN) {
        let (inside, after) =
            after.split_once(CLOSE).ok_or_else(|| format!("\"{text}\": a placeholder is not closed by {CLOSE}"))?;
        if !before.is_empty() {
            pieces.push(Piece::Literal(before.to_owned()));
        }
        pieces.push(piece(inside)?);
        rest = after;
    }
    if !rest.is_empty() || pieces.is_empty() {
        pieces.push(Piece::Literal(rest.to_owned()));
    }
    Ok(pieces)
}

fn piece(inside: &str) -> Result<Piece, String> {
    let words: Vec<&str> = inside.split_whitespace().collect();
    let whole = |word: &str| word.parse::<i64>().ok();
    let real = |word: &str| word.parse().ok().filter(|number: &f64| number.is_finite());
    let read = match words.as_slice() {
        ["n"] => Some(Piece::Number(Number::Record)),
        ["key"] => Some(Piece::Key),
        ["uuid"] => Some(Piece::Uuid),
        ["now"] => Some(Piece::Now),
        ["int", low, high] => whole(low)
            .zip(whole(high))
            .filter(|(low, high)| low <= high)
            .map(|(low, high)| Piece::Number(Number::Between(low, high))),
        ["float", low, high] => {
            real(low).zip(real(high)).filter(|(low, high)| low <= high).map(|(low, high)| Piece::Float(low, high))
        }
        ["text", count] => count.parse().ok().filter(|count| *count <= LETTERS_LIMIT).map(Piece::Letters),
        _ => None,
    };
    read.ok_or_else(|| {
        let near = words.first().and_then(|word| nearest(word, &PLACEHOLDERS));
        let near = near.map_or_else(String::new, |near| format!(" (did you mean `{near}`?)"));
        format!(
            "{OPEN}{inside}{CLOSE} is no placeholder{near}: there are n, key, int LOW HIGH, float LOW HIGH, text N, uuid, now"
        )
    })
}
