//! JSON in.

use std::collections::HashMap;

use apache_avro::{
    Days, Decimal, Duration, Millis, Months, Schema, Uuid,
    schema::{InnerDecimalSchema, NamesRef, RecordSchema, UnionSchema, UuidSchema},
    types::Value,
};
use serde_json::{Map, Value as Json};

use super::{
    logical,
    names::{branch_name, wire_type},
};
use crate::codec::{
    error::FieldError,
    schema::{follow, type_name},
};

/// How much of a refused value an error shows.
const SHOWN_CHARS: usize = 40;

type Read = Result<Value, Box<FieldError>>;

/// Reads JSON by a schema.
pub(super) struct JsonReader<'a> {
    pub(super) names: &'a NamesRef<'a>,
    /// Whether it is a schema's default instead of a person's text.
    pub(super) default: bool,
}

impl JsonReader<'_> {
    pub(super) fn value(&self, json: &Json, schema: &Schema) -> Read {
        let schema = follow(schema, self.names);
        let read = match (schema, json) {
            (Schema::Union(union), json) => return self.union(json, union),
            (Schema::Record(record), Json::Object(fields)) => return self.record(fields, record),
            (Schema::Array(array), Json::Array(items)) => {
                return items
                    .iter()
                    .map(|item| self.value(item, &array.items))
                    .collect::<Result<_, _>>()
                    .map(Value::Array);
            }
            (Schema::Map(map), Json::Object(items)) => {
                let item = |(key, item): (&String, &Json)| {
                    Ok((key.clone(), self.value(item, &map.types).map_err(|fault| fault.within(key))?))
                };
                return items.iter().map(item).collect::<Result<HashMap<_, _>, _>>().map(Value::Map);
            }
            (Schema::Decimal(_), json) if !self.default => return decimal(json, schema),
            (schema, json) => scalar(json, schema),
        };
        read.ok_or_else(|| FieldError::new(format!("expected {}, got {}", type_name(schema), shown(json))))
    }

    fn record(&self, json: &Map<String, Json>, record: &RecordSchema) -> Read {
        if let Some(unknown) = json.keys().find(|key| !record.lookup.contains_key(*key)) {
            return Err(
                FieldError::new(format!("the schema has no such field in {}", record.name.name())).within(unknown)
            );
        }
        let field = |field: &apache_avro::schema::RecordField| {
            let value = match (json.get(&field.name), &field.default) {
                (Some(json), _) => self.value(json, &field.schema),
                (None, Some(default)) => Self { names: self.names, default: true }.value(default, &field.schema),
                (None, None) => Err(FieldError::new("missing, and the schema has no default for it")),
            };
            Ok((field.name.clone(), value.map_err(|fault| fault.within(&field.name))?))
        };
        record.fields.iter().map(field).collect::<Result<_, _>>().map(Value::Record)
    }

    fn union(&self, json: &Json, union: &UnionSchema) -> Read {
        let branches = || union.variants().iter().map(|variant| follow(variant, self.names)).enumerate();
        let chosen = |place: usize, value| Value::Union(u32::try_from(place).unwrap_or(u32::MAX), Box::new(value));
        if let Json::Object(object) = json
            && !self.default
            && object.len() == 1
            && let Some((tag, inner)) = object.iter().next()
            && let Some((place, branch)) = branches().find(|(_, branch)| is_called(branch, tag))
        {
            let read = self.value(inner, branch).map(|value| chosen(place, value));
            // The one key may also be a map's key, or a record's field, that happens to be called like a branch.
            if read.is_ok() || !branches().any(|(_, branch)| may_hold(branch, tag)) {
                return read;
            }
        }
        let mut fault = None;
        for (place, branch) in branches() {
            match self.value(json, branch) {
                Ok(value) => return Ok(chosen(place, value)),
                Err(found) if !matches!(branch, Schema::Null) => fault = Some(found),
                Err(_) => {}
            }
        }
        match fault {
            Some(fault) if branches().filter(|(_, branch)| !matches!(branch, Schema::Null)).count() == 1 => Err(fault),
            _ => {
                let names: Vec<_> = branches().map(|(_, branch)| branch_name(branch)).collect();
                Err(FieldError::new(format!("expected one of {}, got {}", names.join(", "), shown(json))))
            }
        }
    }
}

fn is_called(branch: &Schema, tag: &str) -> bool {
    match branch.name() {
        Some(name) => name.name() == tag || name.fullname(None) == tag,
        None => wire_type(branch) == tag || type_name(branch) == tag,
    }
}

fn may_hold(branch: &Schema, key: &str) -> bool {
    match branch {
        Schema::Map(_) => true,
        Schema::Record(record) => record.lookup.contains_key(key),
        _ => false,
    }
}

