//! The facts about an event type, as values.

mod sample;

use apache_avro::Schema;

use self::sample::sample;
use super::payload::{Category, Payload, Priority};
use crate::codec::{self, Encoder, WriterSchema, error::CodecError};

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

    /// The field that is the record's key, told from a sample whose texts are the names of their fields; `None` where that
    /// does not show it.
    pub fn key_field(&self) -> Option<String> {
        let schema = WriterSchema::parse(0, self.schema, &[]).ok()?;
        let value = sample(schema.schema(), "")?;
        let bytes = Encoder::of(&schema).ok()?.encode_value(&value).ok()?;
        let (_, datum) = codec::split(&bytes).ok()?;
        let key = (self.key_of)(&schema, datum).ok()?;
        let Schema::Record(record) = schema.schema() else { return None };
        record.lookup.contains_key(&key).then_some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(serde::Serialize, serde::Deserialize)]
    struct Order {
        id: String,
        shop: String,
        note: Option<String>,
        at: crate::event::time::Time,
    }

    impl Payload for Order {
        const TYPE: &'static str = "order.placed";
        const SCHEMA: &'static str = r#"{"type":"record","name":"Order","fields":[{"name":"id","type":"string"},
            {"name":"shop","type":"string"},{"name":"note","type":["null","string"],"default":null},
            {"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}}]}"#;

        fn key(&self) -> &str {
            &self.shop
        }
    }

    /// Red when the first text is taken for the key, or a field that a sample cannot fill hides it.
    #[test]
    fn the_key_is_the_field_that_it_is_read_from() {
        assert_eq!(EventType::of::<Order>().key_field().as_deref(), Some("shop"));
    }
}
