//! Which types a reader takes for a writer's, and how a value that holds no other becomes the reader's.
//!
//! The table is the specification's ("Schema Resolution"): the same type, or int → long → float → double and string ↔
//! bytes; never the other way, whatever the value. A logical type is taken off and put on where the reader has none or
//! the writer had none; two different ones do not match, and one that lies on bytes, fixed or string goes with its own
//! type alone: a decimal's bytes are no text.

use apache_avro::{
    Decimal, Duration, Schema, Uuid,
    schema::{Alias, InnerDecimalSchema, UuidSchema},
    types::Value,
    writer::datum::GenericDatumWriter,
};

use super::cursor::Cursor;
use crate::codec::{error::FieldError, schema::type_name};

/// A type without its logical type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Base {
    Null,
    Boolean,
    Int,
    Long,
    Float,
    Double,
    Bytes,
    Text,
    Array,
    Map,
    Record,
    Enum,
    Fixed(usize),
    /// A union, or a name that is nowhere.
    Other,
}

pub(crate) fn base(schema: &Schema) -> Base {
    match schema {
        Schema::Null => Base::Null,
        Schema::Boolean => Base::Boolean,
        Schema::Int | Schema::Date | Schema::TimeMillis => Base::Int,
        Schema::Long
        | Schema::TimeMicros
        | Schema::TimestampMillis
        | Schema::TimestampMicros
        | Schema::TimestampNanos
        | Schema::LocalTimestampMillis
        | Schema::LocalTimestampMicros
        | Schema::LocalTimestampNanos => Base::Long,
        Schema::Float => Base::Float,
        Schema::Double => Base::Double,
        Schema::Bytes | Schema::BigDecimal | Schema::Uuid(UuidSchema::Bytes) => Base::Bytes,
        Schema::String | Schema::Uuid(UuidSchema::String) => Base::Text,
        Schema::Array(_) => Base::Array,
        Schema::Map(_) => Base::Map,
        Schema::Record(_) => Base::Record,
        Schema::Enum(_) => Base::Enum,
        Schema::Fixed(fixed) | Schema::Duration(fixed) | Schema::Uuid(UuidSchema::Fixed(fixed)) => {
            Base::Fixed(fixed.size)
        }
        Schema::Decimal(decimal) => match &decimal.inner {
            InnerDecimalSchema::Bytes => Base::Bytes,
            InnerDecimalSchema::Fixed(fixed) => Base::Fixed(fixed.size),
        },
        Schema::Union(_) | Schema::Ref { .. } => Base::Other,
    }
}

/// Whether a reader of `reader` takes what `writer` wrote, as far as the two themselves say; parts are not looked at.
pub(crate) fn takes(writer: &Schema, reader: &Schema) -> Result<(), Box<FieldError>> {
    if let (Schema::Decimal(w), Schema::Decimal(r)) = (writer, reader) {
        if w.scale != r.scale {
            // The same bytes would be another amount.
            let why = format!("expected a decimal of scale {}, the writer's schema has {}", r.scale, w.scale);
            return Err(FieldError::new(why));
        }
        if w.precision > r.precision {
            let (r, w) = (r.precision, w.precision);
            return Err(FieldError::new(format!("expected a decimal of {r} digits, the writer's schema has {w}")));
        }
    }
    let (from, to) = (base(writer), base(reader));
    let same_logical = match (is_logical(writer), is_logical(reader)) {
        (true, true) => std::mem::discriminant(writer) == std::mem::discriminant(reader),
        _ => true,
    };
    let promoted = from == to || !is_worded(writer) && !is_worded(reader) && promotes(from, to);
    match (from, to) {
        (Base::Other, _) | (_, Base::Other) => Err(mismatch(writer, reader)),
        (Base::Fixed(w), Base::Fixed(r)) if w != r => {
            Err(FieldError::new(format!("expected a fixed of {r} bytes, the writer's schema has {w}")))
        }
        _ if same_logical && promoted => Ok(()),
        _ => Err(mismatch(writer, reader)),
    }
}

fn mismatch(writer: &Schema, reader: &Schema) -> Box<FieldError> {
    FieldError::new(format!("expected {}, the writer's schema has {}", type_name(reader), type_name(writer)))
}

/// The promotions of the specification.
pub(crate) fn promotes(from: Base, to: Base) -> bool {
    use Base::{Bytes, Double, Float, Int, Long, Text};
    matches!(
        (from, to),
        (Int, Long | Float | Double) | (Long, Float | Double) | (Float, Double) | (Bytes, Text) | (Text, Bytes)
    )
}

fn is_logical(schema: &Schema) -> bool {
    is_worded(schema) || !matches!(schema, Schema::Int | Schema::Long) && matches!(base(schema), Base::Int | Base::Long)
}

/// Whether it is a logical type on bytes, fixed or string.
fn is_worded(schema: &Schema) -> bool {
    matches!(schema, Schema::Decimal(_) | Schema::BigDecimal | Schema::Uuid(_) | Schema::Duration(_))
}

/// How well two types are called alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum NameMatch {
    /// By other names.
    Differently,
    /// By the name without its namespace.
    Simply,
    /// By the whole name, one of the reader's aliases, or neither has a name.
    Alike,
}

