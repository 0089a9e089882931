//! A value of a schema whose texts are the names of their fields.

use apache_avro::{Schema, types::Value};

/// A sample of `schema`, where it is the field of this name; `None` where no sample can be made.
pub(super) fn sample(schema: &Schema, name: &str) -> Option<Value> {
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
