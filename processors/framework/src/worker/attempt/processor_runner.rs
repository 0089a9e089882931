//! A stateless processor's call, from the leave of its dependencies to the outcome.

use std::{
    any::Any as Panic,
    future::poll_fn,
    panic::AssertUnwindSafe,
    sync::Arc,
    task::{Context, Poll, Waker},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{Either, select},
};

use super::{
    circuits::{CallResult, Circuits, Permits},
    in_flight::{AttemptContext, AttemptState, Effects, InFlightRecord, Outcome},
    outcomes::{Outcomes, STATE_PAUSE, panicked},
    record_reader::RecordParts,
};
use crate::{
    codec::WriterSchema,
    event::Meta,
    failure::{DeadLetterKind, Failure, Result, failure_report::FailureReport},
    pipeline::ConsumerGroup,
    ports::BoxFuture,
    processor::{
        ProcessError, Processor,
        emit::{EmitContext, Encoders, Outbox},
        input::Delivery,
    },
    telemetry::{metrics::Metric, spans::Attempt},
    wire::ids,
};

/// A record that has failed while a circuit was not closed asks again this much later: the other probes are for others.
const PROBE_PAUSE: Duration = Duration::from_millis(200);
/// The same where something else can process it meanwhile.
const FALLBACK_PAUSE: Duration = Duration::from_millis(1);

/// The function at work; it owns all it needs.
pub(crate) struct RunningCall {
    meta: Arc<Meta>,
    attempt: Attempt,
    work: BoxFuture<'static, Result<Outbox, ProcessError>>,
    /// `None` for a fallback, which calls no dependency.
    permits: Option<Permits>,
    began: Duration,
}

type Done = Result<Result<Outbox, ProcessError>, Box<dyn Panic + Send>>;

impl RunningCall {
    /// One look at the function, with the record's trace as the current one.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Done> {
        let _entered = self.attempt.enter(&self.meta.trace);
        AssertUnwindSafe(&mut self.work).catch_unwind().poll_unpin(cx)
    }

    fn into_context(self) -> (AttemptContext, Option<Permits>, Duration) {
        (AttemptContext::new(self.meta, self.attempt), self.permits, self.began)
    }
}

/// A call that is already over, or one that goes on.
pub(crate) enum CallState<'a> {
    Over(Outcome),
    Running(&'a Arc<ProcessorRunner>, RunningCall),
}

/// Runs the stateless processor of one group.
pub(crate) struct ProcessorRunner {
    /// Its name.
    name: String,
    processor: Arc<dyn Processor>,
    /// What processes a record while a circuit is open.
    fallback: Option<Arc<dyn Processor>>,
    circuits: Circuits,
    time_limit: Duration,
    encoders: Arc<Encoders>,
    /// What the events that it emits name as their source.
    source: String,
    outcomes: Arc<Outcomes>,
}

impl ProcessorRunner {
    pub(crate) fn new(
        group: &ConsumerGroup,
        processor: Arc<dyn Processor>,
        circuits: Circuits,
        time_limit: Duration,
        encoders: Arc<Encoders>,
        outcomes: Arc<Outcomes>,
    ) -> Self {
        Self {
            name: group.name.clone(),
            processor,
            fallback: group.fallback.clone(),
            circuits,
            time_limit,
            encoders,
            source: ids::emitted_source(&group.name),
            outcomes,
        }
    }

