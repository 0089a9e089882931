//! A letter's value as JSON, and JSON as a value again.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use headwater::spi::{
    DeadLetter, Schemas as _, Topology,
    codec::{Encoder, WriterSchema, split},
};
use serde_json::Value as Json;
use sha2::{Digest as _, Sha256};

use super::{context::DlqContext, text::hex};

/// A value as far as it can be understood.
pub(super) struct DecodedValue {
    pub(super) schema_id: Option<u32>,
    /// The data; or why it cannot be read.
    pub(super) data: Result<(Arc<WriterSchema>, Json), String>,
}

/// Hex digits of the bytes' SHA-256.
pub(super) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// Reads a value by the schema that it was written with.
pub(super) async fn decode(context: &DlqContext, value: &[u8]) -> DecodedValue {
    let (id, datum) = match split(value) {
        Ok(split) => split,
        Err(error) => return DecodedValue { schema_id: None, data: Err(error.to_string()) },
    };
    let data = match schema(context, id).await {
        Ok(schema) => match schema.value(datum) {
            Ok(value) => {
                let json = schema.json(&value);
                Ok((schema, json))
            }
            Err(error) => Err(error.to_string()),
        },
        Err(error) => Err(format!("{error:#}")),
    };
    DecodedValue { schema_id: Some(id), data }
}

/// The schema of an id.
///
/// # Errors
/// When the registry does not answer or has no such schema, or it cannot be used.
pub(super) async fn schema(context: &DlqContext, id: u32) -> Result<Arc<WriterSchema>> {
    let text = context.clients.registry.by_id(id).await?;
    Ok(WriterSchema::parse(id, &text.schema, &text.references)?)
}

/// The newest schema of a letter's type, for one whose own cannot be had.
///
/// # Errors
/// As [`schema`]; and when the type is not known.
pub(super) async fn newest(context: &DlqContext, letter: &DeadLetter) -> Result<Arc<WriterSchema>> {
    let subject = subject(context, letter).context(
        "the value cannot be decoded and the event's type is not known: say with --schema-id how the new one is written",
    )?;
    let id = context.clients.registry.latest(&subject).await?;
    schema(context, id).await
}

fn subject(context: &DlqContext, letter: &DeadLetter) -> Option<String> {
    let (event_type, catalogue) = (letter.event_type.as_deref()?, context.app.pipeline.catalogue());
    if let Some(facts) = catalogue.get(event_type) {
        let subjects = Topology::of(&context.app.pipeline).subjects;
        return subjects.into_iter().find(|subject| subject.schema == facts.schema).map(|subject| subject.name);
    }
    let bound = catalogue.bindings().find(|(_, binding)| binding.event_type == event_type);
    bound.map(|(topic, _)| format!("{topic}-value"))
}

/// JSON as a value of this schema.
///
/// # Errors
/// What does not fit, with its field.
pub(super) fn encode(schema: &WriterSchema, json: &Json) -> Result<Vec<u8>> {
    let encoded = Encoder::of(schema)?.encode_json(json);
    encoded.with_context(|| format!("the value does not fit schema {}", schema.id()))
}
