//! A record of a stateful step: it is repartitioned, or changes its key's state.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Duration};

use super::{
    in_flight::{AttemptContext, Disposition, Effects, InFlightRecord, Outcome},
    record_parts::RecordParts,
    record_processor::{LEAST_PAUSE, RecordProcessor, panicked},
    step_topics::StepTopics,
    uncommitted_state::UncommittedState,
};
use crate::{
    codec::WriterSchema,
    failure::{DeadLetterKind, Failure, failure_report::FailureReport},
    pipeline::steps::{self, Steps},
    ports::unit::{InputPartition, InputPosition, InputRoute},
    processor::{
        ProcessError,
        emit::{EmitContext, Outbox},
        input::Delivery,
    },
    telemetry::{metrics::Metric, spans::Message},
    wire::{
        delivery_headers,
        group_topics::TopicRole,
        headers,
        record::{Outgoing, Position},
    },
};

/// The longest key that state is kept by, bytes: a local store must be able to hold it.
const LONGEST_KEY: usize = 32 << 10;
/// After state could not be read a record is tried again this much later.
pub(crate) const STATE_PAUSE: Duration = Duration::from_secs(1);

impl RecordProcessor {
    fn step_of<'a>(&'a self, steps: &'a Steps, event_type: &str) -> Option<(&'a steps::Step, &'a StepTopics)> {
        steps.iter().zip(&self.step_topics).find(|(step, _)| step.event.name == event_type)
    }

    /// Runs the step that takes events of this type, or has the record go the way to it.
    pub(crate) fn run_step(
        &self,
        in_flight: &InFlightRecord,
        steps: &Steps,
        parts: RecordParts<'_>,
        event_type: String,
        schema: &WriterSchema,
    ) -> Outcome {
        let (Some((step, step_topics)), Some(states)) = (self.step_of(steps, &event_type), &self.states) else {
            let why = format!("no step of the group takes `{event_type}`");
            return self.dead(in_flight, &FailureReport::new(DeadLetterKind::Contract, why), None);
        };
        let RecordParts { attributes, datum, .. } = parts;
        let origin = attributes.origin().map_or(&in_flight.record.topic, |origin| &origin.partition.topic);
        // One that was sent back keeps the origin of its letter, which may lie before the way to the step.
        let is_there = matches!(in_flight.role, TopicRole::Repartition | TopicRole::Waiting)
            || **origin == *step_topics.repartition;
        let arrived = step.processor.is_co_partitioned() || is_there;
        let input = if arrived { Self::input_of(in_flight, (step, step_topics), states) } else { None };
        if input.as_ref().is_some_and(|input| states.has(step.processor.store(), in_flight.partition.partition, input))
        {
            // The news of a letter that was sent back may have been lost.
            return self.done(
                in_flight,
                Effects { disposition: Disposition::Replayed, ..Effects::default() },
                &AttemptContext::default(),
            );
        }
        if arrived && let Some(waits) = self.behind(in_flight) {
            return waits;
        }
        let (meta, attempt) = self.begin_attempt(in_flight, attributes, event_type);
        let context = AttemptContext::of_step(Arc::clone(&meta), attempt, Arc::clone(&step.name));
        let delivery = Delivery { meta: &meta, schema, datum };
        let began = self.clock.elapsed();
        let done = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let _entered = context.attempt.enter(&meta.trace);
            if arrived {
                self.apply(in_flight, (step, step_topics, input), states, &delivery, &context)
            } else {
                self.repartition(in_flight, (step, step_topics), states, &delivery, &context)
            }
        }));
        self.metrics.observe(Metric::ProcessingTime, self.clock.elapsed().saturating_sub(began));
        match done {
            Ok(Ok(effects)) => self.done(in_flight, effects, &context),
            Ok(Err(StepError::Contract(why))) => {
                self.dead(in_flight, &FailureReport::new(DeadLetterKind::Contract, why), Some(context))
            }
            Ok(Err(StepError::Error(error))) => self.step_failed(in_flight, &error, context),
            // A pure function panics again.
            Err(panic) => {
                let fault = FailureReport::new(DeadLetterKind::Rejected, panicked(panic.as_ref()).detail);
                self.metrics.add(Metric::Failures, 1);
                self.dead(in_flight, &fault, Some(context))
            }
        }
    }

    /// Where inputs come again: which one the record is. One that was repartitioned counts by where it stood before that, so
    /// that a second copy of it is the same input, and by the route that it came, since each step reads its own in its own
    /// time.
    fn input_of(
        in_flight: &InFlightRecord,
        (step, step_topics): (&steps::Step, &StepTopics),
        states: &UncommittedState,
    ) -> Option<InputPosition> {
        let replays = states.replays()?;
        let is_moved = in_flight.record.topic == step_topics.repartition;
        let moved = if is_moved { delivery_headers::input(&in_flight.record.headers) } else { None };
        let (route, Position { partition, next }, id) = match moved {
            Some((position, id)) => (InputRoute::Over(Arc::clone(&step.name)), position, id),
            None => (
                InputRoute::Direct,
                Position { partition: in_flight.partition.clone(), next: in_flight.record.offset + 1 },
                None,
            ),
        };
        // It may have stood on another topic of that name, which is gone since.
        let topic_id = id.map_or_else(|| replays.topic_id(&partition.topic), Arc::from);
        Some(InputPosition { of: InputPartition { partition, topic_id, route }, next })
    }

    /// The record goes to where its key's partition is read, with what its place here says of it.
    fn repartition(
        &self,
        in_flight: &InFlightRecord,
        (step, step_topics): (&steps::Step, &StepTopics),
        states: &UncommittedState,
        delivery: &Delivery<'_>,
        context: &AttemptContext,
    ) -> Result<Effects, StepError> {
        let key = match step.processor.key(delivery)? {
            Some(key) => key.into_bytes(),
            None => key_of(in_flight)?.to_owned(),
        };
        let (topic, meta) = (&step_topics.repartition, delivery.meta);
        let message = Message {
            topic,
            partition: None,
            id: &meta.id,
            correlation_id: &meta.correlation_id,
            causation_id: meta.causation_id.as_deref(),
        };
        let sent = self.tracing.send(&context.attempt, &meta.trace, message);
        let trace = sent.as_ref().map_or(&meta.trace, |(trace, _)| trace);
        let mut headers = headers::moved(&in_flight.record, meta, trace);
        if let Some(replays) = states.replays() {
            delivery_headers::say_input(&in_flight.record, &replays.topic_id(&in_flight.record.topic), &mut headers);
        }
        if in_flight.role == TopicRole::Redrive {
            // Its letter is settled, or comes back, once the step has run.
            self.delivered(in_flight).repartitioned(&in_flight.record, &self.group.id, &mut headers);
        }
        let value = in_flight.record.value.clone();
        let outgoing = Outgoing { topic: Arc::clone(topic), partition: None, key: Some(key), value, headers };
        let spans = sent.into_iter().map(|(_, span)| span).collect();
        Ok(Effects { outgoing: vec![outgoing], spans, disposition: Disposition::Repartitioned, ..Effects::default() })
    }

    fn apply(
        &self,
        in_flight: &InFlightRecord,
        (step, step_topics, input): (&steps::Step, &StepTopics, Option<InputPosition>),
        states: &UncommittedState,
        delivery: &Delivery<'_>,
        context: &AttemptContext,
    ) -> Result<Effects, StepError> {
        let (key, store, partition) = (key_of(in_flight)?, step.processor.store(), in_flight.partition.partition);
        let saved = states.read(store, partition, key).map_err(|error| ProcessError::State(error.0))?;
        let mut out = Outbox::new(self.encoders.clone());
        let kept = step.processor.apply(delivery, saved.as_deref(), &mut out)?;
        if let Some(size) = kept.as_ref().map(Vec::len).filter(|size| *size > self.state_limit) {
            let limit = self.state_limit;
            let why = format!("the state `{store}` of its key grows to {size} bytes, over the limit of {limit}");
            return Err(ProcessError::from(Failure::reject(why)).into());
        }
        let (meta, attempt) = (delivery.meta, &context.attempt);
        let cause =
            EmitContext { meta, attempt, processor: &step.name, source: &step_topics.source, tracing: &self.tracing };
        let (outgoing, spans) = out.seal(&cause);
        // Last, since what comes after it could fail and leave a change that nobody commits.
        let changes = kept.as_deref() != saved.as_deref();
        let change = if changes { states.write((store, partition), key, kept, input) } else { None };
        Ok(Effects { outgoing, spans, change, ..Effects::default() })
    }

    /// The function has failed, or its argument could not be read.
    fn step_failed(&self, in_flight: &InFlightRecord, error: &ProcessError, context: AttemptContext) -> Outcome {
        match error {
            ProcessError::Failed(Failure::Retry(cause)) => {
                let fault = FailureReport::of(DeadLetterKind::Exhausted, cause);
                context.attempt.failed(&fault);
                self.metrics.add(Metric::Failures, 1);
                self.failures.again(in_flight, self.delivered(in_flight), &fault, self.clock.as_ref(), &context)
            }
            ProcessError::Failed(Failure::Reject(cause)) => {
                self.dead(in_flight, &FailureReport::of(DeadLetterKind::Rejected, cause), Some(context))
            }
            ProcessError::Failed(Failure::Throttled(after)) => {
                context.attempt.waits("throttled");
                self.metrics.add(Metric::Throttled, 1);
                Outcome::Wait((*after).max(LEAST_PAUSE), "throttled".to_owned())
            }
            ProcessError::Codec(error) => self.unreadable(in_flight, error, Some(context)),
            ProcessError::State(why) => Outcome::Wait(
                STATE_PAUSE,
                format!("the state of offset {}'s key cannot be read: {why}", in_flight.record.offset),
            ),
        }
    }
}

/// Why a record has no effects.
enum StepError {
    Contract(String),
    Error(ProcessError),
}

impl<E: Into<ProcessError>> From<E> for StepError {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

fn key_of(in_flight: &InFlightRecord) -> Result<&[u8], StepError> {
    let key = in_flight.record.key.as_deref();
    let text = key.filter(|key| key.len() <= LONGEST_KEY && std::str::from_utf8(key).is_ok());
    text.ok_or_else(|| {
        let why = "a stateful step keeps state by a key of utf-8 text of at most 32 KiB, and the record has none";
        StepError::Contract(why.to_owned())
    })
}
