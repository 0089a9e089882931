//! Foreign clients: a plain producer and consumer that know Avro and the registry, and nothing of Headwater.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use apache_avro::{Schema, types::Value, writer::datum::GenericDatumWriter};
use headwater::spi::Record;
use rdkafka::{
    ClientConfig, ClientContext, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::{DeliveryResult, Header, Headers, OwnedHeaders},
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext, ThreadedProducer},
};
use serde_json::{Value as Json, json};

use crate::{polling::patience, space::Space};

/// A foreign producer and consumer.
pub struct ForeignClient {
    bootstrap: String,
    producer: ThreadedProducer<DeliveryErrors>,
}

/// Why records were not delivered.
#[derive(Default)]
struct DeliveryErrors(Mutex<Vec<String>>);

impl ClientContext for DeliveryErrors {}

impl ProducerContext for DeliveryErrors {
    type DeliveryOpaque = ();

    fn delivery(&self, delivered: &DeliveryResult<'_>, (): ()) {
        if let Err((error, record)) = delivered {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(format!("{}: {error}", record.topic()));
        }
    }
}

/// A record as a foreign consumer sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct ConsumedRecord {
    /// Partition and offset.
    pub place: (i32, i64),
    /// The record's timestamp, milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Option<Vec<u8>>,
    /// The headers, as text.
    pub headers: BTreeMap<String, String>,
    /// The headers as they are, in order.
    pub raw: Vec<(String, Option<Vec<u8>>)>,
}

impl ConsumedRecord {
    /// The same as the engine reads it.
    pub fn record(&self, topic: &str) -> Record {
        Record {
            topic: topic.into(),
            partition: self.place.0,
            offset: self.place.1,
            timestamp_ms: self.timestamp_ms,
            key: self.key.clone(),
            value: self.value.clone(),
            headers: self.raw.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect(),
        }
    }

    /// The headers that are not of its delivery, as they are, in order; without those of its trace.
    pub fn others(&self) -> Vec<(String, Option<Vec<u8>>)> {
        let own = |name: &str| !name.starts_with("hw_") && !matches!(name, "traceparent" | "tracestate");
        self.raw.iter().filter(|(name, _)| own(name)).cloned().collect()
    }

    /// The id of the trace that it says it belongs to.
    pub fn trace(&self) -> Option<&str> {
        self.headers.get("traceparent")?.get(3..35)
    }
}

/// A record in every detail, as a foreign producer may send it.
#[derive(Clone, Debug, Default)]
pub struct RawRecord {
    /// Where to; by the key's hash when it is not said.
    pub partition: Option<i32>,
    /// The record's timestamp, milliseconds since the epoch; now when it is not said.
    pub timestamp_ms: Option<i64>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Option<Vec<u8>>,
    /// The headers, in order.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
}

impl ForeignClient {
    /// Clients of this space's broker.
    ///
    /// # Panics
    /// When they cannot be made.
    pub fn new(space: &Space) -> Self {
        // What librdkafka's own clients hash keys with.
        Self::hashing(space, "consistent_random")
    }

    /// The same with another of librdkafka's partitioners, `murmur2_random` for Java's.
    ///
    /// # Panics
    /// When they cannot be made.
    pub fn hashing(space: &Space, partitioner: &str) -> Self {
        let bootstrap = space.endpoints.kafka_bootstrap.clone();
        let producer = ClientConfig::new()
            .set("partitioner", partitioner)
            .set("bootstrap.servers", &bootstrap)
            .set("linger.ms", "5")
            .set("queue.buffering.max.messages", "200000")
            .set("message.max.bytes", "16000000")
            // The order in which records are sent is the order in which they stand.
            .set("enable.idempotence", "true")
            .create_with_context(DeliveryErrors::default())
            .expect("a producer");
        Self { bootstrap, producer }
    }

