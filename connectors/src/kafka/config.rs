//! How this program speaks to Kafka: typed settings, and one explicit map for any other librdkafka property.

pub(crate) mod client_settings;
mod properties;
pub(crate) mod security;

use std::{collections::BTreeMap, fmt, time::Duration};

use rdkafka::{ClientConfig, config::RDKafkaLogLevel};
use serde::Deserialize;

use headwater::spi::HEADER_ROOM;

use self::{
    client_settings::{ClientSettings, LoginSettings},
    security::{KafkaSasl, KafkaTls, Security},
};
use super::error::KafkaError;
use crate::units::duration;

/// Bytes of one fetch at most: librdkafka's default.
const FETCH: u32 = 50 << 20;
/// Bytes of one answer at most, and of a batch that was packed with zstd once it is unpacked, which librdkafka holds to the
/// same bound: a broker gives a batch that is larger than any other limit, and whoever cannot read it stands still before it.
const RECEIVE: u32 = 512 << 20;
/// Bytes of an answer beside its records.
const FRAME: u32 = 1 << 20;
/// Records of a transaction wait for company no longer: the whole of it is handed over at once.
const LINGER: Duration = Duration::from_millis(50);

/// How to reach the cluster, and how clients behave.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KafkaConfig {
    /// `host:port` of one or more brokers, separated by commas.
    pub bootstrap: String,
    /// Bytes of the largest record that is read and passed on, to retry topics and dead letters too, from 1000 to 999000000.
    /// What is passed on may have [`HEADER_ROOM`] more. A larger record is refused before it is sent.
    pub max_record_bytes: u32,
    /// TLS, where this section is there.
    pub tls: Option<KafkaTls>,
    /// A login, where this section is there.
    pub sasl: Option<KafkaSasl>,
    /// What consumers do.
    pub consumer: ConsumerConfig,
    /// What producers do.
    pub producer: ProducerConfig,
    /// Any librdkafka property, for consumers and producers alike; wins over the typed settings.
    /// Those that the engine's guarantees rest on are refused.
    pub properties: BTreeMap<String, String>,
}

impl Default for KafkaConfig {
    fn default() -> Self {
        Self {
            bootstrap: "127.0.0.1:9092".to_owned(),
            max_record_bytes: 16 << 20,
            tls: None,
            sasl: None,
            consumer: ConsumerConfig::default(),
            producer: ProducerConfig::default(),
            properties: BTreeMap::new(),
        }
    }
}

/// Settings of consumers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ConsumerConfig {
    /// After this long without a heartbeat the group hands a member's partitions on.
    #[serde(with = "duration")]
    pub session_timeout: Duration,
    /// After this long without a poll a member is taken for stuck; the source polls on whatever the engine does.
    #[serde(with = "duration")]
    pub max_poll_interval: Duration,
    /// How long partitions that are taken away wait for what is in flight.
    #[serde(with = "duration")]
    pub drain: Duration,
    /// How often positions are told to the broker.
    #[serde(with = "duration")]
    pub commit_interval: Duration,
    /// How partitions are dealt out: `cooperative-sticky`, or `range`, which co-locates equal partition numbers.
    pub assignor: Assignor,
    /// Bytes that one consumer prefetches at most, beside one fetch.
    pub prefetch_bytes: u32,
    /// Records in one batch at most.
    pub batch_records: usize,
    /// Bytes in one batch at most, beside one record.
    pub batch_bytes: usize,
    /// Batches that wait for the engine at most.
    pub batches: usize,
    /// How long the source waits for the engine to take a batch before it pauses its partitions and polls on.
    #[serde(with = "duration")]
    pub patience: Duration,
}

impl Default for ConsumerConfig {
    fn default() -> Self {
        Self {
            session_timeout: Duration::from_secs(45),
            max_poll_interval: Duration::from_secs(300),
            drain: Duration::from_secs(20),
            commit_interval: Duration::from_millis(200),
            assignor: Assignor::CooperativeSticky,
            prefetch_bytes: 16 << 20,
            batch_records: 1_000,
            batch_bytes: 1 << 20,
            batches: 16,
            patience: Duration::from_secs(1),
        }
    }
}

/// How a group deals out partitions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Assignor {
    /// Moves few partitions, and only those stop.
    #[default]
    CooperativeSticky,
    /// Equal partition numbers of topics with equal counts go to one member.
    Range,
}

impl Assignor {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::CooperativeSticky => "cooperative-sticky",
            Self::Range => "range",
        }
    }
}

