//! A topic that was created anew is not the one that the offsets belong to.

use std::{collections::BTreeMap, sync::Arc};

use crate::harness::{Db, TOPIC, Writer, at, moves, partition, plain, returned, row, thing, things, tombstone, unit};
use headwater::spi::{BoxFuture, CommitError, CommitOutcome, Committer, StartFrom as Start};
use headwater_connectors::postgres::{PostgresSink, TopicIds, reset_offsets};

/// What a cluster says of the topic: its id, that it has none, or nothing at all.
#[derive(Clone, Copy, Debug)]
enum TopicIdAnswer {
    Id(&'static str),
    NoTopic,
    Nothing,
}

impl TopicIds for TopicIdAnswer {
    fn ids<'a>(&'a self, topics: &'a [&'a str]) -> BoxFuture<'a, Result<BTreeMap<String, String>, String>> {
        // Asked once for each topic, however many partitions it has.
        assert_eq!(topics, [TOPIC]);
        Box::pin(std::future::ready(match self {
            Self::Id(id) => Ok(BTreeMap::from([(TOPIC.to_owned(), (*id).to_owned())])),
            Self::NoTopic => Ok(BTreeMap::new()),
            Self::Nothing => Err("the cluster is silent".to_owned()),
        }))
    }
}

fn told(db: &Db, says: TopicIdAnswer) -> PostgresSink {
    PostgresSink::new(&db.database, "things", things()).unwrap().with_topic_ids(Arc::new(says))
}

const ROWS: &str =
    "select partition, next_offset, owner_epoch, topic_id from headwater.consumer_offsets order by partition";

