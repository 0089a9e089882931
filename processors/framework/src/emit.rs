//! What a processor may return, and how it becomes records.

use std::{collections::HashMap, sync::Arc};

use crate::{
    codec::Encoder,
    event::{Draft, Facts, Meta},
    failure::{Failure, Result},
    headers, ids,
    payload::{EventType, Payload},
    record::Outgoing,
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
    types: HashMap<&'static str, Target>,
    /// The largest value that may be emitted, bytes.
    limit: usize,
}

#[derive(Debug)]
struct Target {
    topic: Arc<str>,
    facts: EventType,
    encoder: Encoder,
}

impl Encoders {
    /// None yet; a value of more than `limit` bytes will be refused.
    pub(crate) fn new(limit: usize) -> Self {
        Self { types: HashMap::new(), limit }
    }

    pub(crate) fn add(&mut self, facts: EventType, topic: &str, encoder: Encoder) {
        self.types.insert(facts.name, Target { topic: topic.into(), facts, encoder });
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
    event_type: &'static str,
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
            .types
            .get(T::TYPE)
            .ok_or_else(|| Failure::reject(format!("emits `{}`, which its signature does not name", T::TYPE)))?;
        let value =
            target.encoder.encode(data).map_err(|e| Failure::reject(format!("cannot encode `{}`: {e}", T::TYPE)))?;
        if value.len() > self.encoders.limit {
            let limit = self.encoders.limit;
            return Err(Failure::reject(format!("`{}` is {} bytes, over the limit of {limit}", T::TYPE, value.len())));
        }
        self.drafts.push(Encoded { event_type: T::TYPE, key: data.key().to_owned(), value, facts });
        Ok(())
    }

    /// The records to publish: ids counted over the flattened return value, caused by `cause`.
    pub(crate) fn seal(self, cause: &Meta, processor: &str) -> Vec<Outgoing> {
        let Self { encoders, drafts } = self;
        let one = |(ordinal, draft): (usize, Encoded)| {
            let target = encoders.types.get(draft.event_type)?;
            let (aggregate_type, aggregate_version) = draft.facts.aggregate.unzip();
            let meta = Meta {
                id: ids::emitted_id(&cause.source, &cause.id, processor, ordinal),
                source: ids::emitted_source(processor),
                event_type: draft.event_type.to_owned(),
                time: draft.facts.time.unwrap_or(cause.time),
                subject: (!draft.key.is_empty()).then(|| draft.key.clone()),
                aggregate_type,
                aggregate_version,
                category: target.facts.category,
                priority: target.facts.priority,
                data_version: None,
                correlation_id: cause.correlation_id.clone(),
                causation_id: Some(cause.id.clone()),
                user_id: draft.facts.user_id.or_else(|| cause.user_id.clone()),
                trace: cause.trace.clone(),
                attempt: 0,
                origin: cause.origin.clone(),
                extra: crate::record::Headers::default(),
            };
            Some(Outgoing {
                topic: target.topic.clone(),
                partition: None,
                key: Some(draft.key.into_bytes()),
                value: Some(draft.value),
                headers: headers::write(&meta, target.facts.category, target.facts.priority),
            })
        };
        drafts.into_iter().enumerate().filter_map(one).collect()
    }
}
