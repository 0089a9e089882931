//! The sink into a file, as it is configured, on real files.

#![allow(clippy::unwrap_used, reason = "a broken premise in a test is a failed test")]

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use apache_avro::types::Value;
use headwater::{
    Category, Headers, Meta, Origin, Priority, Time, TopicPartition, TraceContext,
    spi::{
        BoxFuture, CommitError, CommitOutcome, Committer, Marker, OffsetRange, Outgoing, Position, Record, Row,
        RowData, StartFrom, Unit,
        codec::WriterSchema,
        conformance::{self, Capability, Contents, Effect, Fixture, Part},
    },
};
use headwater_connectors::{
    AtLeastOnceCommitter, DeadLetteringCommitter,
    kafka::{KafkaConfig, Producer, ProducerConfig},
    postgres::{Config, TopicIds},
    sinks::{ConfiguredSink, SinkClients, connector},
};
use serde_json::{Value as Json, json};
use tempfile::TempDir;

/// A cluster that nobody asks.
#[derive(Debug)]
struct Nobody;

impl TopicIds for Nobody {
    fn ids<'a>(&'a self, _: &'a [&'a str]) -> BoxFuture<'a, Result<BTreeMap<String, String>, String>> {
        unreachable!("a file has no offsets to hold against ids")
    }
}

/// The committer of a sink that is configured so. Its database is not there.
fn committer(file: &Path) -> Box<dyn Committer> {
    let sink: ConfiguredSink = serde_json::from_value(json!({ "event": "thing.changed", "file": file })).unwrap();
    let clients = SinkClients {
        database: Config::new("postgres://nobody@127.0.0.1:1/none").build().unwrap(),
        topic_ids: Arc::new(Nobody),
        connections: 3,
        metrics: Arc::default(),
    };
    let sink = sink.config();
    let sink = connector(sink.as_ref()).expect("a kind in the list");
    assert!(!sink.keeps_offsets());
    let mut all = sink.committers("things", &clients).unwrap();
    assert_eq!(all.len(), 1, "one appends for all partitions");
    all.remove(0)
}

/// The row of a thing, or a tombstone.
fn row(offset: i64, key: Option<&[u8]>, name: Option<&str>) -> Row {
    row_of(2, offset, key, name)
}

fn row_of(partition: i32, offset: i64, key: Option<&[u8]>, name: Option<&str>) -> Row {
    let text = r#"{"type":"record","name":"Thing","namespace":"test","fields":[{"name":"name","type":"string"}]}"#;
    let value = |name: &str| Value::Record(vec![("name".to_owned(), Value::String(name.to_owned()))]);
    let schema = WriterSchema::parse(7, text, &[]).unwrap();
    let place = TopicPartition::new("events.thing", partition);
    let meta = Meta {
        id: format!("event-{offset}"),
        source: "test".to_owned(),
        event_type: "thing.changed".to_owned(),
        time: Time::from_millis(1_767_225_600_000),
        subject: None,
        aggregate_type: None,
        aggregate_version: None,
        category: Category::Domain,
        priority: Priority::Normal,
        data_version: None,
        correlation_id: "conversation".to_owned(),
        causation_id: Some("cause".to_owned()),
        user_id: None,
        trace: TraceContext::derived("test", "x"),
        attempt: 0,
        origin: Origin { partition: place, offset, timestamp_ms: 1_767_225_600_123 },
        extra: Headers::from_iter([("shop", Some(&b"north"[..])), ("mark", Some(&[0xff, 0][..])), ("empty", None)]),
    };
    // As one that was sent back: it is read from elsewhere than where it first stood.
    let record = Record {
        topic: "things.redrive".into(),
        partition: 0,
        offset: 1,
        timestamp_ms: 0,
        key: key.map(<[u8]>::to_vec),
        value: None,
        headers: Headers::default(),
    };
    Row { meta: Arc::new(meta), record, data: name.map(|name| RowData { value: value(name), schema }) }
}

