//! A schema that lives as long as the process, with its names resolved.

pub(crate) mod comparison;
pub(crate) mod compat;
pub(crate) mod lenient;

use std::collections::{HashMap, HashSet};

use apache_avro::{
    Schema,
    schema::{Name, NamesRef, ResolvedSchema, UnionSchema},
};

use self::lenient::RewrittenSchema;
use super::error::schema_cause;

/// A schema and the named types in it. Readers borrow both, so they are leaked: schema ids and payload types are bounded.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StaticSchema {
    pub(crate) schema: &'static Schema,
    pub(crate) resolved: &'static ResolvedSchema<'static>,
}

impl StaticSchema {
    /// Parses a schema; `references` are the schemas that it refers to by name, dependencies first.
    pub(crate) fn parse(text: &str, references: &[String]) -> Result<Self, String> {
        Self::of(parsed(text, references)?, &HashMap::new())
    }

    /// The same of a schema that somebody else has written with, who may be less strict; and what had to be renamed for it,
    /// by its new name.
    pub(crate) fn parse_leniently(
        text: &str,
        references: &[String],
    ) -> Result<(Self, HashMap<String, String>), String> {
        let why = match Self::parse(text, references) {
            Ok(leaked) => return Ok((leaked, HashMap::new())),
            Err(why) => why,
        };
        let is_taken = |schema: &RewrittenSchema| parsed(&schema.text, &schema.references).is_ok();
        if let Some(RewrittenSchema { text, references, names, .. }) = lenient::rewrite(text, references, is_taken)
            && let Ok(schema) = parsed(&text, &references)
            && let Ok(leaked) = Self::of(schema, &names)
        {
            return Ok((leaked, names));
        }
        Err(why)
    }

    /// Keeps a schema that defines every type it names.
    pub(crate) fn of(mut schema: Schema, names: &HashMap<String, String>) -> Result<Self, String> {
        tidy(&mut schema, names)?;
        // Checked before the leak, so that a wrong schema leaks nothing.
        ResolvedSchema::new(&schema).map_err(|e| schema_cause(&e))?;
        let schema: &'static Schema = Box::leak(Box::new(schema));
        let resolved = ResolvedSchema::new(schema).map_err(|e| schema_cause(&e))?;
        Ok(Self { schema, resolved: Box::leak(Box::new(resolved)) })
    }

    /// The branches of a union, each with all that it refers to; none of any other schema.
    pub(crate) fn branches(&self) -> Result<Vec<Schema>, String> {
        let Schema::Union(union) = self.schema else { return Ok(Vec::new()) };
        let whole = |branch: &Schema| {
            let (mut branch, mut inline) = (branch.clone(), Inline::default());
            inline.define(self.schema);
            inline.walk(&mut branch)?;
            Ok(branch)
        };
        union.variants().iter().map(whole).collect()
    }

    pub(crate) fn names(&self) -> &'static NamesRef<'static> {
        self.resolved.get_names()
    }
}

fn parsed(text: &str, references: &[String]) -> Result<Schema, String> {
    if references.is_empty() {
        return Schema::parse_str(text).map_err(|e| schema_cause(&e));
    }
    let (mut schema, others) = Schema::parse_str_with_list(text, references).map_err(|e| schema_cause(&e))?;
    let mut inline = Inline::default();
    others.iter().for_each(|other| inline.define(other));
    inline.walk(&mut schema)?;
    Ok(schema)
}

/// Follows a reference to the type it names; a name that is nowhere stays a reference, which nothing matches.
pub(crate) fn follow<'s>(schema: &'s Schema, names: &'s NamesRef<'_>) -> &'s Schema {
    match schema {
        Schema::Ref { name } => names.get(name).copied().unwrap_or(schema),
        other => other,
    }
}

/// Makes a schema whole: the first mention of a referenced type becomes its definition.
#[derive(Default)]
struct Inline {
    definitions: HashMap<Name, Schema>,
    defined: HashSet<Name>,
}