/// What holds no other value; `None` when the JSON is not one.
fn scalar(json: &Json, schema: &Schema) -> Option<Value> {
    let int = || json.as_i64().and_then(|n| i32::try_from(n).ok());
    let text = json.as_str();
    Some(match schema {
        Schema::Null => json.as_null().map(|()| Value::Null)?,
        Schema::Boolean => Value::Boolean(json.as_bool()?),
        Schema::Int => Value::Int(int()?),
        Schema::Long => Value::Long(json.as_i64()?),
        Schema::Float => Value::Float(float::<f32>(json)?),
        Schema::Double => Value::Double(float::<f64>(json)?),
        Schema::String => Value::String(text?.to_owned()),
        Schema::Bytes => Value::Bytes(bytes(text?)?),
        Schema::Fixed(fixed) => Value::Fixed(fixed.size, bytes(text?).filter(|b| b.len() == fixed.size)?),
        Schema::Enum(symbols) => {
            let place = symbols.symbols.iter().position(|symbol| Some(symbol.as_str()) == text)?;
            Value::Enum(u32::try_from(place).ok()?, text?.to_owned())
        }
        Schema::Date => Value::Date(int().or_else(|| logical::date(text?))?),
        Schema::TimeMillis => {
            Value::TimeMillis(int().or_else(|| i32::try_from(logical::time_micros(text?)? / 1_000).ok())?)
        }
        Schema::TimeMicros => Value::TimeMicros(json.as_i64().or_else(|| logical::time_micros(text?))?),
        Schema::TimestampMillis => Value::TimestampMillis(instant(json, logical::TimestampUnit::Millis)?),
        Schema::TimestampMicros => Value::TimestampMicros(instant(json, logical::TimestampUnit::Micros)?),
        Schema::TimestampNanos => Value::TimestampNanos(instant(json, logical::TimestampUnit::Nanos)?),
        Schema::LocalTimestampMillis => Value::LocalTimestampMillis(local(json, logical::TimestampUnit::Millis)?),
        Schema::LocalTimestampMicros => Value::LocalTimestampMicros(local(json, logical::TimestampUnit::Micros)?),
        Schema::LocalTimestampNanos => Value::LocalTimestampNanos(local(json, logical::TimestampUnit::Nanos)?),
        Schema::Uuid(UuidSchema::String) => Value::Uuid(Uuid::parse_str(text?).ok()?),
        Schema::Uuid(_) => Value::Uuid(Uuid::parse_str(text?).ok().or_else(|| Uuid::from_slice(&bytes(text?)?).ok())?),
        Schema::Decimal(_) => Value::Decimal(Decimal::from(bytes(text?)?)),
        Schema::BigDecimal => Value::BigDecimal(logical::plain_number(&number_text(json)?)?.parse().ok()?),
        Schema::Duration(_) => duration(json)?,
        Schema::Array(_) | Schema::Map(_) | Schema::Union(_) | Schema::Record(_) | Schema::Ref { .. } => return None,
    })
}

fn decimal(json: &Json, schema: &Schema) -> Read {
    let Schema::Decimal(decimal) = schema else { return Err(FieldError::new("expected decimal")) };
    let Some(text) = number_text(json) else {
        return Err(FieldError::new(format!("expected decimal, got {}", shown(json))));
    };
    let bytes = logical::decimal_bytes(&text, decimal.precision, decimal.scale).map_err(FieldError::new)?;
    match &decimal.inner {
        InnerDecimalSchema::Fixed(fixed) if bytes.len() > fixed.size => {
            Err(FieldError::new(format!("does not fit into {} bytes", fixed.size)))
        }
        _ => Ok(Value::Decimal(Decimal::from(bytes))),
    }
}

fn number_text(json: &Json) -> Option<String> {
    match json {
        Json::Number(number) => Some(number.to_string()),
        Json::String(text) => Some(text.clone()),
        _ => None,
    }
}

/// A number, or the text of one that JSON has no number for. A finite number stays finite.
fn float<F: std::str::FromStr + Copy + Into<f64>>(json: &Json) -> Option<F> {
    match json {
        Json::Number(number) => number.to_string().parse::<F>().ok().filter(|n| (*n).into().is_finite()),
        Json::String(text) => match text.as_str() {
            "NaN" | "Infinity" | "-Infinity" => text.parse().ok(),
            "INF" => "Infinity".parse().ok(),
            "-INF" => "-Infinity".parse().ok(),
            _ => None,
        },
        _ => None,
    }
}

fn bytes(text: &str) -> Option<Vec<u8>> {
    text.chars().map(|c| u8::try_from(u32::from(c)).ok()).collect()
}

fn instant(json: &Json, unit: logical::TimestampUnit) -> Option<i64> {
    json.as_i64().or_else(|| logical::instant(json.as_str()?, unit))
}

fn local(json: &Json, unit: logical::TimestampUnit) -> Option<i64> {
    json.as_i64().or_else(|| logical::local(json.as_str()?, unit))
}

fn duration(json: &Json) -> Option<Value> {
    if let Json::String(text) = json {
        let bytes: [u8; 12] = bytes(text)?.try_into().ok()?;
        return Some(Value::Duration(Duration::from(bytes)));
    }
    let object = json.as_object()?;
    let known = ["months", "days", "millis"];
    let part = |name: &str| match object.get(name) {
        Some(number) => number.as_u64().and_then(|n| u32::try_from(n).ok()),
        None => Some(0),
    };
    let [months, days, millis] = known.map(part);
    let whole = object.keys().all(|key| known.contains(&key.as_str()));
    whole.then_some(Value::Duration(Duration::new(Months::new(months?), Days::new(days?), Millis::new(millis?))))
}

/// A refused value, short enough for a message.
fn shown(json: &Json) -> String {
    match json {
        Json::Object(_) => "an object".to_owned(),
        Json::Array(_) => "an array".to_owned(),
        scalar => {
            let text = scalar.to_string();
            match text.char_indices().nth(SHOWN_CHARS) {
                Some((end, _)) => format!("{}…", &text[..end]),
                None => text,
            }
        }
    }
}
