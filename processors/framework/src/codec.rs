//! The codec: records in Confluent's wire format (`0`, a schema id, an Avro datum) to payloads and back.
//!
//! [`split`] takes a value apart, [`WriterSchema`] decodes what was written under one id, [`Encoder`] writes. It knows no
//! registry: whoever calls it brings the schema of an id. Bytes from outside are never believed: see `codec/avro/layout.rs`.

mod avro;

mod error;

mod schema;

mod json;

#[cfg(test)]
mod tests;

pub use avro::encoder::Encoder;
pub use avro::writer::WriterSchema;
pub use error::{CodecError, Fault};
pub use schema::compat::can_read;

/// The first byte of a value in Confluent's wire format.
const MAGIC: u8 = 0;

/// The schema id and the datum of a Kafka value.
///
/// # Errors
/// [`CodecError::Empty`], [`CodecError::Magic`] and [`CodecError::NoSchemaId`]: the value is not in the wire format.
pub fn split(value: &[u8]) -> Result<(u32, &[u8]), CodecError> {
    match value {
        [] => Err(CodecError::Empty),
        [MAGIC, a, b, c, d, datum @ ..] => Ok((u32::from_be_bytes([*a, *b, *c, *d]), datum)),
        [MAGIC, ..] => Err(CodecError::NoSchemaId(value.len())),
        _ => Err(CodecError::Magic),
    }
}

/// Bounds the strings and bytes that apache-avro makes room for on a length's word; `bytes` is the size of the largest
/// record. To be called at start, before anything is decoded: the first of the two sets the bound of the process, and a
/// decode sets 512 MB. Returns the bound in force.
pub fn limit_allocations(bytes: usize) -> usize {
    apache_avro::util::max_allocation_bytes(bytes)
}
