//! Dead letters: a record that cannot succeed, with all that is known of its failure, and its way back.

use super::{
    cut::Truncation,
    failure_report::{DETAIL_LIMIT, MESSAGE_LIMIT, cut},
};
use crate::{
    event::time::Time,
    pipeline::catalogue::Catalogue,
    telemetry::spans::{Message, Span, Tracing},
    wire::{
        delivery_headers::{self, DeliveryHeaders, Trust, says_cut},
        group_topics::{GroupTopics, group_of_dlq},
        headers::{Attributes, CAUSATION_ID, CONTENT_TYPE, CORRELATION_ID, ID, SOURCE, SPEC_VERSION, TIME, TYPE},
        ids,
        record::{Headers, Origin, Outgoing, Record},
        trace_context::TraceContext,
    },
};

/// The source of records that a person has edited.
const EDITED_SOURCE: &str = "headwater/edit";

/// A dead letter, as it stands on a `<group>.dlq` topic and in the table of dead letters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The group that could not process the record.
    pub group: String,
    /// Its processor or sink.
    pub processor: String,
    /// The event's id.
    pub event_id: String,
    /// The event's type, where it is known.
    pub event_type: Option<String>,
    /// The id of the whole conversation.
    pub correlation_id: String,
    /// Why it failed: `decode`, `contract`, `rejected`, `timeout`, `exhausted`, `row`.
    pub kind: String,
    /// The failure, at most 512 bytes.
    pub message: String,
    /// The failure with everything behind it, at most 2 KiB.
    pub detail: String,
    /// What failures of its make have in common.
    pub fingerprint: String,
    /// Attempts made.
    pub attempts: u32,
    /// How often it was sent back before it failed again.
    pub redrives: u32,
    /// Where the record first stood.
    pub origin: Origin,
    /// When the first attempt failed, milliseconds since the epoch.
    pub first_failed_ms: i64,
    /// When it became a dead letter, milliseconds since the epoch.
    pub dead_lettered_ms: i64,
    /// It is no letter, but the news that one that was sent back has succeeded.
    pub resolved: bool,
    /// The record's key.
    pub key: Option<Vec<u8>>,
    /// The record's value, byte for byte.
    pub value: Option<Vec<u8>>,
    /// The record's headers, but for those of its delivery, in order.
    pub headers: Headers,
}

impl DeadLetter {
    /// Reads a record of a `<group>.dlq` topic. Never fails: what is missing or broken is filled in from the record.
    ///
    /// Its group is the topic's, whatever its headers say: who may write to a group's letters can change those alone.
    pub fn read(record: &Record, catalogue: &Catalogue) -> Self {
        let group = group_of_dlq(record);
        let attributes = Attributes::read(&record.headers, Trust::Letter(group));
        let delivered = attributes.delivered.as_deref().cloned().unwrap_or_default();
        let known = attributes.event_type.clone();
        let origin = delivered.origin_of(record);
        let event_type = known.or_else(|| catalogue.bound_type(&origin.partition.topic).map(str::to_owned));
        let meta = attributes.complete(record, event_type.clone().unwrap_or_default(), <_>::default(), <_>::default());
        let text = |text: Option<String>, limit: usize| cut(&text.unwrap_or_default(), limit);
        Self {
            processor: delivered.processor.unwrap_or_else(|| group.to_owned()),
            group: group.to_owned(),
            event_id: meta.id,
            event_type,
            correlation_id: meta.correlation_id,
            kind: delivered.kind.unwrap_or_else(|| "contract".to_owned()),
            message: text(delivered.message, MESSAGE_LIMIT),
            detail: text(delivered.detail, DETAIL_LIMIT),
            fingerprint: text(delivered.fingerprint, MESSAGE_LIMIT),
            attempts: delivered.attempts,
            redrives: delivered.redrives,
            first_failed_ms: delivered.first_failed_ms.unwrap_or(record.timestamp_ms),
            dead_lettered_ms: record.timestamp_ms,
            resolved: delivered.resolved,
            origin,
            key: record.key.clone(),
            value: record.value.clone(),
            headers: delivery_headers::of_letter(&record.headers),
        }
    }

    /// What it lacks, where it was too large to be kept whole.
    pub fn cut(&self) -> Option<Truncation> {
        Truncation::of(&self.headers)
    }

    /// The letter with what was cut off it: `record` stands where it first stood.
    ///
    /// # Errors
    /// When that is another record, as a sentence.
    pub fn whole(&self, record: &Record) -> Result<Self, String> {
        let place = record.origin();
        if place != self.origin {
            return Err("the record that stands there is another".to_owned());
        }
        if let Some(cut) = self.cut() {
            cut.fits(record)?;
        }
        let headers = delivery_headers::others(&record.headers, self.trace().as_ref());
        Ok(Self { key: record.key.clone(), value: record.value.clone(), headers, ..self.clone() })
    }

