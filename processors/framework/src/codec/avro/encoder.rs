//! Writing: a value under its schema's registry id.

use std::fmt;

use apache_avro::{Schema, error::Details, types::Value, writer::datum::GenericDatumWriter};
use serde::Serialize;

use super::writer::WriterSchema;
use crate::codec::{
    error::{CodecError, FieldError, clip, schema_cause},
    json,
    schema::{StaticSchema, follow},
    wire_format::MAGIC,
};

/// Room for a usual event, so that encoding one allocates once.
const USUAL_BYTES: usize = 256;

/// Encodes values of one schema under its id in the registry.
pub struct Encoder {
    id: u32,
    leaked: StaticSchema,
    writer: GenericDatumWriter<'static>,
}

impl Encoder {
    /// An encoder for a schema that defines every type it names; kept as long as the process, like the schema.
    ///
    /// # Errors
    /// [`CodecError::Schema`] when the text is no Avro schema.
    pub fn new(id: u32, schema: &str) -> Result<Self, CodecError> {
        let leaked = StaticSchema::parse(schema, &[]).map_err(|cause| CodecError::Schema { id, cause })?;
        Self::leaked(id, leaked)
    }

    /// An encoder for a schema as the registry holds it, with all that it refers to.
    ///
    /// # Errors
    /// [`CodecError::Schema`] when apache-avro cannot write with it.
    pub fn of(schema: &WriterSchema) -> Result<Self, CodecError> {
        Self::leaked(schema.id(), schema.leaked())
    }

    fn leaked(id: u32, leaked: StaticSchema) -> Result<Self, CodecError> {
        let writer = GenericDatumWriter::builder(leaked.schema)
            .resolved_schemata(leaked.resolved.clone())
            .build()
            .map_err(|e| CodecError::Schema { id, cause: schema_cause(&e) })?;
        Ok(Self { id, leaked, writer })
    }

    /// The id in the registry.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// A whole Kafka value: the magic byte 0, the schema id big endian, the datum.
    ///
    /// # Errors
    /// [`CodecError::Unfit`] when `data` does not fit the schema.
    pub fn encode<T: Serialize>(&self, data: &T) -> Result<Vec<u8>, CodecError> {
        let mut out = self.begin();
        self.writer.write_ser(&mut out, data).map_err(|error| CodecError::Unfit(*unfit(&error)))?;
        Ok(out)
    }

    /// The same for an Avro value.
    ///
    /// # Errors
    /// [`CodecError::Unfit`] when `value` is not one of the schema.
    pub(crate) fn encode_value(&self, value: &Value) -> Result<Vec<u8>, CodecError> {
        let mut out = self.begin();
        self.writer.write_value_ref(&mut out, value).map_err(|error| CodecError::Unfit(*unfit(&error)))?;
        Ok(out)
    }

    /// The same for JSON as a person writes it: a time as RFC 3339, a union's value plain, a decimal as text (see the
    /// list in `codec/json.rs`). A field that is left out takes the schema's default.
    ///
    /// # Errors
    /// [`CodecError::Unfit`] that names the field: `amount_cents: expected long, got "x"`. It shows the value's
    /// beginning, for the person who wrote it.
    pub fn encode_json(&self, json: &serde_json::Value) -> Result<Vec<u8>, CodecError> {
        let value =
            json::read(json, self.leaked.schema, self.leaked.names()).map_err(|fault| CodecError::Unfit(*fault))?;
        self.encode_value(&value)
    }

    /// The bytes of a part of a value, without a frame: JSON as [`Encoder::encode_json`] takes it for `part`, a schema
    /// within this one.
    ///
    /// # Errors
    /// [`CodecError::Unfit`] as `encode_json`.
    pub fn encode_part(&self, json: &serde_json::Value, part: &Schema) -> Result<Vec<u8>, CodecError> {
        let names = self.leaked.names();
        let part = follow(part, names);
        let value = json::read(json, part, names).map_err(|fault| CodecError::Unfit(*fault))?;
        let unfit = |error: apache_avro::Error| CodecError::Unfit(*unfit(&error));
        let writer = GenericDatumWriter::builder(part).resolved_schemata(self.leaked.resolved.clone()).build();
        let mut out = Vec::new();
        writer.and_then(|writer| writer.write_value_ref(&mut out, &value)).map_err(unfit)?;
        Ok(out)
    }

    /// What comes before every value's datum: the magic byte 0 and the schema id, big endian.
    pub fn frame(&self) -> [u8; 5] {
        let [a, b, c, d] = self.id.to_be_bytes();
        [MAGIC, a, b, c, d]
    }

    fn begin(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(USUAL_BYTES);
        out.extend_from_slice(&self.frame());
        out
    }
}

impl fmt::Debug for Encoder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("id", &self.id)
            .field("schema", &self.leaked.schema.name())
            .finish_non_exhaustive()
    }
}

fn unfit(error: &apache_avro::Error) -> Box<FieldError> {
    match error.details() {
        Details::SerializeRecordFieldWithSchema { field_name, error, .. } => {
            FieldError::new(expectation(error)).within(clip(field_name))
        }
        Details::SerializeValueWithSchema { value, .. } => FieldError::new(expectation(value)),
        Details::GetField(field) | Details::FieldName(field) => {
            FieldError::new("the schema has no such field").within(clip(field))
        }
        Details::MissingDefaultForSkippedField { field_name, .. } => {
            FieldError::new("left out, and the schema has no default for it").within(clip(field_name))
        }
        _ => FieldError::new("the value is not one of the schema"),
    }
}

/// The part of apache-avro's message that says what the schema expects: the rest may print data.
fn expectation(text: &str) -> String {
    match text.find("Expected Schema::") {
        Some(start) => format!("does not fit the schema: {}", clip(&text[start..]).to_lowercase()),
        None => "does not fit the schema".to_owned(),
    }
}
