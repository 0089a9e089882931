//! Columns: what an Avro type becomes in a table, and values in the binary form that Postgres takes.

pub(crate) mod layout;
pub(crate) mod types;

pub(crate) mod encode;
pub(crate) mod json;
pub(crate) mod number;
