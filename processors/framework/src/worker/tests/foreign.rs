//! Records of another schema than their type's, on their way to a table.

use super::*;
use crate::{Binding, Kind, catalogue::KeyFormat};

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
    assert_eq!(driver.state("pings").letters(Kind::Contract), 3);
    let letters = driver.records("pings.dlq");
    let whys: Vec<_> = letters.iter().map(|letter| delivery(&letter.headers)["hw_error_message"].clone()).collect();
    let wanted = ["field `id`: long cannot be read as string", "field `seq`: it is not there", "Alike is another type"];
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
    assert_eq!((driver.rows("pings").len(), driver.state("pings").letters(Kind::Contract)), (0, 1));
    let value = driver.records("events.net").remove(0).value;
    driver.send_record(raw("shop", value.as_deref(), Headers::default())).advance(SECOND);
    assert_eq!((driver.rows("pings").len(), driver.state("pings").letters(Kind::Contract)), (1, 1));
}
