//! Spans of records, through the OpenTelemetry API, by its messaging conventions.
//!
//! Whether a trace is recorded is decided first, from the trace id and the producer's flag alone: so every group and every
//! process decides alike, and a record that is not recorded makes no span at all. Source: OpenTelemetry semantic
//! conventions 1.37.0, messaging and Kafka.

use std::{cell::Cell, fmt, sync::Arc};

use opentelemetry::{
    Context, ContextGuard, InstrumentationScope, KeyValue, SpanId, TraceId,
    global::BoxedTracer,
    trace::{SpanBuilder, SpanKind, Status, TraceContextExt as _, Tracer, TracerProvider},
};

use crate::{
    event::Meta,
    failure::failure_report::FailureReport,
    wire::{
        record::{Origin, Record, TopicPartition},
        trace_context::TraceContext,
    },
};

const SCOPE: &str = "headwater";
const CONVENTIONS: &str = "https://opentelemetry.io/schemas/1.37.0";

/// The attributes' names.
mod attribute {
    pub(crate) const SYSTEM: &str = "messaging.system";
    pub(crate) const OPERATION_NAME: &str = "messaging.operation.name";
    pub(crate) const OPERATION_TYPE: &str = "messaging.operation.type";
    pub(crate) const DESTINATION: &str = "messaging.destination.name";
    pub(crate) const PARTITION: &str = "messaging.destination.partition.id";
    pub(crate) const OFFSET: &str = "messaging.kafka.offset";
    pub(crate) const GROUP: &str = "messaging.consumer.group.name";
    pub(crate) const MESSAGE_ID: &str = "messaging.message.id";
    pub(crate) const CONVERSATION_ID: &str = "messaging.message.conversation_id";
    pub(crate) const CAUSATION_ID: &str = "headwater.causation_id";
    pub(crate) const ATTEMPT: &str = "headwater.attempt";
    pub(crate) const ERROR_TYPE: &str = "error.type";
}

/// Which traces are recorded, by the names that `OTEL_TRACES_SAMPLER` has. The default is `parentbased_always_on`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampler {
    /// Whether a trace that a producer has begun keeps the producer's decision.
    parent_based: bool,
    root: Root,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Root {
    All,
    None,
    /// Those whose id, read as OpenTelemetry does it, lies below this.
    Below(u64),
}

impl Default for Sampler {
    fn default() -> Self {
        Self { parent_based: true, root: Root::All }
    }
}

impl Sampler {
    /// Reads a sampler's standard name and argument, which is the ratio and 1 when it is empty.
    ///
    /// # Errors
    /// A sentence with the names there are, or what a ratio is.
    pub fn parse(name: &str, argument: &str) -> Result<Self, String> {
        let (parent_based, root) = match name.strip_prefix("parentbased_") {
            Some(root) => (true, root),
            None => (false, name),
        };
        let root = match root {
            "always_on" => Root::All,
            "always_off" => Root::None,
            "traceidratio" => Root::Below(below(argument)?),
            _ => {
                return Err(format!(
                    "`{name}` is no sampler: write always_on, always_off, traceidratio, or one of them behind parentbased_"
                ));
            }
        };
        Ok(Self { parent_based, root })
    }

    /// `begun` says that a producer began the trace and has decided.
    fn samples(self, trace: &TraceContext, begun: bool) -> bool {
        match self.root {
            _ if begun && self.parent_based => trace.is_sampled(),
            Root::All => true,
            Root::None => false,
            Root::Below(bound) => {
                let mut low = [0; 8];
                low.copy_from_slice(&trace.trace_id[8..]);
                u64::from_be_bytes(low) >> 1 < bound
            }
        }
    }
}

/// The bound of a ratio, as `Sampler::TraceIdRatioBased` of opentelemetry_sdk has it.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "within 0..=2^63"
)]
fn below(ratio: &str) -> Result<u64, String> {
    let ratio = if ratio.is_empty() { Ok(1.0) } else { ratio.parse::<f64>() };
    let ratio = ratio.ok().filter(|ratio| (0.0..=1.0).contains(ratio));
    ratio.map(|ratio| (ratio * (1_u64 << 63) as f64) as u64).ok_or_else(|| "a ratio is from 0 to 1".to_owned())
}

