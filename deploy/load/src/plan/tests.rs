use std::collections::HashSet;

use headwater::{Time, spi::Tracing};

use super::*;
use crate::random::Random;

fn target(schema: &str, key: &str) -> ProduceTarget {
    let schema = WriterSchema::parse(7, schema, &[]).expect("a schema");
    let encoder = Encoder::of(&schema).expect("an encoder");
    let key = KeySource::Field(key.to_owned());
    ProduceTarget {
        event_type: "test.made".to_owned(),
        topic: "events.test".into(),
        encoder,
        schema,
        key,
        tracing: Tracing::default(),
    }
}

/// So many values as JSON, with their keys.
fn made(target: &ProduceTarget, template: Option<&str>, seed: u32, count: u64) -> Vec<(Json, String)> {
    let plan = Plan::new(target, template).unwrap_or_else(|error| panic!("{template:?}: {error:#}"));
    let (mut random, mut said, mut out) = (Random::new(seed, 0), Vec::new(), Vec::new());
    let values = (0..count).map(|number| {
        let (random, said, key_text) = (&mut random, &mut said, format!("{seed}-{number}"));
        let now = Time::from_millis(1_767_225_600_123);
        let mut record = Record { number, key: number, key_text: &key_text, seed, now, random, said };
        plan.write(&mut record, &mut out);
        let (id, datum) = split(&out).expect("framed");
        assert_eq!(id, 7);
        let value = target.schema.value(datum).expect("the codec reads it");
        (target.schema.json(&value), String::from_utf8(said.clone()).expect("text"))
    });
    values.collect()
}

const EVERYTHING: &str = r#"{"type":"record","name":"Everything","fields":[
    {"name":"id","type":"string"},
    {"name":"boolean","type":"boolean"},{"name":"int","type":"int"},{"name":"long","type":"long"},
    {"name":"float","type":"float"},{"name":"double","type":"double"},{"name":"bytes","type":"bytes"},
    {"name":"fixed","type":{"type":"fixed","name":"F","size":11}},{"name":"null","type":"null"},
    {"name":"enum","type":{"type":"enum","name":"E","symbols":["A","B","C"]}},
    {"name":"array","type":{"type":"array","items":"int"}},{"name":"map","type":{"type":"map","values":"double"}},
    {"name":"optional","type":["null","string"],"default":null},{"name":"either","type":["long","string","boolean"]},
    {"name":"record","type":{"type":"record","name":"Inner","fields":[
        {"name":"x","type":"long"},{"name":"again","type":["null","Inner"]},{"name":"all","type":{"type":"array","items":"Inner"}}]}},
    {"name":"named","type":"E"},
    {"name":"date","type":{"type":"int","logicalType":"date"}},
    {"name":"time_ms","type":{"type":"int","logicalType":"time-millis"}},
    {"name":"time_us","type":{"type":"long","logicalType":"time-micros"}},
    {"name":"at_ms","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"at_us","type":{"type":"long","logicalType":"timestamp-micros"}},
    {"name":"at_ns","type":{"type":"long","logicalType":"timestamp-nanos"}},
    {"name":"local_us","type":{"type":"long","logicalType":"local-timestamp-micros"}},
    {"name":"uuid","type":{"type":"string","logicalType":"uuid"}},
    {"name":"uuid_fixed","type":{"type":"fixed","name":"U","size":16,"logicalType":"uuid"}},
    {"name":"decimal","type":{"type":"bytes","logicalType":"decimal","precision":9,"scale":2}},
    {"name":"decimal_long","type":{"type":"bytes","logicalType":"decimal","precision":30,"scale":2}},
    {"name":"decimal_fixed","type":{"type":"fixed","name":"D","size":3,"logicalType":"decimal","precision":6,"scale":1}},
    {"name":"decimal_wide","type":{"type":"fixed","name":"W","size":12,"logicalType":"decimal","precision":28,"scale":1}},
    {"name":"big","type":{"type":"bytes","logicalType":"big-decimal"}},
    {"name":"span","type":{"type":"fixed","name":"S","size":12,"logicalType":"duration"}}]}"#;

/// Red when a branch of `generated` writes another type's bytes, a time is not now, or a union's null is drawn.
#[test]
fn every_avro_type_is_generated_as_the_codec_reads_it() {
    let target = target(EVERYTHING, "id");
    let values = made(&target, None, 7, 500);
    for (value, key) in &values {
        assert_eq!(value["id"], Json::from(key.as_str()));
        for (field, time) in [
            ("date", "2026-01-01"),
            ("time_ms", "00:00:00.123"),
            ("time_us", "00:00:00.123"),
            ("at_ms", "2026-01-01T00:00:00.123Z"),
            ("at_us", "2026-01-01T00:00:00.123Z"),
            ("at_ns", "2026-01-01T00:00:00.123Z"),
            ("local_us", "2026-01-01T00:00:00.123"),
        ] {
            assert_eq!(value[field], time, "{field}");
        }
        assert!(value["optional"].is_string(), "{value}");
        for field in ["decimal", "decimal_long", "decimal_fixed", "decimal_wide"] {
            let text = value[field].as_str().expect("text");
            assert!(!text.starts_with('-') && text.len() <= 19, "{field}: {text}");
        }
    }
    let distinct = |field: &str| values.iter().map(|(value, _)| value[field].to_string()).collect::<HashSet<_>>().len();
    assert_eq!((distinct("id"), distinct("enum"), distinct("boolean"), distinct("null")), (500, 3, 2, 1));
    for field in ["long", "double", "bytes", "fixed", "uuid", "uuid_fixed", "decimal", "either", "map", "span"] {
        assert!(distinct(field) > 300, "{field}: {}", distinct(field));
    }
}

