//! A real broker for all checks of a run, and a member of a group on it.

use std::{
    path::Path,
    process::Command,
    sync::{OnceLock, mpsc},
    thread,
    time::Duration,
};

use headwater::spi::StartFrom;
use headwater_connectors::{
    StateTopics,
    kafka::{
        Assignor, Cluster, KafkaConfig, KafkaSource, Producer, ProducerConfig, SourceConfig, Start, Subscription,
        TopicSpec,
    },
    store::local::{LocalStore, StateConfig},
};
use headwater_dev::{KafkaChoice, PostgresChoice, Stack, StackConfig, remove_data};
use tokio::sync::{Mutex, MutexGuard, watch};

use super::{LARGEST, Topics};
use crate::harness::Reader;

/// The store that the groups keep.
pub(super) const STORE: &str = "store";

struct Server {
    bootstrap: String,
    pid: u32,
}

/// Held by who may freeze the broker, which would disturb any other.
pub(super) async fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::const_new(());
    ALONE.lock().await
}

/// Started at its first use, on a thread of its own; it ends with the process.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| {
        let (say, hear) = mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(async {
                let mut stack = stack().await;
                let kafka = stack.kafka().unwrap();
                say.send(Server { bootstrap: kafka.bootstrap(), pid: kafka.pid().unwrap() }).unwrap();
                std::future::pending::<()>().await;
            });
        });
        hear.recv().expect("kafka starts; its error is above")
    })
}

/// Kafka alone, on the first folder that no other run uses.
async fn stack() -> Stack {
    let folders = (0..8).map(|n| Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("connectors-kafka-{n}")));
    let data = folders.into_iter().find(|data| remove_data(data).is_ok()).expect("a folder of an earlier run");
    // Nothing is there, and nobody asks.
    let postgres = PostgresChoice::At("postgres://127.0.0.1:1/none".to_owned());
    let config = StackConfig { postgres, kafka: KafkaChoice::Apache, for_tests: true, ..StackConfig::new(data) };
    let (_keep, cancel) = watch::channel(false);
    Stack::start(config, cancel).await.unwrap()
}

/// The broker while it does not answer.
pub(super) struct BrokerFreeze(u32);

impl BrokerFreeze {
    pub(super) fn new() -> Self {
        let pid = server().pid;
        signal(pid, "-STOP");
        Self(pid)
    }
}

impl Drop for BrokerFreeze {
    fn drop(&mut self) {
        signal(self.0, "-CONT");
    }
}

fn signal(pid: u32, signal: &str) {
    assert!(Command::new("kill").args([signal, &pid.to_string()]).status().unwrap().success());
}

/// A member of a group that has both partitions of its input, with the topics that it owns.
pub(super) struct Member {
    pub(super) config: KafkaConfig,
    pub(super) topics: Topics,
    pub(super) reader: Option<Reader>,
    /// The state of the committer that was made last.
    pub(super) local: Option<LocalStore>,
    pub(super) frozen: Option<BrokerFreeze>,
    dir: tempfile::TempDir,
    made: u32,
}

impl Member {
    /// `commits` says whether its source commits offsets.
    pub(super) async fn new(group: &str, commits: bool) -> Self {
        let bootstrap = server().bootstrap.clone();
        let mut config = KafkaConfig { bootstrap, max_record_bytes: LARGEST, ..KafkaConfig::default() };
        config.consumer.session_timeout = Duration::from_secs(40);
        config.producer = ProducerConfig {
            delivery_timeout: Duration::from_secs(3),
            transaction_timeout: Duration::from_secs(4),
            ..ProducerConfig::default()
        };
        let topics = Topics::of(group);
        let compacted = vec![("cleanup.policy".to_owned(), "compact".to_owned())];
        let spec = |name: &str, partitions| {
            let config = if name.ends_with(".changelog") { compacted.clone() } else { Vec::new() };
            TopicSpec { name: name.to_owned(), partitions, replication: 1, config }
        };
        let changelog = headwater::spi::GroupTopics::of(group).changelog(STORE);
        let specs = [(&topics.input, 2), (&topics.output, 2), (&changelog, 2), (&topics.markers, 1)];
        let specs = specs.map(|(name, partitions)| spec(name, partitions));
        Cluster::new(&config).unwrap().apply(&specs).await.unwrap();
        let reader = Self::join(&config, &topics, commits).await;
        let dir = tempfile::tempdir().unwrap();
        Self { config, topics, reader: Some(reader), local: None, frozen: None, dir, made: 0 }
    }

    async fn join(config: &KafkaConfig, topics: &Topics, commits: bool) -> Reader {
        let source = SourceConfig {
            group: topics.group.clone(),
            instance: None,
            subscription: Subscription { topics: vec![topics.input.clone()], patterns: Vec::new() },
            start: Start::Earliest,
            commits,
            assignor: Some(Assignor::Range),
            client_id: None,
        };
        let source = KafkaSource::join(config, source).unwrap();
        let mut reader = Reader { source, from: StartFrom::Committed, start: 0, records: Vec::new() };
        // It has both partitions once it has read of both, and where it has started is committed then.
        let one = |partition| super::record(&topics.input, partition, b"input".to_vec());
        Producer::new(config).unwrap().send(&[one(0), one(1)]).await.unwrap();
        reader.read(2).await;
        reader
    }

    /// An empty disk for the next committer, and what it keeps there.
    pub(super) fn state(&mut self) -> (LocalStore, StateTopics) {
        self.made += 1;
        let dir = self.dir.path().join(self.made.to_string());
        let local = LocalStore::open(&dir, &StateConfig::default()).unwrap();
        self.local = Some(local.clone());
        let input = vec![self.topics.input.clone()];
        (local, StateTopics { stores: [STORE].into(), co_partitioned: input.clone(), inputs: input })
    }

    pub(super) fn cluster(&self) -> Cluster {
        Cluster::new(&self.config).unwrap()
    }

    pub(super) fn source(&self) -> &KafkaSource {
        &self.reader.as_ref().expect("a member").source
    }

    pub(super) async fn leave(&mut self) {
        self.reader.take().expect("a member").close().await;
    }

    /// What the stores have of each partition's key.
    pub(super) fn kept(&self) -> std::collections::BTreeMap<i32, String> {
        use headwater::spi::Stores as _;
        let local = self.local.as_ref().expect("a committer");
        let value = |number| Some((number, local.get(STORE, number, b"key").unwrap()?));
        let text =
            |(number, value): (i32, std::sync::Arc<[u8]>)| (number, String::from_utf8_lossy(&value).into_owned());
        (0..2).filter_map(value).map(text).collect()
    }
}
