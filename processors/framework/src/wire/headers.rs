//! The wire names of metadata, and how headers become metadata and back.
//!
//! CloudEvents 1.0, Kafka binding, binary mode; W3C trace context.

use super::{
    delivery_headers::{self, DeliveryHeaders, Trust},
    ids,
    record::{Headers, Origin, Record, TopicPartition},
    trace_context::{TRACE_PARENT, TRACE_STATE, TraceContext},
};
use crate::event::{
    Meta,
    payload::{Category, Priority},
    time::Time,
};

pub(crate) const SPEC_VERSION: &str = "ce_specversion";
pub(crate) const ID: &str = "ce_id";
pub(crate) const SOURCE: &str = "ce_source";
pub(crate) const TYPE: &str = "ce_type";
pub(crate) const TIME: &str = "ce_time";
const SUBJECT: &str = "ce_subject";
const AGGREGATE_TYPE: &str = "ce_aggregatetype";
const AGGREGATE_VERSION: &str = "ce_aggregateversion";
const CATEGORY: &str = "ce_category";
const PRIORITY: &str = "ce_priority";
const DATA_VERSION: &str = "ce_dataversion";
pub(crate) const CORRELATION_ID: &str = "ce_correlationid";
pub(crate) const CAUSATION_ID: &str = "ce_causationid";
const USER_ID: &str = "ce_userid";
pub(crate) const CONTENT_TYPE: &str = "content-type";

/// Ids are opaque text of at most this many characters.
const ID_LIMIT: usize = 256;

/// What a record's headers say, before the engine knows the event's type.
#[derive(Debug, Default)]
pub(crate) struct Attributes {
    pub(crate) event_type: Option<String>,
    id: Option<String>,
    source: Option<String>,
    time: Option<Time>,
    subject: Option<String>,
    aggregate_type: Option<String>,
    aggregate_version: Option<i64>,
    category: Option<Category>,
    priority: Option<Priority>,
    data_version: Option<i32>,
    correlation_id: Option<String>,
    causation_id: Option<String>,
    user_id: Option<String>,
    pub(crate) trace: Option<TraceContext>,
    extra: Headers,
    /// The record's way so far, as far as its delivery headers are believed; boxed, since few records have any.
    pub(crate) delivered: Option<Box<DeliveryHeaders>>,
    /// The first required attribute that is malformed, as a sentence; it is read as absent.
    pub(crate) broken: Option<String>,
    /// Optional attributes that were malformed and are read as absent.
    pub(crate) ignored: u64,
    /// Delivery headers that came from where they have no meaning.
    pub(crate) spoofed: u64,
}

impl Attributes {
    /// Reads a record's headers; of a repeated name the last counts.
    pub(crate) fn read(headers: &Headers, trust: Trust<'_>) -> Self {
        let mut read = Self::default();
        let (mut state, mut has_delivery) = (None, false);
        for (name, value) in headers.raw() {
            // The names' bytes are compared, since there are many names and none is looked at twice.
            match name {
                name if name == SPEC_VERSION.as_bytes() => {
                    if value != Some(b"1.0") {
                        read.breaks(format!("header {SPEC_VERSION} is not `1.0`"));
                    }
                }
                name if name == ID.as_bytes() => read.id = read.required(ID, value),
                name if name == SOURCE.as_bytes() => read.source = read.required(SOURCE, value),
                name if name == TYPE.as_bytes() => read.event_type = read.required(TYPE, value),
                name if name == TRACE_PARENT.as_bytes() => {
                    read.trace = optional(&mut read.ignored, value, TraceContext::parse);
                }
                name if name == TRACE_STATE.as_bytes() => state = value,
                name if name.starts_with(b"ce_") => read.optional_attribute(name, value),
                // Its step reads it where it may be believed.
                name if name == delivery_headers::INPUT.as_bytes() => {}
                name if name.starts_with(delivery_headers::PREFIX.as_bytes()) => has_delivery = true,
                name => read.other(name, value),
            }
        }
        read.trace = read.trace.take().map(|t| t.with_state(state.unwrap_or_default()));
        if has_delivery {
            let (delivered, spoofed) = DeliveryHeaders::read(headers, trust);
            (read.delivered, read.spoofed) = (Some(Box::new(delivered)), spoofed);
        }
        read
    }