/// How records are traced. The default samples everything and records nothing: flags travel, spans are not made.
#[derive(Clone, Debug, Default)]
pub struct Tracing {
    sampler: Sampler,
    tracer: Option<Arc<BoxedTracer>>,
}

/// A span that is under way; it ends when it is dropped.
#[derive(Debug)]
pub struct Span(#[expect(dead_code, reason = "held for its end")] Context);

/// The span of one attempt at a record; none where its trace is not recorded.
#[derive(Debug, Default)]
pub(crate) struct Attempt(Option<Context>);

/// What is published, as its span tells it.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// The topic.
    pub topic: &'a str,
    /// The partition, where it is chosen beforehand.
    pub partition: Option<i32>,
    /// The event's id.
    pub id: &'a str,
    /// The id of the whole conversation.
    pub correlation_id: &'a str,
    /// The id of the event that caused it.
    pub causation_id: Option<&'a str>,
}

impl Tracing {
    /// Records spans with a tracer of this provider, whose own sampler must follow the parent's decision.
    pub fn new<P>(provider: &P, sampler: Sampler) -> Self
    where
        P: TracerProvider,
        P::Tracer: Tracer<Span: Send + Sync> + Send + Sync + 'static,
    {
        let scope = InstrumentationScope::builder(SCOPE)
            .with_version(env!("CARGO_PKG_VERSION"))
            .with_schema_url(CONVENTIONS)
            .build();
        let tracer = provider.tracer_with_scope(scope);
        Self { sampler, tracer: Some(Arc::new(BoxedTracer::new(Box::new(tracer)))) }
    }

    /// Records no spans: only the flags of traces say what a sampler decides.
    pub fn sampling(sampler: Sampler) -> Self {
        Self { sampler, tracer: None }
    }

    /// Decides whether a trace is recorded, which its flag then says. `begun`: a producer sent it, flag and all.
    fn decide(&self, trace: &mut TraceContext, begun: bool) {
        trace.set_sampled(self.sampler.samples(trace, begun));
    }

    /// The span of one attempt at a record: `process <topic>`. From here on the metadata names it as the trace's current one.
    /// One that has waited in the group's state is named by where it first stood.
    pub(crate) fn attempt(&self, meta: &mut Meta, begun: bool, group: &str, record: &Record, waited: bool) -> Attempt {
        self.decide(&mut meta.trace, begun);
        let Some(tracer) = self.tracer.as_deref().filter(|_| meta.trace.is_sampled()) else { return Attempt(None) };
        let Origin { partition: TopicPartition { topic, partition }, offset, .. } =
            if waited { meta.origin.clone() } else { record.origin() };
        let mut attributes = attributes("process", &topic, Some(partition), &meta.id, &meta.correlation_id);
        attributes.push(KeyValue::new(attribute::OFFSET, offset));
        attributes.push(KeyValue::new(attribute::GROUP, group.to_owned()));
        attributes.push(KeyValue::new(attribute::ATTEMPT, i64::from(meta.attempt)));
        attributes.extend(meta.causation_id.clone().map(|id| KeyValue::new(attribute::CAUSATION_ID, id)));
        let name = format!("process {topic}");
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Consumer).with_attributes(attributes);
        let parent = remote(&meta.trace);
        let cx = parent.with_span(tracer.build_with_context(builder, &parent));
        meta.trace.span_id = cx.span().span_context().span_id().to_bytes();
        Attempt(Some(cx))
    }

    /// The span of a record that is published for an attempt, `send <topic>`, and the context that the record carries then;
    /// none where the trace is not recorded: the record carries on what it came with.
    pub(crate) fn send(
        &self,
        attempt: &Attempt,
        trace: &TraceContext,
        message: Message<'_>,
    ) -> Option<(TraceContext, Span)> {
        self.start_send(attempt.0.as_ref()?, trace, message)
    }

    /// The same for who publishes outside of an attempt: the parent is what `trace` names.
    pub fn publish(&self, trace: &TraceContext, message: Message<'_>) -> Option<(TraceContext, Span)> {
        if trace.is_sampled() { self.start_send(&remote(trace), trace, message) } else { None }
    }

    /// The trace of an event that begins one, and the span of its sending: what a program that is no processor produces.
    pub fn first(&self, source: &str, message: Message<'_>) -> (TraceContext, Option<Span>) {
        let mut trace = TraceContext::derived(source, message.id);
        self.decide(&mut trace, false);
        match self.publish(&trace, message) {
            Some((trace, span)) => (trace, Some(span)),
            None => (trace, None),
        }
    }

    fn start_send(&self, parent: &Context, trace: &TraceContext, message: Message<'_>) -> Option<(TraceContext, Span)> {
        let tracer = self.tracer.as_deref()?;
        let Message { topic, partition, id, correlation_id, causation_id } = message;
        let mut attributes = attributes("send", topic, partition, id, correlation_id);
        attributes.extend(causation_id.map(|id| KeyValue::new(attribute::CAUSATION_ID, id.to_owned())));
        let name = format!("send {topic}");
        let builder = SpanBuilder::from_name(name).with_kind(SpanKind::Producer).with_attributes(attributes);
        let cx = parent.with_span(tracer.build_with_context(builder, parent));
        let span_id = cx.span().span_context().span_id().to_bytes();
        Some((TraceContext { span_id, ..trace.clone() }, Span(cx)))
    }
}

