//! Dead letters before a sink's transaction, and after it the news of those that have succeeded.

use std::time::Duration;

use headwater::{
    Headers,
    spi::{CommitError, CommitOutcome, Committer, Marker, Outgoing, StartFrom as Start, Unit},
};
use headwater_connectors::{
    AtLeastOnceCommitter, DeadLetteringCommitter,
    kafka::{KafkaConfig, Producer, ProducerConfig},
    postgres::PostgresSink,
};
use rdkafka::{
    ClientConfig, Message as _, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    mocking::MockCluster,
    producer::DefaultProducerContext,
};

use crate::harness::{Db, moves, outage, partition, plain, refusal, row, thing, things, unit};

const DLQ: &str = "things.dlq";
/// How long a reader waits; far more than it takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A broker that can be shut, and the topic for the dead letters of the group `things`.
pub(crate) struct DeadLetterTopic {
    broker: MockCluster<'static, DefaultProducerContext>,
}

impl DeadLetterTopic {
    pub(crate) fn new() -> Self {
        let broker = MockCluster::new(1).unwrap();
        broker.create_topic(DLQ, 1, 1).unwrap();
        Self { broker }
    }

    pub(crate) fn publisher(&self) -> AtLeastOnceCommitter {
        let producer = ProducerConfig { delivery_timeout: Duration::from_secs(2), ..ProducerConfig::default() };
        let config = KafkaConfig {
            bootstrap: self.broker.bootstrap_servers(),
            max_record_bytes: 1_000_000,
            producer,
            ..KafkaConfig::default()
        };
        AtLeastOnceCommitter::new(Producer::new(&config).unwrap())
    }

    /// The values that stand on the dead-letter topic; of a record without one its key.
    pub(crate) fn published(&self) -> Vec<String> {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", self.broker.bootstrap_servers()).set("group.id", "test");
        let consumer: BaseConsumer = config.create().unwrap();
        let (_, end) = consumer.fetch_watermarks(DLQ, 0, PATIENCE).unwrap();
        let mut from = TopicPartitionList::new();
        from.add_partition_offset(DLQ, 0, Offset::Beginning).unwrap();
        consumer.assign(&from).unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (0..end)
            .map(|_| consumer.poll(PATIENCE).unwrap().unwrap())
            .map(|record| text(record.payload().or_else(|| record.key()).unwrap()))
            .collect()
    }
}

/// The group.
struct Group {
    letters: DeadLetterTopic,
    committer: DeadLetteringCommitter<PostgresSink>,
}

impl Group {
    async fn new(db: &Db) -> Self {
        let letters = DeadLetterTopic::new();
        let sink = PostgresSink::new(&db.database, "things", things().insert()).unwrap();
        let mut committer = DeadLetteringCommitter::new(sink, letters.publisher());
        committer.start(&[partition(0), partition(1)]).await.unwrap();
        Self { letters, committer }
    }

    fn published(&self) -> Vec<String> {
        self.letters.published()
    }
}

fn letter(value: &str) -> Outgoing {
    let value = Some(value.as_bytes().to_vec());
    Outgoing { topic: DLQ.into(), partition: Some(0), key: None, value, headers: Headers::default() }
}

pub(crate) fn marker(number: i32, key: &str) -> Marker {
    let record = Outgoing { key: Some(key.as_bytes().to_vec()), value: None, ..letter("") };
    Marker { place: partition(number), record }
}

/// A row of partition 0 and one of partition 1, with the news of both.
fn both() -> Unit {
    let rows = vec![row(&plain(), 0, 0, thing("zero", "x")), row(&plain(), 1, 0, thing("one", "x"))];
    let markers = vec![marker(0, "zero has succeeded"), marker(1, "one has succeeded")];
    Unit { markers, ..unit(rows, vec![moves(0, 0, 1), moves(1, 0, 1)]) }
}

/// Red when the transaction comes before the letter, or goes on without its acknowledgement; also when one that can never
/// be published is an outage.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_letters_acknowledgement_nothing_is_committed() {
    let mut db = Db::new("unacknowledged").await;
    let mut group = Group::new(&db).await;
    assert!(group.committer.atomic());
    let poisoned = Unit { outgoing: vec![letter("poison")], ..both() };
    group.letters.broker.broker_down(-1).unwrap();
    outage(group.committer.commit(&poisoned).await);
    assert_eq!((db.stored(0).await.0, db.stored(1).await.0), (-1, -1));
    assert_eq!(db.number("select count(*) from pg_tables where tablename = 'things'").await, 0);
    group.letters.broker.broker_up(-1).unwrap();
    let large = Unit { outgoing: vec![letter(&"x".repeat(2_000_000))], ..both() };
    assert!(refusal(group.committer.commit(&large).await).contains("too large"));
    assert_eq!(db.stored(0).await.0, -1);
    assert_eq!(group.committer.commit(&poisoned).await.unwrap(), CommitOutcome::Done);
    assert_eq!(db.number("select count(*) from things").await, 2);
    let published = group.published();
    let (last, first) = (&published[published.len() - 3..], &published[..published.len() - 3]);
    assert_eq!(last, ["poison", "zero has succeeded", "one has succeeded"], "letters first");
    assert!(first.iter().all(|value| value == "poison"), "the news waits for the rows: {first:?}");
}

