//! One record: from bytes to what it asks for.

use std::{any::Any as Panic, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{
    FutureExt,
    future::{Either, select},
};

use crate::{
    catalogue::{Catalogue, Typed, unknown_record},
    codec::{self, CodecError, WriterSchema},
    delivered::{Delivered, Trust},
    emit::{Encoders, Outbox},
    event::Meta,
    failure::{Failure, Kind, Result},
    fault::Fault,
    headers::Attributes,
    input::Delivery,
    metrics::{GroupState, Metric},
    owned::Role,
    pipeline::{Group, Work},
    ports::{BoxFuture, Clock},
    processor::{Interest, ProcessError, Processor},
    record::Record,
    schemas::{NoSchema, SchemaCache},
    sink::Sink,
    unit::RowData,
};

use super::{
    circuits::{Circuits, Ended, Leave},
    failures::Failures,
    job::{Effects, Job, Outcome},
};

/// Who asks to wait for no time at all is asked again this much later.
const LEAST_PAUSE: Duration = Duration::from_millis(10);
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
    pub(crate) group: Group,
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
    pub(crate) circuits: Circuits,
}

/// A record that needs its schema to go on.
struct Opened<'a> {
    attributes: Attributes,
    schema_id: u32,
    datum: &'a [u8],
}

/// The function at work; it owns all it needs.
struct Working {
    meta: Arc<Meta>,
    work: BoxFuture<'static, Result<Outbox, ProcessError>>,
    /// `None` for a fallback, which calls no dependency.
    leave: Option<Leave>,
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
            Next::Working(mut working) => match AssertUnwindSafe(&mut working.work).catch_unwind().now_or_never() {
                Some(done) => {
                    let outcome = self.outcome(&job, &working.meta, working.leave, done);
                    Begun::Over(job, outcome)
                }
                None => Begun::Running(self.clone().finish(job, working).boxed()),
            },
        }
    }

    async fn fetch(self: Arc<Self>, mut job: Job, schema_id: u32) -> (Job, Option<Outcome>) {
        job.begun = true;
        let outcome = match self.schemas.get(schema_id).await {
            Ok(_) => None,
            Err(NoSchema::Poison(why)) => Some(self.dead(&job, &Fault::new(Kind::Decode, why))),
            Err(NoSchema::Outage(why)) => {
                Some(Outcome::Wait(OUTAGE_PAUSE, format!("the schema registry does not answer: {why}")))
            }
        };
        (job, outcome)
    }

    /// Waits for the function, up to the time limit.
    async fn finish(self: Arc<Self>, job: Job, working: Working) -> (Job, Outcome) {
        let limit = self.clock.sleep(self.time_limit);
        let outcome = match select(AssertUnwindSafe(working.work).catch_unwind(), limit).await {
            Either::Left((done, _)) => self.outcome(&job, &working.meta, working.leave, done),
            Either::Right(_) => {
                let fault =
                    Fault::new(Kind::Timeout, format!("no result within the time limit of {:?}", self.time_limit));
                self.failed(&job, working.leave, Ended::Badly("a call was past its time limit"), fault)
            }
        };
        (job, outcome)
    }

    /// Reads what needs no schema. The error is an outcome already: skipped, a tombstone's row, or a dead letter.
    fn open<'a>(&self, job: &'a Job) -> Result<Opened<'a>, Outcome> {
        let record = &job.record;
        if matches!(self.group.work, Work::DeadLetters) {
            return Err(self.keep_letter(record));
        }
        let contract = |why: String| self.dead(job, &Fault::new(Kind::Contract, why));
        let mut attributes = Attributes::read(&record.headers, self.trust(job.role));
        if !job.begun {
            self.state.add(Metric::HeadersIgnored, attributes.ignored);
            self.state.add(Metric::HeadersForged, attributes.spoofed);
        }
        if let Some(why) = attributes.broken.take() {
            return Err(contract(why));
        }
        let typed = self.type_of(record, &attributes);
        if let Typed::Is(event_type) = &typed {
            self.check(job, &attributes, event_type)?;
        }
        let Some(value) = record.value.as_deref() else {
            return Err(match typed {
                Typed::Is(event_type) => self.tombstone(job, attributes, event_type),
                Typed::AskSchema => contract("a tombstone without ce_type has no event type".to_owned()),
            });
        };
        if value.len() > self.record_limit {
            let limit = self.record_limit;
            return Err(contract(format!("the value is {} bytes, over the limit of {limit}", value.len())));
        }
        let (schema_id, datum) = codec::split(value).map_err(|error| self.unreadable(job, &error))?;
        Ok(Opened { attributes, schema_id, datum })
    }

    fn trust(&self, role: Role) -> Trust<'_> {
        if role == Role::Input { Trust::Nobody } else { Trust::Group(&self.group.id) }
    }

    /// By the topic where the record first stood.
    fn type_of(&self, record: &Record, attributes: &Attributes) -> Typed {
        let topic = attributes.origin().map_or(&record.topic, |origin| &origin.partition.topic);
        self.catalogue.type_of(topic, attributes.event_type.as_deref())
    }

    /// Whether the type may stand on this topic, and whether the group takes it.
    fn check(&self, job: &Job, attributes: &Attributes, event_type: &str) -> Result<(), Outcome> {
        let origin = attributes.origin();
        let topic = origin.map_or(&job.record.topic, |origin| &origin.partition.topic);
        if !Catalogue::belongs(topic, event_type) {
            let why = format!("event type `{event_type}` does not belong on topic {topic}");
            return Err(self.dead(job, &Fault::new(Kind::Contract, why)));
        }
        if !self.interest.takes(event_type) {
            self.state.add(Metric::Skipped, 1);
            return Err(self.done(job, Effects::default()));
        }
        Ok(())
    }

    fn tombstone(&self, job: &Job, attributes: Attributes, event_type: String) -> Outcome {
        let contract = |why: &str| self.dead(job, &Fault::new(Kind::Contract, why));
        match &self.group.work {
            Work::Sink(sink) if sink.delete && job.record.key.is_some() => {
                let meta = self.meta(job, attributes, event_type);
                self.done(job, Effects { row: Some((meta, None)), ..Effects::default() })
            }
            Work::Sink(sink) if sink.delete => contract("a tombstone without a key deletes nothing"),
            _ => contract("a null value where nothing takes tombstones"),
        }
    }

    /// A dead letter is kept as it is: nothing of it is decoded, so nothing of it can fail.
    fn keep_letter(&self, record: &Record) -> Outcome {
        let attributes = Attributes::read(&record.headers, Trust::Anyone);
        let event_type = attributes.event_type.clone().unwrap_or_default();
        let meta = Arc::new(self.catalogue.complete(record, attributes, event_type));
        Outcome::Done(Effects { row: Some((meta, None)), ..Effects::default() })
    }

    /// Goes on with the schema at hand.
    fn work(&self, job: &Job, opened: Opened<'_>, schema: &Arc<WriterSchema>) -> Next {
        let Opened { attributes, datum, .. } = opened;
        let event_type = match self.type_of(&job.record, &attributes) {
            Typed::Is(event_type) => event_type,
            Typed::AskSchema => match self.type_by_schema(job, &attributes, schema) {
                Ok(event_type) => event_type,
                Err(outcome) => return Next::Over(outcome),
            },
        };
        let meta = self.meta(job, attributes, event_type);
        match &self.group.work {
            Work::Process(processor) => self.process(job, processor.as_ref(), meta, schema, datum),
            Work::Sink(sink) if let Some(key) = missing_key(sink, schema) => {
                let why = format!("{key}: missing in schema {}, and the row's key", schema.id());
                Next::Over(self.dead(job, &Fault::new(Kind::Contract, why)))
            }
            Work::Sink(_) | Work::DeadLetters => Next::Over(match schema.value(datum) {
                Ok(value) => {
                    let data = Some(RowData { schema: schema.clone(), value });
                    self.done(job, Effects { row: Some((meta, data)), ..Effects::default() })
                }
                Err(error) => self.unreadable(job, &error),
            }),
        }
    }

    /// Runs the processor if its dependencies may be called, else its fallback, if it has one.
    fn process(
        &self,
        job: &Job,
        processor: &dyn Processor,
        meta: Arc<Meta>,
        schema: &WriterSchema,
        datum: &[u8],
    ) -> Next {
        let (processor, leave) = match (self.circuits.admit(self.clock.elapsed(), &self.state), &self.group.fallback) {
            (Ok(leave), _) => (processor, Some(leave)),
            (Err(_), Some(fallback)) => {
                self.state.add(Metric::Fallbacks, 1);
                (fallback.as_ref(), None)
            }
            (Err(refusal), None) => return Next::Over(Outcome::Refused(refusal.until, refusal.why)),
        };
        let out = Outbox::new(self.encoders.clone());
        let delivery = Delivery { meta: &meta, schema, datum };
        match std::panic::catch_unwind(AssertUnwindSafe(|| processor.process(delivery, out))) {
            Ok(work) => Next::Working(Working { meta, work, leave }),
            Err(panic) => {
                Next::Over(self.failed(job, leave, Ended::Badly("a call panicked"), panicked(panic.as_ref())))
            }
        }
    }

    fn type_by_schema(&self, job: &Job, attributes: &Attributes, schema: &WriterSchema) -> Result<String, Outcome> {
        let name = schema.full_name().unwrap_or_default();
        let Some(event_type) = self.catalogue.by_record(name) else {
            return Err(self.dead(job, &Fault::new(Kind::Contract, unknown_record(name))));
        };
        self.check(job, attributes, event_type)?;
        Ok(event_type.to_owned())
    }

    fn meta(&self, job: &Job, mut attributes: Attributes, event_type: String) -> Arc<Meta> {
        if job.failed > 0 {
            let delivered = attributes.delivered.get_or_insert_default();
            delivered.attempts = delivered.attempts.saturating_add(job.failed);
        }
        Arc::new(self.catalogue.complete(&job.record, attributes, event_type))
    }

    fn outcome(
        &self,
        job: &Job,
        meta: &Meta,
        leave: Option<Leave>,
        done: Result<Result<Outbox, ProcessError>, Box<dyn Panic + Send>>,
    ) -> Outcome {
        let error = match done {
            Ok(Ok(out)) => {
                self.ended(leave, Ended::Well);
                let outgoing = out.seal(meta, &self.group.name);
                return self.done(job, Effects { outgoing, ..Effects::default() });
            }
            Ok(Err(error)) => error,
            Err(panic) => return self.failed(job, leave, Ended::Badly("a call panicked"), panicked(panic.as_ref())),
        };
        let ended = Ended::With(&error);
        match &error {
            ProcessError::Failed(Failure::Retry(cause)) => {
                self.failed(job, leave, ended, Fault::of(Kind::Exhausted, cause))
            }
            ProcessError::Failed(Failure::Reject(cause)) => {
                self.ended(leave, ended);
                self.dead(job, &Fault::of(Kind::Rejected, cause))
            }
            ProcessError::Failed(Failure::Throttled(after)) => {
                self.ended(leave, ended);
                self.state.add(Metric::Throttled, 1);
                Outcome::Wait((*after).max(LEAST_PAUSE), "throttled".to_owned())
            }
            ProcessError::Codec(error) => {
                self.ended(leave, ended);
                self.unreadable(job, error)
            }
        }
    }

    /// Tells the breakers; says what is waited for where a failure is an outage's.
    fn ended(&self, leave: Option<Leave>, ended: Ended<'_>) -> Option<String> {
        leave.and_then(|leave| self.circuits.finish(leave, self.clock.elapsed(), ended, &self.state))
    }

    /// An attempt has failed: an outage is waited for, and anything else is tried again as the ladder says.
    fn failed(&self, job: &Job, leave: Option<Leave>, ended: Ended<'_>, fault: Fault) -> Outcome {
        if let Some(why) = self.ended(leave, ended) {
            tracing::debug!(group = %self.group.id, partition = %job.partition, offset = job.record.offset, error = %fault.detail, "an outage is not counted");
            let pause = if self.group.fallback.is_some() { FALLBACK_PAUSE } else { PROBE_PAUSE };
            return Outcome::Outage(pause, why);
        }
        self.state.add(Metric::Failures, 1);
        self.failures.again(job, self.delivered(job), &fault, self.clock.now())
    }

    fn unreadable(&self, job: &Job, error: &CodecError) -> Outcome {
        self.dead(job, &Fault::new(error.kind(), error.to_string()))
    }

    /// Nobody can process the record: it becomes a dead letter.
    pub(crate) fn dead(&self, job: &Job, fault: &Fault) -> Outcome {
        Outcome::Done(self.failures.letter(&job.record, self.delivered(job), fault, self.clock.now()))
    }

    /// The record is done with. One that was sent back as a dead letter takes the news of it along.
    fn done(&self, job: &Job, effects: Effects) -> Outcome {
        let marker = match job.role {
            Role::Input => None,
            _ => self.failures.marker(&job.record, &self.delivered(job)).map(Box::new),
        };
        Outcome::Done(Effects { marker, ..effects })
    }

    /// The record's way so far, this read included.
    fn delivered(&self, job: &Job) -> Delivered {
        let (mut delivered, _) = Delivered::read(&job.record.headers, self.trust(job.role));
        delivered.attempts = delivered.attempts.saturating_add(job.failed);
        delivered.first_failed_ms = delivered.first_failed_ms.or(job.first_failed_ms);
        delivered
    }
}

/// A key column that a record of this schema does not have: no row can be made of it.
fn missing_key<'a>(sink: &'a Sink, schema: &WriterSchema) -> Option<&'a str> {
    let apache_avro::Schema::Record(record) = schema.schema() else { return None };
    sink.key.iter().map(String::as_str).find(|key| !record.lookup.contains_key(*key))
}

fn panicked(panic: &(dyn Panic + Send)) -> Fault {
    let text =
        panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    let text = text.unwrap_or_else(|| "no message".to_owned());
    Fault::new(Kind::Exhausted, format!("the processor panicked: {text}"))
}
