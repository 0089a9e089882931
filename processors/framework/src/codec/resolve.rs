//! Schema resolution: a value as it was written becomes the value that a reader's schema asks for.
//!
//! The rules are the Avro specification's ("Schema Resolution"). apache-avro's own `Value::resolve` knows the reader's
//! schema only, and so finds a union's branch by trying: twice the work at each level, which a nested value makes
//! exponential. It also refuses small decimals. With the writer's schema at hand each branch follows from the types.

use apache_avro::{
    Decimal, Schema,
    schema::{EnumSchema, NamesRef, RecordSchema, UnionSchema},
    types::Value,
};

use super::{
    error::Fault,
    json,
    schema::{follow, type_name},
};

type Resolved = Result<Value, Box<Fault>>;

/// The named types of both sides.
pub(crate) struct Resolve<'a> {
    pub(crate) writer: &'a NamesRef<'a>,
    pub(crate) reader: &'a NamesRef<'a>,
}

impl Resolve<'_> {
    /// The value of schema `writer` as a value of schema `reader`.
    pub(crate) fn value(&self, value: Value, writer: &Schema, reader: &Schema) -> Resolved {
        let (writer, reader) = (follow(writer, self.writer), follow(reader, self.reader));
        match (value, writer, reader) {
            (Value::Union(branch, value), Schema::Union(union), _) => {
                let branch = usize::try_from(branch).ok().and_then(|branch| union.variants().get(branch));
                let branch = branch.ok_or_else(|| Fault::new("a union's branch is none of its schema's"))?;
                self.value(*value, branch, reader)
            }
            (value, _, Schema::Union(union)) => self.branch(value, writer, union),
            (Value::Record(fields), Schema::Record(writer), Schema::Record(reader)) => {
                self.record(fields, writer, reader)
            }
            (Value::Array(items), Schema::Array(writer), Schema::Array(reader)) => {
                let items = items.into_iter().map(|item| self.value(item, &writer.items, &reader.items));
                Ok(Value::Array(items.collect::<Result<_, _>>()?))
            }
            (Value::Map(items), Schema::Map(writer), Schema::Map(reader)) => {
                let item = |(key, item)| Ok((key, self.value(item, &writer.types, &reader.types)?));
                Ok(Value::Map(items.into_iter().map(item).collect::<Result<_, Box<Fault>>>()?))
            }
            (Value::Enum(_, symbol), Schema::Enum(_), Schema::Enum(reader)) => symbol_of(symbol, reader),
            (value, writer, reader) => leaf(value, writer, reader, self.reader),
        }
    }

    fn record(&self, fields: Vec<(String, Value)>, writer: &RecordSchema, reader: &RecordSchema) -> Resolved {
        let mut written: Vec<Option<Value>> = fields.into_iter().map(|(_, value)| Some(value)).collect();
        let mut fields = Vec::with_capacity(reader.fields.len());
        for field in &reader.fields {
            let mut names = std::iter::once(&field.name).chain(&field.aliases);
            let found = names.find_map(|name| {
                let place = *writer.lookup.get(name)?;
                Some((written.get_mut(place)?.take()?, place))
            });
            let value = match found {
                Some((value, place)) => self.value(value, &writer.fields[place].schema, &field.schema),
                None => match &field.default {
                    Some(default) => json::default(default, &field.schema, self.reader),
                    None => Err(Fault::new("missing, and the reader's schema has no default for it")),
                },
            };
            fields.push((field.name.clone(), value.map_err(|fault| fault.within(&field.name))?));
        }
        Ok(Value::Record(fields))
    }

    /// The reader's branch for a value: of the same type and name, else of the same type, else one it is promoted to.
    fn branch(&self, value: Value, writer: &Schema, union: &UnionSchema) -> Resolved {
        let variants = || union.variants().iter().map(|variant| follow(variant, self.reader));
        let found = variants()
            .position(|reader| same_kind(writer, reader) && simple_name(writer) == simple_name(reader))
            .or_else(|| variants().position(|reader| same_kind(writer, reader)))
            .or_else(|| variants().position(|reader| leaf(value.clone(), writer, reader, self.reader).is_ok()));
        let Some(place) = found else {
            return Err(Fault::new(format!("the reader's union has no branch for {}", type_name(writer))));
        };
        let inner = self.value(value, writer, &union.variants()[place])?;
        Ok(Value::Union(u32::try_from(place).unwrap_or(u32::MAX), Box::new(inner)))
    }
}

