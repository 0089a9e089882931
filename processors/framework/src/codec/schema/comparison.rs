//! Whether data written with one schema can be decoded straight into a type that was written for another.

use std::collections::HashSet;

use apache_avro::{
    Schema,
    schema::{InnerDecimalSchema, Name, NamesRef, RecordSchema, UuidSchema},
};

use super::follow;

/// apache-avro's own attributes, which change how its direct decoder reads a record.
const DECODER_ATTRIBUTES: &str = "org.apache.avro.rust";

/// Compares a writer's and a reader's schema.
pub(crate) struct SchemaComparison<'a> {
    pub(crate) writer: &'a NamesRef<'a>,
    pub(crate) reader: &'a NamesRef<'a>,
    /// Pairs under comparison: a recursive type is the same if the rest of it is.
    pub(crate) open: HashSet<(Name, Name)>,
}

impl SchemaComparison<'_> {
    /// Whether every field of the reader is in the writer with the same type. The writer may have more.
    pub(crate) fn types(&mut self, writer: &Schema, reader: &Schema) -> bool {
        let (writer, reader) = (follow(writer, self.writer), follow(reader, self.reader));
        match (writer, reader) {
            (Schema::Array(w), Schema::Array(r)) => self.types(&w.items, &r.items),
            (Schema::Map(w), Schema::Map(r)) => self.types(&w.types, &r.types),
            (Schema::Union(w), Schema::Union(r)) => {
                let (w, r) = (w.variants(), r.variants());
                w.len() == r.len() && w.iter().zip(r).all(|(w, r)| self.types(w, r))
            }
            (Schema::Record(w), Schema::Record(r)) => self.records(w, r),
            (Schema::Enum(w), Schema::Enum(r)) => w.symbols == r.symbols,
            (Schema::Fixed(w), Schema::Fixed(r)) => w.size == r.size && w.name == r.name,
            (Schema::Decimal(w), Schema::Decimal(r)) => {
                w.precision == r.precision
                    && w.scale == r.scale
                    && match (&w.inner, &r.inner) {
                        (InnerDecimalSchema::Bytes, InnerDecimalSchema::Bytes) => true,
                        (InnerDecimalSchema::Fixed(w), InnerDecimalSchema::Fixed(r)) => w.size == r.size,
                        _ => false,
                    }
            }
            (Schema::Uuid(w), Schema::Uuid(r)) => matches!(
                (w, r),
                (UuidSchema::String, UuidSchema::String)
                    | (UuidSchema::Bytes, UuidSchema::Bytes)
                    | (UuidSchema::Fixed(_), UuidSchema::Fixed(_))
            ),
            (Schema::Ref { .. }, _) | (_, Schema::Ref { .. }) => false,
            (writer, reader) => std::mem::discriminant(writer) == std::mem::discriminant(reader),
        }
    }

    fn records(&mut self, writer: &RecordSchema, reader: &RecordSchema) -> bool {
        if writer.name.name() != reader.name.name() || !same_attributes(writer, reader) {
            return false;
        }
        if !self.open.insert((writer.name.clone(), reader.name.clone())) {
            return true;
        }
        let read = |name| reader.lookup.contains_key(name);
        if !writer.fields.iter().all(|field| read(&field.name) || self.skips(&field.schema)) {
            return false;
        }
        reader.fields.iter().all(|field| match writer.lookup.get(&field.name) {
            Some(&place) => self.types(&writer.fields[place].schema, &field.schema),
            None => false,
        })
    }

    /// Whether the direct decoder gets past a field that nobody reads: in 0.22 it fails at records and enums.
    fn skips(&self, writer: &Schema) -> bool {
        match follow(writer, self.writer) {
            Schema::Record(_) | Schema::Enum(_) => false,
            Schema::Array(array) => self.skips(&array.items),
            Schema::Map(map) => self.skips(&map.types),
            Schema::Union(union) => union.variants().iter().all(|variant| self.skips(variant)),
            _ => true,
        }
    }
}

fn same_attributes(writer: &RecordSchema, reader: &RecordSchema) -> bool {
    let decoder = |record: &'_ RecordSchema| -> Vec<_> {
        record
            .attributes
            .iter()
            .filter(|(key, _)| key.starts_with(DECODER_ATTRIBUTES))
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect()
    };
    decoder(writer) == decoder(reader)
}
