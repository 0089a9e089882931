//! The facts about an event type, as values.

use super::payload::{Category, Payload, Priority};
use crate::codec::{avro::writer::WriterSchema, error::CodecError};

/// The facts about an event type, as values: what a [`Payload`] fixes at compile time.
#[derive(Clone, Copy, Debug)]
pub struct EventType {
    /// The dotted type, `payment.completed`.
    pub name: &'static str,
    /// The Avro schema as JSON text.
    pub schema: &'static str,
    /// The category of events without `ce_category`.
    pub category: Category,
    /// The priority of events without `ce_priority`.
    pub priority: Priority,
    /// See [`Payload::SINGLE_TYPE`].
    pub single_type: bool,
    /// Reads the record key off a datum: [`Payload::key`] for who does not know the Rust type.
    pub key_of: fn(&WriterSchema, &[u8]) -> Result<String, CodecError>,
}

impl PartialEq for EventType {
    /// Two types of one name are the same when all but the Rust type behind them is.
    fn eq(&self, other: &Self) -> bool {
        let facts = |t: &Self| (t.name, t.schema, t.category, t.priority, t.single_type);
        facts(self) == facts(other)
    }
}

impl Eq for EventType {}

impl EventType {
    /// The facts of the payload type `T`.
    pub const fn of<T: Payload>() -> Self {
        Self {
            name: T::TYPE,
            schema: T::SCHEMA,
            category: T::CATEGORY,
            priority: T::PRIORITY,
            single_type: T::SINGLE_TYPE,
            key_of: |schema, datum| schema.decode::<T>(datum).map(|data| data.key().to_owned()),
        }
    }
}