fn symbol_of(symbol: String, reader: &EnumSchema) -> Resolved {
    let place = |symbol: &String| reader.symbols.iter().position(|s| s == symbol);
    let chosen = match place(&symbol) {
        Some(place) => Some((place, symbol)),
        None => reader.default.clone().and_then(|default| Some((place(&default)?, default))),
    };
    match chosen {
        Some((place, symbol)) => Ok(Value::Enum(u32::try_from(place).unwrap_or(u32::MAX), symbol)),
        None => Err(Fault::new("the reader's enum has neither the written symbol nor a default")),
    }
}

/// What holds no other value: the same type, or a promotion.
fn leaf(value: Value, writer: &Schema, reader: &Schema, names: &NamesRef<'_>) -> Resolved {
    let mismatch =
        || Fault::new(format!("expected {}, the writer's schema has {}", type_name(reader), type_name(writer)));
    if let (Schema::Decimal(w), Schema::Decimal(r)) = (writer, reader)
        && w.scale != r.scale
    {
        // The same bytes would be another amount.
        return Err(Fault::new(format!(
            "expected a decimal of scale {}, the writer's schema has {}",
            r.scale, w.scale
        )));
    }
    match (value, reader) {
        (_, Schema::Record(_) | Schema::Array(_) | Schema::Map(_) | Schema::Ref { .. }) => Err(mismatch()),
        (value @ Value::Decimal(_), Schema::Decimal(_)) => Ok(value),
        (Value::Bytes(bytes) | Value::Fixed(_, bytes), Schema::Decimal(_)) => Ok(Value::Decimal(Decimal::from(bytes))),
        (value, _) => plain(value, reader).resolve_with_names(reader, names).map_err(|_| mismatch()),
    }
}

/// Takes the logical type off a value whose reader has none: the specification resolves the types below.
fn plain(value: Value, reader: &Schema) -> Value {
    match (value, base(reader)) {
        (
            Value::TimeMicros(n)
            | Value::TimestampMillis(n)
            | Value::TimestampMicros(n)
            | Value::TimestampNanos(n)
            | Value::LocalTimestampMillis(n)
            | Value::LocalTimestampMicros(n)
            | Value::LocalTimestampNanos(n),
            _,
        ) if is_number(reader) => Value::Long(n),
        (Value::Date(n) | Value::TimeMillis(n), _) if is_number(reader) => Value::Int(n),
        (Value::Uuid(uuid), Base::Text) => Value::String(uuid.to_string()),
        (value, _) => value,
    }
}

fn is_number(schema: &Schema) -> bool {
    matches!(schema, Schema::Int | Schema::Long | Schema::Float | Schema::Double)
}

/// A type without its logical type.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Base {
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
    Fixed,
    Other,
}

fn base(schema: &Schema) -> Base {
    use apache_avro::schema::{InnerDecimalSchema, UuidSchema};
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
        Schema::Fixed(_) | Schema::Duration(_) | Schema::Uuid(UuidSchema::Fixed(_)) => Base::Fixed,
        Schema::Decimal(decimal) => match decimal.inner {
            InnerDecimalSchema::Bytes => Base::Bytes,
            InnerDecimalSchema::Fixed(_) => Base::Fixed,
        },
        Schema::Union(_) | Schema::Ref { .. } => Base::Other,
    }
}

fn same_kind(writer: &Schema, reader: &Schema) -> bool {
    base(writer) == base(reader)
}

fn simple_name(schema: &Schema) -> Option<&str> {
    schema.name().map(apache_avro::schema::Name::name)
}