/// Settings of producers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ProducerConfig {
    /// How long a record waits for company.
    #[serde(with = "duration")]
    pub linger: Duration,
    /// Bytes of an emitted event at most, its frame included; the engine rejects a larger one. What is only passed on is
    /// bounded by `kafka.max_record_bytes`.
    pub message_max_bytes: u32,
    /// Bytes that travel together at most, beside one record. A broker refuses such a batch as a whole when it is larger
    /// than its topic's `max.message.bytes`, so keep this below the smallest of those; Kafka's default is 1048588.
    pub batch_bytes: u32,
    /// An outage shorter than this is ridden out; a record that is not acknowledged by then is an error. What a group publishes
    /// without transactions waits for three quarters of `kafka.consumer.session_timeout` at most.
    #[serde(with = "duration")]
    pub delivery_timeout: Duration,
    /// Records that wait to be acknowledged at most; who sends more waits.
    pub queue_records: u32,
    /// Bytes that wait to be acknowledged at most; who sends more waits.
    pub queue_bytes: u32,
    /// `lz4`, `zstd`, `gzip` or `none`.
    pub compression: Compression,
    /// A transaction that is not over by then is aborted, by us or by the broker; from 1 s to 15 min, which is the most
    /// that a broker grants unless told otherwise. So long does a process that dies within one hold up who reads its topics.
    #[serde(with = "duration")]
    pub transaction_timeout: Duration,
}

impl Default for ProducerConfig {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(5),
            message_max_bytes: 1_000_000,
            batch_bytes: 1_000_000,
            delivery_timeout: Duration::from_secs(150),
            queue_records: 100_000,
            queue_bytes: 64 << 20,
            compression: Compression::Lz4,
            transaction_timeout: Duration::from_secs(10),
        }
    }
}

/// How batches are compressed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Compression {
    /// Fast, and small enough.
    #[default]
    Lz4,
    /// Smaller, slower.
    Zstd,
    /// What every old client reads.
    Gzip,
    /// Not at all.
    None,
}

impl Compression {
    const fn name(self) -> &'static str {
        match self {
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::None => "none",
        }
    }
}

