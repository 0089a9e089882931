//! One producer of the load, on a thread of its own.

use std::{
    ops::ControlFlow,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use headwater::{
    Headers, Time,
    spi::{Message, Outgoing, Tracing, first_headers, foreign_id},
};
use headwater_connectors::kafka::{CallbackProducer, EnqueueOutcome, KafkaConfig, KafkaError, RecordMetadata};
use uuid::Uuid;

use crate::{
    meter::{Meter, SentRecord},
    plan::Plan,
    random::{Keys, Random},
    schedule::{DueRecord, ProducerShare, Schedule},
    values::Record,
};

/// The source of events that carry headers.
const SOURCE: &str = "headwater/load";
/// How long to wait for room, in the producer's queue or among what is waited for.
const FULL: Duration = Duration::from_millis(1);

/// What all producers of a load have in common.
pub(crate) struct Job {
    pub(crate) schedule: Schedule,
    pub(crate) plan: Plan,
    pub(crate) topic: Arc<str>,
    pub(crate) event_type: String,
    pub(crate) seed: u32,
    /// How many keys there are, and the exponent of Zipf's law.
    pub(crate) keys: Option<u64>,
    pub(crate) zipf: Option<f64>,
    /// What the ids of this load begin with, when its records carry headers.
    pub(crate) run: Option<Uuid>,
    pub(crate) tracing: Tracing,
    pub(crate) meter: Arc<Meter>,
}

/// A producer that tells the meter what becomes of its records; with each go its [`SentRecord`] and its size in bytes.
pub(crate) type LoadProducer = CallbackProducer<(SentRecord, u64)>;

/// A producer for the load.
///
/// # Errors
/// When the configuration cannot work.
pub(crate) fn wire(
    kafka: &KafkaConfig,
    producer: usize,
    topic: &Arc<str>,
    meter: &Arc<Meter>,
) -> Result<LoadProducer, KafkaError> {
    let (topic, meter) = (Arc::clone(topic), Arc::clone(meter));
    CallbackProducer::new(kafka, move |(sent, bytes): (SentRecord, u64), fate: Result<RecordMetadata, String>| {
        match fate {
            Ok(place) => meter.acknowledged(producer, sent, bytes, || derived(&topic, place)),
            Err(why) => meter.failed(producer, sent, why),
        }
    })
}

/// The id that a record without headers has by its place.
fn derived(topic: &str, place: RecordMetadata) -> Option<u128> {
    parse_id(&foreign_id(topic, place.partition, place.offset, place.timestamp_ms))
}

/// Ids that are no UUID are not ours.
pub(crate) fn parse_id(text: &str) -> Option<u128> {
    Uuid::parse_str(text).ok().map(|id| id.as_u128())
}

/// Sends one share of the load; blocks until all of it is handed over or `stopped` says so.
pub(crate) fn run(job: &Job, wire: &LoadProducer, share: ProducerShare, stopped: impl Fn() -> bool) {
    let producer = usize::try_from(share.producer).unwrap_or_default();
    let keys = Keys::of(job.keys, job.zipf, share);
    let mut random = Random::new(job.seed, share.producer);
    let (mut record, mut key_text) = (empty(&job.topic), String::new());
    job.schedule.run(share, &mut job.meter.start(), &stopped, |due| {
        let key = keys.draw(due.number, share, &mut random);
        name_key(job.seed, key, &mut key_text);
        fill(job, due, key, &key_text, &mut random, &mut record);
        let sent = SentRecord { at: due.at, id: job.run.map(|run| run.as_u128() ^ u128::from(due.number)), key };
        while job.meter.is_full() {
            if stopped() {
                return ControlFlow::Break(());
            }
            std::thread::sleep(FULL);
        }
        job.meter.await_arrival(sent);
        let bytes = record.size() as u64;
        loop {
            match wire.hand_over(&record, (sent, bytes)) {
                EnqueueOutcome::Yes => break,
                EnqueueOutcome::Refused(why) => {
                    job.meter.failed(producer, sent, why);
                    break;
                }
                EnqueueOutcome::QueueIsFull if stopped() => {
                    job.meter.forget(sent);
                    return ControlFlow::Break(());
                }
                EnqueueOutcome::QueueIsFull => std::thread::sleep(FULL),
            }
        }
        job.meter.sent.fetch_add(1, Ordering::Relaxed);
        ControlFlow::Continue(())
    });
}

fn empty(topic: &Arc<str>) -> Outgoing {
    let (key, value) = (Some(Vec::new()), Some(Vec::new()));
    Outgoing { topic: Arc::clone(topic), partition: None, key, value, headers: Headers::default() }
}

fn name_key(seed: u32, key: u64, text: &mut String) {
    use std::fmt::Write as _;
    text.clear();
    // Writing to a string cannot fail.
    let _ = write!(text, "{seed}-{key}");
}

fn fill(job: &Job, due: DueRecord, key: u64, key_text: &str, random: &mut Random, record: &mut Outgoing) {
    let (said, value) = (record.key.get_or_insert_default(), record.value.get_or_insert_default());
    let now = Time::now();
    let mut made = Record { number: due.number, key, key_text, seed: job.seed, now, random, said };
    job.plan.write(&mut made, value);
    if let Some(run) = job.run {
        let id = Uuid::from_u128(run.as_u128() ^ u128::from(due.number)).to_string();
        let subject = String::from_utf8_lossy(record.key.as_deref().unwrap_or_default());
        let message = Message { topic: &job.topic, partition: None, id: &id, correlation_id: &id, causation_id: None };
        // Its span ends with the handing over.
        let (trace, _span) = job.tracing.first(SOURCE, message);
        record.headers = first_headers(&id, SOURCE, &job.event_type, &subject, now, &trace);
    }
}
