//! What a schema, a template and the key's field make of a record's value: a plan, checked before anything is sent.

use anyhow::Result;
use apache_avro::{
    Schema,
    schema::{InnerDecimalSchema, NamesRef, RecordSchema, ResolvedSchema, UuidSchema},
};
use headwater::spi::codec::{CodecError, Encoder, WriterSchema, split};
use headwater_runtime::{KeySource, Problems, ProduceTarget, nearest};
use serde_json::{Map, Value as Json};

use crate::{
    template,
    values::{Node, Number, Piece, Record, Unit, long},
};

/// How often a type may stand within itself before its optional parts end.
const DEPTH: usize = 8;
/// What a random whole number is below.
const WHOLE: i64 = 1_000_000;
/// Elements of an array or a map.
const ELEMENTS: usize = 2;
/// Characters of a random text, bytes of random bytes.
const TEXT: usize = 12;

const NO_KEY: &str = "the key's field is neither text nor a whole number: say another one with --key";

/// How values are made.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    frame: [u8; 5],
    value: Node,
}

impl Plan {
    /// The plan for a target's events.
    ///
    /// # Errors
    /// [`Problems`]: a template or a key's field that does not fit the schema, a schema that no value can be made for.
    pub(crate) fn new(target: &ProduceTarget, template: Option<&str>) -> Result<Self> {
        let template = template.map(template::read).transpose()?;
        let schema = target.schema.schema();
        let Schema::Record(record) = schema else {
            return Err(Problems::one(format!("the schema of `{}` is no record", target.event_type)).into());
        };
        let resolved = ResolvedSchema::new(schema)?;
        let maker = PlanBuilder { encoder: &target.encoder, names: resolved.get_names() };
        let problem = |why: String| Problems::one(format!("`{}`: {why}", target.event_type));
        let key = match &target.key {
            KeySource::Field(field) => field.clone(),
            KeySource::Of(facts) => {
                let plain = Self {
                    frame: target.encoder.frame(),
                    value: maker.record(record, None, None, 0).map_err(problem)?,
                };
                let value = plain.sample();
                let (_, datum) = split(&value)?;
                key_field(&target.schema, datum, &(facts.key_of)(&target.schema, datum)?).map_err(problem)?
            }
        };
        if !record.lookup.contains_key(&key) {
            return Err(problem(unknown(&key, record)).into());
        }
        let value = maker.record(record, template.as_ref(), Some(&key), 0).map_err(problem)?;
        let plan = Self { frame: target.encoder.frame(), value };
        plan.check(&target.schema, &key).map_err(problem)?;
        Ok(plan)
    }

    /// Writes a whole Kafka value; `record.said` becomes its key.
    pub(crate) fn write(&self, record: &mut Record<'_>, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.frame);
        self.value.write(record, out);
    }

    fn sample(&self) -> Vec<u8> {
        sample(self).0
    }

    /// The codec has to read what the plan writes.
    fn check(&self, schema: &WriterSchema, key: &str) -> Result<(), String> {
        let (value, said) = sample(self);
        let read = split(&value).and_then(|(_, datum)| schema.value(datum));
        read.map_err(|error| format!("no value can be generated for its schema: {error}"))?;
        if said.is_empty() {
            return Err(format!("{key}: {NO_KEY}"));
        }
        Ok(())
    }
}

/// A value and its key.
fn sample(plan: &Plan) -> (Vec<u8>, Vec<u8>) {
    let (mut out, mut said) = (Vec::new(), Vec::new());
    let mut random = crate::random::Random::new(0, 0);
    let (number, key, seed) = (0, 0, 0);
    let now = headwater::Time::now();
    let mut record = Record { number, key, key_text: "0-0", seed, now, random: &mut random, said: &mut said };
    plan.write(&mut record, &mut out);
    (out, said)
}

/// The field that says the key: every text of a generated value is another one.
fn key_field(schema: &WriterSchema, datum: &[u8], key: &str) -> Result<String, String> {
    let json = schema.value(datum).map(|value| schema.json(&value)).map_err(|error| error.to_string())?;
    let says = |value: &Json| match value {
        Json::String(text) => text == key,
        Json::Number(number) => number.to_string() == key,
        _ => false,
    };
    let field = json.as_object().and_then(|fields| fields.iter().find(|(_, value)| says(value)));
    let unknown = || "its key is not the value of one of its fields: name a field with --key".to_owned();
    field.map(|(name, _)| name.clone()).ok_or_else(unknown)
}

fn unknown(field: &str, record: &RecordSchema) -> String {
    let known: Vec<&str> = record.fields.iter().map(|field| field.name.as_str()).collect();
    let name = record.name.name();
    match nearest(field, &known) {
        Some(near) => format!("{name} has no field `{field}`; did you mean `{near}`?"),
        None => format!("{name} has no field `{field}`; it has {}", known.join(", ")),
    }
}

