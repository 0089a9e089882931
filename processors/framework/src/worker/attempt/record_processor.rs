//! One record: from bytes to what it asks for.

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
    circuits::{Circuits, Ended, Leave},
    in_flight::{Effects, Fate, Job, Outcome, Seen},
    open::{Opened, no_row},
    stateful::Ways,
    uncommitted_state::States,
};
use crate::{
    codec::{CodecError, WriterSchema},
    event::Meta,
    failure::{Failure, Kind, Result, failure_report::Fault},
    pipeline::{
        ConsumerGroup, Work,
        catalogue::{Catalogue, Typed},
        schema_cache::{NoSchema, SchemaCache},
    },
    ports::{BoxFuture, Clock, unit::RowData},
    processor::{
        Interest, ProcessError, Processor,
        emit::{Cause, Encoders, Outbox},
        input::Delivery,
    },
    telemetry::{
        metrics::{GroupState, Metric},
        spans::{Attempt, Tracing},
    },
    wire::{
        delivery_headers::Delivered,
        group_topics::{Owned, Role},
        headers::Attributes,
    },
    worker::schedule::failures::Failures,
};

/// Who asks to wait for no time at all is asked again this much later.
pub(crate) const LEAST_PAUSE: Duration = Duration::from_millis(10);
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
    Over(Job, Outcome),
    Running(BoxFuture<'static, (Job, Outcome)>),
    /// It waits for its schema: then it begins again, unless there is an outcome.
    Fetching(BoxFuture<'static, (Job, Option<Outcome>)>),
}

/// How a group treats one record.
pub(crate) struct Step {
    pub(crate) group: ConsumerGroup,
    pub(crate) interest: Interest,
    pub(crate) catalogue: Arc<Catalogue>,
    pub(crate) schemas: Arc<SchemaCache>,
    pub(crate) encoders: Arc<Encoders>,
    pub(crate) state: Arc<GroupState>,
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
    pub(crate) owned: Owned,
    /// Of each step of a stateful group.
    pub(crate) ways: Vec<Ways>,
    /// Of a stateful group.
    pub(crate) states: Option<States>,
    /// Of a sink whose event type is in the catalogue, that type's schema.
    pub(crate) schema: Option<&'static str>,
    /// The topics of a stateful group of which one member has all partitions of a number.
    pub(crate) together: Vec<String>,
    /// The largest state that a key may have, bytes.
    pub(crate) state_limit: usize,
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

    fn seen(self) -> (Seen, Option<Leave>, Duration) {
        (Seen::new(self.meta, self.attempt), self.leave, self.began)
    }
}

enum Next {
    Over(Outcome),
    Working(Working),
}

impl Step {
    /// Begins an attempt. What needs no waiting is done at once: most records cost no task and one allocation.
    pub(crate) fn begin(self: &Arc<Self>, job: Job) -> Begun {
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

    async fn fetch(self: Arc<Self>, mut job: Job, schema_id: u32) -> (Job, Option<Outcome>) {
        job.begun = true;
        let outcome = match self.schemas.get(schema_id).await {
            Ok(_) => None,
            Err(NoSchema::Poison(why)) => Some(self.dead(&job, &Fault::new(Kind::Decode, why), None)),
            Err(NoSchema::Outage(why)) => {
                Some(Outcome::Wait(OUTAGE_PAUSE, format!("the schema registry does not answer: {why}")))
            }
        };
        (job, outcome)
    }

    /// Waits for the function, up to the time limit.
    async fn finish(self: Arc<Self>, job: Job, mut working: Working) -> (Job, Outcome) {
        let limit = self.clock.sleep(self.time_limit);
        let done = match select(poll_fn(|cx| working.poll(cx)), limit).await {
            Either::Left((done, _)) => Some(done),
            Either::Right(_) => None,
        };
        let outcome = match done {
            Some(done) => self.outcome(&job, working, done),
            None => {
                let fault =
                    Fault::new(Kind::Timeout, format!("no result within the time limit of {:?}", self.time_limit));
                self.failed(&job, working, Ended::Badly("a call was past its time limit"), &fault)
            }
        };
        (job, outcome)
    }

    /// The record's row; the attempt ends when that is durable.
    pub(crate) fn store(&self, job: &Job, seen: (Arc<Meta>, Attempt), data: Option<RowData>) -> Outcome {
        let (meta, attempt) = seen;
        let seen = Seen::new(meta.clone(), attempt);
        let outcome = self.done(job, Effects { row: Some((meta, data)), ..Effects::default() }, &seen);
        match outcome {
            Outcome::Done(mut effects) => {
                effects.spans.extend(seen.attempt.into_span());
                Outcome::Done(effects)
            }
            other => other,
        }
    }

    /// Goes on with the schema at hand.
    fn work(&self, job: &Job, mut opened: Opened<'_>, schema: &Arc<WriterSchema>) -> Next {
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
        if let Work::Keep(steps) = &self.group.work {
            return Next::Over(self.keep(job, steps, opened, event_type, schema));
        }
        let Opened { attributes, datum, .. } = opened;
        match &self.group.work {
            Work::Process(_) if let Some(waits) = self.behind(job) => Next::Over(waits),
            Work::Process(processor) => self.process(job, processor.as_ref(), (attributes, event_type), schema, datum),
            Work::Sink(sink) if let Some(why) = self.foreign(job, &attributes, schema, sink) => {
                let why = format!("schema {} is not one of `{}`: {why}", schema.id(), sink.event);
                Next::Over(self.dead(job, &Fault::new(Kind::Contract, why), None))
            }
            Work::Sink(sink) if let Some(why) = no_row(sink, schema) => {
                Next::Over(self.dead(job, &Fault::new(Kind::Contract, why), None))
            }
            Work::Sink(_) | Work::Keep(_) | Work::DeadLetters => {
                let seen = self.see(job, attributes, event_type);
                Next::Over(match schema.value(datum) {
                    Ok(value) => self.store(job, seen, Some(RowData { schema: schema.clone(), value })),
                    Err(error) => self.unreadable(job, &error, Some(Seen::new(seen.0, seen.1))),
                })
            }
        }
    }

    /// Runs the processor if its dependencies may be called, else its fallback, if it has one.
    fn process(
        &self,
        job: &Job,
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

    fn outcome(&self, job: &Job, working: Working, done: Done) -> Outcome {
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
                self.failed(job, working, ended, &Fault::of(Kind::Exhausted, cause))
            }
            ProcessError::Failed(Failure::Reject(cause)) => {
                let (seen, ..) = self.ended(working, ended);
                self.dead(job, &Fault::of(Kind::Rejected, cause), Some(seen))
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

    fn succeeded(&self, job: &Job, working: Working, out: Outbox) -> Outcome {
        let (seen, _) = self.ended(working, Ended::Well);
        let Some(meta) = &seen.meta else { return Outcome::Done(Effects::default()) };
        let cause = Cause {
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
    fn ended(&self, working: Working, ended: Ended<'_>) -> (Seen, Option<String>) {
        let (seen, leave, began) = working.seen();
        let now = self.clock.elapsed();
        self.state.observe(Metric::ProcessingTime, now.saturating_sub(began));
        (seen, leave.and_then(|leave| self.circuits.finish(leave, now, ended, &self.state)))
    }

    /// An attempt has failed: an outage is waited for, and anything else is tried again as the ladder says.
    fn failed(&self, job: &Job, working: Working, ended: Ended<'_>, fault: &Fault) -> Outcome {
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

    pub(crate) fn unreadable(&self, job: &Job, error: &CodecError, seen: Option<Seen>) -> Outcome {
        self.dead(job, &Fault::new(error.kind(), error.to_string()), seen)
    }

    /// Nobody can process the record: it becomes a dead letter.
    pub(crate) fn dead(&self, job: &Job, fault: &Fault, seen: Option<Seen>) -> Outcome {
        let seen = seen.unwrap_or_else(|| self.see_broken(job));
        seen.attempt.failed(fault);
        Outcome::Done(self.failures.letter(&job.record, self.delivered(job), fault, self.clock.now(), &seen))
    }

    /// The record is done with. One that was sent back as a dead letter takes the news of it along.
    pub(crate) fn done(&self, job: &Job, mut effects: Effects, seen: &Seen) -> Outcome {
        effects.event_time = seen.meta.as_ref().map(|meta| meta.time);
        if job.role != Role::Input
            && !matches!(effects.fate, Fate::KeyedAnew)
            && let Some((marker, span)) = self.failures.marker(&job.record, &self.delivered(job), seen)
        {
            effects.marker = Some(Box::new(marker));
            effects.spans.extend(span);
        }
        Outcome::Done(effects)
    }

    /// Where an earlier record of its key waits, what becomes of this one.
    pub(crate) fn behind(&self, job: &Job) -> Option<Outcome> {
        self.failures.behind(job, || self.delivered(job), self.clock.as_ref())
    }

    /// The record's way so far, this read included.
    pub(crate) fn delivered(&self, job: &Job) -> Delivered {
        let (mut delivered, _) = Delivered::read(&job.record.headers, self.trust(job.role));
        delivered.attempts = delivered.attempts.saturating_add(job.failed);
        delivered.first_failed_ms = delivered.first_failed_ms.or(job.first_failed_ms);
        delivered
    }
}

pub(crate) fn panicked(panic: &(dyn Panic + Send)) -> Fault {
    let text =
        panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    let text = text.unwrap_or_else(|| "no message".to_owned());
    Fault::new(Kind::Exhausted, format!("the processor panicked: {text}"))
}
