//! Random schemas, their evolutions, and values of them.

use std::collections::HashMap;

use apache_avro::{
    Days, Decimal, Duration, Millis, Months, Schema, Uuid,
    schema::{InnerDecimalSchema, UuidSchema},
    types::Value,
};
use serde_json::{Value as Json, json};

/// SplitMix64: one seed makes one case, so that a failure can be run again.
pub(super) struct Rng {
    state: u64,
    names: u32,
}

impl Rng {
    pub(super) fn new(seed: u64) -> Self {
        Self { state: seed, names: 0 }
    }

    pub(super) fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() % n as u64).expect("below a usize")
    }

    pub(super) fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    fn name(&mut self, prefix: &str) -> String {
        self.names += 1;
        format!("{prefix}{}", self.names)
    }

    pub(super) fn long(&mut self) -> i64 {
        // Small numbers and the ends of the range, which a uniform draw never hits.
        match self.below(4) {
            0 => i64::try_from(self.below(200)).expect("small") - 100,
            1 => [i64::MIN, i64::MAX, i64::from(i32::MIN), i64::from(i32::MAX)][self.below(4)],
            _ => self.next().cast_signed(),
        }
    }

    pub(super) fn int(&mut self) -> i32 {
        i32::try_from(self.long() % (i64::from(i32::MAX) + 1)).expect("in range")
    }

    pub(super) fn text(&mut self) -> String {
        (0..self.below(9)).map(|_| ['a', 'z', 'é', '漢', '"', '\\', ' ', '0'][self.below(8)]).collect()
    }

    pub(super) fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| self.next().to_le_bytes()[0]).collect()
    }
}

const LONGS: [&str; 7] = [
    "timestamp-millis",
    "timestamp-micros",
    "timestamp-nanos",
    "local-timestamp-millis",
    "local-timestamp-micros",
    "local-timestamp-nanos",
    "time-micros",
];
const INTS: [&str; 2] = ["date", "time-millis"];

/// A record of up to six fields, three levels deep.
pub(super) fn record(rng: &mut Rng, depth: usize) -> Json {
    let fields: Vec<Json> = (0..=rng.below(6))
        .map(|_| {
            let kind = any(rng, depth);
            let default = default_of(rng, &kind);
            let name = rng.name("f");
            match rng.one_in(2) {
                true => json!({"name": name, "type": kind, "default": default}),
                false => json!({"name": name, "type": kind}),
            }
        })
        .collect();
    json!({"type": "record", "name": rng.name("R"), "namespace": "test.random", "fields": fields})
}

pub(super) fn any(rng: &mut Rng, depth: usize) -> Json {
    match rng.below(if depth == 0 { 14 } else { 20 }) {
        0 => json!("boolean"),
        1 => json!("int"),
        2 => json!("long"),
        3 => json!("float"),
        4 => json!("double"),
        5 => json!("bytes"),
        6 | 7 => json!("string"),
        8 => json!({"type": "enum", "name": rng.name("E"), "symbols": ["A", "B", "C"], "default": "A"}),
        9 => json!({"type": "fixed", "name": rng.name("F"), "size": 3}),
        10 => json!({"type": "long", "logicalType": LONGS[rng.below(LONGS.len())]}),
        11 => json!({"type": "int", "logicalType": INTS[rng.below(INTS.len())]}),
        12 => json!({"type": "string", "logicalType": "uuid"}),
        // apache-avro resolves no decimal whose bytes could not hold its precision.
        13 => json!({"type": "bytes", "logicalType": "decimal", "precision": 2, "scale": 1}),
        14 => json!({"type": "array", "items": any(rng, depth - 1)}),
        15 => json!({"type": "map", "values": any(rng, depth - 1)}),
        16 | 17 => nullable(rng, depth),
        18 => json!(["null", "string", "double", {"type": "array", "items": "long"}]),
        _ => record(rng, depth - 1),
    }
}

fn nullable(rng: &mut Rng, depth: usize) -> Json {
    let inner = loop {
        match any(rng, depth - 1) {
            Json::Array(_) => {}
            inner => break inner,
        }
    };
    match rng.one_in(4) {
        true => json!([inner, "null"]),
        false => json!(["null", inner]),
    }
}

