//! The whole stack: started, stopped, started again, cancelled and killed, with nothing left behind.
#![allow(clippy::unwrap_used, reason = "a test reports by panicking, also from its helpers")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use headwater_dev::{Stack, StackConfig, remove_data, remove_endpoints, write_endpoints};
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use sqlx::{Connection, PgConnection};
use tokio::sync::watch;

/// A data folder that goes with the test, also with what lies outside of it.
struct DataFolder(tempfile::TempDir);

impl DataFolder {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn config(&self) -> StackConfig {
        StackConfig { for_tests: true, ..StackConfig::new(self.0.path()) }
    }
}

impl Drop for DataFolder {
    fn drop(&mut self) {
        eventually_gone(self.0.path());
        let _ = remove_data(self.0.path());
    }
}

async fn start(config: StackConfig) -> anyhow::Result<Stack> {
    // Our HTTP client wants a library of ciphers although no TLS is spoken.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let (_keep, cancel) = watch::channel(false);
    Stack::start(config, cancel).await
}

/// Command lines that name the data folder, or the folder that stands in for it: everything a stack on it started.
fn processes_of(data: &Path) -> Vec<String> {
    let mut marks = vec![data.display().to_string()];
    marks.extend(std::fs::read_to_string(data.join("postgres.path")));
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let numbered = entries
        .filter(|entry| entry.file_name().to_string_lossy().parse().is_ok_and(|pid: u32| pid != std::process::id()));
    let lines = numbered.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    let lines = lines.map(|line| String::from_utf8_lossy(&line).replace('\0', " "));
    lines.filter(|line| marks.iter().any(|mark| line.contains(mark.as_str()))).collect()
}

#[track_caller]
fn eventually_gone(data: &Path) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !processes_of(data).is_empty() {
        assert!(Instant::now() < deadline, "still there: {:#?}", processes_of(data));
        std::thread::sleep(Duration::from_millis(50));
    }
}

async fn topics(bootstrap: &str) -> Vec<String> {
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    let fetch = move || consumer.fetch_metadata(None, Duration::from_secs(20)).unwrap();
    let metadata = tokio::task::spawn_blocking(fetch).await.unwrap();
    metadata.topics().iter().map(|topic| topic.name().to_owned()).collect()
}

async fn create_topic(bootstrap: &str, name: &str) {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", bootstrap).create().unwrap();
    let topic = NewTopic::new(name, 3, TopicReplication::Fixed(1));
    let results = admin.create_topics([&topic], &AdminOptions::new()).await.unwrap();
    assert!(results.iter().all(Result::is_ok), "{results:?}");
}

async fn sql(url: &str, statement: &'static str) -> i64 {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let rows = sqlx::query(statement).fetch_all(&mut connection).await.unwrap();
    connection.close().await.unwrap();
    i64::try_from(rows.len()).unwrap()
}

/// Red when the storage is formatted anew, the cluster is made anew, ports are not remembered, or `stop` leaves a child.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_start_keeps_ports_topics_tables_and_ids() {
    let data = DataFolder::new();
    let path = data.0.path();
    let stack = start(data.config()).await.unwrap();
    let first = stack.endpoints().clone();
    let in_use = start(data.config()).await.unwrap_err().to_string();
    assert!(in_use.contains("another stack runs on"), "{in_use}");
    write_endpoints(path, &first.pairs()).unwrap();
    create_topic(&first.kafka_bootstrap, "kept").await;
    sql(&first.database_url, "create table kept as select 1 as one").await;
    let schema = serde_json::json!({ "schema": "\"string\"" });
    let versions = format!("{}/subjects/kept/versions", first.schema_registry_url);
    let registered = reqwest::Client::new().post(&versions).json(&schema).send().await.unwrap();
    assert_eq!(registered.text().await.unwrap(), r#"{"id":1}"#);
    stack.stop().await.unwrap();
    assert!(!path.join("endpoints.env").exists());
    eventually_gone(path);

    let mut stack = start(data.config()).await.unwrap();
    assert_eq!(stack.endpoints(), &first);
    assert!(topics(&first.kafka_bootstrap).await.contains(&"kept".to_owned()));
    assert_eq!(sql(&first.database_url, "select one from kept").await, 1);
    assert_eq!(reqwest::get(&versions).await.unwrap().text().await.unwrap(), "[1]");

    servers_come_back_after_a_kill(&mut stack).await;
    drop(stack);
    eventually_gone(path);
}