impl KafkaConfig {
    /// Every problem with these settings, in words that name the setting; empty when there is none.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = properties::problems(&self.properties, self.tls.is_some(), self.sasl.is_some());
        problems.extend(self.security().problems());
        let (consumer, producer) = (&self.consumer, &self.producer);
        let mut require = |holds: bool, text: &str| {
            if !holds {
                problems.push(text.to_owned());
            }
        };
        require(!self.bootstrap.trim().is_empty(), "kafka.bootstrap is empty: give host:port of a broker");
        require(
            consumer.drain < consumer.max_poll_interval,
            "kafka.consumer.drain must be shorter than kafka.consumer.max_poll_interval",
        );
        require(
            consumer.session_timeout <= consumer.max_poll_interval,
            "kafka.consumer.session_timeout must not be longer than kafka.consumer.max_poll_interval",
        );
        require(!consumer.session_timeout.is_zero(), "kafka.consumer.session_timeout must not be zero");
        require(
            consumer.batch_records > 0 && consumer.batch_bytes > 0 && consumer.batches > 0,
            "kafka.consumer.batch_records, batch_bytes and batches must be at least 1",
        );
        require(consumer.prefetch_bytes >= 1 << 10, "kafka.consumer.prefetch_bytes must be at least 1024");
        require(
            (1_000..=1_000_000_000).contains(&producer.message_max_bytes),
            "kafka.producer.message_max_bytes must be from 1000 to 1000000000",
        );
        require(
            (1_000..=999_000_000).contains(&self.max_record_bytes),
            "kafka.max_record_bytes must be from 1000 to 999000000",
        );
        require(
            producer.message_max_bytes <= self.max_record_bytes,
            "kafka.max_record_bytes must not be smaller than kafka.producer.message_max_bytes",
        );
        // A record that finds no room in an empty queue would wait for ever.
        require(
            producer.queue_bytes >= self.max_record_bytes.saturating_add(HEADER_ROOM),
            "kafka.producer.queue_bytes must be at least kafka.max_record_bytes and 64KiB",
        );
        require(
            producer.delivery_timeout > producer.linger,
            "kafka.producer.delivery_timeout must be longer than kafka.producer.linger",
        );
        require(
            (Duration::from_secs(1)..=Duration::from_secs(900)).contains(&producer.transaction_timeout),
            "kafka.producer.transaction_timeout must be from 1s to 15m",
        );
        require(producer.batch_bytes > 0, "kafka.producer.batch_bytes must be at least 1");
        require(producer.queue_records > 0, "kafka.producer.queue_records must be at least 1");
        problems
    }

    /// What is allowed and should be known, in words that name the setting: said once at each start.
    pub fn warnings(&self) -> Vec<String> {
        self.security().warnings(&self.bootstrap)
    }

    /// Settings for a consumer of `group`; with an `instance` its membership is static.
    ///
    /// # Errors
    /// When [`problems`](Self::problems) has any.
    pub(crate) fn consumer(&self, group: &str, instance: Option<&str>) -> Result<ClientSettings, KafkaError> {
        let consumer = &self.consumer;
        let largest = self.max_record_bytes.saturating_add(HEADER_ROOM);
        // A fetch that takes more than is read ahead would break that bound.
        let fetch = consumer.prefetch_bytes.min(FETCH).max(largest);
        let heartbeat = (consumer.session_timeout / 3).min(Duration::from_secs(2));
        let mut client = self.client()?;
        client
            .set("group.id", group)
            .set("partition.assignment.strategy", consumer.assignor.name())
            .set("session.timeout.ms", millis(consumer.session_timeout))
            .set("heartbeat.interval.ms", millis(heartbeat))
            .set("max.poll.interval.ms", millis(consumer.max_poll_interval))
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("enable.partition.eof", "false")
            // What was lost that way is noticed and said: see `Partition::accept`.
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            .set("fetch.queue.backoff.ms", "20")
            .set("fetch.error.backoff.ms", "200")
            // Default 500 ms. A question to the broker waits behind an idle fetch, and the one that wakes a partition
            // (`consumer/pause.rs`) must not run into its own time-out, which would cost the connection.
            .set("fetch.wait.max.ms", "200")
            // Both are raised where they are too small for the largest record.
            .set("message.max.bytes", largest.to_string())
            .set("fetch.max.bytes", fetch.to_string())
            .set("receive.message.max.bytes", fetch.saturating_add(FRAME).max(RECEIVE).to_string())
            .set("queued.max.messages.kbytes", (consumer.prefetch_bytes >> 10).to_string());
        if let Some(instance) = instance {
            client.set("group.instance.id", instance);
        }
        Ok(self.overridden(client))
    }

    /// Settings for an idempotent producer.
    ///
    /// # Errors
    /// When [`problems`](Self::problems) has any.
    pub(crate) fn producer(&self) -> Result<ClientSettings, KafkaError> {
        let producer = &self.producer;
        let mut client = self.client()?;
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("partitioner", "murmur2_random")
            .set("compression.type", producer.compression.name())
            .set("linger.ms", millis(producer.linger))
            .set("message.max.bytes", self.max_record_bytes.saturating_add(HEADER_ROOM).to_string())
            .set("batch.size", producer.batch_bytes.to_string())
            .set("message.timeout.ms", millis(producer.delivery_timeout))
            .set("queue.buffering.max.messages", producer.queue_records.to_string())
            .set("queue.buffering.max.kbytes", (producer.queue_bytes >> 10).max(1).to_string())
            // Default 30 s: so long would a record for a topic that does not exist wait to be refused.
            .set("topic.metadata.propagation.max.ms", "5000");
        Ok(self.overridden(client))
    }

    /// Settings for the producer of groups' members: what is handed to it is given up before a group that has not heard of its
    /// member since may have given its partitions away.
    ///
    /// # Errors
    /// When [`problems`](Self::problems) has any.
    pub(crate) fn producer_of_members(&self) -> Result<ClientSettings, KafkaError> {
        let mut client = self.producer()?;
        client.set("message.timeout.ms", millis(self.delivery_of_members()));
        Ok(client)
    }

    /// How long a record of a group's member may wait to be acknowledged: see [`Lease`](super::consumer::membership::lease::Lease).
    fn delivery_of_members(&self) -> Duration {
        let (producer, session) = (&self.producer, self.consumer.session_timeout);
        producer.delivery_timeout.min(session * 3 / 4).max(producer.linger + Duration::from_millis(1))
    }

    /// Settings for a producer that leaves no gaps.
    ///
    /// # Errors
    /// When [`problems`](Self::problems) has any.
    pub(crate) fn producer_in_order(&self) -> Result<ClientSettings, KafkaError> {
        let mut client = self.producer()?;
        client
            // A record that the broker refuses takes all with it that were sent behind it …
            .set("enable.gapless.guarantee", "true")
            // … and one that is given up would be overtaken by those.
            .set("message.timeout.ms", "0");
        Ok(client)
    }

    /// Settings for a producer of transactions with this id. What a transaction cannot deliver in its own time is not
    /// delivered at all, so records wait no longer than that.
    ///
    /// # Errors
    /// When [`problems`](Self::problems) has any.
    pub(crate) fn transactional(&self, id: &str) -> Result<ClientSettings, KafkaError> {
        let timeout = self.producer.transaction_timeout;
        let mut client = self.producer()?;
        // A request that outlives its transaction helps nobody, and librdkafka refuses to wait so long for one.
        let socket =
            client.get("socket.timeout.ms").and_then(|text| text.parse().ok()).map_or(timeout, Duration::from_millis);
        client
            .set("socket.timeout.ms", millis(socket.min(timeout)))
            .set("transactional.id", id)
            .set("linger.ms", millis(self.producer.linger.min(LINGER)))
            .set("transaction.timeout.ms", millis(timeout))
            .set("message.timeout.ms", millis(self.producer.delivery_timeout.min(timeout)));
        Ok(client)
    }

    /// Settings for a reader of whole partitions that is in no group and is told where each of them ends.
    ///
    /// # Errors
    /// When [`problems`](Self::problems) has any.
    pub(crate) fn changelog_reader(&self, group: &str) -> Result<ClientSettings, KafkaError> {
        // librdkafka wants a group's name of every consumer that assigns; nothing is ever committed under it.
        let mut client = self.consumer(group, None)?;
        client
            .set("enable.partition.eof", "true")
            // A place that the log does not have is said, instead of another one being read.
            .set("auto.offset.reset", "error");
        Ok(client)
    }

    /// Settings for the admin API.
    ///
    /// # Errors
    /// When [`problems`](Self::problems) has any.
    pub(crate) fn admin(&self) -> Result<ClientSettings, KafkaError> {
        let client = self.client()?;
        Ok(self.overridden(client))
    }

    fn client(&self) -> Result<ClientSettings, KafkaError> {
        let problems = self.problems();
        if !problems.is_empty() {
            return Err(KafkaError::Config(problems.join("; ")));
        }
        let mut client = ClientConfig::new();
        client
            .set_log_level(RDKafkaLogLevel::Info)
            .set("bootstrap.servers", self.bootstrap.trim())
            .set("client.id", "headwater")
            .set("allow.auto.create.topics", "false")
            .set("topic.metadata.refresh.interval.ms", "5000")
            // Default 60 s: so long would a silent broker hold up a rebalance or a look-up.
            .set("socket.timeout.ms", "20000")
            .set("reconnect.backoff.max.ms", "2000")
            .set("socket.connection.setup.timeout.ms", "10000");
        self.security().apply(&mut client).map_err(KafkaError::Config)?;
        Ok(ClientSettings::new(client, self.login()))
    }

    /// The login, where it may change while clients live.
    pub(crate) fn login(&self) -> Option<LoginSettings> {
        let sasl = self.sasl.as_ref().filter(|sasl| sasl.changes())?;
        Some(LoginSettings { sasl: sasl.clone(), ca: self.tls.as_ref().and_then(|tls| tls.ca.clone()) })
    }

    fn security(&self) -> Security<'_> {
        Security { tls: self.tls.as_ref(), sasl: self.sasl.as_ref() }
    }

    fn overridden(&self, mut client: ClientSettings) -> ClientSettings {
        for (name, value) in &self.properties {
            client.set(name, value);
        }
        client
    }
}

fn millis(duration: Duration) -> String {
    duration.as_millis().max(1).to_string()
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown: BTreeMap<&str, &str> = self
            .properties
            .iter()
            .map(|(name, value)| (name.as_str(), if properties::is_secret(name) { "***" } else { value.as_str() }))
            .collect();
        f.debug_struct("KafkaConfig")
            .field("bootstrap", &self.bootstrap)
            .field("max_record_bytes", &self.max_record_bytes)
            .field("tls", &self.tls)
            .field("sasl", &self.sasl)
            .field("consumer", &self.consumer)
            .field("producer", &self.producer)
            .field("properties", &shown)
            .finish()
    }
}

#[cfg(test)]
mod tests;
