//! An attempt from its beginning to its outcome: the record is opened, its schema found, and its function, step or row made.

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
    circuits::{Ended, Leave},
    in_flight::{AttemptContext, Effects, InFlightRecord, Outcome},
    open::{Opened, no_row},
    record_processor::{LEAST_PAUSE, RecordProcessor, panicked},
};
use crate::{
    codec::WriterSchema,
    event::Meta,
    failure::{DeadLetterKind, Failure, Result, failure_report::FailureReport},
    pipeline::{Work, catalogue::Typed, schema_cache::NoSchema},
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
pub(crate) enum Begun {
    Over(InFlightRecord, Outcome),
    Running(BoxFuture<'static, (InFlightRecord, Outcome)>),
    /// It waits for its schema: then it begins again, unless there is an outcome.
    Fetching(BoxFuture<'static, (InFlightRecord, Option<Outcome>)>),
}

/// The function at work; it owns all it needs.
struct Working {
    meta: Arc<Meta>,
    attempt: Attempt,
    work: BoxFuture<'static, Result<Outbox, ProcessError>>,
    /// `None` for a fallback, which calls no dependency.
    leave: Option<Leave>,
    began: Duration,
}

type Done = Result<Result<Outbox, ProcessError>, Box<dyn Panic + Send>>;

impl Working {
    /// One look at the function, with the record's trace as the current one.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Done> {
        let _entered = self.attempt.enter(&self.meta.trace);
        AssertUnwindSafe(&mut self.work).catch_unwind().poll_unpin(cx)
    }

    fn seen(self) -> (AttemptContext, Option<Leave>, Duration) {
        (AttemptContext::new(self.meta, self.attempt), self.leave, self.began)
    }
}

enum Next {
    Over(Outcome),
    Working(Working),
}

impl RecordProcessor {
    /// Begins an attempt. What needs no waiting is done at once: most records cost no task and one allocation.
    pub(crate) fn begin(self: &Arc<Self>, job: InFlightRecord) -> Begun {
        let next = match self.open(&job) {
            Err(outcome) => Next::Over(outcome),
            Ok(opened) => match self.schemas.cached(opened.schema_id) {
                Some(schema) => self.work(&job, opened, &schema),
                None => {
                    let schema_id = opened.schema_id;
                    return Begun::Fetching(self.clone().fetch(job, schema_id).boxed());
                }
            },
        };
        match next {
            Next::Over(outcome) => Begun::Over(job, outcome),
            // Whoever goes on is polled again at once, by whom it wakes then.
            Next::Working(mut working) => match working.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(done) => {
                    let outcome = self.outcome(&job, working, done);
                    Begun::Over(job, outcome)
                }
                Poll::Pending => Begun::Running(self.clone().finish(job, working).boxed()),
            },
        }
    }

    async fn fetch(self: Arc<Self>, mut job: InFlightRecord, schema_id: u32) -> (InFlightRecord, Option<Outcome>) {
        job.begun = true;
        let outcome = match self.schemas.get(schema_id).await {
            Ok(_) => None,
            Err(NoSchema::Poison(why)) => Some(self.dead(&job, &FailureReport::new(DeadLetterKind::Decode, why), None)),
            Err(NoSchema::Outage(why)) => {
                Some(Outcome::Wait(OUTAGE_PAUSE, format!("the schema registry does not answer: {why}")))
            }
        };
        (job, outcome)
    }

    /// Waits for the function, up to the time limit.
    async fn finish(self: Arc<Self>, job: InFlightRecord, mut working: Working) -> (InFlightRecord, Outcome) {
        let limit = self.clock.sleep(self.time_limit);
        let done = match select(poll_fn(|cx| working.poll(cx)), limit).await {
            Either::Left((done, _)) => Some(done),
            Either::Right(_) => None,
        };
        let outcome = match done {
            Some(done) => self.outcome(&job, working, done),
            None => {
                let fault = FailureReport::new(
                    DeadLetterKind::Timeout,
                    format!("no result within the time limit of {:?}", self.time_limit),
                );
                self.failed(&job, working, Ended::Badly("a call was past its time limit"), &fault)
            }
        };
        (job, outcome)
    }

    /// Goes on with the schema at hand.
    fn work(&self, job: &InFlightRecord, mut opened: Opened<'_>, schema: &Arc<WriterSchema>) -> Next {
        let schema = match schema.of_datum(opened.datum) {
            Ok((schema, datum)) => {
                opened.datum = datum;
                schema
            }
            Err(error) => return Next::Over(self.unreadable(job, &error, None)),
        };
        let event_type = match self.type_of(&job.record, &opened.attributes) {
            Typed::Is(event_type) => event_type.to_owned(),
            Typed::AskSchema => match self.type_by_schema(job, &opened.attributes, schema) {
                Ok(event_type) => event_type,
                Err(outcome) => return Next::Over(outcome),
            },
        };
        if let Work::Stateful(steps) = &self.group.work {
            return Next::Over(self.keep(job, steps, opened, event_type, schema));
        }
        let Opened { attributes, datum, .. } = opened;
        match &self.group.work {
            Work::Process(_) if let Some(waits) = self.behind(job) => Next::Over(waits),
            Work::Process(processor) => self.process(job, processor.as_ref(), (attributes, event_type), schema, datum),
            Work::Sink(sink) if let Some(why) = self.foreign(job, &attributes, schema, sink.as_ref()) => {
                let why = format!("schema {} is not one of `{}`: {why}", schema.id(), sink.event());
                Next::Over(self.dead(job, &FailureReport::new(DeadLetterKind::Contract, why), None))
            }
            Work::Sink(sink) if let Some(why) = no_row(sink.as_ref(), schema) => {
                Next::Over(self.dead(job, &FailureReport::new(DeadLetterKind::Contract, why), None))
            }
            Work::Sink(_) | Work::Stateful(_) | Work::DeadLetters => {
                let seen = self.see(job, attributes, event_type);
                Next::Over(match schema.value(datum) {
                    Ok(value) => self.store(job, seen, Some(RowData { schema: schema.clone(), value })),
                    Err(error) => self.unreadable(job, &error, Some(AttemptContext::new(seen.0, seen.1))),
                })
            }
        }
    }

    /// Runs the processor if its dependencies may be called, else its fallback, if it has one.
    fn process(
        &self,
        job: &InFlightRecord,
        processor: &dyn Processor,
        (attributes, event_type): (Attributes, String),
        schema: &WriterSchema,
        datum: &[u8],
    ) -> Next {
        let began = self.clock.elapsed();
        let (processor, leave) = match (self.circuits.admit(began, job.which_try(), &self.state), &self.group.fallback)
        {
            (Ok(leave), _) => (processor, Some(leave)),
            (Err(_), Some(fallback)) => {
                self.state.add(Metric::Fallbacks, 1);
                (fallback.as_ref(), None)
            }
            (Err(refusal), None) => return Next::Over(Outcome::Refused(refusal.until, refusal.why)),
        };
        let (meta, attempt) = self.see(job, attributes, event_type);
        let out = Outbox::new(self.encoders.clone());
        let delivery = Delivery { meta: &meta, schema, datum };
        let called = {
            let _entered = attempt.enter(&meta.trace);
            std::panic::catch_unwind(AssertUnwindSafe(|| processor.process(delivery, out)))
        };
        match called {
            Ok(work) => Next::Working(Working { meta, attempt, work, leave, began }),
            Err(panic) => {
                let work = Box::pin(std::future::pending());
                let working = Working { meta, attempt, work, leave, began };
                let fault = panicked(panic.as_ref());
                Next::Over(self.failed(job, working, Ended::Badly("a call panicked"), &fault))
            }
        }
    }

    fn outcome(&self, job: &InFlightRecord, working: Working, done: Done) -> Outcome {
        let error = match done {
            Ok(Ok(out)) => return self.succeeded(job, working, out),
            Ok(Err(error)) => error,
            Err(panic) => {
                let fault = panicked(panic.as_ref());
                return self.failed(job, working, Ended::Badly("a call panicked"), &fault);
            }
        };
        let ended = Ended::With(&error);
        match &error {
            ProcessError::Failed(Failure::Retry(cause)) => {
                self.failed(job, working, ended, &FailureReport::of(DeadLetterKind::Exhausted, cause))
            }
            ProcessError::Failed(Failure::Reject(cause)) => {
                let (seen, ..) = self.ended(working, ended);
                self.dead(job, &FailureReport::of(DeadLetterKind::Rejected, cause), Some(seen))
            }
            ProcessError::Failed(Failure::Throttled(after)) => {
                let (seen, ..) = self.ended(working, ended);
                seen.attempt.waits("throttled");
                self.state.add(Metric::Throttled, 1);
                Outcome::Wait((*after).max(LEAST_PAUSE), "throttled".to_owned())
            }
            ProcessError::Codec(error) => {
                let (seen, ..) = self.ended(working, ended);
                self.unreadable(job, error, Some(seen))
            }
            // A stateless processor has none.
            ProcessError::State(why) => Outcome::Wait(OUTAGE_PAUSE, why.clone()),
        }
    }

    fn succeeded(&self, job: &InFlightRecord, working: Working, out: Outbox) -> Outcome {
        let (seen, _) = self.ended(working, Ended::Well);
        let Some(meta) = &seen.meta else { return Outcome::Done(Effects::default()) };
        let cause = EmitContext {
            meta,
            attempt: &seen.attempt,
            processor: &self.group.name,
            source: &self.source,
            tracing: &self.tracing,
        };
        let (outgoing, spans) = out.seal(&cause);
        self.done(job, Effects { outgoing, spans, ..Effects::default() }, &seen)
    }

    /// Tells the breakers; says what is waited for where a failure is an outage's.
    fn ended(&self, working: Working, ended: Ended<'_>) -> (AttemptContext, Option<String>) {
        let (seen, leave, began) = working.seen();
        let now = self.clock.elapsed();
        self.state.observe(Metric::ProcessingTime, now.saturating_sub(began));
        (seen, leave.and_then(|leave| self.circuits.finish(leave, now, ended, &self.state)))
    }

    /// An attempt has failed: an outage is waited for, and anything else is tried again as the ladder says.
    fn failed(&self, job: &InFlightRecord, working: Working, ended: Ended<'_>, fault: &FailureReport) -> Outcome {
        let (seen, outage) = self.ended(working, ended);
        seen.attempt.failed(fault);
        if let Some(why) = outage {
            tracing::debug!(group = %self.group.id, partition = %job.partition, offset = job.record.offset, error = %fault.detail, "an outage is not counted");
            let pause = if self.group.fallback.is_some() { FALLBACK_PAUSE } else { PROBE_PAUSE };
            return Outcome::Outage(pause, why);
        }
        self.state.add(Metric::Failures, 1);
        self.failures.again(job, self.delivered(job), fault, self.clock.as_ref(), &seen)
    }
}
