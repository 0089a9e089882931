use apache_avro::{Decimal, types::Value};

use crate::{codec::tests::*, failure::DeadLetterKind};

const V1: &str = r#"{"type":"record","name":"PaymentCompleted","namespace":"headwater.payment","fields":[
  {"name":"payment_id","type":"string"},{"name":"amount_cents","type":"long"},
  {"name":"email","type":["null","string"],"default":null},
  {"name":"completed_at","type":{"type":"long","logicalType":"timestamp-micros"}}]}"#;
const V2: &str = r#"{"type":"record","name":"PaymentCompleted","namespace":"headwater.payment","fields":[
  {"name":"payment_id","type":"string"},{"name":"amount_cents","type":"long"},
  {"name":"email","type":["null","string"],"default":null},
  {"name":"completed_at","type":{"type":"long","logicalType":"timestamp-micros"}},
  {"name":"channel","type":"string","default":"web"}]}"#;
const V3: &str = r#"{"type":"record","name":"PaymentCompleted","namespace":"headwater.payment","fields":[
  {"name":"payment_id","type":"string"},{"name":"amount_cents","type":"long"},
  {"name":"completed_at","type":{"type":"long","logicalType":"timestamp-micros"}}]}"#;
/// What a foreign producer that knows little of types would write.
const FOREIGN: &str = r#"{"type":"record","name":"Payment","namespace":"org.other","fields":[
  {"name":"completed_at","type":"long"},{"name":"email","type":"string"},
  {"name":"amount_cents","type":"int"},{"name":"payment_id","type":"string"}]}"#;

