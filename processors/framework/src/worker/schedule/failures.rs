//! What becomes of a record that failed: another attempt in its place, another on a retry topic, or a dead letter.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tracing::field::display;

use super::delay_queue::DelayQueue;
use crate::{
    event::time::Time,
    failure::{cut, failure_report::FailureReport, ladder::Ladder},
    pipeline::{ConsumerGroup, settings::GroupSettings},
    ports::{
        Clock,
        unit::{Marker, StateChange},
    },
    telemetry::spans::{Message, Span, Tracing},
    wire::{
        delivery_headers::{DeliveryHeaders, with_trace},
        group_topics::{GroupTopics, TopicRole},
        record::{Outgoing, Record},
        trace_context::TraceContext,
    },
    worker::attempt::in_flight::{AttemptContext, Disposition, Effects, InFlightRecord, Outcome},
};

/// Dead letters are logged one by one, but not faster than this: ten thousand in a row are not ten thousand lines.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// After there was no room for a record to wait it is tried again this much later.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// Where records wait for another attempt: the order under retry, and what it takes.
pub(crate) enum RetryMode {
    /// On retry topics.
    Topics,
    /// In their places, which hold up their partitions.
    InPlace,
    /// In the group's state, with those of their keys.
    State(Arc<DelayQueue>),
}

/// How a group treats failures.
pub(crate) struct Failures {
    group: String,
    processor: String,
    group_topics: GroupTopics,
    ladder: Ladder,
    /// The largest record that is passed on whole, bytes of its value.
    record_limit: usize,
    retry_mode: RetryMode,
    tracing: Tracing,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    next: Time,
    silent: u64,
}

impl Failures {
    pub(crate) fn new(
        group: &ConsumerGroup,
        settings: &GroupSettings,
        retry_mode: RetryMode,
        tracing: Tracing,
    ) -> Self {
        Self {
            group_topics: GroupTopics::of(&group.id),
            group: group.id.clone(),
            processor: group.name.clone(),
            ladder: settings.ladder.clone(),
            record_limit: settings.max_record_bytes,
            retry_mode,
            tracing,
            log: Mutex::default(),
        }
    }

    /// One more attempt has failed: the ladder says whether there is another, the order where it waits for it.
    pub(crate) fn again(
        &self,
        in_flight: &InFlightRecord,
        mut delivered: DeliveryHeaders,
        fault: &FailureReport,
        clock: &dyn Clock,
        context: &AttemptContext,
    ) -> Outcome {
        let now = clock.now();
        let failed = delivered.attempts.saturating_add(1);
        let Some(delay) = self.ladder.after(failed) else {
            return Outcome::Done(self.letter(&in_flight.record, delivered, fault, now, context));
        };
        let trace_id = context.meta.as_ref().map(|meta| display(meta.trace.trace_id_hex()));
        let in_place = || {
            tracing::warn!(
                trace_id, group = %self.group, partition = %in_flight.partition, offset = in_flight.record.offset, attempt = failed,
                retry_in = %delay, error = %fault.detail, "a record failed; its partition waits and tries it again"
            );
            Outcome::Retry(delay.get(), fault.message.clone())
        };
        delivered.attempts = failed;
        let processor = self.processor_of(&delivered, context);
        let mut again = delivered.failed(fault, &self.group, &processor, now.millis());
        again.due_ms = Some(now.plus(delay.get()).millis());
        let mut effects = Effects { disposition: Disposition::Retried, ..Effects::default() };
        let place = match &self.retry_mode {
            RetryMode::InPlace => return in_place(),
            RetryMode::Topics => {
                let (retry, span) = self.hop(&again, &in_flight.record, self.group_topics.retry(delay), context);
                effects.outgoing.push(retry);
                effects.spans.extend(span);
                "on a retry topic"
            }
            RetryMode::State(waiting) => {
                let due = clock.elapsed() + delay.get();
                effects.waiting = wait(waiting, in_flight, &again, due).map(Box::new);
                if effects.waiting.is_none() {
                    return in_place();
                }
                "with those of its key"
            }
        };
        tracing::debug!(
            trace_id, group = %self.group, partition = %in_flight.partition, offset = in_flight.record.offset, attempt = failed,
            retry_in = %delay, error = %fault.detail, "a record failed and waits {place}"
        );
        Outcome::Done(effects)
    }

    /// Where an earlier record of its key waits, what becomes of this one, which has come so far: it waits behind that.
    pub(crate) fn behind(
        &self,
        in_flight: &InFlightRecord,
        delivered: impl FnOnce() -> DeliveryHeaders,
        clock: &dyn Clock,
    ) -> Option<Outcome> {
        let waiting = self.waiting().filter(|_| in_flight.role != TopicRole::Waiting)?;
        if !waiting.has(in_flight.partition.partition, in_flight.record.key.as_deref()) {
            return None;
        }
        let delivered = DeliveryHeaders { group: Some(self.group.clone()), ..delivered() };
        let change = wait(waiting, in_flight, &delivered, clock.elapsed()).map(Box::new);
        Some(match change {
            Some(_) => {
                Outcome::Done(Effects { waiting: change, disposition: Disposition::Queued, ..Effects::default() })
            }
            None => Outcome::Wait(FULL_PAUSE, waiting.full()),
        })
    }

