//! A server, databases, and units of work in few words.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, OnceLock, mpsc},
    thread,
};

use apache_avro::{types::Value, writer::datum::GenericDatumWriter};
use headwater::{
    Category, Headers, Meta, Origin, Priority, Sink, Time, TopicPartition, TraceContext,
    spi::{
        BoxFuture, CommitError, CommitOutcome, Committer, OffsetRange, Position, Record, Row, RowData,
        StartFrom as Start, Unit, codec::WriterSchema,
    },
};
use headwater_connectors::postgres::{Config, Database, PostgresSink, TopicIds, migrate, reset_offsets};
use headwater_dev::{KafkaChoice, Stack, StackConfig};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::sync::watch;

pub(crate) const TOPIC: &str = "events.thing";

/// The server's url; it is started by the first test, on a thread of its own, and ends with the process.
fn server() -> &'static str {
    static URL: OnceLock<String> = OnceLock::new();
    URL.get_or_init(|| {
        let (say, hear) = mpsc::channel();
        thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let stack = kept_stack().await;
                say.send(stack.endpoints().database_url.clone()).unwrap();
                std::future::pending::<()>().await;
            });
        });
        hear.recv().expect("postgres starts; its error is above")
    })
}

/// A stack on a folder that is kept from run to run; several runs at once have one each.
async fn kept_stack() -> Stack {
    for slot in 0..16 {
        let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("connectors-postgres-{slot}"));
        match try_stack(&data).await {
            Err(error) if error.to_string().contains("another stack runs") => {}
            outcome => return outcome.unwrap(),
        }
    }
    panic!("16 runs of these tests are under way");
}

/// A stack without Kafka.
pub(crate) async fn stack(data: &Path) -> Stack {
    try_stack(data).await.unwrap()
}

async fn try_stack(data: &Path) -> anyhow::Result<Stack> {
    let mut config = StackConfig::new(data);
    // Nothing is there, and nobody asks.
    config.kafka = KafkaChoice::At("127.0.0.1:1".to_owned());
    config.for_tests = true;
    let (_keep, cancel) = watch::channel(false);
    Stack::start(config, cancel).await
}

/// A fresh database, migrated, and a connection of the test's own to look into it. It stays for a look when a test fails.
pub(crate) struct Db {
    pub(crate) url: String,
    pub(crate) database: Database,
    pub(crate) conn: PgConnection,
}

impl Db {
    /// Named after the test.
    pub(crate) async fn new(test: &str) -> Self {
        let db = Self::bare(test).await;
        migrate(&db.database).await.unwrap();
        db
    }

    /// Without Headwater's own tables.
    pub(crate) async fn bare(test: &str) -> Self {
        let name = format!("t_{test}");
        let mut admin = PgConnection::connect(server()).await.unwrap();
        sql(&mut admin, &format!("drop database if exists {name} with (force)")).await;
        sql(&mut admin, &format!("create database {name}")).await;
        let url = server().rsplit_once('/').unwrap().0.to_owned() + "/" + &name;
        let database = Config::new(&url).connect().await.unwrap();
        let mut conn = PgConnection::connect(&url).await.unwrap();
        // The server's user is called as Headwater's own schema is, which would come first.
        sql(&mut conn, "set search_path = public").await;
        Self { url, database, conn }
    }

    /// A sink of the group `things`, with partitions 0 and 1 of the topic started.
    pub(crate) async fn sink(&self, sink: Sink) -> PostgresSink {
        let mut sink = PostgresSink::new(&self.database, "things", sink).unwrap();
        sink.start(&[partition(0), partition(1)]).await.unwrap();
        sink
    }

    pub(crate) async fn sql(&mut self, text: &str) {
        sql(&mut self.conn, text).await;
    }

    /// The first column of a query, as text.
    pub(crate) async fn texts(&mut self, query: &str) -> Vec<String> {
        let query = format!("select coalesce(row_to_json(r)::text, '') from ({query}) r");
        let rows: Vec<(String,)> = sqlx::query_as(AssertSqlSafe(query)).fetch_all(&mut self.conn).await.unwrap();
        rows.into_iter().map(|(text,)| text).collect()
    }

    /// One number.
    pub(crate) async fn number(&mut self, query: &str) -> i64 {
        sqlx::query_scalar(AssertSqlSafe(query.to_owned())).fetch_one(&mut self.conn).await.unwrap()
    }

