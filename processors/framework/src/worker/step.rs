//! One record: from bytes to what it asks for.

use std::{any::Any as Panic, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures_util::{
    FutureExt,
    future::{Either, select},
};

use crate::{
    catalogue::{Catalogue, Typed, unknown_record},
    codec::{self, CodecError, WriterSchema},
    emit::{Encoders, Outbox},
    event::Meta,
    failure::{Failure, Kind, Result},
    headers::Attributes,
    input::Delivery,
    lanes::Lane,
    metrics::{GroupState, Metric},
    pipeline::{Group, Work},
    ports::{BoxFuture, Clock},
    processor::{Interest, ProcessError},
    record::{Outgoing, Record, TopicPartition},
    schemas::{NoSchema, SchemaCache},
    unit::{Row, RowData},
};

/// After a registry's outage a record is tried again this much later.
const OUTAGE_PAUSE: Duration = Duration::from_secs(1);

/// A record on its way through a group.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) partition: TopicPartition,
    /// Which start of the partition it belongs to.
    pub(crate) start: u64,
    pub(crate) lane: Option<Lane>,
    /// Attempts that failed.
    pub(crate) attempt: u32,
    /// Whether it holds its partition up, for a failure or a pause.
    pub(crate) blocks: bool,
    pub(crate) record: Record,
}

/// What became of one attempt.
#[derive(Debug)]
pub(crate) enum Outcome {
    Done(Effects),
    /// Failed; worth another try.
    Retry(String),
    /// Not its fault: try again after this, and do not count it.
    Wait(Duration, String),
    /// Nobody can process it.
    Poison(Kind, String),
}

/// What a record asks for.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) outgoing: Vec<Outgoing>,
    pub(crate) row: Option<Row>,
}

/// An attempt that is already over, or one that goes on. Most are over at once: a box for the larger variant would cost
/// each of them an allocation.
#[expect(clippy::large_enum_variant)]
pub(crate) enum Begun {
    Over(Job, Outcome),
    Running(BoxFuture<'static, (Job, Outcome)>),
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
}

enum Next {
    Over(Outcome),
    Working(Working),
}

impl Step {
    /// Begins an attempt. What needs no waiting is done at once: most records cost no task and one allocation.
    pub(crate) fn begin(self: &Arc<Self>, job: Job) -> Begun {
        let next = match self.open(&job.record) {
            Err(outcome) => Next::Over(outcome),
            Ok(opened) => match self.schemas.cached(opened.schema_id) {
                Some(schema) => self.work(&job.record, opened, &schema),
                None => return Begun::Running(self.clone().fetch_and_work(job).boxed()),
            },
        };
        match next {
            Next::Over(outcome) => Begun::Over(job, outcome),
            Next::Working(mut working) => match AssertUnwindSafe(&mut working.work).catch_unwind().now_or_never() {
                Some(done) => Begun::Over(job, self.outcome(&working.meta, done)),
                None => Begun::Running(self.clone().finish(job, working).boxed()),
            },
        }
    }

    async fn fetch_and_work(self: Arc<Self>, job: Job) -> (Job, Outcome) {
        let next = match self.open(&job.record) {
            Err(outcome) => Next::Over(outcome),
            Ok(opened) => match self.schemas.get(opened.schema_id).await {
                Ok(schema) => self.work(&job.record, opened, &schema),
                Err(NoSchema::Poison(why)) => Next::Over(Outcome::Poison(Kind::Decode, why)),
                Err(NoSchema::Outage(why)) => {
                    Next::Over(Outcome::Wait(OUTAGE_PAUSE, format!("the schema registry does not answer: {why}")))
                }
            },
        };
        match next {
            Next::Over(outcome) => (job, outcome),
            Next::Working(working) => self.finish(job, working).await,
        }
    }

    /// Waits for the function, up to the time limit.
    async fn finish(self: Arc<Self>, job: Job, working: Working) -> (Job, Outcome) {
        let limit = self.clock.sleep(self.time_limit);
        let outcome = match select(AssertUnwindSafe(working.work).catch_unwind(), limit).await {
            Either::Left((done, _)) => self.outcome(&working.meta, done),
            Either::Right(_) => Outcome::Retry(format!("no result within the time limit of {:?}", self.time_limit)),
        };
        (job, outcome)
    }

