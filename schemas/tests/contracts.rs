//! The rules of the contracts, checked for every event, every version and every field.

use std::{fs, path::Path};

use apache_avro::{
    Schema,
    reader::datum::GenericDatumReader,
    schema_compatibility::{Compatibility, SchemaCompatibility},
    types::Value,
    writer::datum::GenericDatumWriter,
};
use headwater::{EventType, Payload};
use headwater_schemas::{ALL, CustomerFlagged, CustomerTotalled, OrderFulfilled, PaymentCompleted, ReceiptRequested};
use serde_json::{Value as Json, json};

/// One event type with what a test does to its Rust type, JSON in and JSON out.
struct Contract {
    event: EventType,
    /// The Rust type's name.
    rust: &'static str,
    /// JSON → Rust → Avro by the type's own schema.
    encode: fn(&Json) -> Vec<u8>,
    /// Avro by the given schema → Rust → JSON, as the engine's direct path reads it.
    decode: fn(&Schema, &[u8]) -> Json,
    /// JSON → Rust → JSON.
    round: fn(&Json) -> Result<Json, String>,
}

fn contract<T: Payload>() -> Contract {
    Contract {
        event: EventType::of::<T>(),
        rust: std::any::type_name::<T>().rsplit("::").next().expect("a type has a name"),
        encode: |json| {
            let value: T = serde_json::from_value(json.clone()).expect("a whole sample");
            let schema = Schema::parse_str(T::SCHEMA).expect("a schema");
            let writer = GenericDatumWriter::builder(&schema).build().expect("a writer");
            writer.write_ser_to_vec(&value).unwrap_or_else(|e| panic!("{} is not what its schema says: {e}", T::TYPE))
        },
        decode: |schema, mut bytes| {
            let reader = GenericDatumReader::builder(schema).build().expect("a reader");
            let value: T = reader.read_deser(&mut bytes).unwrap_or_else(|e| panic!("{}: {e}", T::TYPE));
            assert!(bytes.is_empty(), "{} leaves {} bytes unread", T::TYPE, bytes.len());
            serde_json::to_value(value).expect("JSON")
        },
        round: |json| {
            let value: T = serde_json::from_value(json.clone()).map_err(|e| e.to_string())?;
            serde_json::to_value(value).map_err(|e| e.to_string())
        },
    }
}

fn contracts() -> Vec<Contract> {
    vec![
        contract::<CustomerFlagged>(),
        contract::<CustomerTotalled>(),
        contract::<OrderFulfilled>(),
        contract::<PaymentCompleted>(),
        contract::<ReceiptRequested>(),
    ]
}

