//! What attempts have in common, whatever the group does with its records: their contexts and what becomes of them.

use std::{any::Any as Panic, sync::Arc, time::Duration};

use super::in_flight::{AttemptContext, Disposition, Effects, InFlightRecord, Outcome};
use crate::{
    codec::CodecError,
    event::Meta,
    failure::{DeadLetterKind, failure_report::FailureReport},
    pipeline::catalogue::Catalogue,
    ports::{Clock, unit::RowData},
    telemetry::{
        metrics::{GroupMetrics, Metric},
        spans::{Attempt, Tracing},
    },
    wire::{
        delivery_headers::{DeliveryHeaders, Trust},
        group_topics::{TopicRole, group_of_dlq},
        headers::Attributes,
    },
    worker::schedule::failures::Failures,
};

/// Who asks to wait for no time at all is asked again this much later.
const LEAST_PAUSE: Duration = Duration::from_millis(10);
/// After state could not be read a record is tried again this much later.
pub(crate) const STATE_PAUSE: Duration = Duration::from_secs(1);

/// What becomes of the records of one group.
pub(crate) struct Outcomes {
    /// The group's id.
    pub(crate) group: String,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) failures: Failures,
    pub(crate) tracing: Tracing,
    pub(crate) metrics: Arc<GroupMetrics>,
    pub(crate) clock: Arc<dyn Clock>,
}

impl Outcomes {
    /// Whose delivery headers are believed on a topic that is this to the group.
    pub(crate) fn trust(&self, role: TopicRole) -> Trust<'_> {
        if role == TopicRole::Input { Trust::Nobody } else { Trust::Group(&self.group) }
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
        let attempt = self.tracing.attempt(&mut meta, begun, &self.group, &in_flight.record, waited);
        (Arc::new(meta), attempt)
    }

    /// As much as can be said of a record that nobody can process.
    fn broken_context(&self, in_flight: &InFlightRecord) -> AttemptContext {
        let attributes = Attributes::read(&in_flight.record.headers, self.trust(in_flight.role));
        // A broken id or source has no trace of its own to derive.
        if attributes.trace.is_none() && attributes.broken.is_some() {
            return AttemptContext::default();
        }
        let event_type = attributes.event_type.clone().unwrap_or_default();
        let (meta, attempt) = self.begin_attempt(in_flight, attributes, event_type);
        AttemptContext::new(meta, attempt)
    }

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

    /// A dead letter is kept as it is: nothing of it is decoded, so nothing of it can fail.
    pub(crate) fn store_letter(&self, in_flight: &InFlightRecord) -> Outcome {
        let attributes = Attributes::read(&in_flight.record.headers, Trust::Letter(group_of_dlq(&in_flight.record)));
        if !in_flight.begun {
            self.metrics.add(Metric::HeadersForged, attributes.spoofed);
        }
        let event_type = attributes.event_type.clone().unwrap_or_default();
        let attempt = self.begin_attempt(in_flight, attributes, event_type);
        self.store(in_flight, attempt, None)
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

    /// It is against the contract: it becomes a dead letter.
    pub(crate) fn contract(&self, in_flight: &InFlightRecord, why: impl Into<String>) -> Outcome {
        self.dead(in_flight, &FailureReport::new(DeadLetterKind::Contract, why), None)
    }

    pub(crate) fn unreadable(
        &self,
        in_flight: &InFlightRecord,
        error: &CodecError,
        context: Option<AttemptContext>,
    ) -> Outcome {
        self.dead(in_flight, &FailureReport::new(error.kind(), error.to_string()), context)
    }

    /// The attempt has failed: there is another, as the ladder says.
    pub(crate) fn failed(
        &self,
        in_flight: &InFlightRecord,
        fault: &FailureReport,
        context: &AttemptContext,
    ) -> Outcome {
        self.metrics.add(Metric::Failures, 1);
        self.failures.again(in_flight, self.delivered(in_flight), fault, self.clock.as_ref(), context)
    }

    /// The processor asks to be asked again later.
    pub(crate) fn throttled(&self, context: &AttemptContext, after: Duration) -> Outcome {
        context.attempt.waits("throttled");
        self.metrics.add(Metric::Throttled, 1);
        Outcome::Wait(after.max(LEAST_PAUSE), "throttled".to_owned())
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

/// What is reported of a processor that panicked.
pub(crate) fn panicked(panic: &(dyn Panic + Send)) -> FailureReport {
    let text =
        panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    let text = text.unwrap_or_else(|| "no message".to_owned());
    FailureReport::new(DeadLetterKind::Exhausted, format!("the processor panicked: {text}"))
}