    /// Reads what needs no schema. The error is an outcome already: skipped, a tombstone's row, or poison.
    fn open<'a>(&self, record: &'a Record) -> Result<Opened<'a>, Outcome> {
        let contract = |why: String| Outcome::Poison(Kind::Contract, why);
        let attributes = Attributes::read(&record.headers).map_err(contract)?;
        let typed = self.catalogue.type_of(&record.topic, attributes.event_type.as_deref());
        if let Typed::Is(event_type) = &typed {
            self.check(record, event_type)?;
        }
        let Some(value) = record.value.as_deref() else {
            return Err(match typed {
                Typed::Is(event_type) => self.tombstone(record, attributes, event_type),
                Typed::AskSchema => contract("a tombstone without ce_type has no event type".to_owned()),
            });
        };
        let (schema_id, datum) = codec::split(value).map_err(poison)?;
        Ok(Opened { attributes, schema_id, datum })
    }

    /// Whether the type may stand on this topic, and whether the group takes it.
    fn check(&self, record: &Record, event_type: &str) -> Result<(), Outcome> {
        if !Catalogue::belongs(&record.topic, event_type) {
            let why = format!("event type `{event_type}` does not belong on topic {}", record.topic);
            return Err(Outcome::Poison(Kind::Contract, why));
        }
        if !self.interest.takes(event_type) {
            self.state.add(Metric::Skipped, 1);
            return Err(Outcome::Done(Effects::default()));
        }
        Ok(())
    }

    fn tombstone(&self, record: &Record, attributes: Attributes, event_type: String) -> Outcome {
        match &self.group.work {
            Work::Sink(sink) if sink.delete && record.key.is_some() => {
                let meta = self.meta(record, attributes, event_type);
                Outcome::Done(Effects {
                    outgoing: Vec::new(),
                    row: Some(Row { meta, key: record.key.clone(), data: None }),
                })
            }
            Work::Sink(sink) if sink.delete => {
                Outcome::Poison(Kind::Contract, "a tombstone without a key deletes nothing".to_owned())
            }
            _ => Outcome::Poison(Kind::Contract, "a null value where nothing takes tombstones".to_owned()),
        }
    }

    /// Goes on with the schema at hand.
    fn work(&self, record: &Record, opened: Opened<'_>, schema: &Arc<WriterSchema>) -> Next {
        let Opened { attributes, datum, .. } = opened;
        let event_type = match self.catalogue.type_of(&record.topic, attributes.event_type.as_deref()) {
            Typed::Is(event_type) => event_type,
            Typed::AskSchema => match self.type_by_schema(record, schema) {
                Ok(event_type) => event_type,
                Err(outcome) => return Next::Over(outcome),
            },
        };
        let meta = self.meta(record, attributes, event_type);
        match &self.group.work {
            Work::Process(processor) => {
                let out = Outbox::new(self.encoders.clone());
                let delivery = Delivery { meta: &meta, schema, datum };
                match std::panic::catch_unwind(AssertUnwindSafe(|| processor.process(delivery, out))) {
                    Ok(work) => Next::Working(Working { meta, work }),
                    Err(panic) => Next::Over(panicked(panic.as_ref())),
                }
            }
            Work::Sink(_) => Next::Over(match schema.value(datum) {
                Ok(value) => {
                    let data = Some(RowData { schema: schema.clone(), value });
                    Outcome::Done(Effects {
                        outgoing: Vec::new(),
                        row: Some(Row { meta, key: record.key.clone(), data }),
                    })
                }
                Err(error) => poison(error),
            }),
        }
    }

    fn type_by_schema(&self, record: &Record, schema: &WriterSchema) -> Result<String, Outcome> {
        let name = schema.full_name().unwrap_or_default();
        let Some(event_type) = self.catalogue.by_record(name) else {
            return Err(Outcome::Poison(Kind::Contract, unknown_record(name)));
        };
        self.check(record, event_type)?;
        Ok(event_type.to_owned())
    }

    fn meta(&self, record: &Record, attributes: Attributes, event_type: String) -> Arc<Meta> {
        self.state.add(Metric::HeadersIgnored, attributes.ignored);
        self.state.add(Metric::HeadersForged, attributes.spoofed);
        Arc::new(self.catalogue.complete(record, attributes, event_type))
    }

    fn outcome(&self, meta: &Meta, done: Result<Result<Outbox, ProcessError>, Box<dyn Panic + Send>>) -> Outcome {
        match done {
            Ok(Ok(out)) => Outcome::Done(Effects { outgoing: out.seal(meta, &self.group.name), row: None }),
            Ok(Err(ProcessError::Codec(error))) => poison(error),
            Ok(Err(ProcessError::Failed(Failure::Retry(cause)))) => Outcome::Retry(cause.to_string()),
            Ok(Err(ProcessError::Failed(Failure::Reject(cause)))) => Outcome::Poison(Kind::Rejected, cause.to_string()),
            Ok(Err(ProcessError::Failed(Failure::Throttled(after)))) => {
                self.state.add(Metric::Throttled, 1);
                Outcome::Wait(after, "throttled".to_owned())
            }
            Err(panic) => panicked(panic.as_ref()),
        }
    }
}

fn poison(error: CodecError) -> Outcome {
    Outcome::Poison(error.kind(), error.to_string())
}

fn panicked(panic: &(dyn Panic + Send)) -> Outcome {
    let text =
        panic.downcast_ref::<&str>().map(|s| (*s).to_owned()).or_else(|| panic.downcast_ref::<String>().cloned());
    Outcome::Retry(format!("the processor panicked: {}", text.unwrap_or_else(|| "no message".to_owned())))
}
