//! An attempt at a record from its beginning: the record is read, its schema found, and its function, step or row made.

use std::{sync::Arc, time::Duration};

use futures_util::FutureExt;

use super::{
    in_flight::{AttemptState, InFlightRecord, Outcome},
    outcomes::Outcomes,
    processor_runner::{CallState, ProcessorRunner},
    record_reader::{RecordContent, RecordParts, RecordReader},
    row_maker::RowMaker,
    step_runner::StepRunner,
};
use crate::{
    codec::WriterSchema,
    failure::{DeadLetterKind, failure_report::FailureReport},
    pipeline::schema_cache::{SchemaCache, SchemaLookupError},
    wire::headers::Attributes,
};

/// After a registry's outage a record is tried again this much later.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// What a group makes of its records.
pub(crate) enum RecordWork {
    Process(Arc<ProcessorRunner>),
    Stateful(StepRunner),
    Sink(RowMaker),
    DeadLetters,
}

/// How a group treats one record.
pub(crate) struct RecordProcessor {
    pub(crate) reader: RecordReader,
    pub(crate) schemas: Arc<SchemaCache>,
    pub(crate) work: RecordWork,
    pub(crate) outcomes: Arc<Outcomes>,
}

impl RecordProcessor {
    /// Begins an attempt. What needs no waiting is done at once: most records cost no task and one allocation.
    pub(crate) fn begin(self: &Arc<Self>, in_flight: InFlightRecord) -> AttemptState {
        if matches!(self.work, RecordWork::DeadLetters) {
            let outcome = self.outcomes.store_letter(&in_flight);
            return AttemptState::Over(in_flight, outcome);
        }
        let next = match self.reader.read(&in_flight) {
            Err(outcome) => CallState::Over(outcome),
            Ok(RecordContent::Tombstone(attributes, event_type)) => {
                CallState::Over(self.tombstone(&in_flight, attributes, event_type))
            }
            Ok(RecordContent::Event(parts)) => match self.schemas.cached(parts.schema_id) {
                Some(schema) => self.work(&in_flight, parts, &schema),
                None => {
                    let schema_id = parts.schema_id;
                    return AttemptState::Fetching(self.clone().fetch(in_flight, schema_id).boxed());
                }
            },
        };
        match next {
            CallState::Over(outcome) => AttemptState::Over(in_flight, outcome),
            CallState::Running(runner, call) => runner.run(in_flight, call),
        }
    }

    async fn fetch(
        self: Arc<Self>,
        mut in_flight: InFlightRecord,
        schema_id: u32,
    ) -> (InFlightRecord, Option<Outcome>) {
        in_flight.begun = true;
        let outcome = match self.schemas.get(schema_id).await {
            Ok(_) => None,
            Err(SchemaLookupError::Poison(why)) => {
                Some(self.outcomes.dead(&in_flight, &FailureReport::new(DeadLetterKind::Decode, why), None))
            }
            Err(SchemaLookupError::Outage(why)) => {
                Some(Outcome::Wait(OUTAGE_PAUSE, format!("the schema registry does not answer: {why}")))
            }
        };
        (in_flight, outcome)
    }

    fn tombstone(&self, in_flight: &InFlightRecord, attributes: Attributes, event_type: String) -> Outcome {
        match &self.work {
            RecordWork::Sink(rows) => rows.tombstone(in_flight, attributes, event_type),
            _ => self.outcomes.contract(in_flight, "a null value where nothing takes tombstones"),
        }
    }

    /// Goes on with the schema at hand.
    fn work(
        &self,
        in_flight: &InFlightRecord,
        mut parts: RecordParts<'_>,
        schema: &Arc<WriterSchema>,
    ) -> CallState<'_> {
        let schema = match schema.of_datum(parts.datum) {
            Ok((schema, datum)) => {
                parts.datum = datum;
                schema
            }
            Err(error) => return CallState::Over(self.outcomes.unreadable(in_flight, &error, None)),
        };
        let event_type = match self.reader.event_type(in_flight, &parts.attributes, schema) {
            Ok(event_type) => event_type,
            Err(outcome) => return CallState::Over(outcome),
        };
        match &self.work {
            RecordWork::Process(runner) => runner.call(in_flight, parts, event_type, schema),
            RecordWork::Stateful(steps) => CallState::Over(steps.run(in_flight, parts, event_type, schema)),
            RecordWork::Sink(rows) => CallState::Over(rows.row(in_flight, parts, event_type, schema)),
            RecordWork::DeadLetters => CallState::Over(self.outcomes.store_letter(in_flight)),
        }
    }
}
