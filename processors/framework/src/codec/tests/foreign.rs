//! Schemas as others write them: several types under one id, and what Java takes.

use serde_json::json;

use crate::codec::tests::*;

/// What a value of this JSON, written under a schema, reads as, and what its record is called.
fn through(writer: &Arc<WriterSchema>, json: &serde_json::Value) -> (Option<String>, serde_json::Value) {
    let value = Encoder::of(writer).expect("writable").encode_json(json).expect("fits");
    let datum = split(&value).expect("a value").1;
    let (schema, datum) = writer.of_datum(datum).expect("a branch");
    (schema.full_name().map(str::to_owned), schema.json(&schema.value(datum).expect("readable")))
}

/// Red when a record of a topic of several types is read as the union (`of_datum` gives the whole),
/// by another branch than the one it names, or a branch lacks a type that another one defines.
#[test]
fn a_union_is_read_by_its_branch() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename = "Paid")]
    struct Paid {
        id: String,
        total: Money,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Money {
        cents: i64,
    }
    impl Payload for Paid {
        const TYPE: &'static str = "shop.paid";
        const SCHEMA: &'static str = r#"{"type":"record","name":"Paid","namespace":"shop","fields":[{"name":"id","type":"string"},
            {"name":"total","type":{"type":"record","name":"Money","fields":[{"name":"cents","type":"long"}]}}]}"#;
        fn key(&self) -> &str {
            &self.id
        }
    }
    let money = r#"{"type":"record","name":"Money","namespace":"shop","fields":[{"name":"cents","type":"long"}]}"#;
    let paid = r#"{"type":"record","name":"Paid","namespace":"shop","fields":[
        {"name":"id","type":"string"},{"name":"total","type":"Money"}]}"#;
    let sent =
        r#"{"type":"record","name":"Sent","namespace":"shop","fields":[{"name":"cost","type":["null","Money"]}]}"#;
    let references = [money, paid, sent].map(str::to_owned);
    let writer = WriterSchema::parse(5, r#"["shop.Sent","shop.Paid"]"#, &references).expect("a schema");
    let value = json!({"id": "p1", "total": {"cents": 7}});
    assert_eq!(through(&writer, &json!({"shop.Paid": value})), (Some("shop.Paid".to_owned()), value));
    let value = json!({"cost": {"cents": 3}});
    assert_eq!(through(&writer, &json!({"shop.Sent": value})), (Some("shop.Sent".to_owned()), value));
    let datum = Encoder::of(&writer).unwrap().encode_json(&json!({"shop.Paid": {"id": "p", "total": {"cents": 1}}}));
    let datum = datum.unwrap().split_off(5);
    let (branch, rest) = writer.of_datum(&datum).unwrap();
    let read: Paid = branch.decode(rest).unwrap();
    assert_eq!(read, Paid { id: "p".to_owned(), total: Money { cents: 1 } });
    assert!(branch.decodes_directly::<Paid>(), "as quickly as any");
    assert_eq!((branch.id(), branch.key(), writer.key()), (5, (5, 2), (5, 0)));
    let error = writer.of_datum(&[8]).unwrap_err();
    assert_eq!(
        (error.kind(), error.to_string().as_str()),
        (crate::failure::DeadLetterKind::Decode, "4 is none of the 2 branches of the union")
    );
}

