//! Reading: one cached reader per schema id, and per Rust type the way to decode it.

use std::{
    any::{TypeId, type_name},
    collections::{HashMap, HashSet},
    fmt,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
};

use apache_avro::{Schema, reader::datum::GenericDatumReader, types::Value};
use serde::de::DeserializeOwned;

use super::{cursor::Cursor, datum_reader::DatumReader, layout::Layout, value_resolver::ValueResolver};
use crate::{
    codec::{
        error::{CodecError, FieldError, clip, schema_cause, shape_fault},
        json,
        schema::{StaticSchema, comparison::SchemaComparison, compat::reads},
    },
    event::payload::Payload,
};

/// The schema that a record was written with, by its id in the registry.
///
/// Parsed once and kept as long as the process: ids are bounded. How a Rust type is decoded from it is decided once:
/// straight from the bytes where every field of the type's own schema is there with the same type; else over a
/// [`Value`] that is resolved against that schema.
pub struct WriterSchema {
    key: (u32, u32),
    leaked: StaticSchema,
    full_name: Option<String>,
    layout: Layout,
    reader: GenericDatumReader<'static>,
    plans: OnceLock<Box<Plan>>,
    /// Of a union, in its order.
    branches: Vec<Arc<WriterSchema>>,
    /// The schema of the event type that was asked about first, and why it cannot read what is written with this one.
    read_by: OnceLock<(&'static str, Option<String>)>,
}

impl WriterSchema {
    /// Parses the schema of an id; `references` are the schemas that it refers to by name, dependencies first.
    ///
    /// # Errors
    /// [`CodecError::Schema`] when the text is no Avro schema, or names a type that is nowhere defined.
    pub fn parse(id: u32, schema: &str, references: &[String]) -> Result<Arc<Self>, CodecError> {
        let unusable = |cause| CodecError::Schema { id, cause };
        let (leaked, names) = StaticSchema::parse_leniently(schema, references).map_err(unusable)?;
        let branch = |(number, schema): (u32, Schema)| {
            let branch = StaticSchema::of(schema, &HashMap::new()).map_err(unusable)?;
            Ok(Arc::new(Self::of((id, number), branch, Vec::new(), &names)?))
        };
        let branches = (1..).zip(leaked.branches().map_err(unusable)?).map(branch);
        let branches = branches.collect::<Result<_, CodecError>>()?;
        Ok(Arc::new(Self::of((id, 0), leaked, branches, &names)?))
    }

    fn of(
        key: (u32, u32),
        leaked: StaticSchema,
        branches: Vec<Arc<Self>>,
        names: &HashMap<String, String>,
    ) -> Result<Self, CodecError> {
        let unusable = |cause| CodecError::Schema { id: key.0, cause };
        let reader = GenericDatumReader::builder(leaked.schema)
            .resolved_writer_schemata(leaked.resolved.clone())
            .build()
            .map_err(|e| unusable(schema_cause(&e)))?;
        let full_name = leaked.schema.name().map(|name| name.fullname(None));
        Ok(Self {
            key,
            full_name: full_name.map(|name| names.get(&name).cloned().unwrap_or(name)),
            layout: Layout::new(leaked.schema).map_err(unusable)?,
            leaked,
            reader,
            plans: OnceLock::new(),
            branches,
            read_by: OnceLock::new(),
        })
    }

    /// What a datum was written with, and the rest of the datum: of a union its branch, as where several types share a
    /// topic; of any other schema itself.
    ///
    /// # Errors
    /// [`CodecError::Malformed`] when the union has no such branch.
    pub(crate) fn of_datum<'s, 'd>(
        self: &'s Arc<Self>,
        datum: &'d [u8],
    ) -> Result<(&'s Arc<Self>, &'d [u8]), CodecError> {
        if self.branches.is_empty() {
            return Ok((self, datum));
        }
        let mut datum = Cursor(datum);
        let place = datum.index(self.branches.len(), "branches of the union");
        let place = place.map_err(|fault| CodecError::Malformed(*fault))?;
        Ok((&self.branches[place], datum.0))
    }

    /// The id in the registry.
    pub fn id(&self) -> u32 {
        self.key.0
    }

    /// What tells it from any other: the id, and of a union's branch its number, from 1 on.
    pub fn key(&self) -> (u32, u32) {
        self.key
    }

    /// The schema, whole: what it refers to is defined in it.
    pub fn schema(&self) -> &'static Schema {
        self.leaked.schema
    }

    /// The full name of a record, enum or fixed, `headwater.payment.PaymentCompleted`; `None` for any other type.
    pub fn full_name(&self) -> Option<&str> {
        self.full_name.as_deref()
    }

    /// Why the schema of an event type cannot read what is written with this one; `None` where it can.
    pub(crate) fn unreadable_by(&self, event_type: &'static str) -> Option<String> {
        let ask = || match Schema::parse_str(event_type) {
            Ok(reader) => reads(self.leaked.schema, &reader).err(),
            Err(error) => Some(schema_cause(&error)),
        };
        // Of one schema it is always the same type's, but for records that are out of place.
        let (asked, why) = self.read_by.get_or_init(|| (event_type, ask()));
        if std::ptr::eq(*asked, event_type) { why.clone() } else { ask() }
    }

