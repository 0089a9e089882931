//! Whether one schema can read what another wrote, with the field that is to blame when it cannot.
//!
//! The check through records, unions and named types is ours, because apache-avro's `SchemaCompatibility` names only the
//! outermost field, takes "can sometimes be read" (a union or enum that overlaps in part) for an answer of its own
//! where the registry must refuse, and does not resolve a named type that one schema defines in place and the other
//! refers to. The rules of the other types are asked of it.

use std::collections::{HashMap, HashSet};

use apache_avro::Schema;
use apache_avro::schema::{Name, NamesRef, RecordField, RecordSchema, ResolvedSchema, SchemaKind};
use apache_avro::schema_compatibility::{Compatibility, SchemaCompatibility};
use serde::{Deserialize, Serialize};

use super::schema::ParsedSchema;

/// What a subject demands of a new schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub(crate) enum Level {
    /// Nothing.
    None,
    /// The new one reads what the last one wrote.
    #[default]
    Backward,
    /// The new one reads what every earlier one wrote.
    BackwardTransitive,
    /// The last one reads what the new one writes.
    Forward,
    /// Every earlier one reads what the new one writes.
    ForwardTransitive,
    /// Both, with the last one.
    Full,
    /// Both, with every earlier one.
    FullTransitive,
}

impl Level {
    /// Whether earlier versions than the last count.
    pub(crate) fn is_transitive(self) -> bool {
        matches!(self, Self::BackwardTransitive | Self::ForwardTransitive | Self::FullTransitive)
    }

    /// Checks a new schema against an old one.
    ///
    /// # Errors
    /// The reason, which names the field.
    pub(crate) fn check(self, new: &ParsedSchema, old: &ParsedSchema) -> Result<(), String> {
        let backward = matches!(self, Self::Backward | Self::BackwardTransitive | Self::Full | Self::FullTransitive);
        let forward = matches!(self, Self::Forward | Self::ForwardTransitive | Self::Full | Self::FullTransitive);
        if backward {
            can_read(old, new).map_err(|why| format!("the new schema cannot read what the old one wrote: {why}"))?;
        }
        if forward {
            can_read(new, old).map_err(|why| format!("the old schema cannot read what the new one writes: {why}"))?;
        }
        Ok(())
    }
}

/// Whether `reader` reads everything that `writer` can write.
fn can_read(writer: &ParsedSchema, reader: &ParsedSchema) -> Result<(), String> {
    let (of_writer, of_reader) = (resolve(writer)?, resolve(reader)?);
    let mut check =
        CompatibilityCheck { writer: of_writer.get_names(), reader: of_reader.get_names(), seen: HashSet::new() };
    check.schema(&writer.root, &reader.root, "")
}

fn resolve(schema: &ParsedSchema) -> Result<ResolvedSchema<'_>, String> {
    let all = schema.others.iter().chain(std::iter::once(&schema.root)).collect();
    ResolvedSchema::new_with_schemata(all).map_err(|error| error.to_string())
}

struct CompatibilityCheck<'a> {
    writer: &'a NamesRef<'a>,
    reader: &'a NamesRef<'a>,
    /// Pairs of records that are being walked, or were found to match: a recursive type comes back to them.
    seen: HashSet<(Name, Name)>,
}

type Verdict = Result<(), String>;