async fn servers_come_back_after_a_kill(stack: &mut Stack) {
    let endpoints = stack.endpoints().clone();
    let kafka = stack.kafka().unwrap();
    let old = kafka.pid().unwrap();
    kill(old);
    kafka.start().await.unwrap();
    assert_ne!(kafka.pid().unwrap(), old);
    assert!(topics(&endpoints.kafka_bootstrap).await.contains(&"kept".to_owned()));
    let postgres = stack.postgres().unwrap();
    kill(postgres.pid().unwrap());
    postgres.start().await.unwrap();
    assert_eq!(sql(&endpoints.database_url, "select one from kept").await, 1);
    postgres.stop().await.unwrap();
    assert_eq!(postgres.pid(), None);
    postgres.start().await.unwrap();
    assert_eq!(sql(&endpoints.database_url, "select one from kept").await, 1);
}

fn kill(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

/// Red when neither `Drop` nor the watcher ends a child, or when `initdb` works in the cluster's own folder.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_can_be_cancelled_at_any_moment_and_tried_again() {
    let data = DataFolder::new();
    for after in [0, 300, 900, 1_800, 3_000] {
        let (stop, cancel) = watch::channel(false);
        let starting = Stack::start(data.config(), cancel);
        let cancelling = async {
            tokio::time::sleep(Duration::from_millis(after)).await;
            stop.send_replace(true);
            std::future::pending::<()>().await;
        };
        tokio::select! {
            // A quick machine may be ready before the last of them.
            outcome = starting => if let Err(error) = outcome { assert_eq!(error.to_string(), "stopped while starting") },
            () = cancelling => unreachable!(),
        }
        eventually_gone(data.0.path());
    }
    let stack = start(data.config()).await.unwrap();
    assert_eq!(sql(&stack.endpoints().database_url, "select 1").await, 1);
    stack.stop().await.unwrap();
}

const HOST: &str = "HEADWATER_DEV_TEST_DATA";

/// Not a test of its own: what the next one starts as another process, in order to kill it.
#[tokio::test(flavor = "multi_thread")]
async fn hosts_a_stack_for_another_test() {
    let Some(data) = std::env::var_os(HOST).map(PathBuf::from) else { return };
    let stack = start(StackConfig { for_tests: true, ..StackConfig::new(&data) }).await.unwrap();
    write_endpoints(&data, &stack.endpoints().pairs()).unwrap();
    std::future::pending::<()>().await;
}

/// Red when the supervisor's watcher is taken away (the JVM and the postmaster then stay for ever).
#[tokio::test(flavor = "multi_thread")]
async fn nothing_outlives_an_owner_that_was_killed() {
    let data = DataFolder::new();
    let path = data.0.path();
    remove_endpoints(path).unwrap();
    let mut host = Command::new(std::env::current_exe().unwrap());
    host.args(["--exact", "hosts_a_stack_for_another_test", "--nocapture"]).env(HOST, path);
    let mut host = host.stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    let deadline = Instant::now() + Duration::from_secs(60);
    while !path.join("endpoints.env").exists() && Instant::now() < deadline && host.try_wait().unwrap().is_none() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let before = processes_of(path);
    host.kill().unwrap();
    host.wait().unwrap();
    assert!(
        ["kafka.Kafka", "bin/postgres"].iter().all(|name| before.iter().any(|line| line.contains(name))),
        "{before:?}"
    );
    // At once, while the old ones are still leaving.
    let stack = start(data.config()).await.unwrap();
    assert_eq!(sql(&stack.endpoints().database_url, "select 1").await, 1);
    stack.stop().await.unwrap();
    eventually_gone(path);
}

/// Red when the broker is told of its folder in letters that Java reads as others, or runs where it finds no such folder
/// (`LC_ALL` left as it is), or the database's server sees what is set for another one.
#[tokio::test]
async fn a_stack_starts_below_a_folder_of_any_name() {
    let elsewhere = "PGDATESTYLE";
    if std::env::var_os(elsewhere).is_none() {
        // Itself once more, where other programs need things that ours do not bear.
        let mut set = Command::new(std::env::current_exe().unwrap());
        set.args(["--exact", "a_stack_starts_below_a_folder_of_any_name"])
            .env(elsewhere, "no style")
            .env("LC_ALL", "C");
        let output = set.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let data = DataFolder::new();
    let folder = data.0.path().join("Größe my data");
    let stack = start(StackConfig { for_tests: true, ..StackConfig::new(&folder) }).await.unwrap();
    let endpoints = stack.endpoints().clone();
    create_topic(&endpoints.kafka_bootstrap, "kept").await;
    // The broker makes it a little after it has answered.
    let deadline = Instant::now() + Duration::from_secs(20);
    while !folder.join("kafka/data/kept-0").exists() {
        assert!(Instant::now() < deadline, "the topic is not below the folder");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(sql(&endpoints.database_url, "select 1::int8").await, 1);
    stack.stop().await.unwrap();
    remove_data(&folder).unwrap();
}
