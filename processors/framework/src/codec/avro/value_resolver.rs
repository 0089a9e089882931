//! Schema resolution: a value as it was written becomes the value that a reader's schema asks for.
//!
//! The rules are the Avro specification's ("Schema Resolution"), but that a record, enum or fixed need not be called as the
//! reader calls it: a foreign producer names its types in its own way, and names count only to tell a union's branches
//! apart. apache-avro's own `Value::resolve` knows the reader's schema only. So it finds a union's branch by trying, twice
//! the work at each level, which a nested value makes exponential; and it takes what the value allows instead of the types:
//! a fixed for a string, a double for a float, a long for an int where it fits. With the writer's schema at hand all follows
//! from the types.

use apache_avro::{
    Schema,
    schema::{EnumSchema, NamesRef, RecordSchema, UnionSchema},
    types::Value,
};

use super::promotion::{NameMatch, base, name_match, promote, takes};
use crate::codec::{
    error::FieldError,
    json,
    schema::{follow, type_name},
};

type Resolved = Result<Value, Box<FieldError>>;

/// The named types of both sides.
pub(crate) struct ValueResolver<'a> {
    pub(crate) writer: &'a NamesRef<'a>,
    pub(crate) reader: &'a NamesRef<'a>,
}

impl ValueResolver<'_> {
    /// The value of schema `writer` as a value of schema `reader`.
    pub(crate) fn value(&self, value: Value, writer: &Schema, reader: &Schema) -> Resolved {
        let (writer, reader) = (follow(writer, self.writer), follow(reader, self.reader));
        match (value, writer, reader) {
            (Value::Union(branch, value), Schema::Union(union), _) => {
                let branch = usize::try_from(branch).ok().and_then(|branch| union.variants().get(branch));
                let branch = branch.ok_or_else(|| FieldError::new("a union's branch is none of its schema's"))?;
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
                Ok(Value::Map(items.into_iter().map(item).collect::<Result<_, Box<FieldError>>>()?))
            }
            (Value::Enum(_, symbol), Schema::Enum(_), Schema::Enum(reader)) => symbol_of(symbol, reader),
            (value, writer, reader) => {
                takes(writer, reader)?;
                promote(value, writer, reader)
            }
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
                    None => Err(FieldError::new("missing, and the reader's schema has no default for it")),
                },
            };
            fields.push((field.name.clone(), value.map_err(|fault| fault.within(&field.name))?));
        }
        Ok(Value::Record(fields))
    }

    /// The reader's branch for a value: of the same type and name, else of the same type, else the first one that it is
    /// promoted to. Among several of the same type only a name can tell.
    fn branch(&self, value: Value, writer: &Schema, union: &UnionSchema) -> Resolved {
        let variants = || union.variants().iter().map(|variant| follow(variant, self.reader)).enumerate();
        let takers = || variants().filter(|(_, reader)| takes(writer, reader).is_ok());
        let alike = |by: NameMatch| {
            let same = |reader: &Schema| std::mem::discriminant(writer) == std::mem::discriminant(reader);
            takers().find(|(_, reader)| same(reader) && name_match(writer, reader) == by)
        };
        let kin = || variants().filter(|(_, reader)| base(writer) == base(reader));
        let found = alike(NameMatch::Alike)
            .or_else(|| alike(NameMatch::Simply))
            .or_else(|| takers().find(|(_, reader)| base(writer) == base(reader) && kin().nth(1).is_none()))
            .or_else(|| takers().find(|(_, reader)| base(writer) != base(reader)))
            .map(|(place, _)| place);
        let Some(place) = found else {
            return Err(FieldError::new(format!("the reader's union has no branch for {}", type_name(writer))));
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
        None => Err(FieldError::new("the reader's enum has neither the written symbol nor a default")),
    }
}