impl<'a> CompatibilityCheck<'a> {
    /// `path` leads to the place: `customer.address`, empty at the root.
    fn schema(&mut self, writer: &'a Schema, reader: &'a Schema, path: &str) -> Verdict {
        let (writer, reader) = (deref(self.writer, writer)?, deref(self.reader, reader)?);
        match (writer, reader) {
            (Schema::Union(writer), _) => writer.variants().iter().try_for_each(|one| self.schema(one, reader, path)),
            (_, Schema::Union(union)) => {
                let mut whys = Vec::new();
                for one in union.variants() {
                    match self.schema(writer, one, path) {
                        Ok(()) => return Ok(()),
                        // Only of a branch of the same kind is it worth knowing why.
                        Err(why) if kind(deref(self.reader, one)?) == kind(writer) => whys.push(why),
                        Err(_) => {}
                    }
                }
                Err(whys
                    .pop()
                    .unwrap_or_else(|| format!("{} no branch of the reader's union reads {}", at(path), kind(writer))))
            }
            (Schema::Record(writer), Schema::Record(reader)) => self.record(writer, reader, path),
            (Schema::Array(writer), Schema::Array(reader)) => {
                self.schema(&writer.items, &reader.items, &format!("{path}[]"))
            }
            (Schema::Map(writer), Schema::Map(reader)) => {
                self.schema(&writer.types, &reader.types, &format!("{path}{{}}"))
            }
            (Schema::Enum(writer), Schema::Enum(reader)) => {
                same_name(&writer.name, &reader.name, reader.aliases.as_deref(), path)?;
                match writer.symbols.iter().find(|symbol| !reader.symbols.contains(symbol)) {
                    Some(symbol) if reader.default.is_none() => Err(format!(
                        "{} the reader's enum {} has neither symbol {symbol} nor a default",
                        at(path),
                        reader.name.name()
                    )),
                    _ => Ok(()),
                }
            }
            _ => match SchemaCompatibility::can_read(writer, reader) {
                Ok(Compatibility::Full) => Ok(()),
                _ => Err(format!("{} {} cannot be read as {}", at(path), kind(writer), kind(reader))),
            },
        }
    }

    fn record(&mut self, writer: &'a RecordSchema, reader: &'a RecordSchema, path: &str) -> Verdict {
        same_name(&writer.name, &reader.name, reader.aliases.as_deref(), path)?;
        let pair = (writer.name.clone(), reader.name.clone());
        if !self.seen.insert(pair.clone()) {
            return Ok(());
        }
        let verdict = reader.fields.iter().try_for_each(|field| {
            let path = if path.is_empty() { field.name.clone() } else { format!("{path}.{}", field.name) };
            match written(writer, field) {
                Some(from) => self.schema(&from.schema, &field.schema, &path),
                None if field.default.is_some() => Ok(()),
                None => Err(format!("field `{path}` is not in the writer's schema and has no default")),
            }
        });
        if verdict.is_err() {
            self.seen.remove(&pair);
        }
        verdict
    }
}

/// The writer's field that a reader's field reads: by name, else by the reader's aliases.
fn written<'w>(writer: &'w RecordSchema, field: &RecordField) -> Option<&'w RecordField> {
    let names = std::iter::once(&field.name).chain(&field.aliases);
    names.into_iter().find_map(|name| writer.fields.iter().find(|other| &other.name == name))
}

fn deref<'a>(names: &HashMap<Name, &'a Schema>, schema: &'a Schema) -> Result<&'a Schema, String> {
    match schema {
        Schema::Ref { name } => {
            names.get(name).copied().ok_or_else(|| format!("type {} is not known", name.fullname(None)))
        }
        _ => Ok(schema),
    }
}

/// Avro compares the names of named types without their namespaces.
fn same_name(writer: &Name, reader: &Name, aliases: Option<&[apache_avro::schema::Alias]>, path: &str) -> Verdict {
    let known_as = aliases.into_iter().flatten().any(|alias| alias.name() == writer.name());
    if writer.name() == reader.name() || known_as {
        return Ok(());
    }
    Err(format!("{} type {} was written and type {} is to be read", at(path), writer.name(), reader.name()))
}

fn at(path: &str) -> String {
    if path.is_empty() { "at the root".to_owned() } else { format!("field `{path}`:") }
}

fn kind(schema: &Schema) -> String {
    format!("{:?}", SchemaKind::from(schema)).to_lowercase()
}

#[cfg(test)]
mod tests;
