use proptest::prelude::*;
use serde_json::json;

use super::random::{self, Rng};
use crate::{
    codec::{json, tests::*},
    failure::DeadLetterKind,
};

const ALL: &str = r#"{"type":"record","name":"All","namespace":"t","fields":[
  {"name":"id","type":"string"},
  {"name":"n","type":"long","default":3},
  {"name":"i","type":"int","default":3},
  {"name":"f","type":"float","default":0.5},
  {"name":"b","type":"bytes","default":"\u00ff"},
  {"name":"fixed","type":{"type":"fixed","name":"F","size":2},"default":"ab"},
  {"name":"e","type":{"type":"enum","name":"E","symbols":["A","B"]},"default":"A"},
  {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"},"default":0},
  {"name":"local","type":{"type":"long","logicalType":"local-timestamp-micros"},"default":0},
  {"name":"day","type":{"type":"int","logicalType":"date"},"default":0},
  {"name":"time","type":{"type":"int","logicalType":"time-millis"},"default":0},
  {"name":"price","type":{"type":"bytes","logicalType":"decimal","precision":6,"scale":2},"default":"\u0001"},
  {"name":"small","type":{"type":"fixed","name":"D","size":2,"logicalType":"decimal","precision":4,"scale":2},"default":"\u0000\u0001"},
  {"name":"uuid","type":{"type":"string","logicalType":"uuid"},"default":"98f0eb0e-3dd1-573a-ae72-a93d7cf6d360"},
  {"name":"note","type":["null","string"],"default":null},
  {"name":"many","type":["null","string","long",{"type":"map","values":"int"}],"default":null},
  {"name":"dur","type":["null",{"type":"fixed","name":"P","size":12,"logicalType":"duration"}],"default":null}]}"#;

fn through(json: &serde_json::Value) -> Result<serde_json::Value, CodecError> {
    let writer = schema(ALL);
    let value = Encoder::of(&writer).unwrap().encode_json(json)?;
    Ok(writer.json(&writer.value(split(&value)?.1)?))
}

/// Red when a default is not taken, a decimal's default is read as text, or a union's value is wrapped.
#[test]
fn what_is_left_out_takes_the_schemas_default() {
    assert_eq!(
        through(&json!({"id": "x"})).unwrap(),
        json!({"id": "x", "n": 3, "i": 3, "f": 0.5, "b": "\u{ff}", "fixed": "ab", "e": "A",
            "at": "1970-01-01T00:00:00Z", "local": "1970-01-01T00:00:00", "day": "1970-01-01", "time": "00:00:00",
            "price": "0.01", "small": "0.01", "uuid": "98f0eb0e-3dd1-573a-ae72-a93d7cf6d360", "note": null,
            "many": null, "dur": null})
    );
}

/// Red when text is not taken for a time or a decimal, or a union's tag for a value.
#[test]
fn people_write_times_decimals_and_unions_as_they_like() {
    for (field, written, read) in [
        ("n", json!(i64::MIN), json!(i64::MIN)),
        ("f", json!("-INF"), json!("-Infinity")),
        ("f", json!(0.1), json!(0.1)),
        ("at", json!("2026-01-01T02:00:00.250+02:00"), json!("2026-01-01T00:00:00.250Z")),
        ("at", json!(1_767_225_600_000_i64), json!("2026-01-01T00:00:00Z")),
        ("at", json!(i64::MAX), json!(i64::MAX)),
        ("local", json!("2026-01-01T02:00:00.000250"), json!("2026-01-01T02:00:00.000250")),
        ("day", json!("1969-12-31"), json!("1969-12-31")),
        ("time", json!("23:59:59.999"), json!("23:59:59.999")),
        ("price", json!("-12.3"), json!("-12.30")),
        ("price", json!(-1.28), json!("-1.28")),
        ("price", json!("1.28"), json!("1.28")),
        ("price", json!("-1.29"), json!("-1.29")),
        ("price", json!("9999.99"), json!("9999.99")),
        ("price", json!("0"), json!("0.00")),
        ("small", json!("-99.99"), json!("-99.99")),
        ("small", json!(12), json!("12.00")),
        ("note", json!({"string": "a"}), json!("a")),
        ("note", json!("a"), json!("a")),
        ("many", json!("a"), json!({"string": "a"})),
        ("many", json!({"long": 5}), json!({"long": 5})),
        ("many", json!({"a": 5}), json!({"map": {"a": 5}})),
        ("many", json!({"string": 5}), json!({"map": {"string": 5}})),
        ("dur", json!({"days": 4}), json!({"months": 0, "days": 4, "millis": 0})),
    ] {
        let got = through(&json!({"id": "x", field: written})).map(|all| all[field].clone());
        assert_eq!(got.ok(), Some(read), "{field} {written}");
    }
}

/// Red when the field is not named, or what was expected is not said.
#[test]
fn a_refused_line_names_the_field_and_what_it_expects() {
    for (json, message) in [
        (json!({}), "id: missing, and the schema has no default for it"),
        (json!({"id": "x", "emial": 1}), "emial: the schema has no such field in All"),
        (json!({"id": "x", "n": "x"}), "n: expected long, got \"x\""),
        (json!({"id": "x", "n": 1.5}), "n: expected long, got 1.5"),
        (json!({"id": "x", "i": 3_000_000_000_i64}), "i: expected int, got 3000000000"),
        (json!({"id": "x", "f": 1e300}), "f: expected float, got 1e+300"),
        (json!({"id": ["x"]}), "id: expected string, got an array"),
        (json!({"id": "x", "fixed": "abc"}), "fixed: expected fixed, got \"abc\""),
        (json!({"id": "x", "e": "C"}), "e: expected enum, got \"C\""),
        (json!({"id": "x", "at": "yesterday"}), "at: expected timestamp-millis, got \"yesterday\""),
        (json!({"id": "x", "price": "1.234"}), "price: expected a decimal with at most 2 digits after the point"),
        (
            json!({"id": "x", "price": "12345"}),
            "price: expected a decimal of at most 6 digits, 2 of them after the point",
        ),
        (json!({"id": "x", "note": 5}), "note: expected string, got 5"),
        (json!({"id": "x", "many": true}), "many: expected one of null, string, long, map, got true"),
        (json!([1]), "expected record, got an array"),
    ] {
        let error = through(&json).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.kind()), (message, DeadLetterKind::Contract));
    }
}

/// Red when any type is written as JSON that it does not read back.
#[test]
fn json_round_trips_on_random_schemas_and_values() {
    proptest!(ProptestConfig::with_cases(256), |(seed: u64)| {
        let mut rng = Rng::new(seed);
        let writer = schema(&random::record(&mut rng, 3).to_string());
        let value = random::value(&mut rng, writer.schema());
        let text = writer.json(&value);
        let names = writer.leaked().names();
        prop_assert_eq!(json::read(&text, writer.schema(), names).map_err(|f| f.to_string()), Ok(value), "{}", text);
    });
}