    /// A header that is no attribute of ours: it is kept as it is.
    fn other(&mut self, name: &[u8], value: Option<&[u8]>) {
        if name == CONTENT_TYPE.as_bytes() && value.is_some_and(|v| v.starts_with(b"application/cloudevents")) {
            self.breaks("structured CloudEvents are not read: send the attributes as ce_ headers".to_owned());
        }
        self.extra.push(std::str::from_utf8(name).unwrap_or_default(), value);
    }

    /// Where the record first stood, unless that is its own place.
    pub(crate) fn origin(&self) -> Option<&Origin> {
        self.delivered.as_ref()?.origin.as_ref()
    }

    fn breaks(&mut self, why: String) {
        self.broken.get_or_insert(why);
    }

    fn required(&mut self, name: &str, value: Option<&[u8]>) -> Option<String> {
        let text = value.and_then(id_text);
        if text.is_none() {
            self.breaks(format!("header {name} is not text of 1 to {ID_LIMIT} characters without control characters"));
        }
        text
    }

    fn optional_attribute(&mut self, name: &[u8], value: Option<&[u8]>) {
        let ignored = &mut self.ignored;
        match name {
            name if name == TIME.as_bytes() => self.time = optional(ignored, value, |v| Time::parse(text(v)?)),
            name if name == SUBJECT.as_bytes() => self.subject = optional(ignored, value, id_text),
            name if name == CORRELATION_ID.as_bytes() => self.correlation_id = optional(ignored, value, id_text),
            name if name == CAUSATION_ID.as_bytes() => self.causation_id = optional(ignored, value, id_text),
            name if name == USER_ID.as_bytes() => self.user_id = optional(ignored, value, id_text),
            name if name == AGGREGATE_TYPE.as_bytes() => self.aggregate_type = optional(ignored, value, id_text),
            name if name == AGGREGATE_VERSION.as_bytes() => {
                self.aggregate_version = optional(ignored, value, |v| text(v)?.parse().ok());
            }
            name if name == CATEGORY.as_bytes() => {
                self.category = optional(ignored, value, |v| Category::parse(text(v)?));
            }
            name if name == PRIORITY.as_bytes() => {
                self.priority = optional(ignored, value, |v| Priority::parse(text(v)?));
            }
            name if name == DATA_VERSION.as_bytes() => {
                self.data_version = optional(ignored, value, |v| text(v)?.parse().ok());
            }
            name => self.other(name, value),
        }
    }

    /// The whole metadata, with what the producer left out filled in: `category` and `priority` are the catalogue's.
    pub(crate) fn complete(self, record: &Record, event_type: String, category: Category, priority: Priority) -> Meta {
        let origin = self.origin().cloned().unwrap_or_else(|| record.origin());
        let Origin { partition: TopicPartition { topic, partition }, offset, timestamp_ms } = &origin;
        let id = self.id.unwrap_or_else(|| ids::foreign_id(topic, *partition, *offset, *timestamp_ms));
        let source = self.source.unwrap_or_else(|| ids::foreign_source(topic));
        Meta {
            trace: self.trace.unwrap_or_else(|| TraceContext::derived(&source, &id)),
            correlation_id: self.correlation_id.unwrap_or_else(|| id.clone()),
            event_type,
            time: self.time.unwrap_or(Time::from_millis(*timestamp_ms)),
            subject: self.subject.or_else(|| record.key.as_deref().and_then(id_text)),
            aggregate_type: self.aggregate_type,
            aggregate_version: self.aggregate_version,
            category: self.category.unwrap_or(category),
            priority: self.priority.unwrap_or(priority),
            data_version: self.data_version,
            causation_id: self.causation_id,
            user_id: self.user_id,
            attempt: self.delivered.map_or(0, |delivered| delivered.attempts),
            origin,
            extra: self.extra,
            id,
            source,
        }
    }
}

