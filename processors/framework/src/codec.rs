//! The codec: records in Confluent's wire format (`0`, a schema id, an Avro datum) to payloads and back.
//!
//! [`split`] takes a value apart, [`WriterSchema`] decodes what was written under one id, [`Encoder`] writes. It knows no
//! registry: whoever calls it brings the schema of an id. Bytes from outside are never believed: see `codec/layout.rs`.

mod error;

mod encoder;
mod writer;

mod schema;

mod cursor;
mod layout;
mod read;

mod resolve;
mod same;

mod json;

#[cfg(test)]
mod tests;

pub use encoder::Encoder;
pub use error::{CodecError, Fault};
pub use writer::WriterSchema;

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

/// Bounds what apache-avro allocates in one step, for records of at most `bytes` bytes. To be called once, at start: only
/// the first call in a process counts, and without one the bound is apache-avro's 512 MB.
///
/// This is the second line: no datum reaches apache-avro whose lengths do not lie within it (`codec/layout.rs`).
pub fn limit_allocations(bytes: usize) {
    // A map's entry that takes two bytes in the datum takes this much in a `Value`.
    const ENTRY: usize = size_of::<(String, apache_avro::types::Value)>();
    apache_avro::util::max_allocation_bytes(bytes.max(1 << 20).saturating_mul(ENTRY));
}
