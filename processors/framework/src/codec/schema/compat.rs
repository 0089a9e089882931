//! Whether one schema can read what another wrote: as a registry decides it, or as this codec reads.
//!
//! To a registry a logical type is what it is written as. The codec tells two of them apart, and decimals by their scale.

use std::collections::HashSet;

use apache_avro::{
    Schema,
    schema::{Name, NamesRef, RecordField, RecordSchema, ResolvedSchema},
};

use super::{follow, type_name};
use crate::codec::{
    avro::promotion::{base, promotes, takes},
    error::schema_cause,
};

/// Whether a registry lets `reader` read everything that `writer` writes.
///
/// # Errors
/// What it cannot read, with the field that is to blame.
pub fn can_read(writer: &Schema, reader: &Schema) -> Result<(), String> {
    walk(writer, reader, |writer, reader| {
        let (from, to) = (base(writer), base(reader));
        if from == to || promotes(from, to) { Ok(()) } else { Err(cannot(writer, reader)) }
    })
}

/// Whether this codec reads everything that `writer` writes as `reader`.
pub(crate) fn reads(writer: &Schema, reader: &Schema) -> Result<(), String> {
    walk(writer, reader, |writer, reader| takes(writer, reader).map_err(|fault| fault.to_string()))
}

type Leaf = fn(&Schema, &Schema) -> Result<(), String>;

fn walk(writer: &Schema, reader: &Schema, leaf: Leaf) -> Result<(), String> {
    let names = |schema| ResolvedSchema::new(schema).map_err(|error| schema_cause(&error));
    let (writes, reads) = (names(writer)?, names(reader)?);
    let mut walk = Walk { writer: writes.get_names(), reader: reads.get_names(), leaf, open: HashSet::new() };
    let verdict = walk.types(writer, reader);
    verdict.map_err(|(path, why)| if path.is_empty() { why } else { format!("field `{path}`: {why}") })
}

/// Two schemas under comparison.
struct Walk<'a> {
    writer: &'a NamesRef<'a>,
    reader: &'a NamesRef<'a>,
    /// What says whether a type without parts can be read as another.
    leaf: Leaf,
    /// Pairs of records under comparison: a recursive type can be read if the rest of it can.
    open: HashSet<(Name, Name)>,
}

/// The path to the field that cannot be read, and why.
type Verdict = Result<(), (String, String)>;

impl Walk<'_> {
    fn types(&mut self, writer: &Schema, reader: &Schema) -> Verdict {
        let (writer, reader) = (follow(writer, self.writer), follow(reader, self.reader));
        match (writer, reader) {
            (Schema::Union(union), _) => union.variants().iter().try_for_each(|one| self.types(one, reader)),
            (_, Schema::Union(union)) => {
                let mut first = None;
                for one in union.variants() {
                    match self.types(writer, one) {
                        Ok(()) => return Ok(()),
                        Err(why) => _ = first.get_or_insert(why),
                    }
                }
                Err(first
                    .filter(|_| union.variants().len() == 1)
                    .unwrap_or_else(|| (String::new(), cannot(writer, reader))))
            }
            (Schema::Array(w), Schema::Array(r)) => self.types(&w.items, &r.items),
            (Schema::Map(w), Schema::Map(r)) => self.types(&w.types, &r.types),
            (Schema::Record(w), Schema::Record(r)) => self.records(w, r),
            (Schema::Enum(w), Schema::Enum(r)) => {
                let unknown = w.symbols.iter().find(|symbol| !r.symbols.contains(symbol));
                match unknown {
                    _ if !same_name(&w.name, &r.name, r.aliases.as_deref()) => Err(cannot_name(&w.name, &r.name)),
                    Some(symbol) if r.default.is_none() => {
                        Err((String::new(), format!("the enum {} does not have the symbol {symbol}", r.name.name())))
                    }
                    _ => Ok(()),
                }
            }
            _ => (self.leaf)(writer, reader).map_err(|why| (String::new(), why)),
        }
    }

    fn records(&mut self, writer: &RecordSchema, reader: &RecordSchema) -> Verdict {
        if !same_name(&writer.name, &reader.name, reader.aliases.as_deref()) {
            return Err(cannot_name(&writer.name, &reader.name));
        }
        if !self.open.insert((writer.name.clone(), reader.name.clone())) {
            return Ok(());
        }
        let verdict = reader.fields.iter().try_for_each(|field| {
            let read = match written(writer, field) {
                Some(from) => self.types(&from.schema, &field.schema),
                None if field.default.is_some() => Ok(()),
                None => Err((String::new(), "it is not there, and has no default".to_owned())),
            };
            read.map_err(|(path, why)| {
                (if path.is_empty() { field.name.clone() } else { format!("{}.{path}", field.name) }, why)
            })
        });
        if verdict.is_err() {
            // Another branch of a union may come to it again.
            self.open.remove(&(writer.name.clone(), reader.name.clone()));
        }
        verdict
    }
}

/// The writer's field that a reader's field reads: by its name, else by one of its aliases.
fn written<'w>(writer: &'w RecordSchema, field: &RecordField) -> Option<&'w RecordField> {
    let names = std::iter::once(&field.name).chain(&field.aliases);
    names.into_iter().find_map(|name| writer.fields.iter().find(|other| &other.name == name))
}

/// Named types are compared without their namespaces.
fn same_name(writer: &Name, reader: &Name, aliases: Option<&[apache_avro::schema::Alias]>) -> bool {
    writer.name() == reader.name() || aliases.into_iter().flatten().any(|alias| alias.name() == writer.name())
}

fn cannot(writer: &Schema, reader: &Schema) -> String {
    format!("{} cannot be read as {}", type_name(writer), type_name(reader))
}

fn cannot_name(writer: &Name, reader: &Name) -> (String, String) {
    (String::new(), format!("{} is another type than {}", writer.name(), reader.name()))
}
