//! A mock cluster, and a reader that plays the engine's part.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::FutureExt as _;
use headwater::{
    Headers, TopicPartition,
    spi::{Control, Outgoing, Position, Record, Source, SourceEvent, StartFrom},
};
use headwater_connectors::kafka::{
    Assignor, ConsumerConfig, KafkaConfig, KafkaSource, Producer, ProducerConfig, SourceConfig, Start, Subscription,
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    mocking::{MockCluster, MockCoordinator},
    producer::DefaultProducerContext,
};

/// How long anything may take; far more than it does.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Broker {
    pub(crate) mock: MockCluster<'static, DefaultProducerContext>,
    pub(crate) config: KafkaConfig,
}

/// A cluster of one broker with these topics.
pub(crate) fn broker(topics: &[(&str, i32)]) -> Broker {
    brokers(1, topics)
}

/// A cluster of so many brokers, the first of which leads every partition and coordinates the group.
pub(crate) fn brokers(count: i32, topics: &[(&str, i32)]) -> Broker {
    // Shown for a test that fails; `RUST_LOG` chooses how much.
    let filter = tracing_subscriber::EnvFilter::from_default_env();
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_test_writer().try_init();
    let mock = MockCluster::new(count).unwrap();
    mock.coordinator(MockCoordinator::Group("g".to_owned()), 1).unwrap();
    for (topic, partitions) in topics {
        mock.create_topic(topic, *partitions, 1).unwrap();
        (0..*partitions).for_each(|number| mock.partition_leader(topic, number, Some(1)).unwrap());
    }
    let consumer = ConsumerConfig {
        session_timeout: Duration::from_secs(6),
        drain: Duration::from_secs(5),
        commit_interval: Duration::from_millis(10),
        ..ConsumerConfig::default()
    };
    let config = KafkaConfig { bootstrap: mock.bootstrap_servers(), consumer, ..KafkaConfig::default() };
    Broker { mock, config }
}

impl Broker {
    pub(crate) fn producer(&self) -> Producer {
        Producer::new(&self.config).unwrap()
    }

    pub(crate) fn producer_with(&self, producer: ProducerConfig) -> Producer {
        Producer::new(&KafkaConfig { producer, ..self.config.clone() }).unwrap()
    }

    /// Publishes the values `0..count` to partition 0.
    pub(crate) async fn fill(&self, topic: &str, count: usize) {
        let records: Vec<_> = (0..count).map(|n| record(topic, Some(0), &n.to_string())).collect();
        self.producer().send(&records).await.unwrap();
    }

    /// Position and note that the group has committed of partition 0.
    pub(crate) async fn committed(&self, topic: &str) -> (Option<i64>, String) {
        let (bootstrap, topic) = (self.config.bootstrap.clone(), topic.to_owned());
        let ask = move || {
            let mut client = ClientConfig::new();
            let consumer: BaseConsumer =
                client.set("bootstrap.servers", bootstrap).set("group.id", "g").create().unwrap();
            let mut list = TopicPartitionList::new();
            list.add_partition(&topic, 0);
            let list = consumer.committed_offsets(list, PATIENCE).unwrap();
            let element = list.find_partition(&topic, 0).unwrap();
            let next = if let Offset::Offset(next) = element.offset() { Some(next) } else { None };
            (next, element.metadata().to_owned())
        };
        tokio::task::spawn_blocking(ask).await.unwrap()
    }

