//! What a writer schema means for a table: its fields as columns, worked out once per schema.

use std::collections::HashMap;

use apache_avro::{
    Schema,
    schema::{InnerDecimalSchema, NamespaceRef, UuidSchema},
};

use headwater::spi::codec::WriterSchema;

use super::types::SqlType;
use crate::postgres::error::PostgresError;

/// A writer schema's fields as columns.
#[derive(Debug, Default)]
pub(crate) struct Layout {
    /// The schema's id in the registry. Under one id a union of records has a layout for each of them.
    pub(crate) id: u32,
    /// What tells the schema from any other, the id in the registry with it.
    pub(crate) key: (u32, u32),
    pub(crate) fields: Vec<Field>,
    /// The columns' names, sorted: rows whose sets are equal share a statement.
    pub(crate) column_set: Vec<String>,
    shapes: HashMap<String, Shape>,
}

/// One field, and so one column.
#[derive(Debug)]
pub(crate) struct Field {
    pub(crate) name: String,
    pub(crate) sql: SqlType,
    pub(crate) nullable: bool,
    /// Whether a later schema may leave the field out: compatible schemas only lose fields with defaults.
    pub(crate) has_default: bool,
    pub(crate) shape: Shape,
}

/// What of a schema is needed to write a value as JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// The value says everything.
    Plain,
    /// Digits after the point.
    Decimal(usize),
    Items(Box<Shape>),
    Fields(Vec<Shape>),
    Branches(Vec<Shape>),
    /// A named type, kept once because it may hold itself.
    Named(String),
}

impl Layout {
    /// # Errors
    /// [`PostgresError::Refused`] for a schema that is no record, has no fields, or names a type that it does not define.
    pub(crate) fn of(schema: &WriterSchema) -> Result<Self, PostgresError> {
        let (id, key, schema) = (schema.id(), schema.key(), schema.schema());
        let mut names = Names { id, types: HashMap::new(), shapes: HashMap::new() };
        let Schema::Record(record) = schema else {
            return Err(PostgresError::Refused(format!("schema {id} is no record, and a row needs fields")));
        };
        let name = record.name.fully_qualified_name(None);
        names.types.insert(name.fullname(None), SqlType::Jsonb);
        let mut fields = Vec::with_capacity(record.fields.len());
        for field in &record.fields {
            let ColumnShape { sql, nullable, shape } = names.visit(&field.schema, name.namespace())?;
            let has_default = field.default.is_some();
            fields.push(Field { name: field.name.clone(), sql, nullable, has_default, shape });
        }
        names.shapes.insert(name.fullname(None), Shape::Fields(fields.iter().map(|f| f.shape.clone()).collect()));
        if fields.is_empty() {
            return Err(PostgresError::Refused(format!("schema {id} has no fields, and a row needs some")));
        }
        let mut column_set: Vec<String> = fields.iter().map(|f| f.name.clone()).collect();
        column_set.sort_unstable();
        Ok(Self { id, key, fields, column_set, shapes: names.shapes })
    }

    /// Whether it stands for no schema at all, as where nothing but tombstones was read.
    pub(crate) fn is_none(&self) -> bool {
        self.fields.is_empty()
    }

    /// Looks a named shape up.
    pub(crate) fn resolve<'a>(&'a self, shape: &'a Shape) -> &'a Shape {
        match shape {
            Shape::Named(name) => self.shapes.get(name).unwrap_or(&Shape::Plain),
            other => other,
        }
    }

    /// The position of a field.
    pub(crate) fn position(&self, name: &str) -> Option<usize> {
        self.fields.iter().position(|f| f.name == name)
    }
}

struct Names {
    id: u32,
    types: HashMap<String, SqlType>,
    shapes: HashMap<String, Shape>,
}

struct ColumnShape {
    sql: SqlType,
    nullable: bool,
    shape: Shape,
}

