//! A topic that was created anew is not the one that the offsets belong to: PITFALLS 32.

use std::{collections::BTreeMap, sync::Arc};

use crate::harness::{Db, TOPIC, moves, partition, plain, row, thing, things, unit};
use headwater::{
    CommitError, Committed,
    ports::{BoxFuture, Committer, From as Start},
};
use headwater_connectors::postgres::{PostgresSink, TopicIds};

/// What a cluster says of the topic: its id, that it has none, or nothing at all.
#[derive(Clone, Copy, Debug)]
enum Says {
    Id(&'static str),
    NoTopic,
    Nothing,
}

impl TopicIds for Says {
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

fn told(db: &Db, says: Says) -> PostgresSink {
    db.database.sink("things", things()).unwrap().with_topic_ids(Arc::new(says))
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
    let mut sink = told(&db, Says::Id("first"));
    assert_eq!(sink.start(&both).await.unwrap(), [Start::Policy, Start::Policy]);
    let one = unit(vec![row(&plain(), 0, 0, thing("a", "x"))], vec![moves(0, 0, 1)]);
    assert_eq!(sink.commit(&one).await.unwrap(), Committed::Done);
    assert_eq!(sink.start(&both).await.unwrap(), [Start::Offset(1), Start::Policy]);
    let before = rows([(1, 2, r#""first""#), (-1, 2, r#""first""#)]);
    assert_eq!(db.texts(ROWS).await, before);

    match told(&db, Says::Id("second")).start(&both).await {
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
    assert_eq!(sink.commit(&two).await.unwrap(), Committed::Done);
    let places = both.iter().map(|name| (name.clone(), 0)).collect();
    let ids = BTreeMap::from([(TOPIC.to_owned(), "second".to_owned())]);
    db.database.reset_offsets("things", &places, &ids).await.unwrap();
    assert_eq!(told(&db, Says::Id("second")).start(&both).await.unwrap(), [Start::Offset(0), Start::Offset(0)]);
    assert_eq!(db.texts(ROWS).await, rows([(0, 4, r#""second""#), (0, 4, r#""second""#)]));
}

/// Red when a row that has no id keeps none, or an id is overwritten by none.
#[tokio::test]
async fn an_id_that_was_not_known_is_filled_in() {
    let mut db = Db::new("no_id").await;
    let both = [partition(0), partition(1)];
    told(&db, Says::NoTopic).start(&both).await.unwrap();
    assert_eq!(db.texts(ROWS).await, rows([(-1, 1, "null"), (-1, 1, "null")]));
    told(&db, Says::Id("first")).start(&[partition(1)]).await.unwrap();
    assert_eq!(db.texts(ROWS).await, rows([(-1, 1, "null"), (-1, 2, r#""first""#)]));
    // A sink that is told no ids leaves the stored ones alone.
    db.database.sink("things", things()).unwrap().start(&both).await.unwrap();
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
    let why = outage(told(&db, Says::Nothing).start(&[partition(0)]).await);
    assert_eq!((why.as_str(), db.texts(ROWS).await), ("the cluster is silent", Vec::new()));
    told(&db, Says::Id("first")).start(&[partition(0), partition(1)]).await.unwrap();
    let before = rows([(-1, 1, r#""first""#), (-1, 1, r#""first""#)]);
    assert!(outage(told(&db, Says::NoTopic).start(&[partition(0)]).await).contains(TOPIC));
    assert_eq!(db.texts(ROWS).await, before);
}
