//! How a group treats one record, and the outcomes that every kind of work has.

use std::{any::Any as Panic, sync::Arc, time::Duration};

use super::{
    circuits::Circuits,
    in_flight::{AttemptContext, Disposition, Effects, InFlightRecord, Outcome},
    step_topics::StepTopics,
    uncommitted_state::UncommittedState,
};
use crate::{
    codec::CodecError,
    event::Meta,
    failure::{DeadLetterKind, failure_report::FailureReport},
    pipeline::{ConsumerGroup, catalogue::Catalogue, schema_cache::SchemaCache},
    ports::{Clock, unit::RowData},
    processor::{Interest, emit::Encoders},
    telemetry::{
        metrics::GroupMetrics,
        spans::{Attempt, Tracing},
    },
    wire::{
        delivery_headers::DeliveryHeaders,
        group_topics::{GroupTopics, TopicRole},
    },
    worker::schedule::failures::Failures,
};

/// Who asks to wait for no time at all is asked again this much later.
pub(crate) const LEAST_PAUSE: Duration = Duration::from_millis(10);

/// How a group treats one record.
pub(crate) struct RecordProcessor {
    pub(crate) group: ConsumerGroup,
    pub(crate) interest: Interest,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) schemas: Arc<SchemaCache>,
    pub(crate) encoders: Arc<Encoders>,
    pub(crate) metrics: Arc<GroupMetrics>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) time_limit: Duration,
    /// The largest record that is read, bytes of its value.
    pub(crate) record_limit: usize,
    pub(crate) failures: Failures,
    pub(crate) tracing: Tracing,
    /// What the events that it emits name as their source.
    pub(crate) source: String,
    pub(crate) circuits: Circuits,
    /// What it owns, by name.
    pub(crate) group_topics: GroupTopics,
    /// Of each step of a stateful group.
    pub(crate) step_topics: Vec<StepTopics>,
    /// Of a stateful group.
    pub(crate) states: Option<UncommittedState>,
    /// Of a sink whose event type is in the catalogue, that type's schema.
    pub(crate) schema: Option<&'static str>,
    /// The topics of a stateful group of which one member has all partitions of a number.
    pub(crate) co_partitioned: Vec<String>,
    /// The largest state that a key may have, bytes.
    pub(crate) state_limit: usize,
}

impl RecordProcessor {
    /// The record's row; the attempt ends when that is durable.
    pub(crate) fn store(
        &self,
        in_flight: &InFlightRecord,
        (meta, attempt): (Arc<Meta>, Attempt),
        data: Option<RowData>,
    ) -> Outcome {
        let context = AttemptContext::new(meta.clone(), attempt);
        let outcome = self.done(in_flight, Effects { row: Some((meta, data)), ..Effects::default() }, &context);
        match outcome {
            Outcome::Done(mut effects) => {
                effects.spans.extend(context.attempt.into_span());
                Outcome::Done(effects)
            }
            other => other,
        }
    }

    pub(crate) fn unreadable(
        &self,
        in_flight: &InFlightRecord,
        error: &CodecError,
        context: Option<AttemptContext>,
    ) -> Outcome {
        self.dead(in_flight, &FailureReport::new(error.kind(), error.to_string()), context)
    }

    /// Nobody can process the record: it becomes a dead letter.
    pub(crate) fn dead(
        &self,
        in_flight: &InFlightRecord,
        fault: &FailureReport,
        context: Option<AttemptContext>,
    ) -> Outcome {
        let context = context.unwrap_or_else(|| self.broken_context(in_flight));
        context.attempt.failed(fault);
        Outcome::Done(self.failures.letter(
            &in_flight.record,
            self.delivered(in_flight),
            fault,
            self.clock.now(),
            &context,
        ))
    }

    /// The record is done with. One that was sent back as a dead letter takes the news of it along.
    pub(crate) fn done(&self, in_flight: &InFlightRecord, mut effects: Effects, context: &AttemptContext) -> Outcome {
        effects.event_time = context.meta.as_ref().map(|meta| meta.time);
        if in_flight.role != TopicRole::Input
            && !matches!(effects.disposition, Disposition::Repartitioned)
            && let Some((marker, span)) = self.failures.marker(&in_flight.record, &self.delivered(in_flight), context)
        {
            effects.marker = Some(Box::new(marker));
            effects.spans.extend(span);
        }
        Outcome::Done(effects)
    }

    /// Where an earlier record of its key waits, what becomes of this one.
    pub(crate) fn behind(&self, in_flight: &InFlightRecord) -> Option<Outcome> {
        self.failures.behind(in_flight, || self.delivered(in_flight), self.clock.as_ref())
    }

    /// The record's way so far, this read included.
    pub(crate) fn delivered(&self, in_flight: &InFlightRecord) -> DeliveryHeaders {
        let (mut delivered, _) = DeliveryHeaders::read(&in_flight.record.headers, self.trust(in_flight.role));
        delivered.attempts = delivered.attempts.saturating_add(in_flight.failed);
        delivered.first_failed_ms = delivered.first_failed_ms.or(in_flight.first_failed_ms);
        delivered
    }
}

pub(crate) fn panicked(panic: &(dyn Panic + Send)) -> FailureReport {
    let text =
        panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    let text = text.unwrap_or_else(|| "no message".to_owned());
    FailureReport::new(DeadLetterKind::Exhausted, format!("the processor panicked: {text}"))
}
