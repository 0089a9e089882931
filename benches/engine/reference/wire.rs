//! The metadata of an event by hand, read from a record's headers and written as those of the next: the engine's bytes.

use std::{borrow::Cow, fmt::Write as _};

use anyhow::{Context, Result};
use headwater::{Time, TraceContext};
use rdkafka::{
    Message,
    message::{BorrowedMessage, Header, Headers as _, OwnedHeaders},
};
use uuid::Uuid;

const NAMESPACE: Uuid = Uuid::from_u128(0x98f0_eb0e_3dd1_573a_ae72_a93d_7cf6_d360);

/// What a record's headers say, with what a foreign producer left out filled in.
pub(crate) struct Cause<'a> {
    pub(crate) id: Cow<'a, str>,
    pub(crate) source: Cow<'a, str>,
    pub(crate) time: Cow<'a, str>,
    pub(crate) causation_id: Option<&'a str>,
    correlation_id: Option<&'a str>,
    user_id: Option<&'a str>,
    trace: Option<&'a [u8]>,
}

impl<'a> Cause<'a> {
    /// Of a record that nobody sent back.
    pub(crate) fn read(message: &'a BorrowedMessage<'_>) -> Result<Self> {
        let (mut id, mut source, mut time) = (None, None, None);
        let (mut correlation_id, mut causation_id, mut user_id, mut trace) = (None, None, None, None);
        for Header { key, value } in message.headers().into_iter().flat_map(|headers| headers.iter()) {
            let Some(value) = value else { continue };
            let text = || std::str::from_utf8(value).with_context(|| format!("header {key} is no text"));
            match key {
                "ce_id" => id = Some(text()?),
                "ce_source" => source = Some(text()?),
                "ce_time" => time = Some(text()?),
                "ce_correlationid" => correlation_id = Some(text()?),
                "ce_causationid" => causation_id = Some(text()?),
                "ce_userid" => user_id = Some(text()?),
                "traceparent" => trace = Some(value),
                _ => {}
            }
        }
        let at = message.timestamp().to_millis().context("a record without a timestamp")?;
        let (topic, partition, offset) = (message.topic(), message.partition(), message.offset());
        let own_id = || v5(&format!("{topic}/{partition}/{offset}/{at}"));
        Ok(Self {
            id: id.map_or_else(|| own_id().into(), Cow::Borrowed),
            source: source.map_or_else(|| format!("kafka://{topic}").into(), Cow::Borrowed),
            time: time.map_or_else(|| Time::from_millis(at).to_string().into(), Cow::Borrowed),
            causation_id,
            correlation_id,
            user_id,
            trace,
        })
    }

    /// The conversation's id.
    pub(crate) fn correlation_id(&self) -> &str {
        self.correlation_id.unwrap_or(&self.id)
    }

    /// The headers of the one event that `processor` emits because of this; `name` is a buffer to use again.
    pub(crate) fn emit(&self, processor: &Processor, subject: &str, name: &mut String) -> OwnedHeaders {
        name.clear();
        // Writing to a string cannot fail.
        let _ = write!(name, "{}\n{}\n{}\n0", self.source, self.id, processor.name);
        let derived;
        let trace = match self.trace {
            Some(trace) => trace,
            None => {
                derived = TraceContext::derived(&self.source, &self.id).header();
                &derived
            }
        };
        let headers = OwnedHeaders::new_with_capacity(10)
            .insert(text("ce_specversion", "1.0"))
            .insert(text("ce_id", &v5(name)))
            .insert(text("ce_source", &processor.source))
            .insert(text("ce_type", processor.emits))
            .insert(text("ce_time", &self.time))
            .insert(text("ce_subject", subject))
            .insert(text("ce_correlationid", self.correlation_id()))
            .insert(text("ce_causationid", &self.id));
        let headers = match self.user_id {
            Some(id) => headers.insert(text("ce_userid", id)),
            None => headers,
        };
        headers.insert(Header { key: "traceparent", value: Some(trace) })
    }
}

/// Who emits, and what.
pub(crate) struct Processor {
    name: &'static str,
    source: String,
    emits: &'static str,
}

impl Processor {
    /// A processor that emits events of this type.
    pub(crate) fn new(name: &'static str, emits: &'static str) -> Self {
        Self { name, source: format!("headwater/{name}"), emits }
    }
}

fn text<'a>(key: &'a str, value: &'a str) -> Header<'a, &'a str> {
    Header { key, value: Some(value) }
}

fn v5(name: &str) -> String {
    Uuid::new_v5(&NAMESPACE, name.as_bytes()).to_string()
}
