//! What a processor may return, and how it becomes records.

use std::sync::Arc;

use crate::{
    codec::Encoder,
    event::{Draft, Facts, Meta, event_type::EventType, payload::Payload, time::Time},
    failure::{Failure, Result},
    telemetry::spans::{Attempt, Message, Span, Tracing},
    wire::{headers::EmittedAttributes, ids, record::Outgoing},
};

/// What a processor returns: `()`, an event, `Option`, `Vec`, pairs of those.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be emitted",
    label = "not an event",
    note = "return `()`, an event (a type with `Payload`, or a `Draft` of one), or an `Option`, `Vec` or pair of those"
)]
pub trait Emit: Send + 'static {
    /// Puts what is to be emitted into the outbox, in order.
    fn emit(self, out: &mut Outbox) -> Result<()>;

    /// Adds the event types that this may emit.
    fn types(list: &mut Vec<EventType>);
}

impl Emit for () {
    fn emit(self, _: &mut Outbox) -> Result<()> {
        Ok(())
    }

    fn types(_: &mut Vec<EventType>) {}
}

#[diagnostic::do_not_recommend]
impl<T: Payload> Emit for T {
    fn emit(self, out: &mut Outbox) -> Result<()> {
        out.push(&self, Facts::default())
    }

    fn types(list: &mut Vec<EventType>) {
        list.push(EventType::of::<T>());
    }
}

impl<T: Payload> Emit for Draft<T> {
    fn emit(self, out: &mut Outbox) -> Result<()> {
        out.push(&self.data, self.facts)
    }

    fn types(list: &mut Vec<EventType>) {
        list.push(EventType::of::<T>());
    }
}

impl<T: Emit> Emit for Option<T> {
    fn emit(self, out: &mut Outbox) -> Result<()> {
        self.map_or(Ok(()), |one| one.emit(out))
    }

    fn types(list: &mut Vec<EventType>) {
        T::types(list);
    }
}

impl<T: Emit> Emit for Vec<T> {
    fn emit(self, out: &mut Outbox) -> Result<()> {
        self.into_iter().try_for_each(|one| one.emit(out))
    }

    fn types(list: &mut Vec<EventType>) {
        T::types(list);
    }
}

impl<A: Emit, B: Emit> Emit for (A, B) {
    fn emit(self, out: &mut Outbox) -> Result<()> {
        self.0.emit(out)?;
        self.1.emit(out)
    }

    fn types(list: &mut Vec<EventType>) {
        A::types(list);
        B::types(list);
    }
}

/// How each emitted type is encoded and where it goes; made once when a group starts.
#[derive(Debug, Default)]
pub(crate) struct Encoders {
    /// A few at most: looking through them is quicker than a hash.
    types: Vec<Target>,
    /// The largest value that may be emitted, bytes.
    limit: usize,
}

#[derive(Debug)]
struct Target {
    event_type: &'static str,
    topic: Arc<str>,
    encoder: Encoder,
}

impl Encoders {
    /// None yet; a value of more than `limit` bytes will be refused.
    pub(crate) fn new(limit: usize) -> Self {
        Self { types: Vec::new(), limit }
    }

    pub(crate) fn add(&mut self, event_type: &'static str, topic: &str, encoder: Encoder) {
        if self.find(event_type).is_none() {
            self.types.push(Target { event_type, topic: topic.into(), encoder });
        }
    }

    fn find(&self, event_type: &str) -> Option<usize> {
        self.types.iter().position(|target| target.event_type == event_type)
    }
}

/// Gathers what one record's processor emits, already encoded.
#[derive(Debug)]
pub struct Outbox {
    encoders: Arc<Encoders>,
    drafts: Vec<Encoded>,
}

#[derive(Debug)]
struct Encoded {
    /// Which of the encoders' types it is.
    target: usize,
    key: String,
    value: Vec<u8>,
    facts: Facts,
}

