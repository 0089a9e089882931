//! JSON out.

use apache_avro::{
    Schema,
    schema::{NamesRef, UnionSchema},
    types::Value,
};
use serde_json::{Number, Value as Json, json as object};

use super::{logical, names::branch_name};
use crate::codec::schema::follow;

/// A value as JSON; where the schema does not fit the value, the value speaks for itself.
pub(super) fn json(value: &Value, schema: &Schema, names: &NamesRef<'_>) -> Json {
    let schema = follow(schema, names);
    match value {
        Value::Union(place, inner) => match schema {
            Schema::Union(union) => branch(*place, inner, union, names),
            _ => json(inner, schema, names),
        },
        Value::Record(fields) => {
            let field = |(name, value): &(String, Value)| {
                let schema = match schema {
                    Schema::Record(record) => record.lookup.get(name).map(|place| &record.fields[*place].schema),
                    _ => None,
                };
                (name.clone(), json(value, schema.unwrap_or(&Schema::Null), names))
            };
            Json::Object(fields.iter().map(field).collect())
        }
        Value::Array(items) => {
            let schema = if let Schema::Array(array) = schema { &array.items } else { &Schema::Null };
            Json::Array(items.iter().map(|item| json(item, schema, names)).collect())
        }
        Value::Map(items) => {
            let schema = if let Schema::Map(map) = schema { &map.types } else { &Schema::Null };
            Json::Object(items.iter().map(|(key, item)| (key.clone(), json(item, schema, names))).collect())
        }
        scalar => scalar_json(scalar, schema),
    }
}

/// The plain value, unless it could be taken for another branch's.
fn branch(place: u32, value: &Value, union: &UnionSchema, names: &NamesRef<'_>) -> Json {
    let variants = union.variants();
    let schema = usize::try_from(place).ok().and_then(|place| variants.get(place)).unwrap_or(&Schema::Null);
    let plain = json(value, schema, names);
    let others = variants.iter().filter(|variant| !matches!(variant, Schema::Null)).count();
    match value {
        Value::Null => plain,
        _ if others < 2 => plain,
        _ => object!({ (branch_name(schema)): plain }),
    }
}

fn scalar_json(value: &Value, schema: &Schema) -> Json {
    use logical::TimestampUnit::{Micros, Millis, Nanos};
    let or_count = |text: Option<String>, count: i64| text.map_or_else(|| Json::from(count), Json::from);
    match value {
        Value::Boolean(b) => Json::from(*b),
        Value::Int(n) => Json::from(*n),
        Value::Long(n) => Json::from(*n),
        // By its own text, or 0.1 would come out as 0.10000000149011612.
        Value::Float(n) => n.to_string().parse().map_or(Json::Null, float),
        Value::Double(n) => float(*n),
        Value::Bytes(bytes) | Value::Fixed(_, bytes) => bytes_json(bytes),
        Value::String(text) | Value::Enum(_, text) => Json::from(text.as_str()),
        Value::Date(days) => or_count(logical::date_text(*days), i64::from(*days)),
        Value::TimeMillis(n) => or_count(logical::time_text(i64::from(*n) * 1_000), i64::from(*n)),
        Value::TimeMicros(n) => or_count(logical::time_text(*n), *n),
        Value::TimestampMillis(n) => or_count(logical::instant_text(*n, Millis), *n),
        Value::TimestampMicros(n) => or_count(logical::instant_text(*n, Micros), *n),
        Value::TimestampNanos(n) => or_count(logical::instant_text(*n, Nanos), *n),
        Value::LocalTimestampMillis(n) => or_count(logical::local_text(*n, Millis), *n),
        Value::LocalTimestampMicros(n) => or_count(logical::local_text(*n, Micros), *n),
        Value::LocalTimestampNanos(n) => or_count(logical::local_text(*n, Nanos), *n),
        Value::Uuid(uuid) => Json::from(uuid.to_string()),
        Value::BigDecimal(number) => Json::from(number.to_plain_string()),
        Value::Duration(duration) => object!({
            "months": u32::from(duration.months()),
            "days": u32::from(duration.days()),
            "millis": u32::from(duration.millis()),
        }),
        Value::Decimal(decimal) => {
            let scale = if let Schema::Decimal(decimal) = schema { decimal.scale } else { 0 };
            let bytes = <Vec<u8>>::try_from(decimal).unwrap_or_default();
            logical::decimal_text(&bytes, scale).map_or_else(|| bytes_json(&bytes), Json::from)
        }
        Value::Null | Value::Union(..) | Value::Record(_) | Value::Array(_) | Value::Map(_) => Json::Null,
    }
}

fn float(number: f64) -> Json {
    match Number::from_f64(number) {
        Some(number) => Json::Number(number),
        None if number.is_nan() => Json::from("NaN"),
        None if number > 0.0 => Json::from("Infinity"),
        None => Json::from("-Infinity"),
    }
}

fn bytes_json(bytes: &[u8]) -> Json {
    Json::from(bytes.iter().copied().map(char::from).collect::<String>())
}
