//! JSON to Avro values and back, guided by the schema.
//!
//! It is Avro's own JSON encoding, made lenient on the way in and readable on the way out:
//! - a union takes the plain value or `{"string": …}`, and gives the plain value unless two branches are not null;
//! - a time takes RFC 3339 text or the number on the wire, and gives text; so do dates, local times and uuids;
//! - a decimal takes text or a number, and gives text, because JSON numbers lose digits;
//! - bytes and fixed are text with one character, U+0000 to U+00FF, for each byte;
//! - a float takes and gives `"NaN"`, `"Infinity"` and `"-Infinity"` as text;
//! - a duration is `{"months": 1, "days": 2, "millis": 3}`.

mod input;
mod logical;
mod names;
mod output;

use apache_avro::{Schema, schema::NamesRef, types::Value};
use serde_json::Value as Json;

use super::error::FieldError;

/// JSON as a person writes it.
pub(crate) fn read(json: &Json, schema: &Schema, names: &NamesRef<'_>) -> Result<Value, Box<FieldError>> {
    input::JsonReader { names, default: false }.value(json, schema)
}

/// A field's default, as its schema states it: a union's is plain, a decimal's is its bytes.
pub(crate) fn default(json: &Json, schema: &Schema, names: &NamesRef<'_>) -> Result<Value, Box<FieldError>> {
    input::JsonReader { names, default: true }.value(json, schema)
}

/// A value as JSON for a person.
pub(crate) fn write(value: &Value, schema: &Schema, names: &NamesRef<'_>) -> Json {
    output::json(value, schema, names)
}
