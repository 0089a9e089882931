//! Confluent's wire format: what stands before a datum, and how much may be believed of its lengths.

use super::error::CodecError;

/// The first byte of a value in Confluent's wire format.
pub(crate) const MAGIC: u8 = 0;

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
