//! The shape of a schema's data, and a check that bytes have it before anything is built from them.
//!
//! apache-avro believes the lengths it reads: nine bytes can ask for half a gigabyte, a few more can recurse until the
//! stack ends, and an array of nulls can count to 2^63. Its `Value` decoder also reads a cut-off string as null.
//! So a datum is walked once first, without an allocation: lengths lie within the datum, nesting and the number of values
//! are bounded, and the datum ends where the value does. The walk costs a fifth of a direct decode. That decode alone goes
//! without it where the layout itself bounds what bytes can do, which nearly every event's does; then the walk comes after
//! a failure, to name the field.

use std::collections::HashMap;

use apache_avro::{
    Schema,
    schema::{InnerDecimalSchema, Name, UuidSchema},
};

use super::cursor::{Checked, Cursor};
use crate::codec::error::{CodecError, FieldError};

/// Values may nest this deep; each record, array, map and union is a level. The decoders recurse.
pub(crate) const DEPTH_LIMIT: usize = 128;
/// A value takes a byte or more, but for null, empty records and the like: their number is bounded by these two.
const VALUES_PER_BYTE: usize = 8;
const VALUES_AT_LEAST: usize = 16_384;
/// PostgreSQL's limit of digits after the point. A scale is eight bytes, and printing it out may take exabytes.
const SCALE_LIMIT: u64 = 16_383;

/// A schema, flattened: references are indices.
#[derive(Debug)]
pub(crate) struct Layout {
    nodes: Vec<Node>,
    root: usize,
    bounded: bool,
}

#[derive(Debug)]
enum Node {
    Null,
    Boolean,
    Int,
    Long,
    Fixed(usize),
    Bytes,
    BigDecimal,
    Enum(usize),
    Array(usize),
    Map(usize),
    Union(Box<[usize]>),
    Record(Box<[(usize, Box<str>)]>),
}

impl Layout {
    /// The layout of a schema that defines every type it names.
    pub(crate) fn new(schema: &Schema) -> Result<Self, String> {
        let mut builder = Builder { nodes: Vec::new(), named: HashMap::new() };
        let root = builder.add(schema)?;
        let nodes = builder.nodes;
        let bounded = Bounds { nodes: &nodes, known: vec![None; nodes.len()] }
            .of(root, 0)
            .is_some_and(|bound| bound.values <= VALUES_AT_LEAST);
        Ok(Self { nodes, root, bounded })
    }

    /// Whether no bytes can make a direct decode do more work, nest deeper or build more values than their number
    /// accounts for: nothing recurses, and every item of an array or map takes bytes.
    pub(crate) fn is_bounded(&self) -> bool {
        self.bounded
    }

    /// Checks that `datum` is exactly one value of this layout; says which field is not.
    pub(crate) fn check(&self, datum: &[u8]) -> Result<(), CodecError> {
        let values = datum.len().saturating_mul(VALUES_PER_BYTE).saturating_add(VALUES_AT_LEAST);
        let mut walk = Walk { nodes: &self.nodes, datum: Cursor(datum), values };
        walk.value(self.root, 0).map_err(|fault| CodecError::Malformed(*fault))?;
        match walk.datum.left() {
            0 => Ok(()),
            trailing => Err(CodecError::Trailing(trailing)),
        }
    }
}

struct Builder {
    nodes: Vec<Node>,
    named: HashMap<Name, usize>,
}

impl Builder {
    fn add(&mut self, schema: &Schema) -> Result<usize, String> {
        if let Schema::Ref { name } = schema {
            return self.named.get(name).copied().ok_or_else(|| format!("no type is called `{name}`"));
        }
        // The place is taken before the parts are known, since they may refer to it.
        let place = self.nodes.len();
        self.nodes.push(Node::Null);
        if let Some(name) = schema.name() {
            self.named.insert(name.clone(), place);
        }
        self.nodes[place] = self.node(schema)?;
        Ok(place)
    }

    fn node(&mut self, schema: &Schema) -> Result<Node, String> {
        Ok(match schema {
            Schema::Null | Schema::Ref { .. } => Node::Null,
            Schema::Boolean => Node::Boolean,
            Schema::Int | Schema::Date | Schema::TimeMillis => Node::Int,
            Schema::Long
            | Schema::TimeMicros
            | Schema::TimestampMillis
            | Schema::TimestampMicros
            | Schema::TimestampNanos
            | Schema::LocalTimestampMillis
            | Schema::LocalTimestampMicros
            | Schema::LocalTimestampNanos => Node::Long,
            Schema::Float => Node::Fixed(4),
            Schema::Double => Node::Fixed(8),
            // Whether text is UTF-8 is left to the decoder, which has to look at it anyway.
            Schema::Bytes | Schema::String | Schema::Uuid(UuidSchema::Bytes | UuidSchema::String) => Node::Bytes,
            Schema::BigDecimal => Node::BigDecimal,
            Schema::Fixed(fixed) | Schema::Duration(fixed) | Schema::Uuid(UuidSchema::Fixed(fixed)) => {
                Node::Fixed(fixed.size)
            }
            Schema::Decimal(decimal) => match &decimal.inner {
                InnerDecimalSchema::Bytes => Node::Bytes,
                InnerDecimalSchema::Fixed(fixed) => Node::Fixed(fixed.size),
            },
            Schema::Enum(symbols) => Node::Enum(symbols.symbols.len()),
            Schema::Array(array) => Node::Array(self.add(&array.items)?),
            Schema::Map(map) => Node::Map(self.add(&map.types)?),
            Schema::Union(union) => {
                Node::Union(union.variants().iter().map(|v| self.add(v)).collect::<Result<_, _>>()?)
            }
            Schema::Record(record) => {
                let field = |f: &apache_avro::schema::RecordField| Ok((self.add(&f.schema)?, f.name.as_str().into()));
                Node::Record(record.fields.iter().map(field).collect::<Result<_, String>>()?)
            }
        })
    }
}