impl Names {
    fn visit(&mut self, schema: &Schema, namespace: NamespaceRef<'_>) -> Result<ColumnShape, PostgresError> {
        let (sql, shape) = match schema {
            Schema::Null => return Ok(ColumnShape { sql: SqlType::Text, nullable: true, shape: Shape::Plain }),
            Schema::Union(union) => return self.visit_union(union.variants(), namespace),
            Schema::Record(record) => {
                let name = record.name.fully_qualified_name(namespace);
                self.types.insert(name.fullname(None), SqlType::Jsonb);
                let mut shapes = Vec::with_capacity(record.fields.len());
                for field in &record.fields {
                    shapes.push(self.visit(&field.schema, name.namespace())?.shape);
                }
                self.shapes.insert(name.fullname(None), Shape::Fields(shapes));
                (SqlType::Jsonb, Shape::Named(name.fullname(None)))
            }
            Schema::Array(array) => {
                (SqlType::Jsonb, Shape::Items(Box::new(self.visit(&array.items, namespace)?.shape)))
            }
            Schema::Map(map) => (SqlType::Jsonb, Shape::Items(Box::new(self.visit(&map.types, namespace)?.shape))),
            Schema::Ref { name } => {
                let name = name.fully_qualified_name(namespace).fullname(None);
                let sql = self.types.get(&name).copied().ok_or_else(|| {
                    PostgresError::Refused(format!(
                        "schema {} names the type {name}, which it does not define",
                        self.id
                    ))
                })?;
                (sql, Shape::Named(name))
            }
            leaf => self.visit_leaf(leaf, namespace),
        };
        Ok(ColumnShape { sql, nullable: false, shape })
    }

    fn visit_union(&mut self, variants: &[Schema], namespace: NamespaceRef<'_>) -> Result<ColumnShape, PostgresError> {
        let mut shapes = Vec::with_capacity(variants.len());
        let mut types = Vec::new();
        for variant in variants {
            let visited = self.visit(variant, namespace)?;
            if !matches!(variant, Schema::Null) {
                types.push(visited.sql);
            }
            shapes.push(visited.shape);
        }
        let sql = match types[..] {
            [] => SqlType::Text,
            [one] => one,
            _ => SqlType::Jsonb,
        };
        Ok(ColumnShape { sql, nullable: types.len() < variants.len(), shape: Shape::Branches(shapes) })
    }

    fn visit_leaf(&mut self, schema: &Schema, namespace: NamespaceRef<'_>) -> (SqlType, Shape) {
        let (sql, shape) = match schema {
            Schema::Boolean => (SqlType::Bool, Shape::Plain),
            Schema::Int => (SqlType::Int4, Shape::Plain),
            Schema::Long => (SqlType::Int8, Shape::Plain),
            Schema::Float => (SqlType::Float4, Shape::Plain),
            Schema::Double => (SqlType::Float8, Shape::Plain),
            Schema::Bytes | Schema::Fixed(_) => (SqlType::Bytea, Shape::Plain),
            Schema::Decimal(d) => (SqlType::decimal(d.precision, d.scale), Shape::Decimal(d.scale)),
            Schema::BigDecimal => (SqlType::Numeric(None), Shape::Plain),
            Schema::Uuid(_) => (SqlType::Uuid, Shape::Plain),
            Schema::Date => (SqlType::Date, Shape::Plain),
            Schema::TimeMillis | Schema::TimeMicros => (SqlType::Time, Shape::Plain),
            Schema::TimestampMillis | Schema::TimestampMicros | Schema::TimestampNanos => {
                (SqlType::TimestampTz, Shape::Plain)
            }
            Schema::LocalTimestampMillis | Schema::LocalTimestampMicros | Schema::LocalTimestampNanos => {
                (SqlType::Timestamp, Shape::Plain)
            }
            Schema::Duration(_) => (SqlType::Interval, Shape::Plain),
            // Strings and enums; the types that hold others were visited before.
            _ => (SqlType::Text, Shape::Plain),
        };
        let name = match schema {
            Schema::Enum(e) => Some(&e.name),
            Schema::Fixed(f) | Schema::Duration(f) | Schema::Uuid(UuidSchema::Fixed(f)) => Some(&f.name),
            Schema::Decimal(d) => match &d.inner {
                InnerDecimalSchema::Fixed(f) => Some(&f.name),
                InnerDecimalSchema::Bytes => None,
            },
            _ => None,
        };
        if let Some(name) = name {
            let name = name.fully_qualified_name(namespace).fullname(None);
            self.types.insert(name.clone(), sql);
            self.shapes.insert(name, shape.clone());
        }
        (sql, shape)
    }
}