fn type_of(schema: &Json) -> (&str, Option<&str>) {
    match schema {
        Json::String(name) => (name, None),
        Json::Object(object) => {
            (object["type"].as_str().unwrap_or(""), object.get("logicalType").and_then(Json::as_str))
        }
        _ => ("union", None),
    }
}

fn default_of(rng: &mut Rng, schema: &Json) -> Json {
    match type_of(schema) {
        ("null", _) => Json::Null,
        ("boolean", _) => json!(rng.one_in(2)),
        ("int" | "long", _) => json!(rng.below(1_000)),
        ("float" | "double", _) => json!(0.5),
        (_, Some("uuid")) => json!("98f0eb0e-3dd1-573a-ae72-a93d7cf6d360"),
        ("bytes" | "string", _) => json!("abc"[rng.below(3)..]),
        ("enum", _) => json!("B"),
        ("fixed", _) => json!("abc"),
        ("array", _) => json!([default_of(rng, &schema["items"])]),
        ("map", _) => json!({"k": default_of(rng, &schema["values"])}),
        ("record", _) => {
            let fields = schema["fields"].as_array().expect("fields");
            fields
                .iter()
                .map(|f| (f["name"].as_str().expect("a name").to_owned(), default_of(rng, &f["type"])))
                .collect()
        }
        _ => default_of(rng, &schema[0]),
    }
}

/// A writer's schema near a reader's: fields come, go and move, types are what the reader promotes from. One change in a
/// few breaks the rules, so that refusals are compared as well.
pub(super) fn evolve(rng: &mut Rng, reader: &Json) -> Json {
    let pick = |rng: &mut Rng, names: &[&str]| json!(names[rng.below(names.len())]);
    if rng.one_in(40) {
        let broken = pick(rng, &["int", "string", "boolean", "double"]);
        // Some of these apache-avro takes for their value; `promotion.rs` holds that we do not.
        let by_value = matches!(
            (type_of(reader), broken.as_str()),
            (("float", _), Some("double"))
                | (("enum" | "fixed", _) | (_, Some("decimal")), Some("string"))
                | (("union", _), Some("string" | "double"))
        );
        return if by_value { json!("boolean") } else { broken };
    }
    match type_of(reader) {
        ("long", None) if rng.one_in(3) => json!("int"),
        ("float", None) if rng.one_in(3) => pick(rng, &["int", "long"]),
        ("double", None) if rng.one_in(3) => pick(rng, &["int", "long", "float"]),
        ("bytes", None) if rng.one_in(3) => json!("string"),
        ("string", None) if rng.one_in(6) => json!("bytes"),
        ("long", Some(_)) if rng.one_in(4) => pick(rng, &["int", "long"]),
        ("int", Some(_)) if rng.one_in(4) => json!("int"),
        ("enum", _) if rng.one_in(3) => {
            let mut writer = reader.clone();
            let symbols = writer["symbols"].as_array_mut().expect("symbols");
            symbols.reverse();
            symbols.push(json!("NEW"));
            writer
        }
        ("array", _) => json!({"type": "array", "items": evolve(rng, &reader["items"])}),
        ("map", _) => json!({"type": "map", "values": evolve(rng, &reader["values"])}),
        ("union", _) => evolve_union(rng, reader),
        ("record", _) => evolve_record(rng, reader),
        _ => reader.clone(),
    }
}

fn evolve_union(rng: &mut Rng, reader: &Json) -> Json {
    let branches = reader.as_array().expect("a union");
    if rng.one_in(4) {
        let chosen = branches[rng.below(branches.len())].clone();
        let writer = evolve(rng, &chosen);
        // Another branch than the chosen one may be what apache-avro takes it for by its value.
        let by_value = matches!(writer.as_str(), Some("string" | "double")) && writer != chosen;
        return if by_value { json!("boolean") } else { writer };
    }
    let mut writer: Vec<Json> = branches.clone();
    if rng.one_in(4) {
        writer.reverse();
    }
    if writer.len() == 2 && rng.one_in(2) {
        let place = usize::from(writer[0] == json!("null"));
        match evolve(rng, &writer[place]) {
            Json::Array(_) => {}
            evolved => writer[place] = evolved,
        }
    }
    Json::Array(writer)
}