fn unit(rows: Vec<Row>) -> Unit {
    Unit { rows, ..Unit::default() }
}

fn lines(file: &Path) -> Vec<Json> {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.is_empty() || text.ends_with('\n'), "the last line has an end");
    text.lines().map(|line| serde_json::from_str(line).expect("whole JSON")).collect()
}

/// Red when something of an event is not in its line, its place is where it was read from and not where it first stood, or a
/// tombstone is no line.
#[tokio::test]
async fn a_line_holds_the_whole_event() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("things.jsonl");
    let mut committer = committer(&file);
    let places = [TopicPartition::new("events.thing", 2)];
    assert_eq!(committer.start(&places).await.unwrap(), [StartFrom::Committed]);
    assert!(!committer.atomic());
    let rows = vec![row(5, Some(b"k"), Some("two\nlines")), row(6, Some(&[0xfe]), None), row(7, None, None)];
    assert_eq!(committer.commit(&unit(rows)).await.unwrap(), CommitOutcome::Done);
    let event = |offset: i64, key: Json, schema: Json, data: Json| {
        json!({
            "id": format!("event-{offset}"), "source": "test", "type": "thing.changed", "time": "2026-01-01T00:00:00Z",
            "subject": null, "aggregate_type": null, "aggregate_version": null, "category": "domain", "priority": "normal",
            "data_version": null, "correlation_id": "conversation", "causation_id": "cause", "user_id": null,
            "traceparent": TraceContext::derived("test", "x").to_string(), "tracestate": null,
            "headers": [{"name": "shop", "value": "north"}, {"name": "mark", "value": "0xff00"},
                        {"name": "empty", "value": null}],
            "topic": "events.thing", "partition": 2, "offset": offset, "timestamp_ms": 1_767_225_600_123_i64,
            "key": key, "schema_id": schema, "data": data,
        })
    };
    let expected = [
        event(5, json!("k"), json!(7), json!({"name": "two\nlines"})),
        event(6, json!("0xfe"), Json::Null, Json::Null),
        event(7, Json::Null, Json::Null, Json::Null),
    ];
    assert_eq!(lines(&file), expected);
}

/// The folder is not there at first, and goes away later; then the file is renamed, as a log rotation does. Red when one is
/// no outage, or lines go on into the file that was renamed.
#[tokio::test]
async fn what_cannot_be_written_is_an_outage_and_passes() {
    let dir = TempDir::new().unwrap();
    let (folder, away) = (dir.path().join("folder"), dir.path().join("away"));
    let file = folder.join("things.jsonl");
    let mut committer = committer(&file);
    let outage = |why: CommitError| matches!(&why, CommitError::Outage(why) if why.contains("make its folder"));
    assert!(outage(committer.start(&[]).await.unwrap_err()));
    fs::create_dir(&folder).unwrap();
    committer.start(&[]).await.unwrap();
    committer.commit(&unit(vec![row(1, None, None)])).await.unwrap();
    fs::rename(&folder, &away).unwrap();
    let second = unit(vec![row(2, None, None)]);
    assert!(outage(committer.commit(&second).await.unwrap_err()));
    fs::rename(&away, &folder).unwrap();
    committer.commit(&second).await.unwrap();
    let rotated = folder.join("things.jsonl.1");
    fs::rename(&file, &rotated).unwrap();
    committer.commit(&unit(vec![row(3, None, None)])).await.unwrap();
    let offsets = |file: &Path| lines(file).iter().map(|line| line["offset"].as_i64().unwrap()).collect::<Vec<_>>();
    assert_eq!((offsets(&rotated), offsets(&file)), (vec![1, 2], vec![3]));
}

