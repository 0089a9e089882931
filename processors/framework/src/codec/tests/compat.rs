//! Which schema can read what another wrote.

use apache_avro::Schema;

use crate::codec::schema::compat::{can_read, reads};

fn record(name: &str, fields: &str) -> Schema {
    Schema::parse_str(&format!(r#"{{"type":"record","name":"{name}","namespace":"n","fields":[{fields}]}}"#)).unwrap()
}

fn field(kind: &str) -> Schema {
    record("R", &format!(r#"{{"name":"f","type":{kind}}}"#))
}

/// Red when a promotion is missing or one too many, a logical type counts as another than what it is written as, or the
/// branches of a union are not each asked.
#[test]
fn types_are_read_as_the_specification_promotes_them() {
    let decimal = |p| format!(r#"{{"type":"bytes","logicalType":"decimal","precision":{p},"scale":2}}"#);
    let (narrow, wide) = (decimal(6), decimal(9));
    let fixed = |name: &str, size| format!(r#"{{"type":"fixed","name":"{name}","size":{size}}}"#);
    let enumeration =
        |symbols: &str, default: &str| format!(r#"{{"type":"enum","name":"E","symbols":[{symbols}]{default}}}"#);
    let (ab, abc) = (enumeration(r#""a","b""#, ""), enumeration(r#""a","b","c""#, ""));
    let ab_or_a = enumeration(r#""a","b""#, r#","default":"a""#);
    let cases: Vec<(String, String, bool, bool)> = vec![
        (r#""int""#.into(), r#""long""#.into(), true, false),
        (r#""int""#.into(), r#""double""#.into(), true, false),
        (r#""long""#.into(), r#""float""#.into(), true, false),
        (r#""float""#.into(), r#""double""#.into(), true, false),
        (r#""string""#.into(), r#""bytes""#.into(), true, true),
        (r#""string""#.into(), r#""int""#.into(), false, false),
        (
            r#"{"type":"int","logicalType":"date"}"#.into(),
            r#"{"type":"long","logicalType":"timestamp-millis"}"#.into(),
            true,
            false,
        ),
        (narrow, wide, true, true),
        (fixed("F", 2), fixed("F", 3), false, false),
        (fixed("F", 2), fixed("F", 2), true, true),
        (r#""string""#.into(), r#"["null","string"]"#.into(), true, false),
        (r#"["null","int"]"#.into(), r#"["string","null","long"]"#.into(), true, false),
        (r#"{"type":"array","items":"int"}"#.into(), r#"{"type":"array","items":"long"}"#.into(), true, false),
        (r#"{"type":"map","values":"int"}"#.into(), r#"{"type":"array","items":"int"}"#.into(), false, false),
        (ab.clone(), abc.clone(), true, false),
        (abc, ab_or_a, true, true),
    ];
    for (one, other, there, back) in cases {
        let (writer, reader) = (field(&one), field(&other));
        assert_eq!(can_read(&writer, &reader).is_ok(), there, "{one} as {other}");
        assert_eq!(can_read(&reader, &writer).is_ok(), back, "{other} as {one}");
    }
}

/// Red when a promotion of a logical type, or a decimal of another scale, is what the codec reads although it does not.
#[test]
fn the_codec_reads_less_than_a_registry_lets_through() {
    let decimal =
        |scale| field(&format!(r#"{{"type":"bytes","logicalType":"decimal","precision":6,"scale":{scale}}}"#));
    let time = |unit: &str| field(&format!(r#"{{"type":"long","logicalType":"timestamp-{unit}"}}"#));
    for (writer, reader) in [(decimal(2), decimal(3)), (time("millis"), time("micros"))] {
        assert_eq!(can_read(&writer, &reader), Ok(()));
        assert!(reads(&writer, &reader).unwrap_err().contains("field `f`: expected"));
    }
    assert_eq!(reads(&field(r#""int""#), &field(r#""long""#)), Ok(()));
}

/// Red when a default is not enough or not needed, a name or an alias is not asked for, a type that one schema defines in place and the
/// other refers to is another, a recursive type never ends, or the field is not named.
#[test]
fn records_are_read_field_by_field() {
    let id = r#"{"name":"id","type":"string"}"#;
    let one = record("R", id);
    let more = record("R", &format!(r#"{id},{{"name":"b","type":"string"}}"#));
    let defaulted = record("R", &format!(r#"{id},{{"name":"b","type":"string","default":""}}"#));
    assert_eq!(can_read(&more, &one), Ok(()));
    assert_eq!(can_read(&one, &defaulted), Ok(()));
    assert!(can_read(&one, &more).unwrap_err().contains("field `b`"));
    assert!(can_read(&record("Q", id), &one).unwrap_err().contains("Q is another type than R"));
    let renamed = record("R", r#"{"name":"key","type":"string","aliases":["id"]}"#);
    assert_eq!(can_read(&one, &renamed), Ok(()));
    let moved = r#"{"type":"record","name":"P","fields":[{"name":"x","type":"int"}]}"#;
    let early = record("R", &format!(r#"{{"name":"a","type":{moved}}},{{"name":"b","type":"P"}}"#));
    let late = record("R", &format!(r#"{{"name":"b","type":{moved}}},{{"name":"a","type":"P"}}"#));
    assert_eq!((can_read(&early, &late), can_read(&late, &early)), (Ok(()), Ok(())));
    let list =
        |kind: &str| record("R", &format!(r#"{{"name":"x","type":"{kind}"}},{{"name":"next","type":["null","R"]}}"#));
    assert_eq!(can_read(&list("int"), &list("long")), Ok(()));
    assert!(can_read(&list("long"), &list("int")).unwrap_err().contains("field `x`: long cannot be read as int"));
    let nested = |kind: &str| {
        record(
            "R",
            &format!(
                r#"{{"name":"p","type":{{"type":"record","name":"P","fields":[{{"name":"x","type":"{kind}"}}]}}}}"#
            ),
        )
    };
    assert!(can_read(&nested("string"), &nested("int")).unwrap_err().contains("field `p.x`"));
}
