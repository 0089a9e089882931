//! What a record is, before anything is done with it: its metadata, whether the group takes it, and where its bytes are.
#![expect(
    clippy::result_large_err,
    reason = "most records have none, and a box would cost each skipped one an allocation"
)]

use std::sync::Arc;

use super::{
    in_flight::{AttemptContext, Effects, InFlightRecord, Outcome},
    outcomes::Outcomes,
};
use crate::{
    codec::{self, WriterSchema},
    failure::cut,
    pipeline::catalogue::{Catalogue, RecordType, unknown_record},
    processor::Interest,
    telemetry::metrics::Metric,
    wire::{headers::Attributes, record::Record},
};

/// What a record carries.
pub(crate) enum RecordContent<'a> {
    /// An event.
    Event(RecordParts<'a>),
    /// Nothing but its headers and its key: the event type that is gone.
    Tombstone(Attributes, String),
}

/// A record that needs its schema to go on.
pub(crate) struct RecordParts<'a> {
    pub(crate) attributes: Attributes,
    pub(crate) schema_id: u32,
    pub(crate) datum: &'a [u8],
}

/// Reads the records of one group.
pub(crate) struct RecordReader {
    pub(crate) interest: Interest,
    /// The largest record that is read, bytes of its value.
    pub(crate) record_limit: usize,
    pub(crate) outcomes: Arc<Outcomes>,
}

impl RecordReader {
    /// Reads what needs no schema. The error is an outcome already: skipped, or a dead letter.
    pub(crate) fn read<'a>(&self, in_flight: &'a InFlightRecord) -> Result<RecordContent<'a>, Outcome> {
        let (record, outcomes) = (&in_flight.record, &self.outcomes);
        let mut attributes = Attributes::read(&record.headers, outcomes.trust(in_flight.role));
        if !in_flight.begun {
            outcomes.metrics.add(Metric::HeadersIgnored, attributes.ignored);
            outcomes.metrics.add(Metric::HeadersForged, attributes.spoofed);
        }
        if let Some(why) = attributes.broken.take() {
            return Err(outcomes.contract(in_flight, why));
        }
        let typed = self.type_of(record, &attributes);
        if let RecordType::Is(event_type) = &typed {
            self.check(in_flight, &attributes, event_type)?;
        }
        let Some(value) = record.value.as_deref() else {
            return match typed {
                RecordType::Is(event_type) => {
                    let event_type = event_type.to_owned();
                    Ok(RecordContent::Tombstone(attributes, event_type))
                }
                RecordType::AskSchema => {
                    Err(outcomes.contract(in_flight, "a tombstone without ce_type has no event type"))
                }
            };
        };
        if let Some(why) = cut::oversize(record, self.record_limit) {
            return Err(outcomes.contract(in_flight, why));
        }
        let (schema_id, datum) = codec::split(value).map_err(|error| outcomes.unreadable(in_flight, &error, None))?;
        Ok(RecordContent::Event(RecordParts { attributes, schema_id, datum }))
    }

    /// The event's type, which its schema says where no header does.
    pub(crate) fn event_type(
        &self,
        in_flight: &InFlightRecord,
        attributes: &Attributes,
        schema: &WriterSchema,
    ) -> Result<String, Outcome> {
        if let RecordType::Is(event_type) = self.type_of(&in_flight.record, attributes) {
            return Ok(event_type.to_owned());
        }
        let name = schema.full_name().unwrap_or_default();
        let Some(event_type) = self.outcomes.catalogue.by_record(name) else {
            return Err(self.outcomes.contract(in_flight, unknown_record(name)));
        };
        self.check(in_flight, attributes, event_type)?;
        Ok(event_type.to_owned())
    }

    /// By the topic where the record first stood.
    fn type_of<'a>(&'a self, record: &Record, attributes: &'a Attributes) -> RecordType<'a> {
        let topic = attributes.origin().map_or(&record.topic, |origin| &origin.partition.topic);
        self.outcomes.catalogue.type_of(topic, attributes.event_type.as_deref())
    }

    /// Whether the type may stand on this topic, and whether the group takes it.
    fn check(&self, in_flight: &InFlightRecord, attributes: &Attributes, event_type: &str) -> Result<(), Outcome> {
        let origin = attributes.origin();
        let topic = origin.map_or(&in_flight.record.topic, |origin| &origin.partition.topic);
        if !Catalogue::belongs(topic, event_type) {
            let why = format!("event type `{event_type}` does not belong on topic {topic}");
            return Err(self.outcomes.contract(in_flight, why));
        }
        if !self.interest.takes(event_type) {
            self.outcomes.metrics.add(Metric::Skipped, 1);
            return Err(self.outcomes.done(in_flight, Effects::default(), &AttemptContext::default()));
        }
        Ok(())
    }
}