/// The headers of an event that begins a conversation and a trace: what a program that is no processor produces.
pub fn first_headers(
    id: &str,
    source: &str,
    event_type: &str,
    subject: &str,
    time: Time,
    trace: &TraceContext,
) -> Headers {
    let mut out = Headers::with_capacity(8, 256);
    out.push_text(SPEC_VERSION, "1.0");
    out.push_text(ID, id);
    out.push_text(SOURCE, source);
    out.push_text(TYPE, event_type);
    out.push_text(TIME, &time.to_string());
    out.push_text(SUBJECT, subject);
    out.push_text(CORRELATION_ID, id);
    out.push(TRACE_PARENT, Some(&trace.header()));
    out
}

/// The headers of a record that is moved to another place: its own, and what only its place has said until now.
pub(crate) fn moved(record: &Record, meta: &Meta, trace: &TraceContext) -> Headers {
    let mut out = delivery_headers::others(&record.headers, Some(trace));
    let said = |name: &str| record.headers.get(name).flatten().and_then(text);
    let mut say = |name: &str, value: &str, is_said: bool| {
        if !is_said {
            out.push_text(name, value);
        }
    };
    say(SPEC_VERSION, "1.0", said(SPEC_VERSION).is_some());
    say(ID, &meta.id, said(ID).is_some());
    say(SOURCE, &meta.source, said(SOURCE).is_some());
    say(TYPE, &meta.event_type, said(TYPE).is_some());
    say(TIME, &meta.time.to_string(), said(TIME).and_then(Time::parse).is_some());
    if let Some(subject) = &meta.subject {
        say(SUBJECT, subject, said(SUBJECT) == Some(subject));
    }
    out
}

/// What the headers of an emitted event say; category and priority are always the catalogue's, and not written.
pub(crate) struct EmittedAttributes<'a> {
    pub(crate) id: &'a str,
    pub(crate) source: &'a str,
    pub(crate) event_type: &'a str,
    /// RFC 3339.
    pub(crate) time: &'a str,
    pub(crate) subject: Option<&'a str>,
    pub(crate) aggregate: Option<&'a (String, i64)>,
    pub(crate) correlation_id: &'a str,
    pub(crate) causation_id: Option<&'a str>,
    pub(crate) user_id: Option<&'a str>,
    pub(crate) trace: &'a TraceContext,
}

impl EmittedAttributes<'_> {
    /// The headers that carry something.
    pub(crate) fn headers(&self) -> Headers {
        let (mut count, mut bytes) = (7, REQUIRED_BYTES);
        for text in [self.id, self.source, self.event_type, self.time, self.correlation_id] {
            bytes += text.len();
        }
        for (name, value) in [
            (SUBJECT, self.subject),
            (CAUSATION_ID, self.causation_id),
            (USER_ID, self.user_id),
            (TRACE_STATE, self.trace.state.as_deref()),
        ] {
            count += usize::from(value.is_some());
            bytes += value.map_or(0, |value| name.len() + value.len());
        }
        let mut out = Headers::with_capacity(count, bytes);
        let optional = |out: &mut Headers, name: &str, value: Option<&str>| {
            if let Some(value) = value {
                out.push_text(name, value);
            }
        };
        out.push_text(SPEC_VERSION, "1.0");
        out.push_text(ID, self.id);
        out.push_text(SOURCE, self.source);
        out.push_text(TYPE, self.event_type);
        out.push_text(TIME, self.time);
        optional(&mut out, SUBJECT, self.subject);
        if let Some((kind, version)) = self.aggregate {
            out.push_text(AGGREGATE_TYPE, kind);
            out.push_text(AGGREGATE_VERSION, &version.to_string());
        }
        out.push_text(CORRELATION_ID, self.correlation_id);
        optional(&mut out, CAUSATION_ID, self.causation_id);
        optional(&mut out, USER_ID, self.user_id);
        out.push(TRACE_PARENT, Some(&self.trace.header()));
        optional(&mut out, TRACE_STATE, self.trace.state.as_deref());
        out
    }
}

