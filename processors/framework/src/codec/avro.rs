//! Avro's binary encoding: read under the schema that a record was written with, written under a type's own.
//!
//! Bytes from outside are never believed: `layout` measures a datum before anything is made of it.

pub(crate) mod encoder;
pub(crate) mod writer;

pub(crate) mod cursor;
pub(crate) mod datum_reader;
pub(crate) mod layout;

pub(crate) mod promotion;
pub(crate) mod value_resolver;
