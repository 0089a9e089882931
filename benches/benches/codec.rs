//! The codec beside the bare apache-avro calls that it is made of: `cargo bench -p headwater-benches`.

use std::hint::black_box;

use apache_avro::{Schema, reader::datum::GenericDatumReader, writer::datum::GenericDatumWriter};
use divan::Bencher;
use headwater::{
    Payload,
    codec::{Encoder, WriterSchema, split},
};
use headwater_benches::payment;
use headwater_schemas::PaymentCompleted;

fn main() {
    divan::main();
}

fn value() -> Vec<u8> {
    Encoder::new(1, PaymentCompleted::SCHEMA).expect("valid").encode(&payment()).expect("it fits")
}

#[divan::bench(sample_size = 1_000)]
fn decode_headwater(bencher: Bencher<'_, '_>) {
    let schema = WriterSchema::parse(1, PaymentCompleted::SCHEMA, &[]).expect("valid");
    let value = value();
    bencher.bench(|| {
        let (_, datum) = split(black_box(&value)).expect("a Confluent value");
        schema.decode::<PaymentCompleted>(datum).expect("readable")
    });
}

#[divan::bench(sample_size = 1_000)]
fn decode_apache_avro(bencher: Bencher<'_, '_>) {
    let schema = Schema::parse_str(PaymentCompleted::SCHEMA).expect("valid");
    let reader = GenericDatumReader::builder(&schema).build().expect("a reader");
    let value = value();
    bencher.bench(|| {
        let (_, mut datum) = split(black_box(&value)).expect("a Confluent value");
        reader.read_deser::<PaymentCompleted>(&mut datum).expect("readable")
    });
}

#[divan::bench(sample_size = 1_000)]
fn encode_headwater(bencher: Bencher<'_, '_>) {
    let encoder = Encoder::new(1, PaymentCompleted::SCHEMA).expect("valid");
    let payment = payment();
    bencher.bench(|| encoder.encode(black_box(&payment)).expect("it fits"));
}

#[divan::bench(sample_size = 1_000)]
fn encode_apache_avro(bencher: Bencher<'_, '_>) {
    let schema = Schema::parse_str(PaymentCompleted::SCHEMA).expect("valid");
    let writer = GenericDatumWriter::builder(&schema).build().expect("a writer");
    let payment = payment();
    bencher.bench(|| {
        let mut bytes = Vec::with_capacity(128);
        bytes.extend([0, 0, 0, 0, 1]);
        writer.write_ser(&mut bytes, black_box(&payment)).expect("it fits");
        bytes
    });
}
