//! A checked datum as an apache-avro `Value`.
//!
//! apache-avro's own reader takes tens of kilobytes of stack for each level of nesting in a build without optimization,
//! names no field when a string is not UTF-8, and reads a cut-off string as null. The rest it does the same, and a
//! property holds the two to each other.

use std::collections::HashMap;

use apache_avro::{
    Decimal, Duration, Schema, Uuid,
    schema::{InnerDecimalSchema, NamesRef, RecordSchema, UuidSchema},
    types::Value,
};

use super::cursor::{Checked, Cursor};
use crate::codec::{error::FieldError, schema::follow};

/// Reads values off a datum whose layout was checked.
pub(crate) struct DatumReader<'a> {
    pub(crate) datum: Cursor<'a>,
    pub(crate) names: &'a NamesRef<'a>,
}

impl DatumReader<'_> {
    pub(crate) fn value(&mut self, schema: &Schema) -> Checked<Value> {
        match follow(schema, self.names) {
            Schema::Record(record) => self.record(record),
            Schema::Union(union) => {
                let place = self.datum.index(union.variants().len(), "branches of the union")?;
                let inner = self.value(&union.variants()[place])?;
                Ok(Value::Union(u32::try_from(place).unwrap_or(u32::MAX), Box::new(inner)))
            }
            Schema::Array(array) => self.array(&array.items),
            Schema::Map(map) => self.map(&map.types),
            scalar => self.scalar(scalar),
        }
    }

    fn record(&mut self, record: &RecordSchema) -> Checked<Value> {
        let mut fields = Vec::with_capacity(record.fields.len());
        for field in &record.fields {
            let value = self.value(&field.schema).map_err(|fault| fault.within(&field.name))?;
            fields.push((field.name.clone(), value));
        }
        Ok(Value::Record(fields))
    }

    fn array(&mut self, schema: &Schema) -> Checked<Value> {
        let mut items = Vec::new();
        loop {
            match self.datum.block()? {
                0 => return Ok(Value::Array(items)),
                count => {
                    for _ in 0..count {
                        items.push(self.value(schema)?);
                    }
                }
            }
        }
    }

    fn map(&mut self, schema: &Schema) -> Checked<Value> {
        let mut items = HashMap::new();
        loop {
            match self.datum.block()? {
                0 => return Ok(Value::Map(items)),
                count => {
                    for _ in 0..count {
                        let key = self.datum.text()?.to_owned();
                        items.insert(key, self.value(schema)?);
                    }
                }
            }
        }
    }

    fn scalar(&mut self, schema: &Schema) -> Checked<Value> {
        let datum = &mut self.datum;
        Ok(match schema {
            Schema::Boolean => Value::Boolean(datum.take(1)? == [1]),
            Schema::Int => Value::Int(datum.int()?),
            Schema::Long => Value::Long(datum.long()?),
            Schema::Float => Value::Float(f32::from_le_bytes(datum.array()?)),
            Schema::Double => Value::Double(f64::from_le_bytes(datum.array()?)),
            Schema::Bytes => Value::Bytes(datum.bytes()?.to_vec()),
            Schema::String => Value::String(datum.text()?.to_owned()),
            Schema::Fixed(fixed) => Value::Fixed(fixed.size, datum.take(fixed.size)?.to_vec()),
            Schema::Enum(symbols) => {
                let place = datum.index(symbols.symbols.len(), "symbols of the enum")?;
                Value::Enum(u32::try_from(place).unwrap_or(u32::MAX), symbols.symbols[place].clone())
            }
            Schema::Date => Value::Date(datum.int()?),
            Schema::TimeMillis => Value::TimeMillis(datum.int()?),
            Schema::TimeMicros => Value::TimeMicros(datum.long()?),
            Schema::TimestampMillis => Value::TimestampMillis(datum.long()?),
            Schema::TimestampMicros => Value::TimestampMicros(datum.long()?),
            Schema::TimestampNanos => Value::TimestampNanos(datum.long()?),
            Schema::LocalTimestampMillis => Value::LocalTimestampMillis(datum.long()?),
            Schema::LocalTimestampMicros => Value::LocalTimestampMicros(datum.long()?),
            Schema::LocalTimestampNanos => Value::LocalTimestampNanos(datum.long()?),
            Schema::Duration(_) => Value::Duration(Duration::from(datum.array::<12>()?)),
            Schema::Decimal(decimal) => Value::Decimal(Decimal::from(match &decimal.inner {
                InnerDecimalSchema::Bytes => datum.bytes()?,
                InnerDecimalSchema::Fixed(fixed) => datum.take(fixed.size)?,
            })),
            Schema::BigDecimal => Value::Bytes(datum.bytes()?.to_vec())
                .resolve_with_names(schema, self.names)
                .map_err(|_| FieldError::new("a big-decimal is not one"))?,
            Schema::Uuid(kind) => Value::Uuid(uuid(datum, kind)?),
            Schema::Null
            | Schema::Record(_)
            | Schema::Union(_)
            | Schema::Array(_)
            | Schema::Map(_)
            | Schema::Ref { .. } => Value::Null,
        })
    }
}

fn uuid(datum: &mut Cursor<'_>, kind: &UuidSchema) -> Checked<Uuid> {
    let uuid = match kind {
        UuidSchema::String => Uuid::parse_str(datum.text()?),
        UuidSchema::Bytes => Uuid::from_slice(datum.bytes()?),
        UuidSchema::Fixed(fixed) => Uuid::from_slice(datum.take(fixed.size)?),
    };
    uuid.map_err(|_| FieldError::new("a uuid is not one"))
}