/// Red when a default that does not fit, which a reader does not need, a name that only Java can read, a type that is
/// defined twice alike, a reference into no namespace, `error`, or a logical type that is none makes data unreadable (each left
/// out of the rewriting in turn); or names of types, fields or symbols are not given back.
#[test]
fn what_java_takes_is_read() {
    for (text, json, name) in [
        (
            r#"{"type":"record","name":"a.R","fields":[{"name":"n","type":"int","default":"x"}]}"#,
            json!({"n": 5}),
            "a.R",
        ),
        (
            r#"{"type":"record","name":"R","namespace":"com.acme.Outer$","fields":[{"name":"in","type":
                {"type":"record","name":"In","fields":[{"name":"n","type":"int"}]}},{"name":"next","type":["null","In"]}]}"#,
            json!({"in": {"n": 1}, "next": {"n": 2}}),
            "com.acme.Outer$.R",
        ),
        (
            r#"{"type":"record","name":"Größe","fields":[{"name":"höhe","type":"long","default":3},{"name":"farbe","type":
                {"type":"enum","name":"Farbe","symbols":["GRÜN","ROT"],"default":"GRÜN"}}]}"#,
            json!({"höhe": 3, "farbe": "GRÜN"}),
            "Größe",
        ),
        (
            r#"{"type":"record","name":"a.R","fields":[{"name":"x","type":{"type":"fixed","name":"F","size":2}},
                {"name":"y","type":{"type":"fixed","name":"F","size":2}}]}"#,
            json!({"x": "ab", "y": "cd"}),
            "a.R",
        ),
        (
            r#"{"type":"record","name":"Root","fields":[{"name":"in","type":{"type":"record","name":"b.In","fields":
                [{"name":"up","type":["null","Root"]}]}}]}"#,
            json!({"in": {"up": {"in": {"up": null}}}}),
            "Root",
        ),
        (r#"{"type":"error","name":"a.E","fields":[{"name":"n","type":"int"}]}"#, json!({"n": 5}), "a.E"),
        (
            r#"{"type":"record","name":"a.R","fields":[{"name":"n","type":{"type":"int","logicalType":7}}]}"#,
            json!({"n": 5}),
            "a.R",
        ),
    ] {
        let writer = WriterSchema::parse(1, text, &[]).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(through(&writer, &json), (Some(name.to_owned()), json), "{text}");
    }
    let inner = r#"{"type":"record","name":"In","namespace":"a.Outer$","fields":[{"name":"n","type":"int"}]}"#;
    let outer = r#"{"type":"record","name":"R","namespace":"a.Outer$","fields":[{"name":"in","type":"In"}]}"#;
    let writer = WriterSchema::parse(1, outer, &[inner.to_owned()]).expect("a schema");
    assert_eq!(through(&writer, &json!({"in": {"n": 1}})).0.as_deref(), Some("a.Outer$.R"));
}

/// A later schema may leave a field out only where it has a default. Fails where all defaults go with one that does not fit, or one
/// that does not fit stays.
#[test]
fn only_the_default_that_does_not_fit_is_left_out() {
    let text = r#"{"type":"record","name":"a.R","fields":[
        {"name":"a","type":"string","default":"x"},
        {"name":"b","type":"int","default":"x"},
        {"name":"c","type":{"type":"enum","name":"E","symbols":["A","B"],"default":"B"},"default":"A"},
        {"name":"d","type":["null","int"],"default":"x"},
        {"name":"e","type":{"type":"enum","name":"F","symbols":["A"],"default":"Z"},"default":"A"},
        {"name":"f","type":["null","int"],"default":null}]}"#;
    let writer = WriterSchema::parse(1, text, &[]).expect("a schema");
    let apache_avro::Schema::Record(record) = writer.schema() else { panic!("{writer:?}") };
    let with: Vec<_> = record.fields.iter().filter(|field| field.default.is_some()).map(|f| f.name.as_str()).collect();
    assert_eq!(with, ["a", "c", "e", "f"]);
    let of_enum = |at: usize| match &record.fields[at].schema {
        apache_avro::Schema::Enum(schema) => schema.default.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!((of_enum(2).as_deref(), of_enum(4)), (Some("B"), None));
}

/// Red when leniency invents what is not said (fields for none, text for a type that is nowhere), hides what is wrong (a second
/// definition that differs taken for the first), or is shown to a type's own schema.
#[test]
fn what_nobody_takes_is_refused_as_before() {
    for (text, why) in [
        (r#"{"type":"record","name":"R","fields":[{"name":"n","type":"nowhere"}]}"#, "nowhere"),
        (r#"{"type":"record","name":"R"}"#, "fields"),
        ("junk", "not JSON"),
        (
            r#"{"type":"record","name":"a.R","fields":[{"name":"x","type":{"type":"fixed","name":"F","size":2}},
                {"name":"y","type":{"type":"fixed","name":"F","size":3}}]}"#,
            "F",
        ),
    ] {
        let error = WriterSchema::parse(1, text, &[]).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
    let strange = r#"{"type":"record","name":"a.R","fields":[{"name":"n","type":"int","default":"x"}]}"#;
    assert!(Encoder::new(1, strange).is_err());
}
