//! A record of a stateful step: it is repartitioned, or changes its key's state.

use std::{panic::AssertUnwindSafe, sync::Arc};

use super::{
    in_flight::{AttemptContext, Disposition, Effects, InFlightRecord, Outcome},
    outcomes::{Outcomes, STATE_PAUSE, panicked},
    record_reader::RecordParts,
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
        emit::{EmitContext, Encoders, Outbox},
        input::Delivery,
    },
    telemetry::{metrics::Metric, spans::Message},
    wire::{
        delivery_headers,
        group_topics::{GroupTopics, TopicRole},
        headers,
        record::{Outgoing, Position},
    },
    worker::group_state::GroupState,
};

/// The longest key that state is kept by, bytes: a local store must be able to hold it.
const LONGEST_KEY: usize = 32 << 10;

/// Runs the steps of one stateful group.
pub(crate) struct StepRunner {
    steps: Steps,
    /// Of each step.
    topics: Vec<StepTopics>,
    state: Arc<GroupState>,
    /// The largest state that a key may have, bytes.
    state_limit: usize,
    encoders: Arc<Encoders>,
    outcomes: Arc<Outcomes>,
}

impl StepRunner {
    pub(crate) fn new(
        steps: &Steps,
        topics: &GroupTopics,
        state: Arc<GroupState>,
        state_limit: usize,
        encoders: Arc<Encoders>,
        outcomes: Arc<Outcomes>,
    ) -> Self {
        let topics = steps.iter().map(|step| StepTopics::of(step, topics)).collect();
        Self { steps: steps.clone(), topics, state, state_limit, encoders, outcomes }
    }

    fn step_of(&self, event_type: &str) -> Option<(&steps::Step, &StepTopics)> {
        self.steps.iter().zip(&self.topics).find(|(step, _)| step.event.name == event_type)
    }

    /// Runs the step that takes events of this type, or has the record go the way to it.
    pub(crate) fn run(
        &self,
        in_flight: &InFlightRecord,
        parts: RecordParts<'_>,
        event_type: String,
        schema: &WriterSchema,
    ) -> Outcome {
        let outcomes = &self.outcomes;
        let (Some((step, step_topics)), Some(states)) = (self.step_of(&event_type), self.state.stores()) else {
            return outcomes.contract(in_flight, format!("no step of the group takes `{event_type}`"));
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
            return outcomes.done(
                in_flight,
                Effects { disposition: Disposition::Replayed, ..Effects::default() },
                &AttemptContext::default(),
            );
        }
        if arrived && let Some(waits) = outcomes.behind(in_flight) {
            return waits;
        }
        let (meta, attempt) = outcomes.begin_attempt(in_flight, attributes, event_type);
        let context = AttemptContext::of_step(Arc::clone(&meta), attempt, Arc::clone(&step.name));
        let delivery = Delivery { meta: &meta, schema, datum };
        let began = outcomes.clock.elapsed();
        let done = std::panic::catch_unwind(AssertUnwindSafe(|| {
            let _entered = context.attempt.enter(&meta.trace);
            if arrived {
                self.apply(in_flight, (step, step_topics, input), states, &delivery, &context)
            } else {
                self.repartition(in_flight, (step, step_topics), states, &delivery, &context)
            }
        }));
        outcomes.metrics.observe(Metric::ProcessingTime, outcomes.clock.elapsed().saturating_sub(began));
        match done {
            Ok(Ok(effects)) => outcomes.done(in_flight, effects, &context),
            Ok(Err(StepError::Contract(why))) => {
                outcomes.dead(in_flight, &FailureReport::new(DeadLetterKind::Contract, why), Some(context))
            }
            Ok(Err(StepError::Error(error))) => self.step_failed(in_flight, &error, context),
            // A pure function panics again.
            Err(panic) => {
                let fault = FailureReport::new(DeadLetterKind::Rejected, panicked(panic.as_ref()).detail);
                outcomes.metrics.add(Metric::Failures, 1);
                outcomes.dead(in_flight, &fault, Some(context))
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
        let sent = self.outcomes.tracing.send(&context.attempt, &meta.trace, message);
        let trace = sent.as_ref().map_or(&meta.trace, |(trace, _)| trace);
        let mut headers = headers::moved(&in_flight.record, meta, trace);
        if let Some(replays) = states.replays() {
            delivery_headers::say_input(&in_flight.record, &replays.topic_id(&in_flight.record.topic), &mut headers);
        }
        if in_flight.role == TopicRole::Redrive {
            // Its letter is settled, or comes back, once the step has run.
            let delivered = self.outcomes.delivered(in_flight);
            delivered.repartitioned(&in_flight.record, &self.outcomes.group, &mut headers);
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
        let cause = EmitContext {
            meta,
            attempt,
            processor: &step.name,
            source: &step_topics.source,
            tracing: &self.outcomes.tracing,
        };
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
                self.outcomes.failed(in_flight, &fault, &context)
            }
            ProcessError::Failed(Failure::Reject(cause)) => {
                self.outcomes.dead(in_flight, &FailureReport::of(DeadLetterKind::Rejected, cause), Some(context))
            }
            ProcessError::Failed(Failure::Throttled(after)) => self.outcomes.throttled(&context, *after),
            ProcessError::Codec(error) => self.outcomes.unreadable(in_flight, error, Some(context)),
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