macro_rules! payment {
    ($name:ident, $schema:expr, { $($field:tt)* }) => {
        #[derive(Debug, PartialEq, Serialize, Deserialize)]
        #[serde(rename = "PaymentCompleted")]
        struct $name { payment_id: String, amount_cents: i64, completed_at: Time, $($field)* }
        impl Payload for $name {
            const TYPE: &'static str = "payment.completed";
            const SCHEMA: &'static str = $schema;
            fn key(&self) -> &str { &self.payment_id }
        }
    };
}
payment!(First, V1, { email: Option<String> });
payment!(Second, V2, { email: Option<String>, #[serde(default = "web")] channel: String });
payment!(Third, V3, {});

fn first() -> First {
    First {
        payment_id: "p1".to_owned(),
        amount_cents: 4_200,
        completed_at: Time::from_micros(7),
        email: Some("a@b.c".to_owned()),
    }
}

/// Red when a missing field takes no default, or an added one is not skipped.
#[test]
fn every_version_of_an_event_reads_every_other() {
    let second = Second {
        payment_id: "p2".to_owned(),
        amount_cents: 1,
        completed_at: Time::from_micros(8),
        email: None,
        channel: "app".to_owned(),
    };
    let (one, two) = (datum(V1, &first()), datum(V2, &second));
    assert_eq!(schema(V1).decode::<First>(&one).unwrap(), first());
    let read: Second = schema(V1).decode(&one).unwrap();
    assert_eq!((read.channel.as_str(), read.email.as_deref()), ("web", Some("a@b.c")));
    assert_eq!(schema(V1).decode::<Third>(&one).unwrap().amount_cents, 4_200);
    assert_eq!(schema(V2).decode::<First>(&two).unwrap().payment_id, "p2");
    assert_eq!(schema(V2).decode::<Third>(&two).unwrap().completed_at, Time::from_micros(8));
    let third = datum(V3, &Third { payment_id: "p3".to_owned(), amount_cents: 2, completed_at: Time::from_micros(9) });
    let read: Second = schema(V3).decode(&third).unwrap();
    assert_eq!((read.email, read.channel.as_str(), read.amount_cents), (None, "web", 2));
}

/// Red when `int` is taken for `long`, or a plain string for a nullable one, by the direct decoder.
#[test]
fn a_foreign_record_is_promoted_to_the_payloads_types() {
    #[derive(Serialize)]
    struct Payment {
        completed_at: i64,
        email: String,
        amount_cents: i32,
        payment_id: String,
    }
    let writer = schema(FOREIGN);
    let payment =
        Payment { completed_at: 7, email: "a@b.c".to_owned(), amount_cents: 4_200, payment_id: "p1".to_owned() };
    assert_eq!(writer.decode::<First>(&datum(FOREIGN, &payment)).unwrap(), first());
    assert!(!writer.decodes_directly::<First>());
    assert_eq!(writer.full_name(), Some("org.other.Payment"));
}

/// Red when a plan is found by the schema alone, or the direct path is taken for a type that lacks a field.
#[test]
fn the_way_to_decode_is_decided_per_schema_and_type() {
    let writer = schema(V1);
    let datum = datum(V1, &first());
    for _ in 0..2 {
        writer.decode::<First>(&datum).unwrap();
        writer.decode::<Second>(&datum).unwrap();
        writer.decode::<Third>(&datum).unwrap();
    }
    assert!(writer.decodes_directly::<First>());
    assert!(!writer.decodes_directly::<Second>(), "channel is not in the writer's schema");
    assert!(writer.decodes_directly::<Third>(), "the writer may have more");
}

/// Red when a field that the direct decoder cannot skip is left to it.
#[test]
fn added_records_and_enums_are_skipped() {
    for kind in [
        r#"{"type":"enum","name":"E","symbols":["A"]}"#,
        r#"{"type":"array","items":{"type":"record","name":"N","fields":[{"name":"x","type":"int"}]}}"#,
    ] {
        let text = V1.replacen(r#""fields":["#, &format!(r#""fields":[{{"name":"added","type":{kind}}},"#), 1);
        let writer = schema(&text);
        assert!(!writer.decodes_directly::<First>(), "known before the first record");
        let added: &[u8] = if kind.contains("enum") { &[0] } else { &[2, 8, 0] };
        assert_eq!(writer.decode::<First>(&[added, &datum(V1, &first())].concat()).unwrap(), first());
    }
}

/// Red when the direct decoder's refusal of a Rust type is taken for a fault of the data.
#[test]
fn a_type_that_the_direct_decoder_refuses_is_resolved() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(rename = "PaymentCompleted")]
    struct Unsigned {
        payment_id: String,
        amount_cents: u64,
    }
    impl Payload for Unsigned {
        const TYPE: &'static str = "payment.completed";
        const SCHEMA: &'static str = V1;
        fn key(&self) -> &str {
            &self.payment_id
        }
    }
    let writer = schema(V1);
    let read: Unsigned = writer.decode(&datum(V1, &first())).unwrap();
    assert_eq!(read, Unsigned { payment_id: "p1".to_owned(), amount_cents: 4_200 });
    assert!(!writer.decodes_directly::<Unsigned>(), "it is not tried again");
}

/// Red when a missing field is reported as `decode`, or the message does not name the field.
#[test]
fn sound_bytes_that_break_the_contract_name_the_field() {
    let cases = [
        (V1.replace("payment_id", "id"), "payment_id: missing, and the reader's schema has no default for it"),
        (
            V1.replace(r#""amount_cents","type":"long""#, r#""amount_cents","type":"string""#),
            "amount_cents: expected long, the writer's schema has string",
        ),
        (
            V1.replace("timestamp-micros", "timestamp-millis"),
            "completed_at: expected timestamp-micros, the writer's schema has timestamp-millis",
        ),
        (r#""string""#.to_owned(), "expected record, the writer's schema has string"),
    ];
    for (text, message) in cases {
        let writer = schema(&text);
        let datum = Encoder::of(&writer)
            .unwrap()
            .encode_value(&super::random::value(&mut super::random::Rng::new(1), writer.schema()))
            .unwrap()
            .split_off(5);
        let error = writer.decode::<First>(&datum).unwrap_err();
        assert_eq!((error.to_string().as_str(), error.kind()), (message, DeadLetterKind::Contract));
    }
}

fn decimal(scale: u32) -> String {
    format!(
        r#"{{"type":"record","name":"Price","fields":[{{"name":"amount","type":
        {{"type":"bytes","logicalType":"decimal","precision":12,"scale":{scale}}}}},{{"name":"n","type":"int"}}]}}"#
    )
}