/// A part of the plan, or why there is none.
type PlanResult = Result<Node, String>;

struct PlanBuilder<'a> {
    encoder: &'a Encoder,
    names: &'a NamesRef<'a>,
}

impl PlanBuilder<'_> {
    /// A part as the template says, or, where it says nothing, by its type alone.
    fn part(&self, schema: &Schema, template: Option<&Json>, depth: usize) -> PlanResult {
        let schema = self.follow(schema);
        match (schema, template) {
            (Schema::Record(record), None) => self.record(record, None, None, depth + 1),
            (Schema::Record(record), Some(Json::Object(_))) => self.record(record, template, None, depth),
            (_, None) => self.generated(schema, depth),
            (_, Some(json)) => self.templated(schema, json, depth),
        }
    }

    fn record(&self, record: &RecordSchema, template: Option<&Json>, key: Option<&str>, depth: usize) -> PlanResult {
        if depth > DEPTH {
            return Err(format!("{} is within itself without end", record.name.name()));
        }
        let empty = Map::new();
        let said = match template {
            None => &empty,
            Some(Json::Object(said)) => said,
            Some(_) => return Err("the template is no JSON object".to_owned()),
        };
        if let Some(field) = said.keys().find(|field| !record.lookup.contains_key(*field)) {
            return Err(unknown(field, record));
        }
        let parts = record.fields.iter().map(|field| {
            let template = said.get(&field.name);
            let is_key = key == Some(field.name.as_str());
            let part = match template {
                None if is_key => self.key(&field.schema),
                _ => self.part(&field.schema, template, depth),
            };
            let part = part.map_err(|why| format!("{}: {why}", field.name))?;
            Ok(if is_key { Node::Key(Box::new(part)) } else { part })
        });
        parts.collect::<Result<_, String>>().map(Node::Sequence)
    }

    /// What the key's field holds when the template does not say.
    fn key(&self, schema: &Schema) -> PlanResult {
        match self.follow(schema) {
            Schema::Int => Ok(Node::Whole { number: Number::Key, int: true }),
            Schema::Long => Ok(Node::Whole { number: Number::Key, int: false }),
            Schema::Uuid(UuidSchema::String) => Ok(Node::Text(vec![Piece::KeyUuid])),
            Schema::Union(union) => {
                let mut branches = union.variants().iter().enumerate();
                let made = branches.find_map(|(place, branch)| Some(branch_of(place, self.key(branch).ok()?)));
                made.ok_or_else(|| NO_KEY.to_owned())
            }
            Schema::String => Ok(Node::Text(vec![Piece::Key])),
            _ => Err(NO_KEY.to_owned()),
        }
    }

    fn templated(&self, schema: &Schema, json: &Json, depth: usize) -> PlanResult {
        if !template::has_placeholders(json)
            && !matches!(schema, Schema::String)
            && let constant = self.constant(schema, json)
            && (constant.is_ok() || !matches!(schema, Schema::Union(_)))
        {
            return constant;
        }
        match (schema, json) {
            (Schema::Union(union), json) => {
                let (mut outcome, mut places) =
                    (Err("no branch of the union fits".to_owned()), union.variants().iter().enumerate());
                while outcome.is_err()
                    && let Some((place, branch)) = places.next()
                {
                    match self.part(branch, Some(json), depth) {
                        Err(_) if matches!(branch, Schema::Null) => {}
                        made => outcome = made.map(|node| branch_of(place, node)),
                    }
                }
                outcome
            }
            (Schema::Array(array), Json::Array(items)) => {
                let items = items.iter().map(|item| Ok(vec![self.part(&array.items, Some(item), depth)?]));
                blocks(items.collect::<Result<_, String>>()?)
            }
            (Schema::Map(map), Json::Object(items)) => {
                let item = |(key, item): (&String, &Json)| {
                    let item = self.part(&map.types, Some(item), depth).map_err(|why| format!("{key}: {why}"))?;
                    Ok(vec![Node::Text(vec![Piece::Literal(key.clone())]), item])
                };
                blocks(items.iter().map(item).collect::<Result<_, String>>()?)
            }
            (schema, Json::String(text)) => template::text(schema, text),
            (schema, json) => self.constant(schema, json),
        }
    }

    fn constant(&self, schema: &Schema, json: &Json) -> PlanResult {
        self.encoder.encode_part(json, schema).map(Node::Constant).map_err(|error| match error {
            CodecError::Unfit(fault) => fault.to_string(),
            error => error.to_string(),
        })
    }

    fn generated(&self, schema: &Schema, depth: usize) -> PlanResult {
        let whole = |number| Ok(Node::Whole { number, int: false });
        let now = |unit| Ok(Node::Whole { number: Number::Now(unit), int: false });
        match schema {
            Schema::Null => Ok(Node::Constant(Vec::new())),
            Schema::Boolean => Ok(Node::Boolean),
            Schema::Int | Schema::Long => whole(Number::Between(0, WHOLE - 1)),
            Schema::Float => Ok(Node::Float(0.0, 1_000.0)),
            Schema::Double => Ok(Node::Double(0.0, 1_000.0)),
            Schema::Bytes => Ok(Node::Bytes(TEXT)),
            Schema::Fixed(fixed) => Ok(Node::Fixed(fixed.size)),
            Schema::String => Ok(Node::Text(vec![Piece::Letters(TEXT)])),
            Schema::Enum(symbols) => whole(Number::Between(0, symbols.symbols.len() as i64 - 1)),
            Schema::Date => now(Unit::Days),
            Schema::TimeMillis => now(Unit::MillisOfDay),
            Schema::TimeMicros => now(Unit::MicrosOfDay),
            Schema::TimestampMillis | Schema::LocalTimestampMillis => now(Unit::Millis),
            Schema::TimestampMicros | Schema::LocalTimestampMicros => now(Unit::Micros),
            Schema::TimestampNanos | Schema::LocalTimestampNanos => now(Unit::Nanos),
            Schema::Uuid(UuidSchema::String) => Ok(Node::Text(vec![Piece::Uuid])),
            Schema::Uuid(UuidSchema::Bytes) => Ok(Node::Bytes(16)),
            Schema::Uuid(UuidSchema::Fixed(fixed)) => Ok(Node::Fixed(fixed.size)),
            Schema::Duration(_) => Ok(Node::Duration),
            // A number within a number: the codec writes it.
            Schema::BigDecimal => self.constant(schema, &Json::from("12.34")),
            Schema::Decimal(decimal) => {
                let size = match &decimal.inner {
                    InnerDecimalSchema::Bytes => None,
                    InnerDecimalSchema::Fixed(fixed) => Some(fixed.size),
                };
                let digits = 10_u64.pow(u32::try_from(decimal.precision.min(18)).unwrap_or(18));
                let room = size.filter(|size| *size < 8).map_or(u64::MAX, |size| 1 << (8 * size).saturating_sub(1));
                Ok(Node::Decimal { bound: digits.min(room), size })
            }
            Schema::Union(union) => {
                let branches =
                    union.variants().iter().enumerate().filter(|(_, branch)| !matches!(branch, Schema::Null));
                let made = branches.map(|(place, branch)| Ok(branch_of(place, self.part(branch, None, depth)?)));
                let made: Vec<Node> = made.filter_map(|made: PlanResult| made.ok()).collect();
                // A type that contains itself ends with a null.
                let null = union.variants().iter().position(|branch| matches!(branch, Schema::Null));
                match null {
                    Some(null) if made.is_empty() => Ok(branch_of(null, Node::Constant(Vec::new()))),
                    None if made.is_empty() => Err("no branch of the union ends".to_owned()),
                    _ => Ok(Node::OneOf(made)),
                }
            }
            Schema::Array(array) => {
                let item = self.part(&array.items, None, depth).ok();
                blocks(item.map(|item| vec![vec![item]; ELEMENTS]).unwrap_or_default())
            }
            Schema::Map(map) => {
                let item = self.part(&map.types, None, depth).ok();
                let entry = |item: Node| vec![Node::Text(vec![Piece::Letters(TEXT)]), item];
                blocks(item.map(|item| vec![entry(item); ELEMENTS]).unwrap_or_default())
            }
            Schema::Record(record) => self.record(record, None, None, depth + 1),
            Schema::Ref { name } => Err(format!("type {} is nowhere defined", name.fullname(None))),
        }
    }

    fn follow<'s>(&'s self, schema: &'s Schema) -> &'s Schema {
        match schema {
            Schema::Ref { name } => self.names.get(name).copied().unwrap_or(schema),
            schema => schema,
        }
    }
}

/// A union's branch: its number, and what it holds.
fn branch_of(place: usize, node: Node) -> Node {
    let mut number = Vec::new();
    long(&mut number, place as i64);
    Node::Sequence(vec![Node::Constant(number), node])
}

/// An array or a map: one block of its items, and the empty one that ends it.
fn blocks(items: Vec<Vec<Node>>) -> PlanResult {
    let mut count = Vec::new();
    if !items.is_empty() {
        long(&mut count, items.len() as i64);
    }
    let items = items.into_iter().flatten();
    let parts = std::iter::once(Node::Constant(count)).chain(items).chain([Node::Constant(vec![0])]);
    Ok(Node::Sequence(parts.collect()))
}

#[cfg(test)]
mod tests;
