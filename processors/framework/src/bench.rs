//! Pieces of the hot path, each as thin as can be, for the benches that count what they cost.

use std::sync::Arc;

use futures_util::FutureExt;

use crate::{
    codec::{Encoder, WriterSchema},
    event::{
        Meta,
        payload::{Category, Priority},
    },
    pipeline::catalogue::topic_of,
    processor::{
        Function, IntoProcessor, Processor,
        emit::{EmitContext, Encoders, Outbox},
        input::Delivery,
    },
    telemetry::spans::{Attempt, Tracing},
    wire::{
        delivery_headers::Trust,
        headers::Attributes,
        ids,
        record::{Outgoing, Record},
    },
    worker::partition::{
        lanes::{Lane, Lanes},
        watermark::Watermark,
    },
};

/// Records of a partition that are under way.
const UNDER_WAY: i64 = 1_000;

/// Headers to metadata, with what the producer left out filled in.
pub fn metadata(record: &Record) -> Meta {
    let mut attributes = Attributes::read(&record.headers, Trust::Nobody);
    let event_type = attributes.event_type.take().unwrap_or_default();
    attributes.complete(record, event_type, Category::default(), Priority::default())
}

/// The id of the first event that `processor` emits for `cause`.
pub fn emitted_id(cause: &Meta, processor: &str) -> String {
    ids::emitted_id(&cause.source, &cause.id, processor, 0)
}

/// Each call: a record enters its key's lane and leaves it.
pub fn lane() -> impl FnMut(&[u8]) -> bool {
    let mut lanes = Lanes::new();
    move |key| {
        let lane = Lane::of(Some(key));
        lanes.enter(lane, ()).is_some() && lanes.leave(lane).is_none()
    }
}

/// Each call: a record is received, and the oldest of many is finished and passed.
pub fn watermark() -> impl FnMut() -> Option<i64> {
    let (mut watermark, mut next) = (Watermark::new(), 0);
    move || {
        while next < UNDER_WAY {
            watermark.receive(next, 100, 0);
            next += 1;
        }
        watermark.receive(next, 100, 0);
        watermark.finish(next - UNDER_WAY, ());
        next += 1;
        watermark.pass().map(|(offset, ())| offset)
    }
}

/// A processor with its codec, and nothing of the worker around it.
pub struct Handler {
    processor: Arc<dyn Processor>,
    encoders: Arc<Encoders>,
    schema: Arc<WriterSchema>,
    meta: Arc<Meta>,
}

impl Handler {
    /// A processor of events with this schema and metadata.
    ///
    /// # Panics
    /// When it keeps state, or a schema of what it emits is no Avro.
    pub fn new<M>(processor: impl IntoProcessor<M>, schema: Arc<WriterSchema>, meta: Meta) -> Self {
        let Function::Stateless(processor) = processor.into_processor() else { panic!("a stateless processor") };
        let mut encoders = Encoders::new(usize::MAX);
        for facts in processor.emits() {
            encoders.add(facts.name, &topic_of(facts.name), Encoder::new(1, facts.schema).expect("an Avro schema"));
        }
        Self { processor, encoders: Arc::new(encoders), schema, meta: Arc::new(meta) }
    }

    /// Decodes a datum, runs the processor and encodes what it emits; `None` where it fails or waits.
    pub fn handle(&self, datum: &[u8]) -> Option<Outbox> {
        let delivery = Delivery { meta: &self.meta, schema: &self.schema, datum };
        self.processor.process(delivery, Outbox::new(self.encoders.clone())).now_or_never()?.ok()
    }

    /// Makes records of what was emitted: ids and headers.
    pub fn seal(&self, out: Outbox) -> Vec<Outgoing> {
        let (attempt, tracing) = (Attempt::default(), Tracing::default());
        let (processor, source) = ("send-receipt", "headwater/send-receipt");
        out.seal(&EmitContext { meta: &self.meta, attempt: &attempt, processor, source, tracing: &tracing }).0
    }
}
