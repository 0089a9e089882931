use super::*;

fn parsed(schema: &str) -> ParsedSchema {
    ParsedSchema::parse(schema, &[]).unwrap()
}

fn record(fields: &str) -> ParsedSchema {
    parsed(&format!(r#"{{"type":"record","name":"a.R","fields":[{fields}]}}"#))
}

fn field(schema: &str) -> ParsedSchema {
    record(&format!(r#"{{"name":"x","type":{schema}}}"#))
}

#[track_caller]
fn refused(writer: &ParsedSchema, reader: &ParsedSchema, why: &str) {
    let verdict = can_read(writer, reader).unwrap_err();
    assert!(verdict.contains(why), "{verdict}");
}

/// Red when a reader's field without default is let through, or the path to it is cut.
#[test]
fn a_readers_field_that_was_not_written_needs_a_default() {
    let old = record(r#"{"name":"x","type":"long"}"#);
    let bare = record(r#"{"name":"x","type":"long"},{"name":"y","type":"string"}"#);
    let with_default = record(r#"{"name":"x","type":"long"},{"name":"y","type":"string","default":""}"#);
    refused(&old, &bare, "field `y` is not in the writer's schema and has no default");
    can_read(&old, &with_default).unwrap();
    can_read(&bare, &old).unwrap();
    let renamed = record(r#"{"name":"z","aliases":["x"],"type":"long"}"#);
    can_read(&old, &renamed).unwrap();

    let nested = |fields: &str| {
        field(&format!(r#"{{"type":"array","items":{{"type":"record","name":"N","fields":[{fields}]}}}}"#))
    };
    refused(&nested(""), &nested(r#"{"name":"y","type":"int"}"#), "field `x[].y`");
}

/// Red when the leaves are not asked of apache-avro, or a writer's union needs to match in one branch only.
#[test]
fn types_promote_one_way_and_unions_and_enums_only_widen() {
    can_read(&field(r#""int""#), &field(r#""long""#)).unwrap();
    refused(&field(r#""long""#), &field(r#""int""#), "field `x`: long cannot be read as int");
    can_read(&field(r#""string""#), &field(r#"["null","string"]"#)).unwrap();
    refused(&field(r#"["null","string"]"#), &field(r#""string""#), "field `x`: null cannot be read as string");
    refused(
        &field(r#"["null","string"]"#),
        &field(r#"["null","long"]"#),
        "no branch of the reader's union reads string",
    );
    let ab = field(r#"{"type":"enum","name":"E","symbols":["A","B"]}"#);
    let a = field(r#"{"type":"enum","name":"E","symbols":["A"]}"#);
    let a_or_else = field(r#"{"type":"enum","name":"E","symbols":["A"],"default":"A"}"#);
    can_read(&a, &ab).unwrap();
    refused(&ab, &a, "symbol B");
    can_read(&ab, &a_or_else).unwrap();
    refused(
        &field(r#"{"type":"fixed","name":"F","size":4}"#),
        &field(r#"{"type":"fixed","name":"F","size":5}"#),
        "fixed",
    );
}

/// Red when a reference is compared as it stands: the new schema uses the type one field earlier than the old.
#[test]
fn a_named_type_is_the_same_in_place_and_by_reference() {
    let point = r#"{"type":"record","name":"a.P","fields":[{"name":"v","type":"int"}]}"#;
    let old = record(&format!(r#"{{"name":"x","type":{point}}},{{"name":"y","type":"a.P"}}"#));
    let new = record(&format!(r#"{{"name":"y","type":{point}}},{{"name":"x","type":"a.P"}}"#));
    can_read(&old, &new).unwrap();
    can_read(&new, &old).unwrap();
}

/// Red when the pairs that are being walked are forgotten (it never ends), or remembered after they failed.
#[test]
fn a_recursive_type_is_walked_once() {
    let list = |extra: &str| record(&format!(r#"{{"name":"next","type":["null","a.R"]}}{extra}"#));
    can_read(&list(""), &list("")).unwrap();
    refused(&list(""), &list(r#",{"name":"v","type":"int"}"#), "field `v`");
}

/// Red when FULL looks one way only.
#[test]
fn each_level_looks_its_own_way() {
    let old = record(r#"{"name":"x","type":"long"}"#);
    let more = record(r#"{"name":"x","type":"long"},{"name":"y","type":"string"}"#);
    let passes = |level: Level, new, old| level.check(new, old).is_ok();
    for (level, adds, removes) in [
        (Level::None, true, true),
        (Level::Backward, false, true),
        (Level::ForwardTransitive, true, false),
        (Level::Full, false, false),
        (Level::FullTransitive, false, false),
    ] {
        assert_eq!(passes(level, &more, &old), adds, "{level:?} adding");
        assert_eq!(passes(level, &old, &more), removes, "{level:?} removing");
    }
}
