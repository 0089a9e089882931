//! The reference of a stateless processor: consume, decode, encode, produce, commit, as written by hand with rdkafka.
//!
//! One thread polls and does all the work; a thread of the producer's counts the acknowledgements. Offsets are committed
//! once everything before them is acknowledged.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use apache_avro::{Schema, reader::datum::GenericDatumReader, writer::datum::GenericDatumWriter};
use headwater::Payload;
use headwater_schemas::{PaymentCompleted, ReceiptRequested};
use rdkafka::{
    ClientConfig, ClientContext, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer},
};

use crate::{
    meter::{Measurement, Meter},
    place::{self, Place},
    reference::wire::{Cause, Processor},
};

/// Acknowledgements are counted by so many records.
const CHUNK: usize = 1_000;
/// How often offsets are committed, as the engine does by default.
const COMMIT: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_millis(100);
const FULL: Duration = Duration::from_millis(1);
const FLUSH: Duration = Duration::from_secs(60);

/// Does as `send-receipt` does, until so many records are acknowledged.
pub(crate) fn run(place: &Place) -> Result<Measurement> {
    let (payment_id, receipt_id) = place.schema_ids()?;
    let (payment, receipt) =
        (Schema::parse_str(PaymentCompleted::SCHEMA)?, Schema::parse_str(ReceiptRequested::SCHEMA)?);
    let reader = GenericDatumReader::builder(&payment).build()?;
    let writer = GenericDatumWriter::builder(&receipt).build()?;
    let processor = Processor::new("send-receipt", ReceiptRequested::TYPE);
    let consumer: BaseConsumer = place.consumer().create()?;
    consumer.subscribe(&[&place.topic])?;
    let failed = Arc::new(AtomicBool::new(false));
    let producer: ThreadedProducer<Deliveries> = settings(place).create_with_context(Deliveries(failed.clone()))?;
    let mut commits = Commits::new(&place.topic);
    let (mut meter, mut read) = (None, 0);
    let (mut name, mut value) = (String::new(), Vec::new());
    while read < place.records {
        let Some(message) = consumer.poll(POLL) else { continue };
        let message = message?;
        meter.get_or_insert_with(Meter::start);
        let mut datum = place::datum(&message, payment_id)?;
        let payment: PaymentCompleted = reader.read_deser(&mut datum)?;
        let receipt = ReceiptRequested {
            email: payment.email.context("payment has no e-mail address")?,
            order_id: payment.order_id,
            payment_id: payment.payment_id,
        };
        value.clear();
        value.push(0);
        value.extend_from_slice(&receipt_id.to_be_bytes());
        writer.write_ser(&mut value, &receipt)?;
        let headers = Cause::read(&message)?.emit(&processor, &receipt.order_id, &mut name);
        let mut record = BaseRecord::with_opaque_to(&place.output, commits.delivery())
            .key(receipt.order_id.as_str())
            .payload(value.as_slice())
            .headers(headers);
        while let Err((error, same)) = producer.send(record) {
            ensure!(error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), error);
            record = same;
            std::thread::sleep(FULL);
        }
        commits.sent(message.partition(), message.offset());
        commits.commit(&consumer)?;
        read += 1;
    }
    producer.flush(FLUSH)?;
    ensure!(!failed.load(Ordering::Relaxed), "a record was not acknowledged");
    let measured = meter.context("nothing to read")?.stop(read)?;
    consumer.commit(&list(&place.topic, &commits.next)?, CommitMode::Sync)?;
    Ok(measured)
}

/// As the engine's producer, but for its queue: a longer one falls out of the processor's cache.
fn settings(place: &Place) -> ClientConfig {
    let mut settings = place.client();
    settings
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("partitioner", "murmur2_random")
        .set("compression.type", "lz4")
        .set("linger.ms", "5")
        .set("batch.size", "1000000")
        .set("queue.buffering.max.messages", "20000")
        .set("queue.buffering.max.kbytes", "65536");
    settings
}

/// Counts what is acknowledged.
struct Deliveries(Arc<AtomicBool>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<AtomicUsize>;

    fn delivery(&self, result: &DeliveryResult<'_>, left: Arc<AtomicUsize>) {
        match result {
            Ok(_) => drop(left.fetch_sub(1, Ordering::Release)),
            Err(_) => self.0.store(true, Ordering::Relaxed),
        }
    }
}

/// What may be committed: the positions behind chunks whose records are all acknowledged.
struct Commits {
    topic: String,
    /// Records of the open chunk that are not sent or not acknowledged yet.
    open: Arc<AtomicUsize>,
    sent: usize,
    /// Where each partition stands behind the last record that was sent.
    next: BTreeMap<i32, i64>,
    closed: VecDeque<(Arc<AtomicUsize>, BTreeMap<i32, i64>)>,
    last: Instant,
}

impl Commits {
    fn new(topic: &str) -> Self {
        Self {
            topic: topic.to_owned(),
            open: Arc::new(AtomicUsize::new(CHUNK)),
            sent: 0,
            next: BTreeMap::new(),
            closed: VecDeque::new(),
            last: Instant::now(),
        }
    }

    fn delivery(&self) -> Arc<AtomicUsize> {
        self.open.clone()
    }

    fn sent(&mut self, partition: i32, offset: i64) {
        self.next.insert(partition, offset + 1);
        self.sent += 1;
        if self.sent == CHUNK {
            let full = std::mem::replace(&mut self.open, Arc::new(AtomicUsize::new(CHUNK)));
            self.closed.push_back((full, self.next.clone()));
            self.sent = 0;
        }
    }

    /// Commits when it is time, which is looked at once a chunk.
    fn commit(&mut self, consumer: &BaseConsumer) -> Result<()> {
        if self.sent != 0 || self.last.elapsed() < COMMIT {
            return Ok(());
        }
        self.last = Instant::now();
        let mut done = None;
        while self.closed.front().is_some_and(|(left, _)| left.load(Ordering::Acquire) == 0) {
            done = self.closed.pop_front();
        }
        match done {
            Some((_, next)) => Ok(consumer.commit(&list(&self.topic, &next)?, CommitMode::Async)?),
            None => Ok(()),
        }
    }
}

/// Positions as the client wants them.
pub(crate) fn list(topic: &str, next: &BTreeMap<i32, i64>) -> Result<TopicPartitionList> {
    let mut list = TopicPartitionList::with_capacity(next.len());
    for (partition, next) in next {
        list.add_partition_offset(topic, *partition, Offset::Offset(*next))?;
    }
    Ok(list)
}