/// Red when decimals are left to apache-avro, which refuses one whose bytes could not hold the whole precision, or when
/// the scale is not compared, which makes 1.50 out of 15.0.
#[test]
fn a_small_decimal_resolves_and_another_scale_is_refused() {
    #[derive(Debug, Serialize, Deserialize)]
    struct Price {
        amount: Decimal,
        n: i64,
    }
    impl Payload for Price {
        const TYPE: &'static str = "price.set";
        const SCHEMA: &'static str = r#"{"type":"record","name":"Price","fields":[{"name":"amount","type":
          {"type":"bytes","logicalType":"decimal","precision":12,"scale":2}},{"name":"n","type":"long"}]}"#;
        fn key(&self) -> &str {
            ""
        }
    }
    let value = Value::Record(vec![
        ("amount".to_owned(), Value::Decimal(Decimal::from([0x96u8 / 2]))),
        ("n".to_owned(), Value::Int(1)),
    ]);
    let encode = |text: &str| Encoder::new(1, text).unwrap().encode_value(&value).unwrap().split_off(5);
    let read: Price = schema(&decimal(2)).decode(&encode(&decimal(2))).unwrap();
    assert_eq!((read.amount, read.n), (Decimal::from([0x4bu8]), 1));
    let error = schema(&decimal(1)).decode::<Price>(&encode(&decimal(1))).unwrap_err();
    assert_eq!(error.to_string(), "amount: expected a decimal of scale 2, the writer's schema has 1");
    assert_eq!(error.kind(), DeadLetterKind::Contract);
}

/// Red when a reference is not inlined, or a type that two schemas mention is defined twice.
#[test]
fn references_make_one_whole_schema() {
    let money = r#"{"type":"record","name":"Money","namespace":"a.b","fields":[{"name":"cents","type":"long"},
        {"name":"currency","type":{"type":"enum","name":"Currency","symbols":["EUR","USD"]}}]}"#;
    let cart = r#"{"type":"record","name":"Cart","namespace":"c","fields":[
        {"name":"currency","type":"a.b.Currency"},{"name":"total","type":["null","a.b.Money"]},
        {"name":"parts","type":{"type":"array","items":"a.b.Money"}}]}"#;
    assert!(WriterSchema::parse(3, cart, &[]).unwrap_err().to_string().starts_with("schema 3: "));
    let writer = WriterSchema::parse(3, cart, &[money.to_owned()]).unwrap();
    let json = serde_json::json!({"currency": "USD", "total": {"cents": 5, "currency": "EUR"}, "parts": []});
    let value = Encoder::of(&writer).unwrap().encode_json(&json).unwrap();
    let (id, datum) = split(&value).unwrap();
    assert_eq!((id, writer.json(&writer.value(datum).unwrap())), (3, json));
    let whole = serde_json::to_string(writer.schema()).unwrap();
    WriterSchema::parse(4, &whole, &[]).expect("the schema stands alone");
}

/// Red when the id is little endian or the encoder writes in the Rust type's field order.
#[test]
fn a_payload_round_trips_in_the_confluent_format() {
    let value = Encoder::new(0x0102_0304, ORDER).unwrap().encode(&order()).unwrap();
    assert_eq!(value[..5], [0, 1, 2, 3, 4]);
    let (id, datum) = split(&value).unwrap();
    let writer = WriterSchema::parse(id, ORDER, &[]).unwrap();
    assert_eq!(writer.decode::<Order>(datum).unwrap(), order());
    assert!(writer.decodes_directly::<Order>());
}

/// Red when apache-avro's message, which prints the whole schema, gets through.
#[test]
fn what_does_not_fit_its_schema_is_named_shortly() {
    let encoder = Encoder::new(1, &V1.replace(r#""amount_cents","type":"long""#, r#""amount_cents","type":"string""#));
    let error = encoder.unwrap().encode(&first()).unwrap_err();
    assert!(error.to_string().starts_with("amount_cents: does not fit the schema"), "{error}");
    assert!(error.to_string().len() < 200 && error.kind() == DeadLetterKind::Contract, "{error}");
    let error = Encoder::new(1, V3).unwrap().encode(&first()).unwrap_err();
    assert_eq!(error.to_string(), "email: the schema has no such field");
}
