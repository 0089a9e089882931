//! Records of another schema than their type's, on their way to a table.

use crate::{
    failure::DeadLetterKind,
    pipeline::catalogue::{Binding, KeyFormat},
    worker::tests::*,
};

macro_rules! written_as {
    ($name:ident, $record:literal, $fields:literal, { $($field:ident: $type:ty),* }) => {
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename = $record)]
        struct $name {
            $($field: $type,)*
        }

        impl Payload for $name {
            const TYPE: &'static str = concat!("net.", stringify!($name));
            const SCHEMA: &'static str = concat!(
                r#"{"type":"record","name":""#, $record, r#"","namespace":"headwater.net","fields":["#, $fields, "]}"
            );

            fn key(&self) -> &str {
                "k"
            }
        }
    };
}

written_as!(OfNumber, "Ping", r#"{"name":"id","type":"long"}"#, { id: i64 });
written_as!(OfPlanet, "Ping", r#"{"name":"id","type":"string"},{"name":"planet","type":"string"}"#, { id: String, planet: String });
written_as!(Alike, "Alike", r#"{"name":"id","type":"string"},{"name":"seq","type":"long"}"#, { id: String, seq: i64 });
written_as!(
    Newer,
    "Ping",
    r#"{"name":"seq","type":"int"},{"name":"id","type":"string"},{"name":"note","type":"string","default":""}"#,
    { seq: i32, id: String, note: String }
);

fn typed() -> Headers {
    Headers::from_iter([("ce_type", Some(&b"net.ping"[..]))])
}

/// Red when a record that the type's own schema cannot read becomes a row, a letter is of another kind or does not say why, or
/// one of a schema that is only newer is taken for it.
#[test]
fn a_record_of_another_schema_than_its_types_is_no_row() {
    let pipeline = Pipeline::default().sink("pings", Sink::of::<Ping>("pings").key("id")).event::<Ping>();
    let mut driver = Driver::new(pipeline);
    driver.send_with(OfNumber { id: 1 }, typed());
    driver.send_with(OfPlanet { id: "a".to_owned(), planet: "Mars".to_owned() }, typed());
    driver.send_with(Alike { id: "b".to_owned(), seq: 1 }, typed());
    driver.send_with(Newer { seq: 1, id: "c".to_owned(), note: "x".to_owned() }, typed());
    driver.send(ping("d", 2)).advance(SECOND);
    assert_eq!(driver.rows("pings").len(), 2);
    assert_eq!(driver.metrics("pings").letters(DeadLetterKind::Contract), 3);
    let letters = driver.records("pings.dlq");
    let whys: Vec<_> = letters.iter().map(|letter| delivery(&letter.headers)["hw_error_message"].clone()).collect();
    let wanted = [
        "field `id`: expected string, the writer's schema has long",
        "field `seq`: it is not there",
        "Alike is another type",
    ];
    assert!(whys.len() == 3 && whys.iter().zip(wanted).all(|(why, words)| why.contains(words)), "{whys:?}");
}

/// What a foreign topic holds is its owner's affair, also where its events are of a type that is known here. Red when the
/// catalogue's schema is asked for there too.
#[test]
fn a_bound_topics_records_need_not_be_the_catalogues() {
    let binding = Binding { event_type: "net.ping".to_owned(), key: KeyFormat::Text };
    let pipeline =
        Pipeline::default().sink("pings", Sink::of::<Ping>("pings").key("id")).event::<Ping>().bind("shop", binding);
    let mut driver = Driver::new(pipeline);
    driver.send_with(OfPlanet { id: "a".to_owned(), planet: "Mars".to_owned() }, typed());
    assert_eq!((driver.rows("pings").len(), driver.metrics("pings").letters(DeadLetterKind::Contract)), (0, 1));
    let value = driver.records("events.net").remove(0).value;
    driver.send_record(raw("shop", value.as_deref(), Headers::default())).advance(SECOND);
    assert_eq!((driver.rows("pings").len(), driver.metrics("pings").letters(DeadLetterKind::Contract)), (1, 1));
}

/// A letter that a person has edited comes back without an origin. Fails where it is then held against no schema: any record that
/// he writes would change the table; or where one is held against the catalogue's whose events others may write as they like.
#[test]
fn an_edited_record_of_another_schema_than_its_types_is_no_row() {
    let pipeline = || Pipeline::default().sink("pings", Sink::of::<Ping>("pings").key("id")).event::<Ping>();
    let mut driver = Driver::new(pipeline());
    driver.send_with(OfPlanet { id: "a".to_owned(), planet: "Mars".to_owned() }, typed());
    driver.send(ping("b", 1)).advance(SECOND);
    let edited = |value: Option<Vec<u8>>| raw("pings.redrive", value.as_deref(), typed());
    let values: Vec<_> = driver.records("events.net").into_iter().map(|record| record.value).collect();
    values.iter().for_each(|value| _ = driver.send_record(edited(value.clone())));
    driver.advance(SECOND);
    assert_eq!((driver.rows("pings").len(), driver.metrics("pings").letters(DeadLetterKind::Contract)), (2, 2));
    let binding = Binding { event_type: "net.ping".to_owned(), key: KeyFormat::Text };
    let mut driver = Driver::new(pipeline().bind("shop", binding));
    driver.send_with(OfPlanet { id: "a".to_owned(), planet: "Mars".to_owned() }, typed());
    let value = driver.records("events.net").remove(0).value;
    driver.send_record(edited(value)).advance(SECOND);
    assert_eq!((driver.rows("pings").len(), driver.metrics("pings").letters(DeadLetterKind::Contract)), (1, 1));
}

/// Fails where a type is held to our own form, whether the producer names it or the topic alone.
#[test]
fn records_of_a_type_as_cloudevents_producers_write_it_become_rows() {
    const TYPE: &str = "com.acme.Order:Placed";
    let binding = Binding { event_type: TYPE.to_owned(), key: KeyFormat::Text };
    let sink = Sink { event: TYPE.to_owned(), ..Sink::of::<Ping>("orders").key("id") };
    let pipeline = Pipeline::default().sink("orders", sink).bind("shop", binding);
    assert_eq!(pipeline.problems(), Vec::<String>::new());
    let mut driver = Driver::new(pipeline.event::<Ping>());
    driver.send(ping("a", 1));
    let value = driver.records("events.net").remove(0).value;
    let named = Headers::from_iter([("ce_type", Some(TYPE.as_bytes()))]);
    for headers in [Headers::default(), named] {
        driver.send_record(raw("shop", value.as_deref(), headers));
    }
    driver.advance(SECOND);
    let types: Vec<String> = driver.rows("orders").iter().map(|row| row.meta.event_type.clone()).collect();
    assert_eq!(types, [TYPE, TYPE]);
}