/// Red when the seed is ignored, or something else than it decides.
#[test]
fn the_same_seed_gives_the_same_values() {
    let target = target(EVERYTHING, "id");
    assert_eq!(made(&target, None, 7, 20), made(&target, None, 7, 20));
    assert_ne!(made(&target, None, 7, 20), made(&target, None, 8, 20));
}

const PAID: &str = r#"{"type":"record","name":"Paid","fields":[
    {"name":"order_id","type":"string"},{"name":"cents","type":"long"},{"name":"place","type":"int"},
    {"name":"share","type":"double"},{"name":"email","type":["null","string"],"default":null},
    {"name":"tags","type":{"type":"array","items":"string"}},{"name":"more","type":{"type":"map","values":"long"}},
    {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}},
    {"name":"inner","type":{"type":"record","name":"Inner","fields":[{"name":"a","type":"string"},{"name":"b","type":"int"}]}}]}"#;

/// Red when a placeholder stands for something else, a field that the template leaves out is not generated, or the key is not
/// what the key's field says.
#[test]
fn a_template_sets_the_fields_that_it_names() {
    let template = r#"{"order_id":"o-{{key}}","cents":"{{int 5 6}}","place":"{{n}}","share":"{{float 2 3}}",
        "email":"{{text 3}}@x","tags":["a","{{n}}"],"more":{"k":"{{int -3 -3}}"},"at":"{{now}}","inner":{"b":9}}"#;
    for (number, (value, key)) in made(&target(PAID, "order_id"), Some(template), 7, 50).into_iter().enumerate() {
        assert_eq!((&value["order_id"], key.as_str()), (&Json::from(key.as_str()), &*format!("o-7-{number}")));
        assert!(matches!(value["cents"].as_i64(), Some(5 | 6)), "{value}");
        assert_eq!(
            (value["place"].as_u64(), &value["tags"][1]),
            (Some(number as u64), &Json::from(number.to_string()))
        );
        assert!(value["share"].as_f64().is_some_and(|share| (2.0..3.0).contains(&share)));
        let email = value["email"].as_str().expect("text");
        assert!(email.len() == 5 && email.ends_with("@x"), "{email}");
        assert_eq!((&value["more"]["k"], &value["at"]), (&Json::from(-3), &Json::from("2026-01-01T00:00:00.123Z")));
        assert_eq!((&value["inner"]["b"], value["inner"]["a"].as_str().map(str::len)), (&Json::from(9), Some(TEXT)));
    }
    let constant = r#"{"email":null,"cents":12,"tags":[],"at":"2026-01-01T00:00:00Z","more":{}}"#;
    let (value, _) = made(&target(PAID, "order_id"), Some(constant), 7, 1).remove(0);
    assert_eq!(
        (&value["email"], &value["cents"], &value["tags"]),
        (&Json::Null, &Json::from(12), &Json::from([0_u8; 0]))
    );
}

/// A number may be the key too. Red when what the key's field says is not noted.
#[test]
fn the_key_is_what_its_field_says() {
    for (value, key) in made(&target(PAID, "cents"), None, 7, 20) {
        assert_eq!(value["cents"].to_string(), key);
    }
    for (value, key) in made(&target(PAID, "email"), None, 7, 20) {
        assert_eq!(value["email"], Json::from(key));
    }
}

/// Red when a template that does not fit is found out by the first record, or by nobody, or the message does not say where.
#[test]
fn what_does_not_fit_is_refused_by_name() {
    for (template, words) in [
        (r#"{"oder_id":"x"}"#, &["no field `oder_id`", "`order_id`"][..]),
        (r#"{"inner":{"colour":1}}"#, &["inner", "no field `colour`", "a, b"]),
        (r#"{"cents":"many"}"#, &["cents", "long"]),
        (r#"{"cents":"{{text 3}}"}"#, &["cents", "number"]),
        (r#"{"cents":"{{inn 1 2}}"}"#, &["cents", "`int`"]),
        (r#"{"cents":"{{int 2 1}}"}"#, &["cents", "int LOW HIGH"]),
        (r#"{"place":"{{int 0 3000000000}}"}"#, &["place", "int"]),
        (r#"{"cents":"{{n"}"#, &["cents", "closed"]),
        (r#"{"email":7}"#, &["email"]),
        (r#"{"order_id":"#, &["not JSON"]),
        ("no-such-file.json", &["no-such-file.json"]),
    ] {
        let refused = Plan::new(&target(PAID, "order_id"), Some(template)).expect_err(template);
        assert!(refused.downcast_ref::<Problems>().is_some(), "{template}: exit code 2");
        let text = format!("{refused:#}");
        assert!(words.iter().all(|word| text.contains(word)), "{template}: {text}");
    }
    for (key, word) in [("oder_id", "`order_id`"), ("share", "--key"), ("inner", "--key")] {
        let refused = format!("{:#}", Plan::new(&target(PAID, key), None).expect_err(key));
        assert!(refused.contains(word), "{key}: {refused}");
    }
    let endless = r#"{"type":"record","name":"R","fields":[{"name":"id","type":"string"},{"name":"r","type":"R"}]}"#;
    let refused = format!("{:#}", Plan::new(&target(endless, "id"), None).expect_err("endless"));
    assert!(refused.contains("without end"), "{refused}");
}
