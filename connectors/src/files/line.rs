//! An event as a JSON line, with the names that `headwater tail` prints it with.

use headwater::{Headers, Meta, Origin, spi::Row};
use serde_json::{Map, Value as Json, json};

/// Writes a row as one line. `data` is null for a tombstone.
///
/// Its place is where its record first stood, also after it was sent back: with it a reader knows a line that came before.
pub(super) fn write(row: &Row, lines: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let (key, schema_id) = (row.record.key.as_deref(), row.data.as_ref().map(|data| data.schema.id()));
    let data = row.data.as_ref().map_or(Json::Null, |data| data.schema.json(&data.value));
    let line = event_fields(Ok(&row.meta), &row.meta.origin, key, schema_id, data);
    serde_json::to_writer(&mut *lines, &line)?;
    lines.push(b'\n');
    Ok(())
}

/// The fields of an event as JSON: its metadata, or the record's headers where they cannot be read; its place, its key, the
/// schema that its data was written with, and its data.
pub fn event_fields(
    meta: Result<&Meta, &Headers>,
    place: &Origin,
    key: Option<&[u8]>,
    schema_id: Option<u32>,
    data: Json,
) -> Map<String, Json> {
    let mut fields = Map::new();
    let mut add = |name: &str, value: Json| _ = fields.insert(name.to_owned(), value);
    if let Ok(meta) = meta {
        add("id", json!(meta.id));
        add("source", json!(meta.source));
        add("type", json!(meta.event_type));
        add("time", json!(meta.time.to_string()));
        add("subject", json!(meta.subject));
        add("aggregate_type", json!(meta.aggregate_type));
        add("aggregate_version", json!(meta.aggregate_version));
        add("category", json!(meta.category.as_str()));
        add("priority", json!(meta.priority));
        add("data_version", json!(meta.data_version));
        add("correlation_id", json!(meta.correlation_id));
        add("causation_id", json!(meta.causation_id));
        add("user_id", json!(meta.user_id));
        add("traceparent", json!(meta.trace.to_string()));
        add("tracestate", json!(meta.trace.state));
    }
    add("headers", headers(meta.map_or_else(|headers| headers, |meta| &meta.extra)));
    add("topic", json!(&*place.partition.topic));
    add("partition", json!(place.partition.partition));
    add("offset", json!(place.offset));
    add("timestamp_ms", json!(place.timestamp_ms));
    add("key", key.map_or(Json::Null, text));
    add("schema_id", json!(schema_id));
    add("data", data);
    fields
}

/// Headers in their order: names may repeat.
fn headers(headers: &Headers) -> Json {
    headers.iter().map(|(name, value)| json!({ "name": name, "value": value.map_or(Json::Null, text) })).collect()
}

/// Text as it is; other bytes in hex behind `0x`.
fn text(bytes: &[u8]) -> Json {
    match std::str::from_utf8(bytes) {
        Ok(text) => json!(text),
        Err(_) => json!(bytes.iter().fold("0x".to_owned(), |hex, byte| hex + &format!("{byte:02x}"))),
    }
}
