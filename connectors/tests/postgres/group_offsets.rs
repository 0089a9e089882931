//! Stored offsets, seen and moved from outside of their group.

use std::collections::BTreeMap;

use headwater::spi::{CommitOutcome, Committer, StartFrom as Start};
use headwater_connectors::postgres::{PostgresError, PostgresSink, reset_offsets, stored_offsets};

use crate::harness::{Db, TOPIC, moves, partition, plain, row, thing, things, unit};

/// Red when the epoch stays the same, what was not begun counts as stored, or a topic's old id stays.
#[tokio::test]
async fn a_reset_moves_the_offsets_and_fences_an_owner_that_still_runs() {
    let mut db = Db::new("reset").await;
    let schema = plain();
    let mut owner = db.sink(things().insert()).await;
    let batch = |from: i64| {
        let rows = vec![row(&schema, 0, from, thing("zero", "x")), row(&schema, 1, from, thing("one", "x"))];
        unit(rows, vec![moves(0, from, from + 1), moves(1, from, from + 1)])
    };
    owner.commit(&batch(4)).await.unwrap();
    PostgresSink::new(&db.database, "others", things()).unwrap().start(&[partition(0)]).await.unwrap();

    let id = |id: &str| BTreeMap::from([(TOPIC.to_owned(), id.to_owned())]);
    let places = BTreeMap::from([(partition(0), 2), (partition(1), 5), (partition(7), 3)]);
    reset_offsets(&db.database, "things", &places, &id("old")).await.unwrap();
    // Also where the offset stays as it was.
    assert_eq!(owner.commit(&batch(5)).await.unwrap(), CommitOutcome::Fenced(vec![partition(0), partition(1)]));
    let starts = owner.start(&[partition(0), partition(7)]).await.unwrap();
    assert_eq!(starts, [Start::Offset(2), Start::Offset(3)]);
    reset_offsets(&db.database, "things", &BTreeMap::from([(partition(0), 1)]), &id("new")).await.unwrap();

    let stored = stored_offsets(&db.database, &["things", "others", "nobody"]).await.unwrap();
    let expected = BTreeMap::from([(partition(0), 1), (partition(1), 5), (partition(7), 3)]);
    assert_eq!(stored, BTreeMap::from([("things".to_owned(), expected)]), "what was not begun yet is left out");
    let id =
        db.texts("select topic_id from headwater.consumer_offsets where consumer_group = 'things' and partition = 0");
    assert_eq!(id.await, [r#"{"topic_id":"new"}"#], "the offset belongs to the topic that there is now");
}

/// Red when a missing schema is an error for who only looks, or passes for a reset.
#[tokio::test]
async fn without_the_schema_nothing_is_stored_and_nothing_can_be_reset() {
    let db = Db::bare("no_offsets").await;
    assert_eq!(stored_offsets(&db.database, &["things"]).await.unwrap(), BTreeMap::new());
    let reset = reset_offsets(&db.database, "things", &BTreeMap::from([(partition(0), 1)]), &BTreeMap::new()).await;
    assert!(matches!(&reset, Err(PostgresError::Config(why)) if why.contains("topology apply")), "{reset:?}");
}
