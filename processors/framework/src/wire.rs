//! What travels: records with their headers, the names and ids in them, and the topics and partitions that they go to.
//!
//! Everything here is part of the contract with other programs. It knows no payload's bytes: those are the codec's.

pub(crate) mod record;

pub(crate) mod delivery_headers;
pub(crate) mod headers;
pub(crate) mod ids;
pub(crate) mod trace_context;

pub(crate) mod group_topics;
pub(crate) mod murmur2;