    /// Sends a record; a full queue waits.
    ///
    /// # Panics
    /// When the client refuses it.
    pub fn send(&self, topic: &str, key: Option<&str>, value: Option<&[u8]>, headers: &[(&str, &str)]) {
        loop {
            let mut record = BaseRecord::<str, [u8]>::to(topic);
            record.key = key;
            record.payload = value;
            record.headers = (!headers.is_empty()).then(|| {
                headers
                    .iter()
                    .fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value: Some(*value) }))
            });
            match self.producer.send(record) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), _)) => {
                    self.producer.flush(Duration::from_millis(100)).unwrap_or_default();
                }
                Err((error, _)) => panic!("cannot send to {topic}: {error}"),
            }
        }
    }

    /// Sends a record as it is; a full queue waits.
    ///
    /// # Panics
    /// When the client refuses it.
    pub fn send_raw(&self, topic: &str, raw: &RawRecord) {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic);
        (record.partition, record.timestamp) = (raw.partition, raw.timestamp_ms);
        (record.key, record.payload) = (raw.key.as_deref(), raw.value.as_deref());
        record.headers = (!raw.headers.is_empty()).then(|| {
            let add = |all: OwnedHeaders, (key, value): &(String, Option<Vec<u8>>)| {
                all.insert(Header { key, value: value.as_deref() })
            };
            raw.headers.iter().fold(OwnedHeaders::new(), add)
        });
        while let Err((error, refused)) = self.producer.send(record) {
            let full = matches!(error, KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull));
            assert!(full, "cannot send to {topic}: {error}");
            self.producer.flush(Duration::from_millis(100)).unwrap_or_default();
            record = refused;
        }
    }

    /// Waits until everything that was sent is acknowledged.
    ///
    /// # Panics
    /// When it is not within a minute.
    pub fn flush(&self) {
        self.producer.flush(Duration::from_mins(1)).expect("everything is acknowledged");
        let failed = std::mem::take(&mut *self.producer.context().0.lock().unwrap_or_else(PoisonError::into_inner));
        assert!(failed.is_empty(), "{} records were not delivered, the first: {}", failed.len(), failed[0]);
    }

    /// Every record that is on a topic now.
    ///
    /// # Panics
    /// When the broker does not answer within two minutes.
    pub fn read(&self, topic: &str) -> Vec<ConsumedRecord> {
        self.read_since(topic, &[])
    }

    /// Every committed record that is on a topic now, from these offsets on, a partition each; without one from the first on.
    ///
    /// # Panics
    /// When the broker does not answer within two minutes.
    pub fn read_since(&self, topic: &str, since: &[i64]) -> Vec<ConsumedRecord> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", "nobody")
            .set("enable.auto.commit", "false")
            // What transactions leave between records is no record: where the log ends is told.
            .set("enable.partition.eof", "true")
            .create()
            .expect("a consumer");
        let (mut list, mut open) = (TopicPartitionList::new(), BTreeSet::new());
        let marks = self.watermarks(topic);
        for (partition, (low, high)) in (0..).zip(&marks) {
            let since = usize::try_from(partition).ok().and_then(|at| since.get(at));
            let from = since.map_or(*low, |since| (*low).max(*since));
            if from < *high {
                open.insert(partition);
            }
            list.add_partition_offset(topic, partition, Offset::Offset(from)).expect("valid");
        }
        consumer.assign(&list).expect("assigned");
        let (mut seen, begin) = (Vec::new(), Instant::now());
        while !open.is_empty() {
            assert!(begin.elapsed() < patience(Duration::from_mins(2)), "{topic} cannot be read to its end");
            let message = match consumer.poll(Duration::from_millis(100)) {
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    open.remove(&partition);
                    continue;
                }
                // A broker that a test has frozen is awake again soon.
                Some(Err(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::AllBrokersDown | RDKafkaErrorCode::BrokerTransportFailure,
                )))
                | None => continue,
                Some(message) => message.expect("a record"),
            };
            let record = see(&message);
            // What others write meanwhile must not stand in for what is still to come of another partition.
            if usize::try_from(record.place.0).is_ok_and(|partition| record.place.1 < marks[partition].1) {
                seen.push(record);
            }
        }
        seen
    }

    /// How many records a topic has taken, those that are gone included.
    ///
    /// # Panics
    /// When the broker does not answer.
    pub fn ends(&self, topic: &str) -> i64 {
        self.watermarks(topic).iter().map(|(_, high)| high).sum()
    }

    /// The first and the next offset of each partition of a topic.
    ///
    /// # Panics
    /// When the broker does not answer.
    pub fn watermarks(&self, topic: &str) -> Vec<(i64, i64)> {
        let client = self.producer.client();
        let metadata = client.fetch_metadata(Some(topic), Duration::from_secs(10)).expect("metadata");
        let of = |partition| watermarks(|| client.fetch_watermarks(topic, partition, Duration::from_secs(10)));
        let mut ids: Vec<i32> = metadata.topics()[0].partitions().iter().map(|partition| partition.id()).collect();
        ids.sort_unstable();
        ids.into_iter().map(of).collect()
    }

    /// The offset that a group has committed in each partition of a topic; -1 where it has none.
    ///
    /// # Panics
    /// When the broker does not answer.
    pub fn committed(&self, group: &str, topic: &str, partitions: i32) -> Vec<i64> {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("group.id", group)
            .create()
            .expect("a consumer");
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions - 1);
        let committed = consumer.committed_offsets(list, Duration::from_secs(10)).expect("offsets");
        committed.elements().iter().map(|e| if let Offset::Offset(at) = e.offset() { at } else { -1 }).collect()
    }

    /// How many records of a topic a group has passed, as it has committed them.
    ///
    /// # Panics
    /// When the broker does not answer.
    pub fn passed(&self, group: &str, topic: &str) -> i64 {
        let partitions = i32::try_from(self.watermarks(topic).len()).expect("few");
        self.committed(group, topic, partitions).into_iter().map(|next| next.max(0)).sum()
    }

    /// A producer that writes transactions, which leave holes in the offsets.
    ///
    /// # Panics
    /// When it cannot be made.
    pub fn transactional(&self, id: &str) -> BaseProducer {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.bootstrap)
            .set("transactional.id", id)
            .create()
            .expect("a producer");
        producer.init_transactions(Duration::from_secs(30)).expect("transactions");
        producer
    }
}