fn folder(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// The names in a folder, sorted.
fn names(path: &Path) -> Vec<String> {
    let entries = fs::read_dir(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut names: Vec<_> =
        entries.map(|e| e.expect("an entry").file_name().into_string().expect("a UTF-8 name")).collect();
    names.sort();
    names
}

/// The text of every version of an event, in order; panics where one is missing between the first and the last.
fn versions(event: &str) -> Vec<String> {
    let path = folder("avro").join(event);
    let count = names(&path).len();
    (1..=count)
        .map(|n| {
            let file = path.join(format!("v{n}.avsc"));
            fs::read_to_string(&file).unwrap_or_else(|e| panic!("{} of {count} versions: {e}", file.display()))
        })
        .collect()
}

fn parsed(text: &str) -> Schema {
    Schema::parse_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

fn json(text: &str) -> Json {
    serde_json::from_str(text).expect("JSON")
}

fn fields(schema: &Json) -> &Vec<Json> {
    schema["fields"].as_array().expect("fields")
}

fn name_of(field: &Json) -> &str {
    field["name"].as_str().expect("a name")
}

/// `PaymentCompleted` of `payment.completed`.
fn camel(event: &str) -> String {
    let upper = |s: &str| s[..1].to_uppercase() + &s[1..];
    event.split(['.', '_']).map(upper).collect()
}

/// A value for a schema, never its default. A type that no contract has used yet is a panic that says to add it here.
fn sample(schema: &Json) -> Json {
    match schema {
        Json::Array(variants) => sample(variants.iter().find(|v| **v != json!("null")).expect("more than null")),
        Json::Object(object) => sample(&object["type"]),
        Json::String(name) => match name.as_str() {
            "string" => json!("some text"),
            "long" => json!(1_767_225_600_000_000_i64),
            "int" => json!(7),
            "boolean" => json!(true),
            "double" | "float" => json!(0.5),
            other => panic!("give `sample` a value of type `{other}`"),
        },
        other => panic!("not a schema: {other}"),
    }
}

/// A whole record as JSON, every field with a value.
fn sample_record(schema: &Json) -> Json {
    fields(schema).iter().map(|f| (name_of(f).to_owned(), sample(&f["type"]))).collect()
}

/// The schema without one field.
fn without(schema: &Json, name: &str) -> Json {
    let mut schema = schema.clone();
    schema["fields"].as_array_mut().expect("fields").retain(|f| name_of(f) != name);
    schema
}

/// The schema with one more field.
fn with(schema: &Json, field: Json) -> Json {
    let mut schema = schema.clone();
    schema["fields"].as_array_mut().expect("fields").push(field);
    schema
}

/// The Avro value that resolves to the field's type; `sample` makes nothing else.
fn avro(json: &Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Boolean(*b),
        Json::Number(n) => n.as_i64().map_or_else(|| Value::Double(n.as_f64().expect("a number")), Value::Long),
        Json::String(s) => Value::String(s.clone()),
        Json::Array(items) => Value::Array(items.iter().map(avro).collect()),
        Json::Object(fields) => Value::Record(fields.iter().map(|(k, v)| (k.clone(), avro(v))).collect()),
    }
}

/// Encodes JSON by a schema that no Rust type stands for.
fn encode_as(schema: &Schema, record: &Json) -> Vec<u8> {
    let value = avro(record).resolve(schema).expect("a sample of this schema");
    GenericDatumWriter::builder(schema).build().expect("a writer").write_value_to_vec(value).expect("bytes")
}

/// What breaks `FULL_TRANSITIVE` among these versions, each with every other, both ways.
fn incompatible(versions: &[String]) -> Vec<String> {
    let schemas: Vec<_> = versions.iter().map(|text| parsed(text)).collect();
    let mut problems = Vec::new();
    for (i, writer) in schemas.iter().enumerate() {
        for (j, reader) in schemas.iter().enumerate() {
            match SchemaCompatibility::can_read(writer, reader) {
                Ok(Compatibility::Full) => {}
                Ok(Compatibility::Partial) => problems.push(format!("v{} reads v{} in part only", j + 1, i + 1)),
                Err(e) => problems.push(format!("v{} cannot read v{}: {e}", j + 1, i + 1)),
            }
        }
    }
    problems
}

/// Red when an `avro` folder has no Rust type, a file of a domain is no event's, or `ALL` misses one.
#[test]
fn every_avro_folder_has_a_rust_type_and_every_type_a_folder() {
    let folders = names(&folder("avro"));
    let all: Vec<_> = ALL.iter().map(|e| e.name.to_owned()).collect();
    assert_eq!(all, folders, "`ALL` in lib.rs lists the folders of `avro`, sorted");
    let file = |event: &String| {
        let (domain, name) = event.split_once('.').expect("a domain and a name");
        format!("{domain}/{}.rs", name.replace('.', "_"))
    };
    let files: Vec<_> = folders.iter().map(file).collect();
    let domains = names(&folder("src")).into_iter().filter(|entry| !entry.ends_with(".rs"));
    let of_domain = |domain: String| {
        let files = names(&folder("src").join(&domain));
        files.into_iter().map(move |file| format!("{domain}/{file}")).collect::<Vec<_>>()
    };
    let sources: Vec<_> = domains.flat_map(of_domain).collect();
    assert_eq!(sources, files, "each event has one file in its domain's folder of `src`, named after it");
    let tested: Vec<_> = contracts().iter().map(|c| c.event).collect();
    assert_eq!(tested, ALL, "`contracts` in this test lists the types of `ALL`");
}

/// Red when a record is called `headwater.payments.PaymentCompleted`, or a type includes another event's schema.
#[test]
fn a_record_is_named_after_its_event() {
    for contract in contracts() {
        let event = contract.event.name;
        let domain = event.split('.').next().expect("a first segment");
        assert_eq!(contract.rust, camel(event));
        for text in versions(event) {
            let name = parsed(&text).name().expect("a record").fullname(None);
            assert_eq!(name, format!("headwater.{domain}.{}", camel(event)));
        }
    }
}

/// Red when `SCHEMA` includes another file than the newest version, say v1 where there is a v2.
#[test]
fn a_type_is_written_for_the_newest_version() {
    for contract in contracts() {
        assert_eq!(Some(contract.event.schema), versions(contract.event.name).last().map(String::as_str));
    }
}

/// Red when `v2.avsc` adds or removes a field without a default; the next test proves that it would be.
#[test]
fn the_versions_of_an_event_are_pairwise_compatible() {
    for contract in contracts() {
        let problems = incompatible(&versions(contract.event.name));
        assert!(problems.is_empty(), "{}: {}", contract.event.name, problems.join("; "));
    }
}

/// Red when `incompatible` looks one way only, at neighbours only, or takes `Partial` for `Full`.
#[test]
fn a_field_without_a_default_can_be_neither_added_nor_removed() {
    for contract in contracts() {
        let (event, text) = (contract.event.name, contract.event.schema.to_owned());
        let base = json(&text);
        let versions = |more: &[Json]| -> Vec<String> {
            std::iter::once(text.clone()).chain(more.iter().map(Json::to_string)).collect()
        };

        let bare = with(&base, json!({"name": "channel", "type": "string"}));
        assert!(!incompatible(&versions(std::slice::from_ref(&bare))).is_empty(), "{event}: a bare field was added");
        let defaulted = with(&base, json!({"name": "channel", "type": "string", "default": "web"}));
        assert_eq!(incompatible(&versions(std::slice::from_ref(&defaulted))), [""; 0], "{event}: added with default");
        // v2 has the default, v3 drops it: each neighbour pair reads, v1 to v3 does not.
        assert!(!incompatible(&versions(&[defaulted, bare])).is_empty(), "{event}: only the neighbours were compared");

        for field in fields(&base) {
            let removed = incompatible(&versions(&[without(&base, name_of(field))]));
            let allowed = field.get("default").is_some();
            assert_eq!(removed.is_empty(), allowed, "{event}: `{}` removed: {removed:?}", name_of(field));
        }
    }
}

/// Red when `#[serde(default)]` goes from a field whose schema has a default, comes to one whose schema has none, or
/// gives another value.
#[test]
fn a_serde_default_equals_the_schema_default() {
    for contract in contracts() {
        let event = contract.event.name;
        let schema = json(contract.event.schema);
        let whole = sample_record(&schema);
        for field in fields(&schema) {
            let name = name_of(field);
            let mut lacking = whole.clone();
            lacking.as_object_mut().expect("a record").remove(name);
            match ((contract.round)(&lacking), field.get("default")) {
                (Ok(read), Some(default)) => assert_eq!(&read[name], default, "{event}: the default of `{name}`"),
                (Err(e), Some(_)) => panic!("{event}: `{name}` has a default in the schema only: {e}"),
                (Ok(read), None) => panic!("{event}: `{name}` has a default in Rust only: {}", read[name]),
                (Err(_), None) => {}
            }
        }
    }
}

/// Red when `#[serde(default)]` goes from `PaymentCompleted::email` and the field is no `Option`, or the reader stops
/// filling it in.
#[test]
fn a_record_of_a_version_without_the_field_decodes_to_its_default() {
    let mut seen = Vec::new();
    for contract in contracts() {
        let event = contract.event.name;
        let schema = json(contract.event.schema);
        for field in fields(&schema).iter().filter(|f| f.get("default").is_some()) {
            let older = without(&schema, name_of(field));
            let writer = parsed(&older.to_string());
            let read = (contract.decode)(&writer, &encode_as(&writer, &sample_record(&older)));
            assert_eq!(read[name_of(field)], field["default"], "{event}: `{}`", name_of(field));
            seen.push(format!("{event} {}", name_of(field)));
        }
    }
    assert!(seen.iter().any(|f| f == "payment.completed email"), "looked only at {seen:?}");
}

/// Red when a Rust field has another name or type than the schema's, is missing, or is one too many.
#[test]
fn a_rust_value_encodes_by_its_schema_and_decodes_back() {
    for contract in contracts() {
        let event = contract.event.name;
        let schema = json(contract.event.schema);
        let mut record = sample_record(&schema);
        let own = parsed(contract.event.schema);
        // With every value there, then with every default in its place.
        for _ in 0..2 {
            let bytes = (contract.encode)(&record);
            assert_eq!((contract.decode)(&own, &bytes), record, "{event}");
            assert_eq!(encode_as(&own, &record), bytes, "{event}: the bytes differ from those of the schema alone");
            for field in fields(&schema).iter().filter(|f| f.get("default").is_some()) {
                record[name_of(field)] = field["default"].clone();
            }
        }
    }
}

/// Red when `key` returns the payment's id.
#[test]
fn the_three_events_are_keyed_by_their_order() {
    let payment: PaymentCompleted = from_sample();
    let order: OrderFulfilled = from_sample();
    let receipt: ReceiptRequested = from_sample();
    assert_eq!([payment.key(), order.key(), receipt.key()], ["o1"; 3]);
}

fn from_sample<T: Payload>() -> T {
    let mut record = sample_record(&json(T::SCHEMA));
    record["order_id"] = json!("o1");
    serde_json::from_value(record).expect("a whole sample")
}