    /// Waits until the group has committed this.
    pub(crate) async fn commits(&self, topic: &str, next: i64, note: &str) {
        let (deadline, expected) = (Instant::now() + PATIENCE, (Some(next), note.to_owned()));
        loop {
            let committed = self.committed(topic).await;
            if committed == expected {
                return;
            }
            assert!(Instant::now() < deadline, "{committed:?} is committed, not {expected:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(crate) fn join(&self, topic: &str) -> Reader {
        self.join_from(topic, Start::Earliest)
    }

    pub(crate) fn join_from(&self, topic: &str, start: Start) -> Reader {
        self.join_with(&self.config, topic, start, None)
    }

    pub(crate) fn join_with(&self, config: &KafkaConfig, topic: &str, start: Start, instance: Option<&str>) -> Reader {
        Self::join_all(config, subscription(&[topic], &[]), start, instance)
    }

    /// Joins by names and patterns.
    pub(crate) fn join_these(&self, topics: &[&str], patterns: &[&str], start: Start) -> Reader {
        Self::join_all(&self.config, subscription(topics, patterns), start, None)
    }

    fn join_all(config: &KafkaConfig, subscription: Subscription, start: Start, instance: Option<&str>) -> Reader {
        Self::join_as(config, source(subscription, start, instance))
    }

    /// Joins as a group whose offsets travel in transactions.
    pub(crate) fn join_silently(&self, topics: &[&str]) -> Reader {
        self.join_silently_from(topics, Start::Earliest)
    }

    pub(crate) fn join_silently_from(&self, topics: &[&str], start: Start) -> Reader {
        let assignor = Some(Assignor::Range);
        let source = SourceConfig { commits: false, assignor, ..source(subscription(topics, &[]), start, None) };
        Self::join_as(&self.config, source)
    }

    /// A member that nobody asks yet what there is.
    pub(crate) fn idle(&self, topic: &str) -> KafkaSource {
        KafkaSource::join(&self.config, source(subscription(&[topic], &[]), Start::Earliest, None)).unwrap()
    }

    fn join_as(config: &KafkaConfig, source: SourceConfig) -> Reader {
        let mut source = KafkaSource::join(config, source).unwrap();
        // It joins once it is asked.
        assert!(source.next(false).now_or_never().is_none());
        Reader { source, from: StartFrom::Committed, start: 0, records: Vec::new() }
    }
}

fn source(subscription: Subscription, start: Start, instance: Option<&str>) -> SourceConfig {
    let (group, instance) = ("g".to_owned(), instance.map(str::to_owned));
    SourceConfig { group, instance, subscription, start, commits: true, assignor: None, client_id: None }
}

fn subscription(topics: &[&str], patterns: &[&str]) -> Subscription {
    let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
    Subscription { topics: owned(topics), patterns: owned(patterns) }
}

pub(crate) fn record(topic: &str, partition: Option<i32>, value: &str) -> Outgoing {
    let (topic, value) = (topic.into(), Some(value.as_bytes().to_vec()));
    Outgoing { topic, partition, key: None, value, headers: Headers::default() }
}

pub(crate) fn partition(topic: &str, number: i32) -> TopicPartition {
    TopicPartition::new(topic, number)
}

/// Plays the engine: begins what is assigned, keeps what is read.
pub(crate) struct Reader {
    pub(crate) source: KafkaSource,
    /// Where assigned partitions are begun.
    pub(crate) from: StartFrom,
    /// The number of the last start.
    pub(crate) start: u64,
    pub(crate) records: Vec<Record>,
}

impl Reader {
    pub(crate) fn from(mut self, from: StartFrom) -> Self {
        self.from = from;
        self
    }

    /// The next thing within the time, records and all; nothing is answered.
    pub(crate) async fn next_within(&mut self, time: Duration) -> Option<SourceEvent> {
        tokio::time::timeout(time, self.source.next(true)).await.ok()
    }

    pub(crate) async fn next(&mut self) -> SourceEvent {
        self.next_within(PATIENCE).await.expect("nothing came from the source")
    }

    /// The next control event but `Connected(Ok)`.
    pub(crate) async fn event(&mut self) -> SourceEvent {
        loop {
            let next = tokio::time::timeout(PATIENCE, self.source.next(false)).await;
            match next.expect("no control event came from the source") {
                SourceEvent::Connected(Ok(())) => {}
                event => return event,
            }
        }
    }

    pub(crate) async fn assigned(&mut self) -> Vec<TopicPartition> {
        loop {
            match self.event().await {
                SourceEvent::Assigned(mut names) if !names.is_empty() => {
                    names.sort();
                    return names;
                }
                SourceEvent::Assigned(_) => {}
                other => panic!("assigned expected, not {other:?}"),
            }
        }
    }

    pub(crate) fn begin(&mut self, names: &[TopicPartition]) {
        for name in names {
            self.start += 1;
            let (partition, from, start) = (name.clone(), self.from, self.start);
            self.source.control(Control::Begin { partition, from, start });
        }
    }

    /// Begins whatever is assigned and reads until there are so many records.
    pub(crate) async fn read(&mut self, count: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.records.len() < count {
            assert!(Instant::now() < deadline, "{} of {count} records came", self.records.len());
            match self.next_within(Duration::from_millis(200)).await {
                Some(SourceEvent::Assigned(names)) => self.begin(&names),
                Some(SourceEvent::Records(batch)) => self.records.extend(batch.records),
                Some(SourceEvent::Failed(reason) | SourceEvent::Halted(reason)) => {
                    panic!("the source failed: {reason}")
                }
                _ => {}
            }
        }
    }

    /// Reads for so long and expects no more records.
    pub(crate) async fn read_nothing(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while let Some(left) = until.checked_duration_since(Instant::now()) {
            // One without records tells where the log ends.
            if let Some(SourceEvent::Records(batch)) = self.next_within(left).await {
                assert!(batch.records.is_empty(), "records came: {:?}", batch.records);
            }
        }
    }

    pub(crate) fn commit(&mut self, topic: &str, number: i32, next: i64) {
        self.source.control(Control::Commit(vec![Position { partition: partition(topic, number), next }]));
    }

    pub(crate) fn note(&mut self, topic: &str, note: Option<&str>) {
        self.source.control(Control::Note(vec![(partition(topic, 0), note.map(str::to_owned))]));
    }

    pub(crate) async fn close(mut self) {
        self.source.control(Control::Close);
        loop {
            match self.next().await {
                SourceEvent::Closed => return,
                SourceEvent::Failed(reason) | SourceEvent::Halted(reason) => panic!("the source failed: {reason}"),
                _ => {}
            }
        }
    }

    pub(crate) async fn failure(&mut self) -> String {
        loop {
            match self.next().await {
                SourceEvent::Failed(reason) | SourceEvent::Halted(reason) => return reason,
                SourceEvent::Assigned(names) => self.begin(&names),
                _ => {}
            }
        }
    }

    pub(crate) fn values(&self) -> Vec<String> {
        self.records
            .iter()
            .map(|r| String::from_utf8_lossy(r.value.as_deref().unwrap_or_default()).into_owned())
            .collect()
    }

    /// Topic and offset of each record, sorted.
    pub(crate) fn places(&self) -> Vec<(String, i64)> {
        let mut places: Vec<_> = self.records.iter().map(|r| (r.topic.to_string(), r.offset)).collect();
        places.sort();
        places
    }

    /// Offsets by partition, in the order of reading.
    pub(crate) fn offsets(&self) -> BTreeMap<i32, Vec<i64>> {
        let mut offsets: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        self.records.iter().for_each(|r| offsets.entry(r.partition).or_default().push(r.offset));
        offsets
    }
}
