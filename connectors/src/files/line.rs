//! An event as a JSON line, with the names that `headwater tail` prints it with.

use headwater::{Headers, spi::Row};
use serde_json::{Value as Json, json};

/// Writes a row as one line. `data` is null for a tombstone.
///
/// Its place is where its record first stood, also after it was sent back: with it a reader knows a line that came before.
pub(super) fn write(row: &Row, lines: &mut Vec<u8>) -> Result<(), serde_json::Error> {
    let (meta, origin) = (&row.meta, &row.meta.origin);
    let line = json!({
        "id": meta.id,
        "source": meta.source,
        "type": meta.event_type,
        "time": meta.time.to_string(),
        "subject": meta.subject,
        "aggregate_type": meta.aggregate_type,
        "aggregate_version": meta.aggregate_version,
        "category": meta.category.as_str(),
        "priority": meta.priority,
        "data_version": meta.data_version,
        "correlation_id": meta.correlation_id,
        "causation_id": meta.causation_id,
        "user_id": meta.user_id,
        "traceparent": meta.trace.to_string(),
        "tracestate": meta.trace.state,
        "headers": headers(&meta.extra),
        "topic": &*origin.partition.topic,
        "partition": origin.partition.partition,
        "offset": origin.offset,
        "timestamp_ms": origin.timestamp_ms,
        "key": row.record.key.as_deref().map_or(Json::Null, text),
        "schema_id": row.data.as_ref().map(|data| data.schema.id()),
        "data": row.data.as_ref().map_or(Json::Null, |data| data.schema.json(&data.value)),
    });
    serde_json::to_writer(&mut *lines, &line)?;
    lines.push(b'\n');
    Ok(())
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