    /// The record on its way back to its group alone: the same bytes, no attempt made yet, sent back once more.
    pub fn redriven(&self) -> Outgoing {
        let delivered = DeliveryHeaders {
            attempts: 0,
            due_ms: None,
            first_failed_ms: Some(self.first_failed_ms),
            group: Some(self.group.clone()),
            processor: Some(self.processor.clone()),
            origin: Some(self.origin.clone()),
            kind: Some(self.kind.clone()),
            message: Some(self.message.clone()),
            detail: Some(self.detail.clone()),
            fingerprint: Some(self.fingerprint.clone()),
            redrives: self.redrives.saturating_add(1),
            resolved: false,
        };
        let mut headers = delivery_headers::others(&self.headers, None);
        delivered.write(Some(&self.origin), &mut headers);
        self.outgoing(self.value.clone(), headers)
    }

    /// A new record with another value, caused by this one, to its group alone; `row` is the letter's id in the table.
    ///
    /// Its origin is the place where it will stand, so it carries none. What made the old one's headers a broken contract
    /// is left out.
    pub fn edited(&self, row: &str, value: Vec<u8>) -> Outgoing {
        let id = ids::edited_id(row);
        let typed = Attributes::read(&self.headers, Trust::Nobody).event_type.is_some();
        let kept = |name: &str| match name {
            ID | SOURCE | CORRELATION_ID | CAUSATION_ID | SPEC_VERSION | CONTENT_TYPE => false,
            TYPE => typed,
            name if says_cut(name) => false,
            _ => true,
        };
        let mut headers: Headers = self.headers.iter().filter(|(name, _)| kept(name)).collect();
        headers.push_text(SPEC_VERSION, "1.0");
        headers.push_text(ID, &id);
        headers.push_text(SOURCE, EDITED_SOURCE);
        headers.push_text(CORRELATION_ID, &self.correlation_id);
        headers.push_text(CAUSATION_ID, &self.event_id);
        if let (None, Some(event_type)) = (headers.get(TYPE), &self.event_type) {
            // A topic that is bound to a type says it no longer.
            headers.push_text(TYPE, event_type);
        }
        if self.headers.get(TIME).is_none() {
            // Where a record says no time its timestamp counts, and that of the new one is now.
            headers.push_text(TIME, &Time::from_millis(self.origin.timestamp_ms).to_string());
        }
        let delivered = DeliveryHeaders {
            group: Some(self.group.clone()),
            processor: Some(self.processor.clone()),
            redrives: 1,
            ..DeliveryHeaders::default()
        };
        delivered.write(None, &mut headers);
        self.outgoing(Some(value), headers)
    }

    /// A record made of this letter with the span of its sending, in the trace of the old record, whose context it carries.
    pub fn traced(&self, record: Outgoing, tracing: &Tracing) -> (Outgoing, Option<Span>) {
        let id = record.headers.get(ID).flatten().and_then(|id| std::str::from_utf8(id).ok());
        let message = Message {
            topic: &record.topic,
            partition: record.partition,
            id: id.unwrap_or(&self.event_id),
            correlation_id: &self.correlation_id,
            causation_id: None,
        };
        match self.trace().and_then(|trace| tracing.publish(&trace, message)) {
            Some((trace, span)) => {
                let headers = delivery_headers::with_trace(&record.headers, &trace);
                (Outgoing { headers, ..record }, Some(span))
            }
            None => (record, None),
        }
    }

    /// The id of the event that [`DeadLetter::edited`] makes of the letter with this row id.
    pub fn edited_id(row: &str) -> String {
        ids::edited_id(row)
    }

    /// The trace that the record belongs to.
    pub fn trace(&self) -> Option<TraceContext> {
        Attributes::read(&self.headers, Trust::Nobody).trace
    }

    fn outgoing(&self, value: Option<Vec<u8>>, headers: Headers) -> Outgoing {
        Outgoing {
            topic: GroupTopics::of(&self.group).redrive().into(),
            partition: Some(self.origin.partition.partition),
            key: self.key.clone(),
            value,
            headers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn planted(topic: &str, group: &[u8]) -> Record {
        Record {
            topic: topic.into(),
            partition: 0,
            offset: 0,
            timestamp_ms: 0,
            key: None,
            value: None,
            headers: Headers::from_iter([("hw_group", Some(group)), ("hw_attempt", Some(b"5"))]),
        }
    }

    /// Red when a letter's group is the one that its headers name, on the way back too, or that goes uncounted.
    #[test]
    fn a_letter_is_of_the_group_on_whose_topic_it_stands() {
        let record = planted("shop.a.dlq", b"shop.b");
        let letter = DeadLetter::read(&record, &Catalogue::default());
        assert_eq!((letter.group.as_str(), letter.processor.as_str(), letter.attempts), ("shop.a", "shop.a", 5));
        for back in [letter.redriven(), letter.edited("row", Vec::new())] {
            assert_eq!(&*back.topic, "shop.a.redrive");
            assert_eq!(back.headers.get("hw_group"), Some(Some(&b"shop.a"[..])));
        }
        let spoofed = |record: &Record| Attributes::read(&record.headers, Trust::Letter(group_of_dlq(record))).spoofed;
        assert_eq!((spoofed(&record), spoofed(&planted("shop.b.dlq", b"shop.b"))), (1, 0));
    }
}
