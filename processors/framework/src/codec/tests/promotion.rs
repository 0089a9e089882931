//! The specification's table of what a reader takes for a writer's type, for every pair.

use std::collections::HashSet;

use apache_avro::types::Value;
use serde_json::json;

use crate::codec::{
    avro::value_resolver::ValueResolver,
    schema::{StaticSchema, comparison::SchemaComparison},
    tests::*,
};

/// A type, a value of it as JSON, and what a reader may read it as, with the value that it then has.
type Row = (serde_json::Value, serde_json::Value, Vec<(&'static str, serde_json::Value)>);

fn table() -> Vec<Row> {
    [plain_types(), logical_types()].concat()
}

fn plain_types() -> Vec<Row> {
    vec![
        (json!("null"), json!(null), vec![]),
        (json!("boolean"), json!(true), vec![]),
        (
            json!("int"),
            json!(7),
            vec![
                ("long", json!(7)),
                ("float", json!(7.0)),
                ("double", json!(7.0)),
                ("date", json!("1970-01-08")),
                ("timestamp-millis", json!("1970-01-01T00:00:00.007Z")),
                ("timestamp-micros", json!("1970-01-01T00:00:00.000007Z")),
            ],
        ),
        (
            json!("long"),
            json!(7),
            vec![
                ("float", json!(7.0)),
                ("double", json!(7.0)),
                ("timestamp-millis", json!("1970-01-01T00:00:00.007Z")),
                ("timestamp-micros", json!("1970-01-01T00:00:00.000007Z")),
            ],
        ),
        (json!("float"), json!(0.5), vec![("double", json!(0.5))]),
        (json!("double"), json!(0.5), vec![]),
        // What a fixed, an enum, a decimal and a uuid would look like, so that only their types can tell them apart.
        (json!("bytes"), json!("abc"), vec![("string", json!("abc")), ("decimal", json!("63821.79"))]),
        (json!("string"), json!("A"), vec![("bytes", json!("A"))]),
        (named("fixed", json!({"size": 3})), json!("abc"), vec![]),
        (named("enum", json!({"symbols": ["A", "B"]})), json!("A"), vec![]),
        (json!({"type": "array", "items": "long"}), json!([65]), vec![]),
        (json!({"type": "map", "values": "long"}), json!({"a": 65}), vec![]),
        (named("record", json!({"fields": [{"name": "a", "type": "long"}]})), json!({"a": 65}), vec![]),
    ]
}

fn logical_types() -> Vec<Row> {
    let at = "2026-01-01T00:00:00Z";
    let (millis, micros) = (json!(1_767_225_600_000_i64), json!(1_767_225_600_000_000_i64));
    let uuid = "98f0eb0e-3dd1-573a-ae72-a93d7cf6d360";
    vec![
        (
            logical("int", "date"),
            json!("1970-01-08"),
            vec![("int", json!(7)), ("long", json!(7)), ("float", json!(7.0)), ("double", json!(7.0))],
        ),
        (
            logical("long", "timestamp-millis"),
            json!(at),
            vec![
                ("long", millis.clone()),
                ("float", json!(1_767_225_600_000.0)),
                ("double", json!(1_767_225_600_000.0)),
            ],
        ),
        (
            logical("long", "timestamp-micros"),
            json!(at),
            vec![
                ("long", micros.clone()),
                ("float", json!(1_767_225_600_000_000.0)),
                ("double", json!(1_767_225_600_000_000.0)),
            ],
        ),
        (
            json!({"type": "bytes", "logicalType": "decimal", "precision": 9, "scale": 2}),
            json!("166.97"),
            vec![("bytes", json!("A9"))],
        ),
        (logical("string", "uuid"), json!(uuid), vec![("string", json!(uuid))]),
        (
            json!({"type": "fixed", "name": "Span", "size": 12, "logicalType": "duration"}),
            json!({"months": 1, "days": 2, "millis": 3}),
            vec![],
        ),
    ]
}

fn named(kind: &str, mut rest: serde_json::Value) -> serde_json::Value {
    rest["type"] = json!(kind);
    rest["name"] = json!(format!("A{kind}"));
    rest
}

fn logical(kind: &str, logical: &str) -> serde_json::Value {
    json!({"type": kind, "logicalType": logical})
}

/// What the table calls a type.
fn label(kind: &serde_json::Value) -> &str {
    kind.get("logicalType").or_else(|| kind.get("type")).unwrap_or(kind).as_str().expect("a name")
}

/// Reads a datum of `writer` as `reader`, and says whether the two count as the same.
fn read(
    writer: &serde_json::Value,
    value: &serde_json::Value,
    reader: &serde_json::Value,
) -> (bool, Result<serde_json::Value, String>) {
    let reader = schema(&reader.to_string());
    let writer = schema(&writer.to_string());
    let (from, to) = (writer.leaked(), reader.leaked());
    let mut same = SchemaComparison { writer: from.names(), reader: to.names(), open: HashSet::new() };
    let direct = same.types(from.schema, to.schema);
    let datum = Encoder::of(&writer).unwrap().encode_json(value).expect("a value of its schema").split_off(5);
    let resolve = ValueResolver { writer: from.names(), reader: to.names() };
    let value = resolve.value(writer.value(&datum).expect("a datum"), from.schema, to.schema);
    (direct, value.map(|value| reader.json(&value)).map_err(|fault| fault.to_string()))
}

/// Red when a reader's type takes what the value allows instead of the writer's type (a fixed or an enum as a string, a
/// double as a float, a long as an int, a string as an enum or a decimal), or the fast path takes two types for the same.
#[test]
fn a_reader_takes_what_the_specification_promotes_and_nothing_else() {
    let table = table();
    for (writer, value, taken) in &table {
        for (reader, ..) in &table {
            let (pair, label) = (format!("{} as {}", label(writer), label(reader)), label(reader));
            let wanted = if writer == reader {
                Some(value)
            } else {
                taken.iter().find(|(name, _)| *name == label).map(|(_, value)| value)
            };
            let fields = |kind: &serde_json::Value| json!({"type": "record", "name": "R", "fields": [{"name": "f", "type": kind}]});
            let (direct, got) = read(writer, value, reader);
            assert_eq!(direct, writer == reader, "{pair}: straight from the bytes");
            assert_eq!(got.as_ref().ok(), wanted, "{pair}: {got:?}");
            // A union takes the same, and a field.
            let union = json!(["null", reader]);
            if label != "null" {
                let (_, got) = read(writer, value, &union);
                let null = (writer == "null").then_some(value);
                assert_eq!(got.as_ref().ok(), wanted.or(null), "{pair} or null: {got:?}");
            }
            let (_, got) = read(&fields(writer), &json!({"f": value}), &fields(reader));
            match wanted {
                Some(wanted) => assert_eq!(got, Ok(json!({"f": wanted})), "{pair} in a field"),
                None => assert!(got.as_ref().is_err_and(|why| why.starts_with("f: expected ")), "{pair}: {got:?}"),
            }
        }
    }
}

/// Red when the size of a fixed or the digits of a decimal are not compared, or a decimal on bytes is one on a fixed.
#[test]
fn what_a_type_holds_counts_too() {
    let fixed = |size: usize| json!({"type": "fixed", "name": "F", "size": size});
    let (_, got) = read(&fixed(3), &json!("abc"), &fixed(4));
    assert_eq!(got, Err("expected a fixed of 4 bytes, the writer's schema has 3".to_owned()));
    let decimal =
        |precision: u32| json!({"type": "bytes", "logicalType": "decimal", "precision": precision, "scale": 2});
    assert_eq!(read(&decimal(6), &json!("1.50"), &decimal(9)).1, Ok(json!("1.50")));
    let (_, got) = read(&decimal(9), &json!("1.50"), &decimal(6));
    assert_eq!(got, Err("expected a decimal of 6 digits, the writer's schema has 9".to_owned()));
    let on_fixed =
        json!({"type": "fixed", "name": "D", "size": 4, "logicalType": "decimal", "precision": 6, "scale": 2});
    assert!(read(&on_fixed, &json!("1.50"), &decimal(6)).1.is_err());
    let plain = json!({"type": "fixed", "name": "D", "size": 4});
    assert_eq!(read(&on_fixed, &json!("1.50"), &plain).1, Ok(json!("\0\0\0\u{96}")));
    assert_eq!(read(&plain, &json!("\0\0\0\u{96}"), &on_fixed).1, Ok(json!("1.50")));
}

/// Red when a branch is chosen by its kind though its name says which, an alias is not a name, or one of several is taken
/// by chance.
#[test]
fn a_unions_branch_is_found_by_type_then_name_then_promotion() {
    let record = |name: &str, field: &str, aliases: serde_json::Value| json!({"type": "record", "name": name, "aliases": aliases, "fields": [{"name": field, "type": "long", "default": 0}]});
    let (a, b, renamed) =
        (record("x.A", "a", json!([])), record("x.B", "b", json!([])), record("x.C", "c", json!(["x.B"])));
    let one = json!({"b": 5});
    assert_eq!(read(&b, &one, &json!([a, b])).1, Ok(json!({"x.B": {"b": 5}})));
    assert_eq!(read(&record("y.B", "b", json!([])), &one, &json!([a, b])).1, Ok(json!({"x.B": {"b": 5}})));
    assert_eq!(
        read(&b, &one, &json!([a, renamed])).1,
        Ok(json!({"x.C": {"c": 0}})),
        "by its alias, which names no field"
    );
    assert_eq!(read(&record("y.Z", "b", json!([])), &one, &json!(["null", b])).1, Ok(json!({"b": 5})), "the only one");
    let (_, got) = read(&record("y.Z", "b", json!([])), &one, &json!([a, b]));
    assert_eq!(got, Err("the reader's union has no branch for record".to_owned()));
    assert_eq!(read(&json!("int"), &json!(5), &json!(["string", "double", "long"])).1, Ok(json!({"double": 5.0})));
    assert_eq!(read(&json!("long"), &json!(5), &json!(["double", "long"])).1, Ok(json!({"long": 5})));
}

/// Red when a field's alias in the writer's schema stands for a field that it does not have, in either path.
#[test]
fn aliases_are_the_readers_alone() {
    let record = |fields: serde_json::Value| json!({"type": "record", "name": "R", "fields": fields});
    let old = record(json!([{"name": "cents", "type": "long"}]));
    let new = record(json!([{"name": "amount", "type": "long", "aliases": ["cents"]}]));
    assert_eq!(read(&old, &json!({"cents": 5}), &new), (false, Ok(json!({"amount": 5}))));
    let (direct, got) = read(&new, &json!({"amount": 5}), &old);
    assert!(!direct && got.is_err_and(|why| why.starts_with("cents: missing")));
    let writer = schema(&new.to_string());
    let error = Encoder::of(&writer).unwrap().encode_json(&json!({"amount": 1, "cents": 5})).unwrap_err();
    assert_eq!(error.to_string(), "cents: the schema has no such field in R");
}

/// Red when an enum's default does not stand for a symbol that the reader lacks.
#[test]
fn an_enums_default_stands_for_new_symbols() {
    let of = |symbols: &[&str], default: Option<&str>| match default {
        Some(default) => json!({"type": "enum", "name": "E", "symbols": symbols, "default": default}),
        None => json!({"type": "enum", "name": "E", "symbols": symbols}),
    };
    assert_eq!(read(&of(&["A", "NEW"], None), &json!("NEW"), &of(&["OLD", "A"], Some("OLD"))).1, Ok(json!("OLD")));
    assert!(read(&of(&["A", "NEW"], None), &json!("NEW"), &of(&["OLD", "A"], None)).1.is_err());
}

/// Red when a big-decimal's bytes cannot be read as bytes, or bytes as one.
#[test]
fn a_big_decimal_lies_on_bytes() {
    let big = schema(r#"{"type":"bytes","logicalType":"big-decimal"}"#);
    let bytes = StaticSchema::parse(r#""bytes""#, &[]).unwrap();
    let resolve = |writer: StaticSchema, reader: StaticSchema, value: Value| {
        ValueResolver { writer: writer.names(), reader: reader.names() }
            .value(value, writer.schema, reader.schema)
            .unwrap()
    };
    let value = Value::BigDecimal("-12.50".parse().unwrap());
    let plain = resolve(big.leaked(), bytes, value.clone());
    assert!(matches!(plain, Value::Bytes(_)), "{plain:?}");
    assert_eq!(resolve(bytes, big.leaked(), plain), value);
}