/// A partition that has just been made has its leader a little later, and so it is once a broker was away.
fn watermarks(mut ask: impl FnMut() -> KafkaResult<(i64, i64)>) -> (i64, i64) {
    let begin = Instant::now();
    loop {
        match ask() {
            Ok(watermarks) => return watermarks,
            Err(error) if begin.elapsed() > patience(Duration::from_mins(1)) => panic!("no watermarks: {error}"),
            Err(_) => std::thread::sleep(Duration::from_millis(100)),
        }
    }
}

fn see(message: &impl Message) -> ConsumedRecord {
    let raw = message.headers().map(|headers| {
        headers.iter().map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect()
    });
    let headers = message.headers().map(|headers| {
        let text = |h: Header<'_, &[u8]>| {
            (h.key.to_owned(), String::from_utf8_lossy(h.value.unwrap_or_default()).into_owned())
        };
        headers.iter().map(text).collect()
    });
    ConsumedRecord {
        place: (message.partition(), message.offset()),
        timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
        raw: raw.unwrap_or_default(),
    }
}

/// Registers a schema and gives its id.
///
/// # Panics
/// When the registry refuses it.
pub async fn register(space: &Space, subject: &str, schema: &str) -> u32 {
    let url = format!("{}/subjects/{subject}/versions", space.endpoints.schema_registry_url);
    let answer = reqwest::Client::new().post(url).json(&json!({ "schema": schema })).send().await.expect("an answer");
    let body: Json = answer.json().await.expect("json");
    let id = body["id"].as_u64().unwrap_or_else(|| panic!("{subject} is refused: {body}"));
    u32::try_from(id).expect("an id")
}

/// Writes values of one schema in Confluent's wire format.
pub struct Payments {
    id: u32,
    schema: Schema,
}

impl Payments {
    /// A writer of `payment.completed` v1, registered under the subject that a foreign client uses for a topic.
    ///
    /// # Panics
    /// When the registry refuses the schema.
    pub async fn register(space: &Space, topic: &str) -> Self {
        Self::register_as(space, topic, include_str!("../../schemas/avro/payment.completed/v1.avsc")).await
    }

    /// The same with another schema of the same fields.
    ///
    /// # Panics
    /// When the registry refuses the schema.
    pub async fn register_as(space: &Space, topic: &str, text: &str) -> Self {
        let id = register(space, &format!("{topic}-value"), text).await;
        Self { id, schema: Schema::parse_str(text).expect("valid") }
    }

    /// The id of its schema.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// The payment of an order.
    ///
    /// # Panics
    /// When the value does not fit the schema.
    pub fn value(&self, order: &str, amount_cents: i64, email: Option<&str>) -> Vec<u8> {
        self.value_of("cus-1", order, amount_cents, email)
    }

    /// A customer's payment of an order.
    ///
    /// # Panics
    /// When the value does not fit the schema.
    pub fn value_of(&self, customer: &str, order: &str, amount_cents: i64, email: Option<&str>) -> Vec<u8> {
        let text = |value: &str| Value::String(value.to_owned());
        let email = email.map_or(Value::Union(0, Box::new(Value::Null)), |e| Value::Union(1, Box::new(text(e))));
        let value = Value::Record(vec![
            ("payment_id".to_owned(), text(&format!("pay-{order}"))),
            ("order_id".to_owned(), text(order)),
            ("customer_id".to_owned(), text(customer)),
            ("amount_cents".to_owned(), Value::Long(amount_cents)),
            ("currency".to_owned(), text("EUR")),
            ("email".to_owned(), email),
            ("completed_at".to_owned(), Value::TimestampMicros(1_767_225_600_000_000)),
        ]);
        encode(self.id, &self.schema, value)
    }
}

/// A value in Confluent's wire format.
///
/// # Panics
/// When it does not fit the schema.
pub fn encode(id: u32, schema: &Schema, value: Value) -> Vec<u8> {
    let mut bytes = vec![0];
    bytes.extend(id.to_be_bytes());
    let writer = GenericDatumWriter::builder(schema).build().expect("a writer");
    writer.write_value(&mut bytes, value).expect("the value fits its schema");
    bytes
}
