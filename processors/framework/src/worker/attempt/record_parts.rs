//! What a record is, before anything is done with it: its metadata, whether the group takes it, and where its bytes are.
#![expect(
    clippy::result_large_err,
    reason = "most records have none, and a box would cost each skipped one an allocation"
)]

use std::sync::Arc;

use super::{
    in_flight::{AttemptContext, Effects, InFlightRecord, Outcome},
    record_processor::RecordProcessor,
};
use crate::{
    codec::{self, WriterSchema},
    event::Meta,
    failure::{DeadLetterKind, cut, failure_report::FailureReport},
    pipeline::{
        Work,
        catalogue::{Catalogue, RecordType, unknown_record},
        sink::SinkConfig,
    },
    telemetry::{metrics::Metric, spans::Attempt},
    wire::{
        delivery_headers::Trust,
        group_topics::{GroupTopics, TopicRole, group_of_dlq},
        headers::Attributes,
        record::Record,
    },
};

/// A record that needs its schema to go on.
pub(crate) struct RecordParts<'a> {
    pub(crate) attributes: Attributes,
    pub(crate) schema_id: u32,
    pub(crate) datum: &'a [u8],
}

impl RecordProcessor {
    /// Reads what needs no schema. The error is an outcome already: skipped, a tombstone's row, or a dead letter.
    pub(crate) fn open<'a>(&self, in_flight: &'a InFlightRecord) -> Result<RecordParts<'a>, Outcome> {
        let record = &in_flight.record;
        if matches!(self.group.work, Work::DeadLetters) {
            return Err(self.store_letter(in_flight));
        }
        let contract = |why: String| self.dead(in_flight, &FailureReport::new(DeadLetterKind::Contract, why), None);
        let mut attributes = Attributes::read(&record.headers, self.trust(in_flight.role));
        if !in_flight.begun {
            self.metrics.add(Metric::HeadersIgnored, attributes.ignored);
            self.metrics.add(Metric::HeadersForged, attributes.spoofed);
        }
        if let Some(why) = attributes.broken.take() {
            return Err(contract(why));
        }
        let typed = self.type_of(record, &attributes);
        if let RecordType::Is(event_type) = &typed {
            self.check(in_flight, &attributes, event_type)?;
        }
        let Some(value) = record.value.as_deref() else {
            return Err(match typed {
                RecordType::Is(event_type) => {
                    let event_type = event_type.to_owned();
                    self.tombstone(in_flight, attributes, event_type)
                }
                RecordType::AskSchema => contract("a tombstone without ce_type has no event type".to_owned()),
            });
        };
        if let Some(why) = cut::oversize(record, self.record_limit) {
            return Err(contract(why));
        }
        let (schema_id, datum) = codec::split(value).map_err(|error| self.unreadable(in_flight, &error, None))?;
        Ok(RecordParts { attributes, schema_id, datum })
    }

    pub(crate) fn trust(&self, role: TopicRole) -> Trust<'_> {
        if role == TopicRole::Input { Trust::Nobody } else { Trust::Group(&self.group.id) }
    }

    /// By the topic where the record first stood.
    pub(crate) fn type_of<'a>(&'a self, record: &Record, attributes: &'a Attributes) -> RecordType<'a> {
        let topic = attributes.origin().map_or(&record.topic, |origin| &origin.partition.topic);
        self.catalogue.type_of(topic, attributes.event_type.as_deref())
    }

    /// Why a record on a topic of ours is of another schema than its type's, if it is: such a one changes no table. Of the
    /// topics of others the catalogue says nothing. One that was edited stands on neither: it counts as on ours, unless the
    /// sink's events come from others too.
    pub(crate) fn foreign(
        &self,
        in_flight: &InFlightRecord,
        attributes: &Attributes,
        schema: &WriterSchema,
        sink: &dyn SinkConfig,
    ) -> Option<String> {
        let own = self.schema?;
        let topic = attributes.origin().map_or(&in_flight.record.topic, |origin| &origin.partition.topic);
        let edited = || GroupTopics::is_redrive(topic, &self.group.id) && !self.catalogue.is_bound(sink.event());
        if Catalogue::is_own(topic) || edited() { schema.unreadable_by(own) } else { None }
    }

    /// Whether the type may stand on this topic, and whether the group takes it.
    fn check(&self, in_flight: &InFlightRecord, attributes: &Attributes, event_type: &str) -> Result<(), Outcome> {
        let origin = attributes.origin();
        let topic = origin.map_or(&in_flight.record.topic, |origin| &origin.partition.topic);
        if !Catalogue::belongs(topic, event_type) {
            let why = format!("event type `{event_type}` does not belong on topic {topic}");
            return Err(self.dead(in_flight, &FailureReport::new(DeadLetterKind::Contract, why), None));
        }
        if !self.interest.takes(event_type) {
            self.metrics.add(Metric::Skipped, 1);
            return Err(self.done(in_flight, Effects::default(), &AttemptContext::default()));
        }
        Ok(())
    }

    fn tombstone(&self, in_flight: &InFlightRecord, attributes: Attributes, event_type: String) -> Outcome {
        let contract = |why: &str| self.dead(in_flight, &FailureReport::new(DeadLetterKind::Contract, why), None);
        let Work::Sink(sink) = &self.group.work else {
            return contract("a null value where nothing takes tombstones");
        };
        if let Some(why) = sink.refuses_tombstone(in_flight.record.key.is_some()) {
            return contract(why);
        }
        let attempt = self.begin_attempt(in_flight, attributes, event_type);
        self.store(in_flight, attempt, None)
    }

    /// A dead letter is kept as it is: nothing of it is decoded, so nothing of it can fail.
    fn store_letter(&self, in_flight: &InFlightRecord) -> Outcome {
        let attributes = Attributes::read(&in_flight.record.headers, Trust::Letter(group_of_dlq(&in_flight.record)));
        if !in_flight.begun {
            self.metrics.add(Metric::HeadersForged, attributes.spoofed);
        }
        let event_type = attributes.event_type.clone().unwrap_or_default();
        let attempt = self.begin_attempt(in_flight, attributes, event_type);
        self.store(in_flight, attempt, None)
    }

    pub(crate) fn type_by_schema(
        &self,
        in_flight: &InFlightRecord,
        attributes: &Attributes,
        schema: &WriterSchema,
    ) -> Result<String, Outcome> {
        let name = schema.full_name().unwrap_or_default();
        let Some(event_type) = self.catalogue.by_record(name) else {
            return Err(self.dead(
                in_flight,
                &FailureReport::new(DeadLetterKind::Contract, unknown_record(name)),
                None,
            ));
        };
        self.check(in_flight, attributes, event_type)?;
        Ok(event_type.to_owned())
    }

    /// The whole metadata, and the span of this attempt.
    pub(crate) fn begin_attempt(
        &self,
        in_flight: &InFlightRecord,
        mut attributes: Attributes,
        event_type: String,
    ) -> (Arc<Meta>, Attempt) {
        if in_flight.failed > 0 {
            let delivered = attributes.delivered.get_or_insert_default();
            delivered.attempts = delivered.attempts.saturating_add(in_flight.failed);
        }
        let begun = attributes.trace.is_some();
        let mut meta = self.catalogue.complete(&in_flight.record, attributes, event_type);
        let waited = in_flight.role == TopicRole::Waiting;
        let attempt = self.tracing.attempt(&mut meta, begun, &self.group.id, &in_flight.record, waited);
        (Arc::new(meta), attempt)
    }

    /// As much as can be said of a record that nobody can process.
    pub(crate) fn broken_context(&self, in_flight: &InFlightRecord) -> AttemptContext {
        let attributes = Attributes::read(&in_flight.record.headers, self.trust(in_flight.role));
        // A broken id or source has no trace of its own to derive.
        if attributes.trace.is_none() && attributes.broken.is_some() {
            return AttemptContext::default();
        }
        let event_type = attributes.event_type.clone().unwrap_or_default();
        let (meta, attempt) = self.begin_attempt(in_flight, attributes, event_type);
        AttemptContext::new(meta, attempt)
    }
}

/// Why no row can be made of a value of this schema: it is no record, or lacks a key column.
pub(crate) fn no_row(sink: &dyn SinkConfig, schema: &WriterSchema) -> Option<String> {
    let apache_avro::Schema::Record(record) = schema.schema() else {
        return Some(format!("what schema {} writes is no record, and a row needs fields", schema.id()));
    };
    let missing = sink.key_fields().iter().find(|key| !record.lookup.contains_key(key.as_str()))?;
    Some(format!("{missing}: missing in schema {}, and the row's key", schema.id()))
}
