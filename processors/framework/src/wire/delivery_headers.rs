//! Delivery headers: what a record carries of its way through retry, dead letters and redrive.
//!
//! Each hop replaces them, so they never grow.

use super::{
    group_topics::GroupTopics,
    record::{Headers, Origin, Outgoing, Position, Record, TopicPartition},
    trace_context::{TRACE_PARENT, TRACE_STATE, TraceContext},
};
use crate::failure::failure_report::FailureReport;

/// Every delivery header begins with this; from a foreign producer it means nothing.
pub(crate) const PREFIX: &str = "hw_";

const ATTEMPT: &str = "hw_attempt";
const DUE: &str = "hw_due";
const FIRST_FAILED: &str = "hw_first_failed";
const GROUP: &str = "hw_group";
const PROCESSOR: &str = "hw_processor";
const ORIGIN_TOPIC: &str = "hw_origin_topic";
const ORIGIN_PARTITION: &str = "hw_origin_partition";
const ORIGIN_OFFSET: &str = "hw_origin_offset";
const ORIGIN_TIMESTAMP: &str = "hw_origin_timestamp";
const ERROR_KIND: &str = "hw_error_kind";
const ERROR_MESSAGE: &str = "hw_error_message";
const ERROR_DETAIL: &str = "hw_error_detail";
const ERROR_FINGERPRINT: &str = "hw_error_fingerprint";
const REDRIVE_COUNT: &str = "hw_redrive_count";
const RESOLVED: &str = "hw_resolved";
/// Where a record stood that was repartitioned: `topic/partition/offset/id of the topic`, or without the id. No hop keeps it.
pub(crate) const INPUT: &str = "hw_input";

/// How many bytes the value of a letter had that was cut.
pub(crate) const VALUE_BYTES: &str = "hw_value_bytes";
/// That value's SHA-256, in hex digits.
pub(crate) const VALUE_SHA256: &str = "hw_value_sha256";
/// How many bytes its key had.
pub(crate) const KEY_BYTES: &str = "hw_key_bytes";
/// How many of its headers were left out.
pub(crate) const HEADERS_CUT: &str = "hw_headers_cut";

/// Whether a delivery header says what was cut off a letter: it stays with the letter.
pub fn says_cut(header: &str) -> bool {
    matches!(header, VALUE_BYTES | VALUE_SHA256 | KEY_BYTES | HEADERS_CUT)
}

/// Whose delivery headers are believed on a record.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Trust<'a> {
    /// Nobody's: the record comes from a topic of events.
    Nobody,
    /// This group's: the record comes from a topic that it owns.
    Group(&'a str),
    /// Whatever they say, but for another group than this one: the record stands on its topic of dead letters, where no
    /// other's letters are.
    Letter(&'a str),
}

/// A record's way so far.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct DeliveryHeaders {
    /// Attempts made.
    pub(crate) attempts: u32,
    /// When the next attempt is due, milliseconds since the epoch.
    pub(crate) due_ms: Option<i64>,
    /// When the first attempt failed, milliseconds since the epoch.
    pub(crate) first_failed_ms: Option<i64>,
    /// The group that it failed in.
    pub(crate) group: Option<String>,
    /// The processor that it failed in.
    pub(crate) processor: Option<String>,
    /// Where it first stood; `None` when that is its own place.
    pub(crate) origin: Option<Origin>,
    /// The last failure's kind.
    pub(crate) kind: Option<String>,
    /// Its message.
    pub(crate) message: Option<String>,
    /// Its message with everything behind it.
    pub(crate) detail: Option<String>,
    /// What failures of its make have in common.
    pub(crate) fingerprint: Option<String>,
    /// How often it was sent back.
    pub(crate) redrives: u32,
    /// It is no letter, but the news that one that was sent back has succeeded.
    pub(crate) resolved: bool,
}