/// Eight committers append to one file at the same time, as processes of a group do. Red when the file is not locked while a
/// unit is written: one that looks for half a line meets another's, and cuts it.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn several_that_append_tear_no_line() {
    const UNITS: i64 = 20;
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("things.jsonl");
    let name = "x".repeat(20_000);
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..8 {
        let (mut committer, name) = (committer(&file), name.clone());
        writers.spawn(async move {
            for n in 0..UNITS {
                let offset = |at| writer * 1_000 + n * 10 + at;
                let rows = (0..10).map(|at| row(offset(at), None, Some(&name))).collect();
                committer.commit(&unit(rows)).await.unwrap();
            }
        });
    }
    writers.join_all().await;
    let mut offsets: Vec<i64> = lines(&file).iter().map(|line| line["offset"].as_i64().unwrap()).collect();
    offsets.sort_unstable();
    let all: Vec<i64> = (0..8).flat_map(|writer| (0..10 * UNITS).map(move |n| writer * 1_000 + n)).collect();
    assert_eq!(offsets, all);
}

/// A folder of its own.
struct Folder(TempDir);

impl Folder {
    fn place(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Fixture for Folder {
    const CAPABILITIES: &'static [Capability] = &[Capability::Outages];
    const MISPLACED: &'static [Part] = &[Part::Changes];

    fn topic(&self) -> &str {
        "events.thing"
    }

    async fn committer(&mut self) -> Box<dyn Committer> {
        committer(&self.place("lines/things.jsonl"))
    }

    fn effect(&self, Effect { partition, offset, text }: &Effect, unit: &mut Unit) {
        unit.rows.push(row_of(*partition, *offset, Some(text.as_bytes()), Some(text)));
    }

    async fn contents(&mut self) -> Contents {
        let mut contents = Contents::default();
        let file = self.place("lines/things.jsonl");
        for line in if file.exists() { lines(&file) } else { Vec::new() } {
            let partition = i32::try_from(line["partition"].as_i64().unwrap()).unwrap();
            contents.effects.entry(partition).or_default().push(line["data"]["name"].as_str().unwrap().to_owned());
        }
        contents
    }

    async fn cut(&mut self) {
        fs::rename(self.place("lines"), self.place("away")).unwrap();
    }

    async fn mend(&mut self) {
        fs::rename(self.place("away"), self.place("lines")).unwrap();
    }
}

/// Red when lines stand in another order than their rows, a folder that is away is no outage, or what is no row is dropped.
#[tokio::test]
async fn a_file_keeps_the_promises_of_a_committer() {
    let folder = async |_: &str| {
        let folder = Folder(TempDir::new().unwrap());
        fs::create_dir(folder.place("lines")).unwrap();
        folder
    };
    conformance::run(folder).await;
}

/// A unit comes again because its marker cannot be sent: its lines are there once. Red when it is written again each time, or
/// when the next unit is taken for it.
#[tokio::test]
async fn a_unit_whose_marker_cannot_be_sent_is_written_once() {
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("things.jsonl");
    let producer = ProducerConfig { delivery_timeout: Duration::from_secs(1), ..ProducerConfig::default() };
    let nobody = KafkaConfig { bootstrap: "127.0.0.1:1".to_owned(), producer, ..KafkaConfig::default() };
    let publisher = AtLeastOnceCommitter::new(Producer::new(&nobody).unwrap());
    let mut sink = DeadLetteringCommitter::new(committer(&file), publisher);
    let place = TopicPartition::new("events.thing", 2);
    let headers = Headers::default();
    let record = Outgoing { topic: "things.dlq".into(), partition: None, key: None, value: None, headers };
    let unit = |offset: i64, markers: Vec<Marker>| Unit {
        rows: vec![row(offset, None, Some("x"))],
        markers,
        positions: vec![OffsetRange { from: offset, to: Position { partition: place.clone(), next: offset + 1 } }],
        ..Unit::default()
    };
    let first = unit(0, vec![Marker { place: place.clone(), record }]);
    for _ in 0..2 {
        assert!(matches!(sink.commit(&first).await, Err(CommitError::Outage(_))));
    }
    assert_eq!(lines(&file).len(), 1);
    assert_eq!(sink.commit(&unit(1, Vec::new())).await.unwrap(), CommitOutcome::Done);
    assert_eq!(lines(&file).len(), 2);
}