    pub(crate) fn leaked(&self) -> StaticSchema {
        self.leaked
    }

    /// Decodes a datum, the value's bytes behind its schema id, as a payload.
    ///
    /// # Errors
    /// [`CodecError::Malformed`] and [`CodecError::Trailing`] when the bytes are not exactly one value of this schema,
    /// [`CodecError::Mismatch`] when they are and the payload's schema or type cannot take it.
    pub fn decode<T: Payload>(&self, datum: &[u8]) -> Result<T, CodecError> {
        let plan = self.plan::<T>(T::SCHEMA);
        if !plan.direct.load(Ordering::Relaxed) {
            self.layout.check(datum)?;
            return self.resolve(datum, plan);
        }
        if !self.layout.is_bounded() {
            self.layout.check(datum)?;
        }
        let mut rest = datum;
        match self.reader.read_deser(&mut rest) {
            Ok(payload) if rest.is_empty() => Ok(payload),
            Ok(_) => Err(CodecError::Trailing(rest.len())),
            Err(error) => self.decode_again(datum, plan, &error),
        }
    }

    /// Decodes a datum whatever its type, for sinks and for handlers of any type.
    ///
    /// # Errors
    /// [`CodecError::Malformed`] and [`CodecError::Trailing`] when the bytes are not exactly one value of this schema.
    pub fn value(&self, datum: &[u8]) -> Result<Value, CodecError> {
        self.layout.check(datum)?;
        self.read(datum)
    }

    /// A value of this schema as JSON for a person: times as RFC 3339, decimals as text (see the list in `codec/json.rs`).
    pub fn json(&self, value: &Value) -> serde_json::Value {
        json::write(value, self.leaked.schema, self.leaked.names())
    }

    fn read(&self, datum: &[u8]) -> Result<Value, CodecError> {
        let mut read = DatumReader { datum: Cursor(datum), names: self.leaked.names() };
        read.value(self.leaked.schema).map_err(|fault| CodecError::Malformed(*fault))
    }

    fn resolve<T: DeserializeOwned>(&self, datum: &[u8], plan: &Plan) -> Result<T, CodecError> {
        let mismatch = |fault: Box<FieldError>| CodecError::Mismatch(*fault);
        let reader = plan.reader.as_ref().map_err(|cause| mismatch(FieldError::new(cause.clone())))?;
        let value = self.read(datum)?;
        let resolve = ValueResolver { writer: self.leaked.names(), reader: reader.names() };
        let value = resolve.value(value, self.leaked.schema, reader.schema).map_err(mismatch)?;
        apache_avro::from_value(&value).map_err(|error| mismatch(shape_fault::<T>(&error)))
    }

    /// The direct decoder is stricter about Rust types than Avro is (a `u64` for a long, a struct under another name):
    /// such a type takes the other path from its first record on.
    #[cold]
    fn decode_again<T: Payload>(&self, datum: &[u8], plan: &Plan, error: &apache_avro::Error) -> Result<T, CodecError> {
        self.layout.check(datum)?;
        let payload = self.resolve(datum, plan)?;
        if plan.direct.swap(false, Ordering::Relaxed) {
            tracing::warn!(
                payload = type_name::<T>(),
                schema_id = self.id(),
                reason = %shape_fault::<T>(error),
                "the type decodes five times slower than it could: match its field types and serde names to its schema"
            );
        }
        Ok(payload)
    }

    /// Whether the type's records are decoded straight from their bytes.
    #[cfg(test)]
    pub(crate) fn decodes_directly<T: Payload>(&self) -> bool {
        self.plan::<T>(T::SCHEMA).direct.load(Ordering::Relaxed)
    }

    /// The plan for a type, made at its first record. A list that only grows is read without a lock, and is short:
    /// as long as the number of Rust types that read this one schema.
    fn plan<T: 'static>(&self, schema: &str) -> &Plan {
        let mut place = &self.plans;
        loop {
            let plan = place.get_or_init(|| Box::new(Plan::new::<T>(schema, self.leaked)));
            if plan.of == TypeId::of::<T>() {
                return plan;
            }
            place = &plan.next;
        }
    }
}

impl fmt::Debug for WriterSchema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriterSchema")
            .field("id", &self.id())
            .field("full_name", &self.full_name)
            .finish_non_exhaustive()
    }
}

/// How one Rust type is decoded from one writer's schema.
struct Plan {
    of: TypeId,
    direct: AtomicBool,
    /// The type's own schema, or why it cannot be used.
    reader: Result<StaticSchema, String>,
    next: OnceLock<Box<Plan>>,
}

impl Plan {
    fn new<T: 'static>(schema: &str, writer: StaticSchema) -> Self {
        let reader = StaticSchema::parse(schema, &[])
            .map_err(|cause| clip(&format!("the schema of {} is unusable: {cause}", type_name::<T>())).to_owned());
        let direct = reader.as_ref().is_ok_and(|reader| {
            let mut same = SchemaComparison { writer: writer.names(), reader: reader.names(), open: HashSet::new() };
            same.types(writer.schema, reader.schema)
        });
        Self { of: TypeId::of::<T>(), direct: AtomicBool::new(direct), reader, next: OnceLock::new() }
    }
}