impl Outbox {
    pub(crate) fn new(encoders: Arc<Encoders>) -> Self {
        Self { encoders, drafts: Vec::new() }
    }

    fn push<T: Payload>(&mut self, data: &T, facts: Facts) -> Result<()> {
        let target = self
            .encoders
            .find(T::TYPE)
            .ok_or_else(|| Failure::reject(format!("emits `{}`, which its signature does not name", T::TYPE)))?;
        let encoder = &self.encoders.types[target].encoder;
        let value = encoder.encode(data).map_err(|e| Failure::reject(format!("cannot encode `{}`: {e}", T::TYPE)))?;
        if value.len() > self.encoders.limit {
            let limit = self.encoders.limit;
            return Err(Failure::reject(format!("`{}` is {} bytes, over the limit of {limit}", T::TYPE, value.len())));
        }
        if self.drafts.is_empty() {
            // Most records emit one event.
            self.drafts.reserve_exact(1);
        }
        self.drafts.push(Encoded { target, key: data.key().to_owned(), value, facts });
        Ok(())
    }

    /// The records to publish, and the spans of their sending: ids counted over the flattened return value.
    pub(crate) fn seal(self, cause: &EmitContext<'_>) -> (Vec<Outgoing>, Vec<Span>) {
        let Self { encoders, drafts } = self;
        let (mut outgoing, mut spans) = (Vec::with_capacity(drafts.len()), Vec::new());
        let mut times = Times::default();
        for (ordinal, draft) in drafts.into_iter().enumerate() {
            let target = &encoders.types[draft.target];
            let (record, span) = cause.emit(ordinal, draft, target, &mut times);
            outgoing.push(record);
            spans.extend(span);
        }
        (outgoing, spans)
    }
}

/// The record that events are emitted for, and how.
pub(crate) struct EmitContext<'a> {
    pub(crate) meta: &'a Meta,
    pub(crate) attempt: &'a Attempt,
    pub(crate) processor: &'a str,
    /// What the events name as their source.
    pub(crate) source: &'a str,
    pub(crate) tracing: &'a Tracing,
}

/// The text of the latest time: the events of one record mostly share it.
#[derive(Default)]
struct Times(Option<(Time, String)>);

impl Times {
    fn text(&mut self, time: Time) -> &str {
        if self.0.as_ref().is_none_or(|(known, _)| *known != time) {
            self.0 = Some((time, time.to_string()));
        }
        self.0.as_ref().map_or("", |(_, text)| text)
    }
}

impl EmitContext<'_> {
    fn emit(&self, ordinal: usize, draft: Encoded, target: &Target, times: &mut Times) -> (Outgoing, Option<Span>) {
        let Self { meta, attempt, processor, source, tracing } = *self;
        let id = ids::emitted_id(&meta.source, &meta.id, processor, ordinal);
        let message = Message {
            topic: &target.topic,
            partition: None,
            id: &id,
            correlation_id: &meta.correlation_id,
            causation_id: Some(&meta.id),
        };
        let sent = tracing.send(attempt, &meta.trace, message);
        let headers = EmittedAttributes {
            id: &id,
            source,
            event_type: target.event_type,
            time: times.text(draft.facts.time.unwrap_or(meta.time)),
            subject: (!draft.key.is_empty()).then_some(&*draft.key),
            aggregate: draft.facts.aggregate.as_ref(),
            correlation_id: &meta.correlation_id,
            causation_id: Some(&meta.id),
            user_id: draft.facts.user_id.as_deref().or(meta.user_id.as_deref()),
            trace: sent.as_ref().map_or(&meta.trace, |(trace, _)| trace),
        };
        let record = Outgoing {
            topic: target.topic.clone(),
            partition: None,
            headers: headers.headers(),
            key: Some(draft.key.into_bytes()),
            value: Some(draft.value),
        };
        (record, sent.map(|(_, span)| span))
    }
}
