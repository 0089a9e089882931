//! A record of a sink: it becomes a row, or is against the contract of the sink's event.

use std::sync::Arc;

use super::{
    in_flight::{AttemptContext, InFlightRecord, Outcome},
    outcomes::Outcomes,
    record_reader::RecordParts,
};
use crate::{
    codec::WriterSchema,
    pipeline::{catalogue::Catalogue, sink::SinkConfig},
    ports::unit::RowData,
    wire::{group_topics::GroupTopics, headers::Attributes},
};

/// Makes rows of the records of one sink.
pub(crate) struct RowMaker {
    pub(crate) sink: Arc<dyn SinkConfig>,
    /// The schema of the sink's event type, where that is in the catalogue.
    pub(crate) schema: Option<&'static str>,
    pub(crate) outcomes: Arc<Outcomes>,
}

impl RowMaker {
    /// The row of an event.
    pub(crate) fn row(
        &self,
        in_flight: &InFlightRecord,
        parts: RecordParts<'_>,
        event_type: String,
        schema: &Arc<WriterSchema>,
    ) -> Outcome {
        let RecordParts { attributes, datum, .. } = parts;
        let (sink, outcomes) = (self.sink.as_ref(), &self.outcomes);
        if let Some(why) = self.foreign(in_flight, &attributes, schema) {
            let why = format!("schema {} is not one of `{}`: {why}", schema.id(), sink.event());
            return outcomes.contract(in_flight, why);
        }
        if let Some(why) = no_row(sink, schema) {
            return outcomes.contract(in_flight, why);
        }
        let (meta, attempt) = outcomes.begin_attempt(in_flight, attributes, event_type);
        match schema.value(datum) {
            Ok(value) => outcomes.store(in_flight, (meta, attempt), Some(RowData { schema: schema.clone(), value })),
            Err(error) => outcomes.unreadable(in_flight, &error, Some(AttemptContext::new(meta, attempt))),
        }
    }

    /// The row of a record without a value.
    pub(crate) fn tombstone(&self, in_flight: &InFlightRecord, attributes: Attributes, event_type: String) -> Outcome {
        if let Some(why) = self.sink.refuses_tombstone(in_flight.record.key.is_some()) {
            return self.outcomes.contract(in_flight, why);
        }
        let attempt = self.outcomes.begin_attempt(in_flight, attributes, event_type);
        self.outcomes.store(in_flight, attempt, None)
    }

    /// Why a record on a topic of ours is of another schema than its type's, if it is: such a one changes no table. Of the
    /// topics of others the catalogue says nothing. One that was edited stands on neither: it counts as on ours, unless the
    /// sink's events come from others too.
    fn foreign(&self, in_flight: &InFlightRecord, attributes: &Attributes, schema: &WriterSchema) -> Option<String> {
        let (own, outcomes) = (self.schema?, &self.outcomes);
        let topic = attributes.origin().map_or(&in_flight.record.topic, |origin| &origin.partition.topic);
        let edited =
            || GroupTopics::is_redrive(topic, &outcomes.group) && !outcomes.catalogue.is_bound(self.sink.event());
        if Catalogue::is_own(topic) || edited() { schema.unreadable_by(own) } else { None }
    }
}

/// Why no row can be made of a value of this schema: it is no record, or lacks a key column.
fn no_row(sink: &dyn SinkConfig, schema: &WriterSchema) -> Option<String> {
    let apache_avro::Schema::Record(record) = schema.schema() else {
        return Some(format!("what schema {} writes is no record, and a row needs fields", schema.id()));
    };
    let missing = sink.key_fields().iter().find(|key| !record.lookup.contains_key(key.as_str()))?;
    Some(format!("{missing}: missing in schema {}, and the row's key", schema.id()))
}