    /// The records that wait in the group's state, if any do.
    pub(crate) fn waiting(&self) -> Option<&Arc<DelayQueue>> {
        let RetryMode::State(waiting) = &self.retry_mode else { return None };
        Some(waiting)
    }

    /// The record as a dead letter: its last attempt counted, its bytes untouched, unless no topic takes so many.
    pub(crate) fn letter(
        &self,
        record: &Record,
        mut delivered: DeliveryHeaders,
        fault: &FailureReport,
        now: Time,
        context: &AttemptContext,
    ) -> Effects {
        delivered.attempts = delivered.attempts.saturating_add(1);
        let processor = self.processor_of(&delivered, context);
        let dead = delivered.failed(fault, &self.group, &processor, now.millis());
        self.log(record, &dead, fault, now, context);
        let (letter, span) = self.hop(&dead, record, self.group_topics.dlq(), context);
        let letter = cut::fitting(letter, self.record_limit);
        let spans = span.into_iter().collect();
        Effects { outgoing: vec![letter], spans, disposition: Disposition::Dead(fault.kind), ..Effects::default() }
    }

    /// The news that a dead letter which was sent back has succeeded; `None` where the record was none.
    pub(crate) fn marker(
        &self,
        record: &Record,
        delivered: &DeliveryHeaders,
        context: &AttemptContext,
    ) -> Option<(Marker, Option<Span>)> {
        if delivered.redrives == 0 {
            return None;
        }
        let (trace, span) = self.send(&self.group_topics.dlq(), delivered, record, context);
        let mut marker =
            delivered.marker(record, &self.group_topics, &self.group, &self.processor_of(delivered, context));
        if let Some(trace) = trace {
            marker.headers = with_trace(&marker.headers, &trace);
        }
        Some((Marker { place: record.place(), record: marker }, span))
    }

    /// The processor that a letter names: once it is one it keeps its name, by which its row is known.
    fn processor_of(&self, delivered: &DeliveryHeaders, context: &AttemptContext) -> String {
        let step = || context.step.as_deref().unwrap_or(&self.processor).to_owned();
        delivered.processor.clone().unwrap_or_else(step)
    }

    fn hop(
        &self,
        delivered: &DeliveryHeaders,
        record: &Record,
        topic: String,
        context: &AttemptContext,
    ) -> (Outgoing, Option<Span>) {
        let (trace, span) = self.send(&topic, delivered, record, context);
        (delivered.hop(record, topic, trace.as_ref()), span)
    }

    /// The context that the record carries on, and its span, which the hop ends.
    fn send(
        &self,
        topic: &str,
        delivered: &DeliveryHeaders,
        record: &Record,
        context: &AttemptContext,
    ) -> (Option<TraceContext>, Option<Span>) {
        let Some(meta) = &context.meta else { return (None, None) };
        let message = Message {
            topic,
            partition: Some(delivered.origin_of(record).partition.partition),
            id: &meta.id,
            correlation_id: &meta.correlation_id,
            causation_id: meta.causation_id.as_deref(),
        };
        match self.tracing.send(&context.attempt, &meta.trace, message) {
            Some((trace, span)) => (Some(trace), Some(span)),
            None => (Some(meta.trace.clone()), None),
        }
    }

    fn log(&self, record: &Record, dead: &DeliveryHeaders, fault: &FailureReport, now: Time, context: &AttemptContext) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if now < log.next {
            log.silent += 1;
            return;
        }
        let trace_id = context.meta.as_ref().map(|meta| display(meta.trace.trace_id_hex()));
        tracing::warn!(
            trace_id, group = %self.group, partition = %record.place(), offset = record.offset, kind = fault.kind.as_str(),
            attempts = dead.attempts, fingerprint = dead.fingerprint, error = %fault.detail, not_logged_before = log.silent,
            "a record is a dead letter: see `headwater dlq groups`"
        );
        *log = Log { next: now.plus(LOG_EVERY), silent: 0 };
    }
}

/// Has a record wait in the group's state; `None` where there is no room.
fn wait(
    waiting: &DelayQueue,
    in_flight: &InFlightRecord,
    delivered: &DeliveryHeaders,
    due: Duration,
) -> Option<StateChange> {
    let waits = delivered.hop(&in_flight.record, String::new(), None);
    if in_flight.role == TopicRole::Waiting {
        return waiting.again(&in_flight.record, waits, due);
    }
    waiting.append(in_flight.partition.partition, waits, in_flight.record.timestamp_ms, due)
}