pub(crate) fn name_match(writer: &Schema, reader: &Schema) -> NameMatch {
    let (Some(w), Some(r)) = (writer.name(), reader.name()) else {
        return if writer.name().is_none() && reader.name().is_none() {
            NameMatch::Alike
        } else {
            NameMatch::Differently
        };
    };
    let alias = |alias: &Alias| alias.fullname(None) == w.fullname(None);
    if w == r || reader.aliases().is_some_and(|aliases| aliases.iter().any(alias)) {
        NameMatch::Alike
    } else if w.name() == r.name() {
        NameMatch::Simply
    } else {
        NameMatch::Differently
    }
}

/// A value of `writer`, which holds no other, as one of `reader`, which takes it.
pub(crate) fn promote(value: Value, writer: &Schema, reader: &Schema) -> Result<Value, Box<FieldError>> {
    if is_logical(writer) && is_logical(reader) {
        return Ok(value);
    }
    let failed = || mismatch(writer, reader);
    let plain = plain(value, writer).ok_or_else(failed)?;
    logical(widened(plain, base(reader)).ok_or_else(failed)?, reader).ok_or_else(failed)
}

/// The value below a logical type.
fn plain(value: Value, writer: &Schema) -> Option<Value> {
    let bytes = |bytes: Vec<u8>| match base(writer) {
        Base::Fixed(size) => Value::Fixed(size, bytes),
        _ => Value::Bytes(bytes),
    };
    Some(match value {
        Value::Date(n) | Value::TimeMillis(n) => Value::Int(n),
        Value::TimeMicros(n)
        | Value::TimestampMillis(n)
        | Value::TimestampMicros(n)
        | Value::TimestampNanos(n)
        | Value::LocalTimestampMillis(n)
        | Value::LocalTimestampMicros(n)
        | Value::LocalTimestampNanos(n) => Value::Long(n),
        Value::Uuid(uuid) if base(writer) == Base::Text => Value::String(uuid.to_string()),
        Value::Uuid(uuid) => bytes(uuid.as_bytes().to_vec()),
        Value::Decimal(decimal) => bytes((&decimal).try_into().ok()?),
        Value::Duration(duration) => bytes(<[u8; 12]>::from(duration).to_vec()),
        value @ Value::BigDecimal(_) => Value::Bytes(big_decimal_bytes(&value)?),
        value => value,
    })
}

/// apache-avro shows a big-decimal's bytes to nobody but its writer, which puts their length before them.
fn big_decimal_bytes(value: &Value) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    GenericDatumWriter::builder(&Schema::BigDecimal).build().ok()?.write_value_ref(&mut out, value).ok()?;
    Cursor(&out).bytes().ok().map(<[u8]>::to_vec)
}

/// The value as one of a wider type, or as the other of string and bytes.
#[expect(clippy::cast_precision_loss, reason = "the specification promotes int and long to float and double")]
fn widened(value: Value, to: Base) -> Option<Value> {
    Some(match (value, to) {
        (Value::Int(n), Base::Long) => Value::Long(n.into()),
        (Value::Int(n), Base::Float) => Value::Float(n as f32),
        (Value::Int(n), Base::Double) => Value::Double(n.into()),
        (Value::Long(n), Base::Float) => Value::Float(n as f32),
        (Value::Long(n), Base::Double) => Value::Double(n as f64),
        (Value::Float(n), Base::Double) => Value::Double(n.into()),
        (Value::Bytes(bytes), Base::Text) => Value::String(String::from_utf8(bytes).ok()?),
        (Value::String(text), Base::Bytes) => Value::Bytes(text.into_bytes()),
        (value, _) => value,
    })
}

/// The value with the reader's logical type.
fn logical(value: Value, reader: &Schema) -> Option<Value> {
    Some(match (value, reader) {
        (Value::Int(n), Schema::Date) => Value::Date(n),
        (Value::Int(n), Schema::TimeMillis) => Value::TimeMillis(n),
        (Value::Long(n), Schema::TimeMicros) => Value::TimeMicros(n),
        (Value::Long(n), Schema::TimestampMillis) => Value::TimestampMillis(n),
        (Value::Long(n), Schema::TimestampMicros) => Value::TimestampMicros(n),
        (Value::Long(n), Schema::TimestampNanos) => Value::TimestampNanos(n),
        (Value::Long(n), Schema::LocalTimestampMillis) => Value::LocalTimestampMillis(n),
        (Value::Long(n), Schema::LocalTimestampMicros) => Value::LocalTimestampMicros(n),
        (Value::Long(n), Schema::LocalTimestampNanos) => Value::LocalTimestampNanos(n),
        (Value::Bytes(bytes) | Value::Fixed(_, bytes), Schema::Decimal(_)) => Value::Decimal(Decimal::from(bytes)),
        (Value::Bytes(bytes) | Value::Fixed(_, bytes), Schema::Uuid(_)) => Value::Uuid(Uuid::from_slice(&bytes).ok()?),
        (Value::String(text), Schema::Uuid(_)) => Value::Uuid(Uuid::parse_str(&text).ok()?),
        (Value::Fixed(_, bytes), Schema::Duration(_)) => {
            Value::Duration(Duration::from(<[u8; 12]>::try_from(bytes).ok()?))
        }
        (value @ Value::Bytes(_), Schema::BigDecimal) => value.resolve(&Schema::BigDecimal).ok()?,
        (value, _) => value,
    })
}