/// Red when a letter is sent again whenever its transaction cannot commit, with the whole unit or a part of it; or is taken
/// for sent in another unit later.
#[tokio::test(flavor = "multi_thread")]
async fn a_letter_is_sent_once_however_long_the_database_is_down() {
    let mut db = Db::new("sent_once").await;
    let mut group = Group::new(&db).await;
    let two = vec![letter("first"), letter("second")];
    db.sql("alter table headwater.consumer_offsets rename to away").await;
    for _ in 0..3 {
        outage(group.committer.commit(&Unit { outgoing: two.clone(), ..both() }).await);
    }
    outage(group.committer.commit(&Unit { outgoing: vec![letter("second"), letter("third")], ..both() }).await);
    assert_eq!(group.published(), ["first", "second", "third"]);
    db.sql("alter table headwater.away rename to consumer_offsets").await;
    let rows = Unit { outgoing: two, markers: Vec::new(), ..both() };
    assert_eq!(group.committer.commit(&rows).await.unwrap(), CommitOutcome::Done);
    assert_eq!(group.published(), ["first", "second", "third"]);
    let next = Unit { outgoing: vec![letter("second")], ..unit(vec![], vec![moves(0, 1, 2)]) };
    assert_eq!(group.committer.commit(&next).await.unwrap(), CommitOutcome::Done);
    assert_eq!(group.published(), ["first", "second", "third", "second"]);
}

/// Red when the news is sent before the rows are durable, is lost when nobody takes it, is refused for what is durable
/// already, or has the rows written again.
#[tokio::test(flavor = "multi_thread")]
async fn news_that_nobody_took_is_sent_again_and_nothing_is_written_twice() {
    let mut db = Db::new("news_again").await;
    let mut group = Group::new(&db).await;
    group.letters.broker.broker_down(-1).unwrap();
    outage(group.committer.commit(&both()).await);
    assert_eq!((db.stored(0).await.0, db.number("select count(*) from things").await), (1, 2));
    group.letters.broker.broker_up(-1).unwrap();
    assert_eq!(group.committer.commit(&both()).await.unwrap(), CommitOutcome::Done);
    assert_eq!((db.stored(0).await.0, db.number("select count(*) from things").await), (1, 2));
    assert_eq!(group.published(), ["zero has succeeded", "one has succeeded"]);
    // Refused, the engine would make a dead letter of a record whose row is there.
    let large = Unit { markers: vec![marker(0, &"x".repeat(2_000_000))], ..unit(vec![], vec![moves(0, 1, 2)]) };
    outage(group.committer.commit(&large).await);
    assert_eq!(db.stored(0).await.0, 2);
}

/// Red when the news of a partition is sent whose rows were dropped: another owner has yet to write them.
#[tokio::test(flavor = "multi_thread")]
async fn of_a_fenced_partition_there_is_no_news() {
    let mut db = Db::new("no_news").await;
    let mut group = Group::new(&db).await;
    let mut heir = PostgresSink::new(&db.database, "things", things().insert()).unwrap();
    heir.start(&[partition(1)]).await.unwrap();
    let fenced = |outcome: Result<CommitOutcome, CommitError>| match outcome {
        Ok(CommitOutcome::Fenced(places)) => places,
        other => panic!("not fenced: {other:?}"),
    };
    assert_eq!(fenced(group.committer.commit(&both()).await), [partition(1)]);
    // Tried again after it was durable, it is the same.
    assert_eq!(fenced(group.committer.commit(&both()).await), [partition(1)]);
    assert_eq!(db.texts("select id from things").await, [r#"{"id":"zero"}"#]);
    assert_eq!(group.published(), ["zero has succeeded"; 2]);
    // Forgotten partitions are forgotten by the rows' committer.
    group.committer.forget(&[partition(0)]);
    let next = Unit { markers: vec![marker(0, "more")], ..unit(vec![], vec![moves(0, 1, 2)]) };
    assert_eq!(fenced(group.committer.commit(&next).await), [partition(0)]);
    assert_eq!(group.committer.start(&[partition(0)]).await.unwrap(), [Start::Offset(1)]);
    assert_eq!(group.published().len(), 2);
}

/// A unit is refused for one of its rows and comes back in halves. Red when the letters that were acknowledged with the whole
/// are sent again with the halves, or one that was not is left out.
#[tokio::test(flavor = "multi_thread")]
async fn letters_of_a_unit_that_was_refused_are_not_sent_again_with_its_halves() {
    let mut db = Db::new("halved").await;
    db.sql("create table things (id text primary key check (id <> 'bad'), name text)").await;
    let mut group = Group::new(&db).await;
    let letter = |value: &str, offset: i64| {
        let mut headers = Headers::default();
        headers.push_text("hw_origin_offset", &offset.to_string());
        Outgoing { headers, ..letter(value) }
    };
    let (good, bad) = (row(&plain(), 0, 0, thing("good", "x")), row(&plain(), 0, 2, thing("bad", "x")));
    let of = |outgoing, rows, from, to| Unit { outgoing, ..unit(rows, vec![moves(0, from, to)]) };
    let whole = of(vec![letter("same", 1), letter("same", 3)], vec![good.clone(), bad], 0, 4);
    assert!(refusal(group.committer.commit(&whole).await).contains("refuses"));
    let first = of(vec![letter("same", 1)], vec![good], 0, 2);
    assert_eq!(group.committer.commit(&first).await.unwrap(), CommitOutcome::Done);
    let second = of(vec![letter("the row", 2), letter("same", 3)], vec![], 2, 4);
    assert_eq!(group.committer.commit(&second).await.unwrap(), CommitOutcome::Done);
    assert_eq!(group.published(), ["same", "same", "the row"]);
    assert_eq!(db.stored(0).await.0, 4);
}
