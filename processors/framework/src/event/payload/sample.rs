//! Which field of a record is its key: told from a sample whose texts are the names of their fields.

use apache_avro::{Schema, types::Value};

use crate::{
    codec::{self, Encoder, WriterSchema},
    event::event_type::EventType,
};

impl EventType {
    /// The field that is the record's key; `None` where a sample does not show it.
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

fn sample(schema: &Schema, name: &str) -> Option<Value> {
    Some(match schema {
        Schema::Null => Value::Null,
        Schema::Boolean => Value::Boolean(false),
        Schema::Int => Value::Int(0),
        Schema::Long => Value::Long(0),
        Schema::Float => Value::Float(0.0),
        Schema::Double => Value::Double(0.0),
        Schema::Bytes => Value::Bytes(Vec::new()),
        Schema::String => Value::String(name.to_owned()),
        Schema::Fixed(fixed) => Value::Fixed(fixed.size, vec![0; fixed.size]),
        Schema::Enum(symbols) => Value::Enum(0, symbols.symbols.first()?.clone()),
        Schema::Array(_) => Value::Array(Vec::new()),
        Schema::Map(_) => Value::Map(std::collections::HashMap::new()),
        Schema::Union(union) => Value::Union(0, Box::new(sample(union.variants().first()?, name)?)),
        Schema::Record(record) => {
            let field = |field: &apache_avro::schema::RecordField| {
                Some((field.name.clone(), sample(&field.schema, &field.name)?))
            };
            Value::Record(record.fields.iter().map(field).collect::<Option<_>>()?)
        }
        Schema::Date => Value::Date(0),
        Schema::TimestampMillis => Value::TimestampMillis(0),
        Schema::TimestampMicros => Value::TimestampMicros(0),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::super::Payload;
    use crate::event::event_type::EventType;

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
