//! The codec: records in Confluent's wire format (`0`, a schema id, an Avro datum) to payloads and back.
//!
//! [`split`] takes a value apart, [`WriterSchema`] decodes what was written under one id, [`Encoder`] writes. It knows no
//! registry: whoever calls it brings the schema of an id. Bytes from outside are never believed: see `codec/avro/layout.rs`.

pub(crate) mod avro;

pub(crate) mod error;
mod wire_format;

mod schema;

mod json;

#[cfg(test)]
mod tests;

pub use avro::encoder::Encoder;
pub use avro::writer::WriterSchema;
pub use error::{CodecError, FieldError};
pub use schema::compat::can_read;
pub use wire_format::{limit_allocations, split};