/// What a node takes at least and holds at most, but for the items of its arrays and maps.
#[derive(Clone, Copy)]
struct Bound {
    bytes: usize,
    values: usize,
}

struct Bounds<'a> {
    nodes: &'a [Node],
    known: Vec<Option<Bound>>,
}

impl Bounds<'_> {
    /// `None` when there is no bound, or when it is not worth the search: then each datum is walked.
    fn of(&mut self, place: usize, depth: usize) -> Option<Bound> {
        if depth > DEPTH_LIMIT {
            return None;
        }
        if let Some(known) = self.known[place] {
            return Some(known);
        }
        let bound = match &self.nodes[place] {
            Node::Null => Bound { bytes: 0, values: 1 },
            Node::Boolean | Node::Int | Node::Long | Node::Bytes | Node::Enum(_) => Bound { bytes: 1, values: 1 },
            Node::Fixed(size) => Bound { bytes: *size, values: 1 },
            Node::BigDecimal => return None,
            Node::Array(items) | Node::Map(items) => {
                let item = self.of(*items, depth + 1)?;
                if item.values > item.bytes.saturating_mul(VALUES_PER_BYTE) {
                    return None;
                }
                Bound { bytes: 1, values: 1 }
            }
            Node::Union(variants) => {
                let mut bound = Bound { bytes: usize::MAX, values: 0 };
                for variant in variants {
                    let variant = self.of(*variant, depth + 1)?;
                    bound.bytes = bound.bytes.min(variant.bytes);
                    bound.values = bound.values.max(variant.values);
                }
                Bound { bytes: bound.bytes.saturating_add(1), values: bound.values.saturating_add(1) }
            }
            Node::Record(fields) => {
                let mut bound = Bound { bytes: 0, values: 1 };
                for (field, _) in fields {
                    let field = self.of(*field, depth + 1)?;
                    bound.bytes = bound.bytes.saturating_add(field.bytes);
                    bound.values = bound.values.saturating_add(field.values);
                }
                bound
            }
        };
        self.known[place] = Some(bound);
        Some(bound)
    }
}

struct Walk<'a> {
    nodes: &'a [Node],
    datum: Cursor<'a>,
    values: usize,
}

impl Walk<'_> {
    fn value(&mut self, place: usize, depth: usize) -> Checked {
        if depth > DEPTH_LIMIT {
            return Err(FieldError::new(format!("values nest deeper than {DEPTH_LIMIT}")));
        }
        if self.values == 0 {
            return Err(FieldError::new("more values than bytes account for"));
        }
        self.values -= 1;
        match &self.nodes[place] {
            Node::Null => Ok(()),
            Node::Boolean => match self.datum.take(1)? {
                [0 | 1] => Ok(()),
                _ => Err(FieldError::new("a boolean is neither 0 nor 1")),
            },
            Node::Int => self.datum.int().map(drop),
            Node::Long => self.datum.long().map(drop),
            Node::Fixed(size) => self.datum.take(*size).map(drop),
            Node::Bytes => self.datum.bytes().map(drop),
            Node::BigDecimal => self.big_decimal(),
            Node::Enum(symbols) => self.datum.index(*symbols, "symbols of the enum").map(drop),
            Node::Array(items) => self.blocks(*items, false, depth),
            Node::Map(values) => self.blocks(*values, true, depth),
            Node::Union(variants) => {
                let variant = self.datum.index(variants.len(), "branches of the union")?;
                self.value(variants[variant], depth + 1)
            }
            Node::Record(fields) => {
                for (field, name) in fields {
                    self.value(*field, depth + 1).map_err(|fault| fault.within(name))?;
                }
                Ok(())
            }
        }
    }

    fn blocks(&mut self, items: usize, keyed: bool, depth: usize) -> Checked {
        loop {
            let count = self.datum.block()?;
            if count == 0 {
                return Ok(());
            }
            for _ in 0..count {
                if keyed {
                    self.datum.bytes()?;
                }
                self.value(items, depth + 1)?;
            }
        }
    }

    /// Unscaled bytes and a scale, wrapped in bytes.
    fn big_decimal(&mut self) -> Checked {
        let mut inner = Cursor(self.datum.bytes()?);
        inner.bytes()?;
        match inner.long()?.unsigned_abs() <= SCALE_LIMIT {
            true => Ok(()),
            false => Err(FieldError::new(format!("a big-decimal's scale is beyond {SCALE_LIMIT}"))),
        }
    }
}