    /// Goes on with a call: what needs no waiting is done at once.
    pub(crate) fn run(self: &Arc<Self>, in_flight: InFlightRecord, mut call: RunningCall) -> AttemptState {
        // Whoever goes on is polled again at once, by whom it wakes then.
        match call.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(done) => {
                let outcome = self.outcome(&in_flight, call, done);
                AttemptState::Over(in_flight, outcome)
            }
            Poll::Pending => AttemptState::Running(self.clone().finish(in_flight, call).boxed()),
        }
    }

    /// Waits for the function, up to the time limit.
    async fn finish(self: Arc<Self>, in_flight: InFlightRecord, mut call: RunningCall) -> (InFlightRecord, Outcome) {
        let limit = self.outcomes.clock.sleep(self.time_limit);
        let done = match select(poll_fn(|cx| call.poll(cx)), limit).await {
            Either::Left((done, _)) => Some(done),
            Either::Right(_) => None,
        };
        let outcome = match done {
            Some(done) => self.outcome(&in_flight, call, done),
            None => {
                let fault = FailureReport::new(
                    DeadLetterKind::Timeout,
                    format!("no result within the time limit of {:?}", self.time_limit),
                );
                self.failed(&in_flight, call, CallResult::Badly("a call was past its time limit"), &fault)
            }
        };
        (in_flight, outcome)
    }

    /// Calls the processor if its dependencies may be called, else its fallback, if it has one.
    pub(crate) fn call<'a>(
        self: &'a Arc<Self>,
        in_flight: &InFlightRecord,
        parts: RecordParts<'_>,
        event_type: String,
        schema: &WriterSchema,
    ) -> CallState<'a> {
        if let Some(waits) = self.outcomes.behind(in_flight) {
            return CallState::Over(waits);
        }
        let RecordParts { attributes, datum, .. } = parts;
        let began = self.outcomes.clock.elapsed();
        let admitted = self.circuits.admit(began, in_flight.which_try(), &self.outcomes.metrics);
        let (processor, permits) = match (admitted, &self.fallback) {
            (Ok(permits), _) => (&self.processor, Some(permits)),
            (Err(_), Some(fallback)) => {
                self.outcomes.metrics.add(Metric::Fallbacks, 1);
                (fallback, None)
            }
            (Err(refusal), None) => return CallState::Over(Outcome::Refused(refusal.until, refusal.why)),
        };
        let (meta, attempt) = self.outcomes.begin_attempt(in_flight, attributes, event_type);
        let out = Outbox::new(self.encoders.clone());
        let delivery = Delivery { meta: &meta, schema, datum };
        let called = {
            let _entered = attempt.enter(&meta.trace);
            std::panic::catch_unwind(AssertUnwindSafe(|| processor.process(delivery, out)))
        };
        match called {
            Ok(work) => CallState::Running(self, RunningCall { meta, attempt, work, permits, began }),
            Err(panic) => {
                let work = Box::pin(std::future::pending());
                let call = RunningCall { meta, attempt, work, permits, began };
                let fault = panicked(panic.as_ref());
                CallState::Over(self.failed(in_flight, call, CallResult::Badly("a call panicked"), &fault))
            }
        }
    }

    fn outcome(&self, in_flight: &InFlightRecord, call: RunningCall, done: Done) -> Outcome {
        let error = match done {
            Ok(Ok(out)) => return self.succeeded(in_flight, call, out),
            Ok(Err(error)) => error,
            Err(panic) => {
                let fault = panicked(panic.as_ref());
                return self.failed(in_flight, call, CallResult::Badly("a call panicked"), &fault);
            }
        };
        let result = CallResult::With(&error);
        match &error {
            ProcessError::Failed(Failure::Retry(cause)) => {
                self.failed(in_flight, call, result, &FailureReport::of(DeadLetterKind::Exhausted, cause))
            }
            ProcessError::Failed(Failure::Reject(cause)) => {
                let (context, ..) = self.end_call(call, result);
                self.outcomes.dead(in_flight, &FailureReport::of(DeadLetterKind::Rejected, cause), Some(context))
            }
            ProcessError::Failed(Failure::Throttled(after)) => {
                let (context, ..) = self.end_call(call, result);
                self.outcomes.throttled(&context, *after)
            }
            ProcessError::Codec(error) => {
                let (context, ..) = self.end_call(call, result);
                self.outcomes.unreadable(in_flight, error, Some(context))
            }
            // A stateless processor has none.
            ProcessError::State(why) => Outcome::Wait(STATE_PAUSE, why.clone()),
        }
    }

    fn succeeded(&self, in_flight: &InFlightRecord, call: RunningCall, out: Outbox) -> Outcome {
        let (context, _) = self.end_call(call, CallResult::Well);
        let Some(meta) = &context.meta else { return Outcome::Done(Effects::default()) };
        let cause = EmitContext {
            meta,
            attempt: &context.attempt,
            processor: &self.name,
            source: &self.source,
            tracing: &self.outcomes.tracing,
        };
        let (outgoing, spans) = out.seal(&cause);
        self.outcomes.done(in_flight, Effects { outgoing, spans, ..Effects::default() }, &context)
    }

    /// Tells the breakers; says what is waited for where a failure is an outage's.
    fn end_call(&self, call: RunningCall, result: CallResult<'_>) -> (AttemptContext, Option<String>) {
        let (context, permits, began) = call.into_context();
        let now = self.outcomes.clock.elapsed();
        self.outcomes.metrics.observe(Metric::ProcessingTime, now.saturating_sub(began));
        (context, permits.and_then(|permits| self.circuits.finish(permits, now, result, &self.outcomes.metrics)))
    }

    /// An attempt has failed: an outage is waited for, and anything else is tried again as the ladder says.
    fn failed(
        &self,
        in_flight: &InFlightRecord,
        call: RunningCall,
        result: CallResult<'_>,
        fault: &FailureReport,
    ) -> Outcome {
        let (context, outage) = self.end_call(call, result);
        context.attempt.failed(fault);
        if let Some(why) = outage {
            tracing::debug!(group = %self.outcomes.group, partition = %in_flight.partition, offset = in_flight.record.offset, error = %fault.detail, "an outage is not counted");
            let pause = if self.fallback.is_some() { FALLBACK_PAUSE } else { PROBE_PAUSE };
            return Outcome::Outage(pause, why);
        }
        self.outcomes.failed(in_flight, fault, &context)
    }
}
