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
        catalogue::{Catalogue, Typed, unknown_record},
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
pub(crate) struct Opened<'a> {
    pub(crate) attributes: Attributes,
    pub(crate) schema_id: u32,
    pub(crate) datum: &'a [u8],
}

impl RecordProcessor {
    /// Reads what needs no schema. The error is an outcome already: skipped, a tombstone's row, or a dead letter.
    pub(crate) fn open<'a>(&self, job: &'a InFlightRecord) -> Result<Opened<'a>, Outcome> {
        let record = &job.record;
        if matches!(self.group.work, Work::DeadLetters) {
            return Err(self.keep_letter(job));
        }
        let contract = |why: String| self.dead(job, &FailureReport::new(DeadLetterKind::Contract, why), None);
        let mut attributes = Attributes::read(&record.headers, self.trust(job.role));
        if !job.begun {
            self.state.add(Metric::HeadersIgnored, attributes.ignored);
            self.state.add(Metric::HeadersForged, attributes.spoofed);
        }
        if let Some(why) = attributes.broken.take() {
            return Err(contract(why));
        }
        let typed = self.type_of(record, &attributes);
        if let Typed::Is(event_type) = &typed {
            self.check(job, &attributes, event_type)?;
        }
        let Some(value) = record.value.as_deref() else {
            return Err(match typed {
                Typed::Is(event_type) => {
                    let event_type = event_type.to_owned();
                    self.tombstone(job, attributes, event_type)
                }
                Typed::AskSchema => contract("a tombstone without ce_type has no event type".to_owned()),
            });
        };
        if let Some(why) = cut::oversize(record, self.record_limit) {
            return Err(contract(why));
        }
        let (schema_id, datum) = codec::split(value).map_err(|error| self.unreadable(job, &error, None))?;
        Ok(Opened { attributes, schema_id, datum })
    }

    pub(crate) fn trust(&self, role: TopicRole) -> Trust<'_> {
        if role == TopicRole::Input { Trust::Nobody } else { Trust::Group(&self.group.id) }
    }

    /// By the topic where the record first stood.
    pub(crate) fn type_of<'a>(&'a self, record: &Record, attributes: &'a Attributes) -> Typed<'a> {
        let topic = attributes.origin().map_or(&record.topic, |origin| &origin.partition.topic);
        self.catalogue.type_of(topic, attributes.event_type.as_deref())
    }

    /// Why a record on a topic of ours is of another schema than its type's, if it is: such a one changes no table. Of the
    /// topics of others the catalogue says nothing. One that was edited stands on neither: it counts as on ours, unless the
    /// sink's events come from others too.
    pub(crate) fn foreign(
        &self,
        job: &InFlightRecord,
        attributes: &Attributes,
        schema: &WriterSchema,
        sink: &dyn SinkConfig,
    ) -> Option<String> {
        let own = self.schema?;
        let topic = attributes.origin().map_or(&job.record.topic, |origin| &origin.partition.topic);
        let edited = || GroupTopics::is_redrive(topic, &self.group.id) && !self.catalogue.is_bound(sink.event());
        if Catalogue::is_own(topic) || edited() { schema.unreadable_by(own) } else { None }
    }

    /// Whether the type may stand on this topic, and whether the group takes it.
    fn check(&self, job: &InFlightRecord, attributes: &Attributes, event_type: &str) -> Result<(), Outcome> {
        let origin = attributes.origin();
        let topic = origin.map_or(&job.record.topic, |origin| &origin.partition.topic);
        if !Catalogue::belongs(topic, event_type) {
            let why = format!("event type `{event_type}` does not belong on topic {topic}");
            return Err(self.dead(job, &FailureReport::new(DeadLetterKind::Contract, why), None));
        }
        if !self.interest.takes(event_type) {
            self.state.add(Metric::Skipped, 1);
            return Err(self.done(job, Effects::default(), &AttemptContext::default()));
        }
        Ok(())
    }

    fn tombstone(&self, job: &InFlightRecord, attributes: Attributes, event_type: String) -> Outcome {
        let contract = |why: &str| self.dead(job, &FailureReport::new(DeadLetterKind::Contract, why), None);
        let Work::Sink(sink) = &self.group.work else {
            return contract("a null value where nothing takes tombstones");
        };
        if let Some(why) = sink.refuses_tombstone(job.record.key.is_some()) {
            return contract(why);
        }
        let seen = self.see(job, attributes, event_type);
        self.store(job, seen, None)
    }

    /// A dead letter is kept as it is: nothing of it is decoded, so nothing of it can fail.
    fn keep_letter(&self, job: &InFlightRecord) -> Outcome {
        let attributes = Attributes::read(&job.record.headers, Trust::Letter(group_of_dlq(&job.record)));
        if !job.begun {
            self.state.add(Metric::HeadersForged, attributes.spoofed);
        }
        let event_type = attributes.event_type.clone().unwrap_or_default();
        let seen = self.see(job, attributes, event_type);
        self.store(job, seen, None)
    }

    pub(crate) fn type_by_schema(
        &self,
        job: &InFlightRecord,
        attributes: &Attributes,
        schema: &WriterSchema,
    ) -> Result<String, Outcome> {
        let name = schema.full_name().unwrap_or_default();
        let Some(event_type) = self.catalogue.by_record(name) else {
            return Err(self.dead(job, &FailureReport::new(DeadLetterKind::Contract, unknown_record(name)), None));
        };
        self.check(job, attributes, event_type)?;
        Ok(event_type.to_owned())
    }

    /// The whole metadata, and the span of this attempt.
    pub(crate) fn see(
        &self,
        job: &InFlightRecord,
        mut attributes: Attributes,
        event_type: String,
    ) -> (Arc<Meta>, Attempt) {
        if job.failed > 0 {
            let delivered = attributes.delivered.get_or_insert_default();
            delivered.attempts = delivered.attempts.saturating_add(job.failed);
        }
        let begun = attributes.trace.is_some();
        let mut meta = self.catalogue.complete(&job.record, attributes, event_type);
        let waited = job.role == TopicRole::Waiting;
        let attempt = self.tracing.attempt(&mut meta, begun, &self.group.id, &job.record, waited);
        (Arc::new(meta), attempt)
    }

    /// As much as can be said of a record that nobody can process.
    pub(crate) fn see_broken(&self, job: &InFlightRecord) -> AttemptContext {
        let attributes = Attributes::read(&job.record.headers, self.trust(job.role));
        // A broken id or source has no trace of its own to derive.
        if attributes.trace.is_none() && attributes.broken.is_some() {
            return AttemptContext::default();
        }
        let event_type = attributes.event_type.clone().unwrap_or_default();
        let (meta, attempt) = self.see(job, attributes, event_type);
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