fn rows(of: [(i64, i64, &str); 2]) -> [String; 2] {
    let mut number = 0..;
    of.map(|(next, epoch, id)| {
        let partition: i32 = number.next().unwrap();
        format!(r#"{{"partition":{partition},"next_offset":{next},"owner_epoch":{epoch},"topic_id":{id}}}"#)
    })
}

/// Red when the id is not stored, when the same one is taken for another, when another one passes, or when the epochs are
/// taken all the same.
#[tokio::test]
async fn a_topic_with_another_id_stops_the_group_and_moves_nothing() {
    let mut db = Db::new("other_id").await;
    let both = [partition(0), partition(1)];
    let mut sink = told(&db, TopicIdAnswer::Id("first"));
    assert_eq!(sink.start(&both).await.unwrap(), [Start::Policy, Start::Policy]);
    let one = unit(vec![row(&plain(), 0, 0, thing("a", "x"))], vec![moves(0, 0, 1)]);
    assert_eq!(sink.commit(&one).await.unwrap(), CommitOutcome::Done);
    assert_eq!(sink.start(&both).await.unwrap(), [Start::Offset(1), Start::Policy]);
    let before = rows([(1, 2, r#""first""#), (-1, 2, r#""first""#)]);
    assert_eq!(db.texts(ROWS).await, before);

    match told(&db, TopicIdAnswer::Id("second")).start(&both).await {
        Err(CommitError::Fatal(why)) => {
            for word in [TOPIC, "group things", "first", "second", "created anew", "offsets reset"] {
                assert!(why.contains(word), "{word}: {why}");
            }
        }
        other => panic!("not fatal: {other:?}"),
    }
    assert_eq!(db.texts(ROWS).await, before);
    // The owner from before still has its epochs, and what the message says helps.
    let two = unit(vec![row(&plain(), 0, 1, thing("b", "x"))], vec![moves(0, 1, 2)]);
    assert_eq!(sink.commit(&two).await.unwrap(), CommitOutcome::Done);
    let places = both.iter().map(|name| (name.clone(), 0)).collect();
    let ids = BTreeMap::from([(TOPIC.to_owned(), "second".to_owned())]);
    reset_offsets(&db.database, "things", &places, &ids).await.unwrap();
    assert_eq!(
        told(&db, TopicIdAnswer::Id("second")).start(&both).await.unwrap(),
        [Start::Offset(0), Start::Offset(0)]
    );
    assert_eq!(db.texts(ROWS).await, rows([(0, 4, r#""second""#), (0, 4, r#""second""#)]));
}

/// Red when a row that has no id keeps none, or an id is overwritten by none.
#[tokio::test]
async fn an_id_that_was_not_known_is_filled_in() {
    let mut db = Db::new("no_id").await;
    let both = [partition(0), partition(1)];
    told(&db, TopicIdAnswer::NoTopic).start(&both).await.unwrap();
    assert_eq!(db.texts(ROWS).await, rows([(-1, 1, "null"), (-1, 1, "null")]));
    told(&db, TopicIdAnswer::Id("first")).start(&[partition(1)]).await.unwrap();
    assert_eq!(db.texts(ROWS).await, rows([(-1, 1, "null"), (-1, 2, r#""first""#)]));
    // A sink that is told no ids leaves the stored ones alone.
    PostgresSink::new(&db.database, "things", things()).unwrap().start(&both).await.unwrap();
    assert_eq!(db.texts(ROWS).await, rows([(-1, 2, "null"), (-1, 3, r#""first""#)]));
}

/// Red when the sink goes on without an answer, or without the topic that its offsets belong to.
#[tokio::test]
async fn without_an_answer_or_the_topic_the_group_waits() {
    let mut db = Db::new("silent_cluster").await;
    let outage = |outcome| match outcome {
        Err(CommitError::Outage(why)) => why,
        other => panic!("no outage: {other:?}"),
    };
    let why = outage(told(&db, TopicIdAnswer::Nothing).start(&[partition(0)]).await);
    assert_eq!((why.as_str(), db.texts(ROWS).await), ("the cluster is silent", Vec::new()));
    told(&db, TopicIdAnswer::Id("first")).start(&[partition(0), partition(1)]).await.unwrap();
    let before = rows([(-1, 1, r#""first""#), (-1, 1, r#""first""#)]);
    assert!(outage(told(&db, TopicIdAnswer::NoTopic).start(&[partition(0)]).await).contains(TOPIC));
    assert_eq!(db.texts(ROWS).await, before);
}

const STORED: &str = "select id, name, hw_topic_id, hw_partition, hw_offset from things order by id";

fn stored(id: &str, name: &str, topic: &str, partition: i32, offset: i64) -> String {
    format!(r#"{{"id":"{id}","name":"{name}","hw_topic_id":{topic},"hw_partition":{partition},"hw_offset":{offset}}}"#)
}

/// Red when the id is not stored or not looked at: each of these would wait for the old topic's offset, or for its time.
#[tokio::test]
async fn rows_of_a_topic_that_was_created_anew_are_newer_than_all_before() {
    let mut db = Db::new("anew").await;
    let schema = plain();
    let old = |partition, id: &str| at(900, row(&schema, partition, 50, thing(id, "old")));
    let mut first = Writer::told(&db, things().delete(), "first").await;
    first.commit(vec![old(0, "a"), old(0, "b"), old(1, "c"), old(0, "d")]).await.unwrap();
    let mut second = Writer::anew(&db, things().delete(), "second").await;
    let new = |partition, offset, id: &str, name: &str| at(10, row(&schema, partition, offset, thing(id, name)));
    // A lower offset of the partition, another partition with an earlier time, a tombstone.
    second.commit(vec![new(0, 3, "a", "new"), new(0, 4, "c", "new"), at(9, tombstone(0, 5, "d"))]).await.unwrap();
    let b = stored("b", "old", r#""first""#, 0, 50);
    let second_id = r#""second""#;
    let expected = [stored("a", "new", second_id, 0, 3), b.clone(), stored("c", "new", second_id, 0, 4)];
    assert_eq!(db.texts(STORED).await, expected);
    assert_eq!(second.counts(), (2, 0, 1));
    // Among its own rows the offset counts as ever.
    second.commit(vec![new(0, 2, "a", "late"), new(1, 1, "b", "new"), new(0, 6, "c", "newer")]).await.unwrap();
    let expected = [
        stored("a", "new", second_id, 0, 3),
        stored("b", "new", second_id, 1, 1),
        stored("c", "newer", second_id, 0, 6),
    ];
    assert_eq!(db.texts(STORED).await, expected);
}

/// Red when the table does not get the column, or a row without an id counts as of another topic than the one that is there.
#[tokio::test]
async fn a_row_from_before_the_column_counts_as_of_the_topic_that_is_there() {
    let mut db = Db::new("anew_before").await;
    let schema = plain();
    Writer::told(&db, things(), "first").await.commit(vec![row(&schema, 0, 50, thing("a", "old"))]).await.unwrap();
    // As a program left it that knew of no ids of rows.
    db.sql("alter table things drop column hw_topic_id").await;
    let mut first = Writer::told(&db, things(), "first").await;
    first.commit(vec![row(&schema, 0, 49, thing("a", "late")), row(&schema, 0, 51, thing("b", "x"))]).await.unwrap();
    let b = stored("b", "x", r#""first""#, 0, 51);
    assert_eq!(db.texts(STORED).await, [stored("a", "old", "null", 0, 50), b.clone()]);
    first.commit(vec![at(1, row(&schema, 0, 51, thing("a", "new")))]).await.unwrap();
    assert_eq!(db.texts(STORED).await, [stored("a", "new", r#""first""#, 0, 51), b]);
}

/// A record that was sent back says its place, but not of which topic. Where the group has not read as far on the one that is
/// there, it is of one before: red when it counts as of this one and its offset stands in the way of this one's, when it goes
/// over a row of this one, or when it never goes over an older row.
#[tokio::test]
async fn a_record_of_before_that_was_sent_back_is_older_than_all_of_the_topic() {
    let mut db = Db::new("anew_sent_back").await;
    let schema = plain();
    let new = |offset, id: &str, name: &str| at(10, row(&schema, 0, offset, thing(id, name)));
    let back =
        |seconds, offset, id: &str, name: &str| at(seconds, returned(offset, row(&schema, 0, offset, thing(id, name))));
    let mut first = Writer::told(&db, things().delete(), "first").await;
    first.commit(vec![row(&schema, 0, 50, thing("b", "old"))]).await.unwrap();

    let mut second = Writer::anew(&db, things().delete(), "second").await;
    second.commit(vec![new(0, "a", "new")]).await.unwrap();
    second.commit(vec![back(99, 60, "a", "old"), returned(1, tombstone(0, 61, "a"))]).await.unwrap();
    // Over an older row the later time goes.
    second.commit(vec![back(49, 51, "b", "earlier")]).await.unwrap();
    second
        .commit(vec![back(70, 60, "b", "later"), back(69, 62, "b", "earlier"), back(69, 61, "c", "old")])
        .await
        .unwrap();
    let expected = [
        stored("a", "new", r#""second""#, 0, 0),
        stored("b", "later", r#""unknown""#, 0, 60),
        stored("c", "old", r#""unknown""#, 0, 61),
    ];
    assert_eq!(db.texts(STORED).await, expected);
    // What is read from the topic itself goes over it, whatever stands first in a batch.
    second
        .commit(vec![new(1, "b", "new"), back(99, 63, "c", "old"), new(2, "c", "new"), back(99, 64, "c", "old")])
        .await
        .unwrap();
    assert_eq!(db.texts("select id, name from things where hw_topic_id = 'second' and name = 'new'").await.len(), 3);
    // Of what the group has read, the offset counts as ever.
    for _ in 0..10 {
        second.commit(vec![]).await.unwrap();
    }
    second.commit(vec![back(99, 0, "b", "lower"), back(1, 9, "c", "higher")]).await.unwrap();
    let expected = [r#"{"name":"new"}"#, r#"{"name":"higher"}"#];
    assert_eq!(db.texts("select name from things where id in ('b', 'c') order by id").await, expected);
}

/// Red when a record that was sent back is told from another by its place alone.
#[tokio::test]
async fn an_insert_sink_takes_what_was_sent_back_from_a_place_that_had_another_record() {
    let mut db = Db::new("anew_insert").await;
    let schema = plain();
    let mut first = Writer::told(&db, things().insert(), "first").await;
    first.commit(vec![row(&schema, 0, 5, thing("a", "old"))]).await.unwrap();
    let mut second = Writer::anew(&db, things().insert(), "second").await;
    let other = |name: &str| {
        let mut row = returned(0, row(&schema, 0, 5, thing("a", name)));
        Arc::make_mut(&mut row.meta).id = "another".to_owned();
        row
    };
    second.commit(vec![other("new"), returned(1, row(&schema, 0, 5, thing("a", "again")))]).await.unwrap();
    second.commit(vec![other("again")]).await.unwrap();
    let names = db.texts("select name from things order by name").await;
    assert_eq!(names, [r#"{"name":"new"}"#, r#"{"name":"old"}"#]);
}