impl DeliveryHeaders {
    /// Reads what headers are believed; gives the number of those that are not too.
    pub(crate) fn read(headers: &Headers, trust: Trust<'_>) -> (Self, u64) {
        let mut read = Self::default();
        let (mut topic, mut partition, mut offset, mut timestamp) = (None, None, None, None);
        let (mut found, mut unknown) = (0, 0);
        for (name, value) in headers.iter().filter(|(name, _)| name.starts_with(PREFIX) && *name != INPUT) {
            found += 1;
            let text = value.and_then(|value| std::str::from_utf8(value).ok());
            match name {
                ATTEMPT => read.attempts = number(text).unwrap_or(0),
                DUE => read.due_ms = number(text),
                FIRST_FAILED => read.first_failed_ms = number(text),
                GROUP => read.group = text.map(str::to_owned),
                PROCESSOR => read.processor = text.map(str::to_owned),
                ORIGIN_TOPIC => topic = text,
                ORIGIN_PARTITION => partition = number(text),
                ORIGIN_OFFSET => offset = number(text),
                ORIGIN_TIMESTAMP => timestamp = number(text),
                ERROR_KIND => read.kind = text.map(str::to_owned),
                ERROR_MESSAGE => read.message = text.map(str::to_owned),
                ERROR_DETAIL => read.detail = text.map(str::to_owned),
                ERROR_FINGERPRINT => read.fingerprint = text.map(str::to_owned),
                REDRIVE_COUNT => read.redrives = number(text).unwrap_or(0),
                RESOLVED => read.resolved = text == Some("1"),
                name if says_cut(name) => {}
                _ => unknown += 1,
            }
        }
        let believed = match trust {
            Trust::Nobody => false,
            Trust::Group(group) => read.group.as_deref() == Some(group),
            Trust::Letter(_) => true,
        };
        if !believed {
            return (Self::default(), found);
        }
        if let Trust::Letter(group) = trust {
            unknown += u64::from(read.group.as_deref().is_some_and(|said| said != group));
        }
        let place = topic.zip(partition).map(|(topic, partition)| TopicPartition::new(topic, partition));
        read.origin = place.zip(offset.zip(timestamp)).map(|(partition, (offset, timestamp_ms))| Origin {
            partition,
            offset,
            timestamp_ms,
        });
        (read, unknown)
    }

    /// Where the record first stood.
    pub(crate) fn origin_of(&self, record: &Record) -> Origin {
        self.origin.clone().unwrap_or_else(|| record.origin())
    }

    /// The same with this failure as its last one.
    pub(crate) fn failed(mut self, fault: &FailureReport, group: &str, processor: &str, now_ms: i64) -> Self {
        self.first_failed_ms = self.first_failed_ms.or(Some(now_ms));
        self.kind = Some(fault.kind.as_str().to_owned());
        self.message = Some(fault.message.clone());
        self.detail = Some(fault.detail.clone());
        self.fingerprint = Some(fault.fingerprint(group, processor));
        (self.group, self.processor) = (Some(group.to_owned()), Some(processor.to_owned()));
        self.due_ms = None;
        self
    }

    /// The record on its next hop: the same but for these headers and its trace.
    pub(crate) fn hop(&self, record: &Record, topic: String, trace: Option<&TraceContext>) -> Outgoing {
        let mut headers = others(&record.headers, trace);
        self.write(Some(&self.origin_of(record)), &mut headers);
        Outgoing {
            topic: topic.into(),
            partition: Some(self.origin_of(record).partition.partition),
            key: record.key.clone(),
            value: record.value.clone(),
            headers,
        }
    }

    /// Says on a record that was sent back, and is repartitioned, which letter it was: whoever processes it tells of that.
    pub(crate) fn repartitioned(&self, record: &Record, group: &str, out: &mut Headers) {
        if self.redrives == 0 {
            return;
        }
        let letter = Self {
            group: Some(group.to_owned()),
            processor: self.processor.clone(),
            redrives: self.redrives,
            ..Self::default()
        };
        letter.write(Some(&self.origin_of(record)), out);
    }

    /// The news for the dead letters that this record, which was sent back, has succeeded.
    pub(crate) fn marker(&self, record: &Record, owned: &GroupTopics, group: &str, processor: &str) -> Outgoing {
        let origin = self.origin_of(record);
        let marker = Self {
            group: Some(group.to_owned()),
            processor: Some(processor.to_owned()),
            redrives: self.redrives,
            resolved: true,
            ..Self::default()
        };
        let mut headers = Headers::default();
        marker.write(Some(&origin), &mut headers);
        let partition = Some(origin.partition.partition);
        Outgoing { topic: owned.dlq().into(), partition, key: record.key.clone(), value: None, headers }
    }