fn evolve_record(rng: &mut Rng, reader: &Json) -> Json {
    let mut fields = Vec::new();
    for field in reader["fields"].as_array().expect("fields") {
        let dropped = if field.get("default").is_some() { rng.one_in(4) } else { rng.one_in(30) };
        if !dropped {
            fields.push(json!({"name": field["name"], "type": evolve(rng, &field["type"])}));
        }
    }
    while rng.one_in(3) {
        let extra = any(rng, 1);
        fields.push(json!({"name": rng.name("extra"), "type": extra}));
    }
    if rng.one_in(3) && !fields.is_empty() {
        let by = rng.below(fields.len());
        fields.rotate_left(by);
    }
    let mut writer = reader.clone();
    writer["fields"] = Json::Array(fields);
    writer
}

/// A value of a schema without references.
pub(super) fn value(rng: &mut Rng, schema: &Schema) -> Value {
    match schema {
        Schema::Null => Value::Null,
        Schema::Boolean => Value::Boolean(rng.one_in(2)),
        Schema::Int => Value::Int(rng.int()),
        Schema::Long => Value::Long(rng.long()),
        Schema::Float => Value::Float([0.0, -1.5, 3.25e7, f32::INFINITY, f32::MIN_POSITIVE][rng.below(5)]),
        Schema::Double => Value::Double([0.0, -1.5, 3.25e70, f64::NEG_INFINITY, f64::MIN_POSITIVE][rng.below(5)]),
        // Of one byte per character at times, so that it also reads as a string.
        Schema::Bytes if rng.one_in(2) => Value::Bytes(rng.text().into_bytes()),
        Schema::Bytes => {
            let length = rng.below(9);
            Value::Bytes(rng.bytes(length))
        }
        Schema::String => Value::String(rng.text()),
        Schema::Array(array) => Value::Array((0..rng.below(4)).map(|_| value(rng, &array.items)).collect()),
        Schema::Map(map) => {
            let items: HashMap<_, _> = (0..rng.below(4)).map(|_| (rng.text(), value(rng, &map.types))).collect();
            Value::Map(items)
        }
        Schema::Union(union) => {
            let place = rng.below(union.variants().len());
            Value::Union(u32::try_from(place).expect("few"), Box::new(value(rng, &union.variants()[place])))
        }
        Schema::Record(record) => {
            Value::Record(record.fields.iter().map(|f| (f.name.clone(), value(rng, &f.schema))).collect())
        }
        Schema::Enum(symbols) => {
            let place = rng.below(symbols.symbols.len());
            Value::Enum(u32::try_from(place).expect("few"), symbols.symbols[place].clone())
        }
        Schema::Fixed(fixed) => Value::Fixed(fixed.size, rng.bytes(fixed.size)),
        Schema::Decimal(decimal) => match &decimal.inner {
            InnerDecimalSchema::Bytes => Value::Decimal(Decimal::from([[0x07], [0xf9], [0x00], [0x63]][rng.below(4)])),
            InnerDecimalSchema::Fixed(fixed) => Value::Decimal(Decimal::from(vec![0; fixed.size])),
        },
        Schema::BigDecimal => Value::BigDecimal("-12.50".parse().expect("a number")),
        Schema::Uuid(UuidSchema::String | UuidSchema::Bytes | UuidSchema::Fixed(_)) => {
            Value::Uuid(Uuid::from_slice(&rng.bytes(16)).expect("16 bytes"))
        }
        Schema::Date => Value::Date(rng.int()),
        Schema::TimeMillis => Value::TimeMillis(rng.int()),
        Schema::TimeMicros => Value::TimeMicros(rng.long()),
        Schema::TimestampMillis => Value::TimestampMillis(rng.long()),
        Schema::TimestampMicros => Value::TimestampMicros(rng.long()),
        Schema::TimestampNanos => Value::TimestampNanos(rng.long()),
        Schema::LocalTimestampMillis => Value::LocalTimestampMillis(rng.long()),
        Schema::LocalTimestampMicros => Value::LocalTimestampMicros(rng.long()),
        Schema::LocalTimestampNanos => Value::LocalTimestampNanos(rng.long()),
        Schema::Duration(_) => Value::Duration(Duration::new(Months::new(1), Days::new(2), Millis::new(3))),
        Schema::Ref { .. } => unreachable!("random schemas refer to nothing"),
    }
}
