//! The property: typed decode equals apache-avro's `Value`, resolved by apache-avro, through `from_value`.

use std::sync::atomic::{AtomicU32, Ordering};

use apache_avro::{Schema, from_value, reader::datum::GenericDatumReader, types::Value};
use proptest::prelude::*;

use super::random::{self, Rng};
use crate::codec::{avro::value_resolver::ValueResolver, schema::StaticSchema, tests::*};

/// apache-avro's own answer.
fn reference(writer: &Schema, reader: &Schema, datum: &[u8]) -> apache_avro::AvroResult<Value> {
    GenericDatumReader::builder(writer).reader_schema(reader).build()?.read_value(&mut &*datum)
}

fn random_datum(rng: &mut Rng, writer: &WriterSchema) -> Vec<u8> {
    let value = random::value(rng, writer.schema());
    Encoder::of(writer).expect("writable").encode_value(&value).expect("fits").split_off(5)
}

/// Red when the resolving path drops a default, takes a union's first branch, or finds an enum's symbol by its order.
#[test]
fn the_codec_agrees_with_apache_avros_value_path_on_random_schema_pairs() {
    let (direct, resolved, refused) = (AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0));
    proptest!(ProptestConfig::with_cases(256), |(seed: u64)| {
        let mut rng = Rng::new(seed);
        let own: serde_json::Value = serde_json::from_str(ORDER).expect("JSON");
        // One writer in three only moves and adds fields, so that both paths are walked.
        let text = if rng.one_in(3) { moved(&mut rng, own) } else { random::evolve(&mut rng, &own) }.to_string();
        let writer = schema(&text);
        let reader = Schema::parse_str(ORDER).expect("a schema");
        for _ in 0..4 {
            let datum = random_datum(&mut rng, &writer);
            let wanted = reference(writer.schema(), &reader, &datum).and_then(|value| from_value::<Order>(&value));
            let got = writer.decode::<Order>(&datum);
            match (wanted, got) {
                (Ok(wanted), Ok(got)) => {
                    prop_assert_eq!(wanted, got);
                    let path = if writer.decodes_directly::<Order>() { &direct } else { &resolved };
                    path.fetch_add(1, Ordering::Relaxed);
                }
                (Err(_), Err(got)) => {
                    prop_assert_eq!(got.kind(), crate::failure::DeadLetterKind::Contract);
                    refused.fetch_add(1, Ordering::Relaxed);
                }
                (wanted, got) => prop_assert!(false, "apache-avro {wanted:?}, the codec {got:?}, writer {text}"),
            }
        }
    });
    for (path, walked) in [("direct", direct), ("resolved", resolved), ("refused", refused)] {
        assert!(walked.into_inner() > 10, "the {path} path was hardly walked");
    }
}

fn moved(rng: &mut Rng, mut own: serde_json::Value) -> serde_json::Value {
    let fields = own["fields"].as_array_mut().expect("fields");
    for name in ["more", "most"] {
        let kind = if rng.one_in(4) { random::record(rng, 2) } else { random::any(rng, 1) };
        fields.push(serde_json::json!({"name": name, "type": kind}));
    }
    let by = rng.below(fields.len());
    fields.rotate_left(by);
    own
}

/// Red when a default is dropped, a union's first branch is taken, or an array's items are cut short.
#[test]
fn values_resolve_as_apache_avro_resolves_them_on_random_schema_pairs() {
    let (same, refused) = (AtomicU32::new(0), AtomicU32::new(0));
    proptest!(ProptestConfig::with_cases(256), |(seed: u64)| {
        let mut rng = Rng::new(seed);
        let reader = random::record(&mut rng, 3);
        let writer = random::evolve(&mut rng, &reader).to_string();
        let reader = StaticSchema::parse(&reader.to_string(), &[]).expect("a reader's schema");
        let writer = schema(&writer);
        for _ in 0..2 {
            let datum = random_datum(&mut rng, &writer);
            let value = writer.value(&datum).expect("a datum");
            prop_assert_eq!(&value, &GenericDatumReader::builder(writer.schema()).build().expect("ok").read_value(&mut &*datum).expect("ok"));
            let resolve = ValueResolver { writer: writer.leaked().names(), reader: reader.names() };
            let got = resolve.value(value, writer.schema(), reader.schema);
            match (reference(writer.schema(), reader.schema, &datum), got) {
                (Ok(wanted), Ok(got)) => {
                    prop_assert_eq!(wanted, got);
                    same.fetch_add(1, Ordering::Relaxed);
                }
                (Err(_), Err(_)) => {
                    refused.fetch_add(1, Ordering::Relaxed);
                }
                (wanted, got) => prop_assert!(false, "apache-avro {wanted:?}, the codec {got:?}"),
            }
        }
    });
    assert!(same.into_inner() > 100 && refused.into_inner() > 10, "the cases are one-sided");
}