fn attributes(
    operation: &'static str,
    topic: &str,
    partition: Option<i32>,
    id: &str,
    conversation: &str,
) -> Vec<KeyValue> {
    let mut attributes = Vec::with_capacity(11);
    attributes.extend([
        KeyValue::new(attribute::SYSTEM, "kafka"),
        KeyValue::new(attribute::OPERATION_NAME, operation),
        KeyValue::new(attribute::OPERATION_TYPE, operation),
        KeyValue::new(attribute::DESTINATION, topic.to_owned()),
        KeyValue::new(attribute::MESSAGE_ID, id.to_owned()),
        KeyValue::new(attribute::CONVERSATION_ID, conversation.to_owned()),
    ]);
    attributes.extend(partition.map(|partition| KeyValue::new(attribute::PARTITION, partition.to_string())));
    attributes
}

/// The context that a record came with, as a parent.
fn remote(trace: &TraceContext) -> Context {
    Context::new().with_remote_span_context(trace.span_context())
}

impl Attempt {
    /// The attempt has failed so.
    pub(crate) fn failed(&self, fault: &FailureReport) {
        if let Some(cx) = &self.0 {
            let span = cx.span();
            span.set_attribute(KeyValue::new(attribute::ERROR_TYPE, fault.kind.as_str()));
            span.set_status(Status::error(fault.message.clone()));
        }
    }

    /// The attempt has ended without a result, and is no failure: why the record waits.
    pub(crate) fn waits(&self, why: &str) {
        if let Some(cx) = &self.0 {
            cx.span().add_event("waits", vec![KeyValue::new("reason", why.to_owned())]);
        }
    }

    /// Its span, to be ended when the record's effects are durable.
    pub(crate) fn into_span(self) -> Option<Span> {
        self.0.map(Span)
    }

    /// Makes the record's trace the current one on this thread: for log lines, and for spans that a processor makes.
    pub(crate) fn enter(&self, trace: &TraceContext) -> TraceGuard {
        let before = CURRENT.replace(Some((trace.trace_id, trace.span_id)));
        TraceGuard { before, _context: self.0.clone().map(Context::attach) }
    }
}

thread_local! {
    static CURRENT: Cell<Option<([u8; 16], [u8; 8])>> = const { Cell::new(None) };
}

/// While it lives, a record's trace is the current one on this thread.
pub(crate) struct TraceGuard {
    before: Option<([u8; 16], [u8; 8])>,
    _context: Option<ContextGuard>,
}

impl Drop for TraceGuard {
    fn drop(&mut self) {
        CURRENT.set(self.before);
    }
}

/// The trace of the record that is being processed on this thread, recorded or not: for log lines.
pub fn current_trace() -> Option<CurrentTrace> {
    CURRENT.get().map(|(trace_id, span_id)| CurrentTrace { trace_id, span_id })
}

/// A trace and the span that is under way in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CurrentTrace {
    trace_id: [u8; 16],
    span_id: [u8; 8],
}

impl CurrentTrace {
    /// The trace's id in hex.
    pub fn trace_id(self) -> impl fmt::Display {
        TraceId::from_bytes(self.trace_id)
    }

    /// The span's id in hex.
    pub fn span_id(self) -> impl fmt::Display {
        SpanId::from_bytes(self.span_id)
    }
}