impl Inline {
    fn define(&mut self, schema: &Schema) {
        if let Some(name) = definition(schema) {
            self.definitions.entry(name.clone()).or_insert_with(|| schema.clone());
        }
        match schema {
            Schema::Record(record) => record.fields.iter().for_each(|field| self.define(&field.schema)),
            Schema::Array(array) => self.define(&array.items),
            Schema::Map(map) => self.define(&map.types),
            Schema::Union(union) => union.variants().iter().for_each(|variant| self.define(variant)),
            _ => {}
        }
    }

    fn walk(&mut self, schema: &mut Schema) -> Result<(), String> {
        if let Schema::Ref { name } = schema
            && !self.defined.contains(name)
            && let Some(found) = self.definitions.get(name)
        {
            *schema = found.clone();
        }
        if let Some(name) = definition(schema).cloned()
            && !self.defined.insert(name.clone())
        {
            *schema = Schema::Ref { name };
        }
        match schema {
            Schema::Record(record) => record.fields.iter_mut().try_for_each(|field| self.walk(&mut field.schema)),
            Schema::Array(array) => self.walk(&mut array.items),
            Schema::Map(map) => self.walk(&mut map.types),
            Schema::Union(union) => {
                let mut variants = union.variants().to_vec();
                variants.iter_mut().try_for_each(|variant| self.walk(variant))?;
                *union = UnionSchema::new(variants).map_err(|e| schema_cause(&e))?;
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

/// Gives fields their own names back, and has each record find them by those alone. apache-avro also finds them by their aliases, which is for readers
/// to say of what others wrote: a writer's own would stand for a field that it does not have.
fn tidy(schema: &mut Schema, names: &HashMap<String, String>) -> Result<(), String> {
    lenient::restore(schema, names);
    match schema {
        Schema::Record(record) => {
            record.lookup = record.fields.iter().enumerate().map(|(n, field)| (field.name.clone(), n)).collect();
            record.fields.iter_mut().try_for_each(|field| tidy(&mut field.schema, names))
        }
        Schema::Array(array) => tidy(&mut array.items, names),
        Schema::Map(map) => tidy(&mut map.types, names),
        Schema::Union(union) => {
            let mut variants = union.variants().to_vec();
            variants.iter_mut().try_for_each(|variant| tidy(variant, names))?;
            *union = UnionSchema::new(variants).map_err(|e| schema_cause(&e))?;
            Ok(())
        }
        _ => Ok(()),
    }
}

/// The name that a schema defines; none for a reference.
fn definition(schema: &Schema) -> Option<&Name> {
    match schema {
        Schema::Ref { .. } => None,
        other => other.name(),
    }
}

/// What the schema language calls a type.
pub(crate) fn type_name(schema: &Schema) -> &'static str {
    match schema {
        Schema::Null => "null",
        Schema::Boolean => "boolean",
        Schema::Int => "int",
        Schema::Long => "long",
        Schema::Float => "float",
        Schema::Double => "double",
        Schema::Bytes => "bytes",
        Schema::String => "string",
        Schema::Array(_) => "array",
        Schema::Map(_) => "map",
        Schema::Union(_) => "union",
        Schema::Record(_) => "record",
        Schema::Enum(_) => "enum",
        Schema::Fixed(_) => "fixed",
        Schema::Decimal(_) => "decimal",
        Schema::BigDecimal => "big-decimal",
        Schema::Uuid(_) => "uuid",
        Schema::Date => "date",
        Schema::TimeMillis => "time-millis",
        Schema::TimeMicros => "time-micros",
        Schema::TimestampMillis => "timestamp-millis",
        Schema::TimestampMicros => "timestamp-micros",
        Schema::TimestampNanos => "timestamp-nanos",
        Schema::LocalTimestampMillis => "local-timestamp-millis",
        Schema::LocalTimestampMicros => "local-timestamp-micros",
        Schema::LocalTimestampNanos => "local-timestamp-nanos",
        Schema::Duration(_) => "duration",
        Schema::Ref { .. } => "an unknown type",
    }
}