    /// Adds the headers; a record without an origin counts as being where it will stand.
    pub(crate) fn write(&self, origin: Option<&Origin>, out: &mut Headers) {
        let mut optional = |name: &str, value: Option<&str>| {
            if let Some(value) = value {
                out.push_text(name, value);
            }
        };
        optional(ATTEMPT, (!self.resolved).then(|| self.attempts.to_string()).as_deref());
        optional(DUE, self.due_ms.map(|ms| ms.to_string()).as_deref());
        optional(FIRST_FAILED, self.first_failed_ms.map(|ms| ms.to_string()).as_deref());
        optional(GROUP, self.group.as_deref());
        optional(PROCESSOR, self.processor.as_deref());
        if let Some(Origin { partition: TopicPartition { topic, partition }, offset, timestamp_ms }) = origin {
            optional(ORIGIN_TOPIC, Some(topic));
            optional(ORIGIN_PARTITION, Some(&partition.to_string()));
            optional(ORIGIN_OFFSET, Some(&offset.to_string()));
            optional(ORIGIN_TIMESTAMP, Some(&timestamp_ms.to_string()));
        }
        optional(ERROR_KIND, self.kind.as_deref());
        optional(ERROR_MESSAGE, self.message.as_deref());
        optional(ERROR_DETAIL, self.detail.as_deref());
        optional(ERROR_FINGERPRINT, self.fingerprint.as_deref());
        optional(REDRIVE_COUNT, (self.redrives > 0).then(|| self.redrives.to_string()).as_deref());
        optional(RESOLVED, self.resolved.then_some("1"));
    }
}

/// When a record on a retry topic of this group is due, milliseconds since the epoch: read alone, since the head of a
/// partition is looked at before it is its turn.
pub(crate) fn due_ms(record: &Record, group: &str) -> Option<i64> {
    let text = |name| std::str::from_utf8(record.headers.get(name)??).ok();
    number(text(DUE).filter(|_| text(GROUP) == Some(group)))
}

/// Says where a record stands that is repartitioned, and the id of its topic: empty where it is not known.
pub(crate) fn say_input(record: &Record, topic_id: &str, out: &mut Headers) {
    let id = if topic_id.is_empty() { "" } else { "/" };
    out.push_text(INPUT, &format!("{}/{}/{}{id}{topic_id}", record.topic, record.partition, record.offset));
}

/// Where the partition of a record that was repartitioned stood behind it, and the id of its topic, if its headers say so.
pub(crate) fn input(headers: &Headers) -> Option<(Position, Option<&str>)> {
    let text = std::str::from_utf8(headers.get(INPUT)??).ok()?;
    // An id is base64, and may have slashes.
    let mut parts = text.splitn(4, '/');
    let (topic, partition, offset) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
    // They go on into other headers, which are text of their own.
    let is_word = |text: &&str| text.bytes().all(|byte| byte.is_ascii_graphic());
    let topic = Some(topic).filter(is_word)?;
    let offset: i64 = offset.parse().ok().filter(|offset| (0..i64::MAX).contains(offset))?;
    Some((
        Position { partition: TopicPartition::new(topic, partition), next: offset + 1 },
        parts.next().filter(is_word),
    ))
}

/// Every header that is no delivery header, in order, with the trace replaced where it is known.
pub(crate) fn others(headers: &Headers, trace: Option<&TraceContext>) -> Headers {
    kept(headers, |name| !name.starts_with(PREFIX), trace)
}

/// Every header that a dead letter keeps: no delivery header but those that say what was cut off it.
pub(crate) fn of_letter(headers: &Headers) -> Headers {
    kept(headers, |name| !name.starts_with(PREFIX) || says_cut(name), None)
}

/// Every header, in order, with the trace replaced.
pub(crate) fn with_trace(headers: &Headers, trace: &TraceContext) -> Headers {
    kept(headers, |_| true, Some(trace))
}

fn kept(headers: &Headers, is_kept: impl Fn(&str) -> bool + Copy, trace: Option<&TraceContext>) -> Headers {
    let parent = trace.map(TraceContext::header);
    let state = trace.and_then(|trace| trace.state.as_deref());
    let new = [(TRACE_PARENT, parent.as_ref().map(|parent| &parent[..])), (TRACE_STATE, state.map(str::as_bytes))];
    let old = |name: &str| trace.is_some() && matches!(name, TRACE_PARENT | TRACE_STATE);
    let kept = headers.iter().filter(|(name, _)| is_kept(name) && !old(name));
    Headers::of(kept.chain(new.into_iter().filter(|(_, value)| value.is_some())))
}

fn number<T: std::str::FromStr>(text: Option<&str>) -> Option<T> {
    text?.parse().ok()
}
