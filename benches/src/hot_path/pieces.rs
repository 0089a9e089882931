//! The pieces: each is made ready once, then done a number of times.

use std::{hint::black_box, sync::Arc};

use headwater::{
    __bench::{self, Handler},
    Headers, Meta, Payload, Pipeline, Sink, Time, TraceContext,
    spi::{
        Record, Sampler, Tracing,
        codec::{Encoder, WriterSchema, split},
        first_headers,
    },
};
use headwater_processors::orders::send_receipt;
use headwater_schemas::{PaymentCompleted, ReceiptRequested};
use opentelemetry_sdk::trace::SdkTracerProvider;

use super::memory::worker;
use crate::{avro_baseline::AvroBaseline, payment};

/// A piece may be done this often at most: what it consumes is made beforehand.
pub const MOST: usize = 12_000;
/// What the engine's decode, processor and encode may cost at most, of the same by hand with the bare apache-avro calls.
pub const BAR: (&str, &str, f64) = ("handle", "bare handle", 1.2);

/// Does a piece this many times.
pub type Run = Box<dyn FnMut(usize)>;

/// A piece's name, and how it is made ready.
pub type Piece = (&'static str, fn() -> Run);

/// Every piece, in the order in which a record meets them.
pub const PIECES: [Piece; 18] = [
    ("headers", || with_record(headers(), __bench::metadata)),
    ("no headers", || with_record(Headers::default(), __bench::metadata)),
    ("lane", || {
        let mut lane = __bench::lane();
        each(move |_| lane(b"order-000000042"))
    }),
    ("decode", || {
        let (schema, value) = (schema(), value());
        each(move |_| schema.decode::<PaymentCompleted>(datum(&value)).expect("readable"))
    }),
    ("bare decode", || {
        let (bare, value) = (AvroBaseline::default(), value());
        each(move |_| bare.decode(datum(&value)))
    }),
    ("handle", || {
        let (handler, value) = (handler(), value());
        each(move |_| handler.handle(datum(&value)).expect("a receipt"))
    }),
    ("bare handle", || {
        let (bare, value) = (AvroBaseline::default(), value());
        each(move |_| bare.handle(datum(&value)))
    }),
    ("encode", || {
        let (encoder, receipt) = (Encoder::new(1, ReceiptRequested::SCHEMA).expect("valid"), receipt());
        each(move |_| encoder.encode(black_box(&receipt)).expect("it fits"))
    }),
    ("bare encode", || {
        let (bare, receipt) = (AvroBaseline::default(), receipt());
        each(move |_| bare.encode(black_box(&receipt)))
    }),
    ("id", || with_meta(|meta| __bench::emitted_id(meta, "send-receipt"))),
    ("emit", || {
        let (handler, value) = (handler(), value());
        let mut made: Vec<_> = (0..MOST).map(|_| handler.handle(datum(&value)).expect("a receipt")).collect();
        each(move |_| handler.seal(made.pop().expect("enough")))
    }),
    ("watermark", || {
        let mut watermark = __bench::watermark();
        each(move |_| watermark())
    }),
    ("unit of work", || {
        // Of a type that the group does not take: it passes through the worker and asks for nothing.
        let other = Headers::from_iter([("ce_type", Some(&b"payment.refused"[..]))]);
        worker(receipts(), false, Tracing::default(), &record(other))
    }),
    ("record", || worker(receipts(), false, Tracing::default(), &record(headers()))),
    ("record, no headers", || worker(receipts(), false, Tracing::default(), &record(Headers::default()))),
    ("record, not sampled", || worker(receipts(), false, tracing("traceidratio", "0"), &record(headers()))),
    ("record, two spans", || worker(receipts(), false, tracing("always_on", ""), &record(headers()))),
    ("row", || {
        let sink = Sink::of::<PaymentCompleted>("payments").key("payment_id");
        let pipeline = Pipeline::default().event::<PaymentCompleted>().sink("payments", sink);
        worker(pipeline, true, Tracing::default(), &record(headers()))
    }),
];

/// Makes the piece of this name ready.
pub fn ready(name: &str) -> Option<Run> {
    PIECES.iter().find(|(piece, _)| *piece == name).map(|(_, ready)| ready())
}

fn each<T>(mut piece: impl FnMut(usize) -> T + 'static) -> Run {
    Box::new(move |count| (0..count).for_each(|turn| _ = black_box(piece(turn))))
}

fn with_record<T>(headers: Headers, piece: fn(&Record) -> T) -> Run
where
    T: 'static,
{
    let record = record(headers);
    each(move |_| piece(black_box(&record)))
}

fn with_meta<T>(piece: fn(&Meta) -> T) -> Run
where
    T: 'static,
{
    let meta = __bench::metadata(&record(headers()));
    each(move |_| piece(black_box(&meta)))
}

fn receipts() -> Pipeline {
    Pipeline::default().on("send-receipt", send_receipt)
}

/// Traces without a back end: a span ends where a queue would take it.
fn tracing(sampler: &str, ratio: &str) -> Tracing {
    Tracing::new(&SdkTracerProvider::default(), Sampler::parse(sampler, ratio).expect("a sampler"))
}

fn handler() -> Handler {
    Handler::new(send_receipt, schema(), __bench::metadata(&record(headers())))
}

fn schema() -> Arc<WriterSchema> {
    WriterSchema::parse(1, PaymentCompleted::SCHEMA, &[]).expect("valid")
}

fn value() -> Vec<u8> {
    Encoder::new(1, PaymentCompleted::SCHEMA).expect("valid").encode(&payment()).expect("it fits")
}

fn datum(value: &[u8]) -> &[u8] {
    split(black_box(value)).expect("a Confluent value").1
}

fn receipt() -> ReceiptRequested {
    let PaymentCompleted { payment_id, order_id, email, .. } = payment();
    ReceiptRequested { payment_id, order_id, email: email.expect("an e-mail address") }
}

/// Those of an event that begins a conversation: eight, as a program writes them that knows the contract.
fn headers() -> Headers {
    let (id, source) = ("5d6c0b0e-3dd1-573a-ae72-a93d7cf6d360", "shop/checkout");
    let (time, trace) = (Time::from_millis(1_767_225_600_000), TraceContext::derived(source, id));
    first_headers(id, source, PaymentCompleted::TYPE, "order-000000042", time, &trace)
}

fn record(headers: Headers) -> Record {
    Record {
        topic: headwater::spi::topic_of(PaymentCompleted::TYPE).into(),
        partition: 0,
        offset: 1_042,
        timestamp_ms: 1_767_225_600_000,
        key: Some(payment().key().as_bytes().to_vec()),
        value: Some(value()),
        headers,
    }
}