/// Bytes of the headers that every emitted event has, but for the values whose length differs.
const REQUIRED_BYTES: usize = SPEC_VERSION.len()
    + "1.0".len()
    + ID.len()
    + SOURCE.len()
    + TYPE.len()
    + TIME.len()
    + CORRELATION_ID.len()
    + TRACE_PARENT.len()
    + 55;

/// Reads an optional attribute: a null is absent, what cannot be read is counted and absent.
fn optional<'a, T>(ignored: &mut u64, value: Option<&'a [u8]>, read: impl Fn(&'a [u8]) -> Option<T>) -> Option<T> {
    let read = read(value?);
    *ignored += u64::from(read.is_none());
    read
}

fn text(bytes: &[u8]) -> Option<&str> {
    std::str::from_utf8(bytes).ok()
}

fn id_text(bytes: &[u8]) -> Option<String> {
    // Nearly every id is printable ASCII of a few bytes: then there is nothing more to count. Without an early end the
    // compiler looks at many bytes at once.
    let odd = bytes.iter().fold(false, |odd, byte| odd | !(b' '..=b'~').contains(byte));
    if (1..=ID_LIMIT).contains(&bytes.len()) && !odd {
        return text(bytes).map(str::to_owned);
    }
    let text = text(bytes)?;
    let fits = !text.is_empty() && text.chars().count() <= ID_LIMIT && !text.chars().any(char::is_control);
    fits.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn record(headers: Headers) -> Record {
        Record {
            topic: "events.payment".into(),
            partition: 3,
            offset: 1042,
            timestamp_ms: 1_767_225_600_000,
            key: Some(b"o1".to_vec()),
            value: None,
            headers,
        }
    }

    fn meta(headers: Headers) -> Meta {
        Attributes::read(&headers, Trust::Nobody).complete(
            &record(headers),
            "payment.completed".to_owned(),
            Category::Domain,
            Priority::Normal,
        )
    }

    /// Red when a default changes: id, source, subject, correlation, trace or time.
    #[test]
    fn a_record_without_headers_gets_what_the_contract_says() {
        let meta = meta(Headers::default());
        assert_eq!(meta.id, "d1694524-516d-5e22-9ca6-3c4096a48991");
        assert_eq!(meta.source, "kafka://events.payment");
        assert_eq!(meta.correlation_id, meta.id);
        assert_eq!(meta.causation_id, None);
        assert_eq!(meta.subject.as_deref(), Some("o1"));
        assert_eq!(meta.time.to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(meta.trace.trace_id_hex(), "efc693acdf0092af7dc7c61067f18606");
    }

    /// Red when a required attribute is taken as it comes.
    #[test]
    fn a_malformed_required_attribute_breaks_the_contract() {
        let long = "x".repeat(257);
        for (name, value) in [
            ("ce_specversion", Some(&b"0.3"[..])),
            ("ce_id", Some(b"")),
            ("ce_id", None),
            ("ce_id", Some(long.as_bytes())),
            ("ce_source", Some(b"\xff")),
            ("ce_type", Some(b"a\nb")),
            ("content-type", Some(b"application/cloudevents+json")),
        ] {
            let headers = Headers::from_iter([(name, value)]);
            let error = Attributes::read(&headers, Trust::Nobody).broken.expect(name);
            assert!(error.contains(name) || error.contains("structured"), "{error}");
        }
    }

    /// Red when a malformed optional attribute fails the record, or is not counted; or `hw_` headers have an effect.
    #[test]
    fn malformed_optional_and_forged_delivery_headers_are_counted_and_reach_nothing() {
        let headers = Headers::from_iter([
            ("traceparent", Some(&b"00-garbage"[..])),
            ("ce_time", Some(b"noon")),
            ("ce_priority", Some(b"9")),
            ("hw_attempt", Some(b"99")),
            ("content-type", Some(b"avro/binary")),
        ]);
        let attributes = Attributes::read(&headers, Trust::Nobody);
        assert_eq!(attributes.broken, None, "nothing required is malformed");
        assert_eq!((attributes.ignored, attributes.spoofed), (3, 1));
        let meta = meta(headers);
        assert_eq!((meta.attempt, meta.priority), (0, Priority::Normal));
        assert_eq!(meta.extra.iter().count(), 1, "only content-type is kept: {:?}", meta.extra);
    }

    fn id() -> impl Strategy<Value = String> {
        "[^\\p{Cc}]{1,40}"
    }

    prop_compose! {
        fn any_meta()(
            ids in proptest::collection::vec(id(), 4),
            optional in proptest::collection::vec(proptest::option::of(id()), 4),
            time in -1_000_000_000_000_000..4_000_000_000_000_000i64,
            version in proptest::option::of(any::<i64>()),
            data_version in proptest::option::of(any::<i32>()),
            kind in 0..5usize, priority in 0..4usize, flags in 0..2u8,
            trace in any::<([u8; 15], [u8; 7])>(), state in proptest::option::of("[a-z]{1,8}=[!-~]{1,40}"),
            extra in proptest::collection::vec(("x-[a-z]{0,9}", proptest::option::of(any::<Vec<u8>>())), 0..6),
        ) -> Meta {
            let mut trace_id = [1; 16];
            trace_id[1..].copy_from_slice(&trace.0);
            let mut span_id = [1; 8];
            span_id[1..].copy_from_slice(&trace.1);
            let record = record(Headers::default());
            let mut meta = Attributes::default().complete(&record, ids[2].clone(), Category::Domain, Priority::Normal);
            meta.id = ids[0].clone();
            meta.source = ids[1].clone();
            meta.correlation_id = ids[3].clone();
            meta.time = Time::from_micros(time);
            [meta.causation_id, meta.user_id, meta.aggregate_type] =
                [optional[0].clone(), optional[1].clone(), optional[2].clone()];
            meta.subject = optional[3].clone().or(meta.subject);
            meta.aggregate_version = version;
            meta.data_version = data_version;
            meta.category = Category::ALL[kind];
            meta.priority = Priority::ALL[priority];
            meta.trace = TraceContext { trace_id, span_id, flags, state };
            meta.extra = extra.iter().map(|(n, v)| (n.as_str(), v.as_deref())).collect();
            meta
        }
    }

    /// The headers of an event that has all of this: what the engine writes, and what only foreign producers do.
    fn written(meta: &Meta) -> Headers {
        let time = meta.time.to_string();
        let emitted = EmittedAttributes {
            id: &meta.id,
            source: &meta.source,
            event_type: &meta.event_type,
            time: &time,
            subject: meta.subject.as_deref(),
            aggregate: None,
            correlation_id: &meta.correlation_id,
            causation_id: meta.causation_id.as_deref(),
            user_id: meta.user_id.as_deref(),
            trace: &meta.trace,
        };
        let mut out = emitted.headers();
        let foreign = [
            (AGGREGATE_TYPE, meta.aggregate_type.clone()),
            (AGGREGATE_VERSION, meta.aggregate_version.map(|version| version.to_string())),
            (CATEGORY, Some(meta.category.to_string())),
            (PRIORITY, Some(meta.priority.as_str().to_owned())),
            (DATA_VERSION, meta.data_version.map(|version| version.to_string())),
        ];
        for (name, value) in foreign {
            value.iter().for_each(|value| out.push_text(name, value));
        }
        meta.extra.iter().for_each(|(name, value)| out.push(name, value));
        out
    }

    proptest! {
        /// Red when any field is not written, or a foreign header is dropped, reordered or loses its null.
        #[test]
        fn metadata_survives_a_round_trip_with_random_foreign_headers(meta in any_meta()) {
            let headers = written(&meta);
            let read = Attributes::read(&headers, Trust::Nobody);
            prop_assert_eq!(&read.broken, &None, "what we write is valid");
            prop_assert_eq!((read.ignored, read.spoofed), (0, 0));
            let event_type = read.event_type.clone().unwrap_or_default();
            let back = read.complete(&record(headers.clone()), event_type, Category::Domain, Priority::Normal);
            prop_assert_eq!(back, meta);
        }
    }
}