    /// The stored offset and epoch of a partition.
    pub(crate) async fn stored(&mut self, partition: i32) -> (i64, i64) {
        let query =
            "select next_offset, owner_epoch from headwater.consumer_offsets where topic = $1 and partition = $2";
        sqlx::query_as(query).bind(TOPIC).bind(partition).fetch_one(&mut self.conn).await.unwrap()
    }
}

async fn sql(conn: &mut PgConnection, text: &str) {
    sqlx::raw_sql(AssertSqlSafe(text.to_owned())).execute(conn).await.unwrap();
}

pub(crate) fn partition(number: i32) -> TopicPartition {
    TopicPartition::new(TOPIC, number)
}

/// An upsert of `thing.changed` into `things`, by `id`.
pub(crate) fn things() -> Sink {
    let mut sink: Sink = serde_json::from_str(r#"{"event":"thing.changed","table":"things","key":"id"}"#).unwrap();
    sink.mode = headwater::Mode::Upsert;
    sink
}

/// A record schema of these fields, as JSON.
pub(crate) fn schema(id: u32, fields: &str) -> Arc<WriterSchema> {
    let text = format!(r#"{{"type":"record","name":"Thing","namespace":"test","fields":[{fields}]}}"#);
    WriterSchema::parse(id, &text, &[]).unwrap()
}

/// `id` and `name`, both strings.
pub(crate) fn plain() -> Arc<WriterSchema> {
    schema(1, r#"{"name":"id","type":"string"},{"name":"name","type":"string"}"#)
}

pub(crate) fn text(text: &str) -> Value {
    Value::String(text.to_owned())
}

pub(crate) fn record<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Record(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// A thing of [`plain`].
pub(crate) fn thing(id: &str, name: &str) -> Value {
    record([("id", text(id)), ("name", text(name))])
}

/// The row of a record, its value written to Avro and read back as the engine does.
pub(crate) fn row(schema: &Arc<WriterSchema>, partition: i32, offset: i64, value: Value) -> Row {
    let writer = GenericDatumWriter::builder(schema.schema()).build().unwrap();
    let datum = writer.write_value_to_vec(value).unwrap();
    let value = schema.value(&datum).unwrap();
    Row {
        meta: Arc::new(meta(partition, offset, offset)),
        record: raw(partition, offset, None),
        ..as_is(schema, value)
    }
}

/// The row of a value that was never written: the first record of partition 0.
pub(crate) fn as_is(schema: &Arc<WriterSchema>, value: Value) -> Row {
    let data = Some(RowData { schema: Arc::clone(schema), value });
    Row { meta: Arc::new(meta(0, 0, 0)), record: raw(0, 0, None), data }
}

/// The same, with an event time in seconds.
pub(crate) fn at(seconds: i64, mut row: Row) -> Row {
    let origin = row.meta.origin.clone();
    row.meta = Arc::new(meta(origin.partition.partition, origin.offset, seconds));
    row
}

/// The same, read from the group's redrive topic: partition 0, this offset.
pub(crate) fn returned(offset: i64, mut row: Row) -> Row {
    let place = redrive();
    (row.record.topic, row.record.partition, row.record.offset) = (place.topic, place.partition, offset);
    row
}

pub(crate) fn redrive() -> TopicPartition {
    TopicPartition::new("things.redrive", 0)
}

pub(crate) fn tombstone(partition: i32, offset: i64, key: &str) -> Row {
    Row { meta: Arc::new(meta(partition, offset, offset)), record: raw(partition, offset, Some(key)), data: None }
}

fn raw(number: i32, offset: i64, key: Option<&str>) -> Record {
    Record {
        topic: partition(number).topic,
        partition: number,
        offset,
        timestamp_ms: 0,
        key: key.map(|key| key.as_bytes().to_vec()),
        value: None,
        headers: Headers::default(),
    }
}

fn meta(number: i32, offset: i64, seconds: i64) -> Meta {
    Meta {
        id: format!("event-{number}-{offset}"),
        source: "test".to_owned(),
        event_type: "thing.changed".to_owned(),
        time: Time::from_millis(seconds * 1_000),
        subject: None,
        aggregate_type: None,
        aggregate_version: None,
        category: Category::Domain,
        priority: Priority::Normal,
        data_version: None,
        correlation_id: "conversation".to_owned(),
        causation_id: (offset % 2 == 1).then(|| "cause".to_owned()),
        user_id: None,
        trace: TraceContext::derived("test", "x"),
        attempt: 0,
        origin: Origin { partition: partition(number), offset, timestamp_ms: 0 },
        extra: Headers::default(),
    }
}

/// How far a unit moves a partition.
pub(crate) fn moves(number: i32, from: i64, to: i64) -> OffsetRange {
    moves_of(partition(number), from, to)
}

/// The same of any topic.
pub(crate) fn moves_of(partition: TopicPartition, from: i64, to: i64) -> OffsetRange {
    OffsetRange { from, to: Position { partition, next: to } }
}

pub(crate) fn unit(rows: Vec<Row>, positions: Vec<OffsetRange>) -> Unit {
    Unit { rows, positions, ..Unit::default() }
}

/// A cluster whose topics all have this id.
#[derive(Debug)]
pub(crate) struct FixedTopicId(pub(crate) &'static str);

impl TopicIds for FixedTopicId {
    fn ids<'a>(&'a self, topics: &'a [&'a str]) -> BoxFuture<'a, Result<BTreeMap<String, String>, String>> {
        let ids = topics.iter().map(|topic| ((*topic).to_owned(), self.0.to_owned()));
        Box::pin(std::future::ready(Ok(ids.collect())))
    }
}

/// A sink whose units the test does not number: each goes on where the one before ended.
pub(crate) struct Writer {
    pub(crate) sink: PostgresSink,
    pub(crate) next: i64,
}

impl Writer {
    pub(crate) async fn new(db: &Db, sink: Sink) -> Self {
        Self::on(&db.database, sink).await
    }

    /// With connections of its own.
    pub(crate) async fn on(database: &Database, sink: Sink) -> Self {
        Self::started(PostgresSink::new(database, "things", sink).unwrap()).await
    }

    /// Whose topics have this id.
    pub(crate) async fn told(db: &Db, sink: Sink, id: &'static str) -> Self {
        Self::started(
            PostgresSink::new(&db.database, "things", sink).unwrap().with_topic_ids(Arc::new(FixedTopicId(id))),
        )
        .await
    }

    /// After its topic was created anew, with this id, and the group was reset to read it from the beginning.
    pub(crate) async fn anew(db: &Db, sink: Sink, id: &'static str) -> Self {
        let places = [partition(0), partition(1)].into_iter().map(|place| (place, 0)).collect();
        let ids = BTreeMap::from([(TOPIC.to_owned(), id.to_owned())]);
        reset_offsets(&db.database, "things", &places, &ids).await.unwrap();
        let places = BTreeMap::from([(redrive(), 0)]);
        let ids = BTreeMap::from([(redrive().topic.to_string(), id.to_owned())]);
        reset_offsets(&db.database, "things", &places, &ids).await.unwrap();
        Self::told(db, sink, id).await
    }

    async fn started(mut sink: PostgresSink) -> Self {
        let next = match sink.start(&[partition(0), partition(1), redrive()]).await.unwrap()[0] {
            Start::Offset(next) => next,
            _ => 0,
        };
        Self { sink, next }
    }

    pub(crate) async fn commit(&mut self, rows: Vec<Row>) -> Result<CommitOutcome, CommitError> {
        let to = self.next + 1;
        let unit =
            unit(rows, vec![moves(0, self.next, to), moves(1, self.next, to), moves_of(redrive(), self.next, to)]);
        let outcome = self.sink.commit(&unit).await;
        if outcome.is_ok() {
            self.next = to;
        }
        outcome
    }

    /// What the sink has counted: written, superseded, deleted.
    pub(crate) fn counts(&self) -> (u64, u64, u64) {
        let counts = self.sink.counts();
        (counts.written(), counts.superseded(), counts.deleted())
    }
}

/// The message of a refusal: of the unit, or of one row of it.
pub(crate) fn refusal(outcome: Result<CommitOutcome, CommitError>) -> String {
    match outcome {
        Err(CommitError::Refused(why)) => why,
        Err(CommitError::RefusedRows(rows)) if rows.len() == 1 => rows[0].why.clone(),
        other => panic!("not refused, or more than one row: {other:?}"),
    }
}

/// The places of the rows that are refused.
pub(crate) fn refused(outcome: Result<CommitOutcome, CommitError>) -> Vec<usize> {
    match outcome {
        Err(CommitError::RefusedRows(rows)) => rows.iter().map(|one| one.row).collect(),
        other => panic!("not refused: {other:?}"),
    }
}

/// The message of an outage.
pub(crate) fn outage(outcome: Result<CommitOutcome, CommitError>) -> String {
    match outcome {
        Err(CommitError::Outage(why)) => why,
        other => panic!("no outage: {other:?}"),
    }
}
