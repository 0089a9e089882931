//! An attempt from its beginning to its outcome: the record is parts, its schema found, and its function, step or row made.

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
    circuits::{CallResult, Permits},
    in_flight::{AttemptContext, Effects, InFlightRecord, Outcome},
    record_parts::{RecordParts, no_row},
    record_processor::{LEAST_PAUSE, RecordProcessor, panicked},
};
use crate::{
    codec::WriterSchema,
    event::Meta,
    failure::{DeadLetterKind, Failure, Result, failure_report::FailureReport},
    pipeline::{Work, catalogue::RecordType, schema_cache::SchemaLookupError},
    ports::{BoxFuture, unit::RowData},
    processor::{
        ProcessError, Processor,
        emit::{EmitContext, Outbox},
        input::Delivery,
    },
    telemetry::{metrics::Metric, spans::Attempt},
    wire::headers::Attributes,
};

/// After a registry's outage a record is tried again this much later.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);
/// A record that has failed while a circuit was not closed asks again this much later: the other probes are for others.
const PROBE_PAUSE: Duration = Duration::from_millis(200);
/// The same where something else can process it meanwhile.
const FALLBACK_PAUSE: Duration = Duration::from_millis(1);

/// An attempt that is already over, or one that goes on. Most are over at once: a box for the larger variant would cost
/// each of them an allocation.
#[expect(clippy::large_enum_variant)]
pub(crate) enum AttemptState {
    Over(InFlightRecord, Outcome),
    Running(BoxFuture<'static, (InFlightRecord, Outcome)>),
    /// It waits for its schema: then it begins again, unless there is an outcome.
    Fetching(BoxFuture<'static, (InFlightRecord, Option<Outcome>)>),
}

/// The function at work; it owns all it needs.
struct RunningCall {
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

enum CallState {
    Over(Outcome),
    Running(RunningCall),
}

impl RecordProcessor {
    /// Begins an attempt. What needs no waiting is done at once: most records cost no task and one allocation.
    pub(crate) fn begin(self: &Arc<Self>, in_flight: InFlightRecord) -> AttemptState {
        let next = match self.open(&in_flight) {
            Err(outcome) => CallState::Over(outcome),
            Ok(parts) => match self.schemas.cached(parts.schema_id) {
                Some(schema) => self.work(&in_flight, parts, &schema),
                None => {
                    let schema_id = parts.schema_id;
                    return AttemptState::Fetching(self.clone().fetch(in_flight, schema_id).boxed());
                }
            },
        };
        match next {
            CallState::Over(outcome) => AttemptState::Over(in_flight, outcome),
            // Whoever goes on is polled again at once, by whom it wakes then.
            CallState::Running(mut call) => match call.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(done) => {
                    let outcome = self.outcome(&in_flight, call, done);
                    AttemptState::Over(in_flight, outcome)
                }
                Poll::Pending => AttemptState::Running(self.clone().finish(in_flight, call).boxed()),
            },
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
                Some(self.dead(&in_flight, &FailureReport::new(DeadLetterKind::Decode, why), None))
            }
            Err(SchemaLookupError::Outage(why)) => {
                Some(Outcome::Wait(OUTAGE_PAUSE, format!("the schema registry does not answer: {why}")))
            }
        };
        (in_flight, outcome)
    }

    /// Waits for the function, up to the time limit.
    async fn finish(self: Arc<Self>, in_flight: InFlightRecord, mut call: RunningCall) -> (InFlightRecord, Outcome) {
        let limit = self.clock.sleep(self.time_limit);
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

    /// Goes on with the schema at hand.
    fn work(&self, in_flight: &InFlightRecord, mut parts: RecordParts<'_>, schema: &Arc<WriterSchema>) -> CallState {
        let schema = match schema.of_datum(parts.datum) {
            Ok((schema, datum)) => {
                parts.datum = datum;
                schema
            }
            Err(error) => return CallState::Over(self.unreadable(in_flight, &error, None)),
        };
        let event_type = match self.type_of(&in_flight.record, &parts.attributes) {
            RecordType::Is(event_type) => event_type.to_owned(),
            RecordType::AskSchema => match self.type_by_schema(in_flight, &parts.attributes, schema) {
                Ok(event_type) => event_type,
                Err(outcome) => return CallState::Over(outcome),
            },
        };
        if let Work::Stateful(steps) = &self.group.work {
            return CallState::Over(self.run_step(in_flight, steps, parts, event_type, schema));
        }
        let RecordParts { attributes, datum, .. } = parts;
        match &self.group.work {
            Work::Process(_) if let Some(waits) = self.behind(in_flight) => CallState::Over(waits),
            Work::Process(processor) => {
                self.process(in_flight, processor.as_ref(), (attributes, event_type), schema, datum)
            }
            Work::Sink(sink) if let Some(why) = self.foreign(in_flight, &attributes, schema, sink.as_ref()) => {
                let why = format!("schema {} is not one of `{}`: {why}", schema.id(), sink.event());
                CallState::Over(self.dead(in_flight, &FailureReport::new(DeadLetterKind::Contract, why), None))
            }
            Work::Sink(sink) if let Some(why) = no_row(sink.as_ref(), schema) => {
                CallState::Over(self.dead(in_flight, &FailureReport::new(DeadLetterKind::Contract, why), None))
            }
            Work::Sink(_) | Work::Stateful(_) | Work::DeadLetters => {
                let (meta, attempt) = self.begin_attempt(in_flight, attributes, event_type);
                CallState::Over(match schema.value(datum) {
                    Ok(value) => {
                        self.store(in_flight, (meta, attempt), Some(RowData { schema: schema.clone(), value }))
                    }
                    Err(error) => self.unreadable(in_flight, &error, Some(AttemptContext::new(meta, attempt))),
                })
            }
        }
    }

    /// Runs the processor if its dependencies may be called, else its fallback, if it has one.
    fn process(
        &self,
        in_flight: &InFlightRecord,
        processor: &dyn Processor,
        (attributes, event_type): (Attributes, String),
        schema: &WriterSchema,
        datum: &[u8],
    ) -> CallState {
        let began = self.clock.elapsed();
        let (processor, permits) =
            match (self.circuits.admit(began, in_flight.which_try(), &self.metrics), &self.group.fallback) {
                (Ok(permits), _) => (processor, Some(permits)),
                (Err(_), Some(fallback)) => {
                    self.metrics.add(Metric::Fallbacks, 1);
                    (fallback.as_ref(), None)
                }
                (Err(refusal), None) => return CallState::Over(Outcome::Refused(refusal.until, refusal.why)),
            };
        let (meta, attempt) = self.begin_attempt(in_flight, attributes, event_type);
        let out = Outbox::new(self.encoders.clone());
        let delivery = Delivery { meta: &meta, schema, datum };
        let called = {
            let _entered = attempt.enter(&meta.trace);
            std::panic::catch_unwind(AssertUnwindSafe(|| processor.process(delivery, out)))
        };
        match called {
            Ok(work) => CallState::Running(RunningCall { meta, attempt, work, permits, began }),
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
                self.dead(in_flight, &FailureReport::of(DeadLetterKind::Rejected, cause), Some(context))
            }
            ProcessError::Failed(Failure::Throttled(after)) => {
                let (context, ..) = self.end_call(call, result);
                context.attempt.waits("throttled");
                self.metrics.add(Metric::Throttled, 1);
                Outcome::Wait((*after).max(LEAST_PAUSE), "throttled".to_owned())
            }
            ProcessError::Codec(error) => {
                let (context, ..) = self.end_call(call, result);
                self.unreadable(in_flight, error, Some(context))
            }
            // A stateless processor has none.
            ProcessError::State(why) => Outcome::Wait(OUTAGE_PAUSE, why.clone()),
        }
    }

    fn succeeded(&self, in_flight: &InFlightRecord, call: RunningCall, out: Outbox) -> Outcome {
        let (context, _) = self.end_call(call, CallResult::Well);
        let Some(meta) = &context.meta else { return Outcome::Done(Effects::default()) };
        let cause = EmitContext {
            meta,
            attempt: &context.attempt,
            processor: &self.group.name,
            source: &self.source,
            tracing: &self.tracing,
        };
        let (outgoing, spans) = out.seal(&cause);
        self.done(in_flight, Effects { outgoing, spans, ..Effects::default() }, &context)
    }

    /// Tells the breakers; says what is waited for where a failure is an outage's.
    fn end_call(&self, call: RunningCall, result: CallResult<'_>) -> (AttemptContext, Option<String>) {
        let (context, permits, began) = call.into_context();
        let now = self.clock.elapsed();
        self.metrics.observe(Metric::ProcessingTime, now.saturating_sub(began));
        (context, permits.and_then(|permits| self.circuits.finish(permits, now, result, &self.metrics)))
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
            tracing::debug!(group = %self.group.id, partition = %in_flight.partition, offset = in_flight.record.offset, error = %fault.detail, "an outage is not counted");
            let pause = if self.group.fallback.is_some() { FALLBACK_PAUSE } else { PROBE_PAUSE };
            return Outcome::Outage(pause, why);
        }
        self.metrics.add(Metric::Failures, 1);
        self.failures.again(in_flight, self.delivered(in_flight), fault, self.clock.as_ref(), &context)
    }
}
