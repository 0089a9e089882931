//! Who may move an offset: its present owner alone.

mod topic_ids;

use headwater_connectors::postgres::PostgresSink;

use crate::harness::{Db, Writer, moves, partition, plain, refusal, row, schema, text, thing, things, unit};
use headwater::spi::{CommitOutcome, Committer, StartFrom as Start};
use sqlx::{Connection as _, PgConnection};

fn insert() -> headwater::Sink {
    things().insert()
}

/// Red when the first start does not say "by policy", the epoch does not count, or a second start keeps the first's.
#[tokio::test]
async fn each_start_takes_the_next_epoch_and_reads_the_offset() {
    let mut db = Db::new("epochs").await;
    let mut sink = PostgresSink::new(&db.database, "things", things()).unwrap();
    assert_eq!(sink.start(&[partition(1), partition(0)]).await.unwrap(), [Start::Policy, Start::Policy]);
    assert_eq!(db.stored(0).await, (-1, 1));
    // A start policy may begin anywhere: here at 40.
    let first = unit(vec![row(&plain(), 0, 40, thing("a", "x"))], vec![moves(0, 40, 41)]);
    assert_eq!(sink.commit(&first).await.unwrap(), CommitOutcome::Done);
    assert_eq!(sink.start(&[partition(0), partition(1)]).await.unwrap(), [Start::Offset(41), Start::Policy]);
    assert_eq!((db.stored(0).await, db.stored(1).await), ((41, 2), (-1, 2)));
    let second = unit(vec![row(&plain(), 0, 41, thing("a", "y"))], vec![moves(0, 41, 42)]);
    assert_eq!(sink.commit(&second).await.unwrap(), CommitOutcome::Done);
    let columns = db
        .texts(
            "select string_agg(column_name, ',' order by ordinal_position) c from information_schema.columns \
             where table_schema = 'headwater' and table_name = 'consumer_offsets'",
        )
        .await;
    assert_eq!(columns, [r#"{"c":"consumer_group,topic,partition,next_offset,owner_epoch,topic_id"}"#]);
}

/// Red when the epoch does not count, or rows of a fenced partition are written.
#[tokio::test]
async fn a_replaced_owner_is_fenced_and_the_rest_of_its_batch_commits() {
    let mut db = Db::new("fenced").await;
    let schema = plain();
    let mut zombie = db.sink(insert()).await;
    let batch = |from: i64| {
        let rows = vec![row(&schema, 0, from, thing("zero", "x")), row(&schema, 1, from, thing("one", "x"))];
        unit(rows, vec![moves(0, from, from + 1), moves(1, from, from + 1)])
    };
    zombie.commit(&batch(0)).await.unwrap();
    // Another takes partition 0 and goes on from the stored offset.
    let mut heir = PostgresSink::new(&db.database, "things", insert()).unwrap();
    assert_eq!(heir.start(&[partition(0)]).await.unwrap(), [Start::Offset(1)]);
    let by_heir = unit(vec![row(&schema, 0, 1, thing("heir", "x"))], vec![moves(0, 1, 2)]);
    assert_eq!(heir.commit(&by_heir).await.unwrap(), CommitOutcome::Done);
    // The zombie wakes up: partition 0 is not its own, partition 1 is.
    assert_eq!(zombie.commit(&batch(1)).await.unwrap(), CommitOutcome::Fenced(vec![partition(0)]));
    assert_eq!((db.stored(0).await, db.stored(1).await), ((2, 2), (2, 1)));
    assert_eq!(db.number("select count(*) from things").await, 4);
    assert_eq!(db.number("select count(*) from (select distinct hw_partition, hw_offset from things) d").await, 4);
    // Even at the offset that is stored it stays out.
    let at_stored = unit(vec![row(&schema, 0, 2, thing("zombie", "x"))], vec![moves(0, 2, 3)]);
    assert_eq!(zombie.commit(&at_stored).await.unwrap(), CommitOutcome::Fenced(vec![partition(0)]));
    assert_eq!(db.stored(0).await, (2, 2));
    assert_eq!(heir.commit(&at_stored).await.unwrap(), CommitOutcome::Done);
}

/// Red when a fenced sink keeps its old epoch, or cannot start a partition twice.
#[tokio::test]
async fn an_owner_that_is_fenced_but_still_assigned_goes_on_with_a_new_epoch() {
    let mut db = Db::new("still_assigned").await;
    let schema = plain();
    let mut owner = db.sink(insert()).await;
    let mut passer_by = PostgresSink::new(&db.database, "things", insert()).unwrap();
    passer_by.start(&[partition(0)]).await.unwrap();
    passer_by.forget(&[partition(0)]);
    let first = unit(vec![row(&schema, 0, 0, thing("a", "x"))], vec![moves(0, 0, 1)]);
    assert_eq!(owner.commit(&first).await.unwrap(), CommitOutcome::Fenced(vec![partition(0)]));
    assert_eq!(db.number("select count(*) from pg_tables where tablename = 'things'").await, 1);
    assert_eq!(owner.start(&[partition(0)]).await.unwrap(), [Start::Policy]);
    assert_eq!(owner.commit(&first).await.unwrap(), CommitOutcome::Done);
    assert_eq!(db.stored(0).await, (1, 3));
    assert_eq!(db.number("select count(*) from things").await, 1);
}

/// Red when the offset rows of a unit are judged before they are locked (`LOCKED` left out): who is taken over meanwhile fails
/// instead of being fenced; or when they are locked in another order than everybody's: two that meet would stand in each
/// other's way.
#[tokio::test]
async fn offset_rows_are_locked_in_one_order_and_judged_then() {
    let mut db = Db::new("offsets_locked").await;
    let schema = plain();
    let mut sink = db.sink(insert()).await;
    let mut heir = PgConnection::connect(&db.url).await.unwrap();
    let mut tx = heir.begin().await.unwrap();
    let taken = "update headwater.consumer_offsets set owner_epoch = owner_epoch + 1 where partition = 0";
    sqlx::query(taken).execute(&mut *tx).await.unwrap();
    let meanwhile = async {
        let waiting =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        while db.number(waiting).await == 0 {
            tokio::task::yield_now().await;
        }
        // It waits for the first of its rows, and so holds no other one.
        let free =
            "select count(*) from (select from headwater.consumer_offsets where partition = 1 for update nowait) f";
        assert_eq!(db.number(free).await, 1);
        tx.commit().await.unwrap();
    };
    let rows = vec![row(&schema, 1, 0, thing("one", "x")), row(&schema, 0, 0, thing("zero", "x"))];
    let both = unit(rows, vec![moves(1, 0, 1), moves(0, 0, 1)]);
    let (outcome, ()) = tokio::join!(sink.commit(&both), meanwhile);
    assert_eq!(outcome.unwrap(), CommitOutcome::Fenced(vec![partition(0)]));
    assert_eq!((db.stored(0).await, db.stored(1).await), ((-1, 2), (1, 1)));
}

/// Red when an offset that already stands at the unit's end is not recognised (fenced), or its rows are written again.
#[tokio::test]
async fn a_unit_whose_answer_was_lost_is_committed_once() {
    let mut db = Db::new("lost_answer").await;
    let schema = plain();
    let mut sink = db.sink(insert()).await;
    let rows = |from| vec![row(&schema, 0, from, thing("a", "x")), row(&schema, 1, from, thing("b", "x"))];
    for from in [0, 1] {
        let again = unit(rows(from), vec![moves(0, from, from + 1), moves(1, from, from + 1)]);
        assert_eq!(sink.commit(&again).await.unwrap(), CommitOutcome::Done);
        assert_eq!(sink.commit(&again).await.unwrap(), CommitOutcome::Done);
    }
    assert_eq!(db.number("select count(*) from things").await, 4);
    // One of its partitions has been taken over since: that one alone is fenced, and still nothing is written twice.
    let again = unit(rows(1), vec![moves(0, 1, 2), moves(1, 1, 2)]);
    PostgresSink::new(&db.database, "things", insert()).unwrap().start(&[partition(1)]).await.unwrap();
    assert_eq!(sink.commit(&again).await.unwrap(), CommitOutcome::Fenced(vec![partition(1)]));
    assert_eq!(db.number("select count(*) from things").await, 4);
    assert_eq!(sink.counts().written(), 4);
}

/// Red when the offset is committed apart from the rows, before or after them.
#[tokio::test]
async fn a_refused_row_leaves_rows_and_offset_as_they_were() {
    let mut db = Db::new("together").await;
    db.sql("create table things (id text primary key, name text check (name <> 'forbidden'))").await;
    let mut writer = Writer::new(&db, things()).await;
    let schema = plain();
    writer.commit(vec![row(&schema, 0, 0, thing("a", "x"))]).await.unwrap();
    let poisoned = vec![row(&schema, 0, 1, thing("b", "fine")), row(&schema, 1, 1, thing("c", "forbidden"))];
    let why = refusal(writer.commit(poisoned.clone()).await);
    assert!(why.contains("things_name_check") && why.contains("`things`") && why.contains("23514"), "{why}");
    assert!(!why.contains("forbidden"), "{why}");
    assert_eq!((db.stored(0).await.0, db.number("select count(*) from things").await), (1, 1));
    assert_eq!(writer.counts(), (1, 0, 0));
    // Without the row, the rest of the unit goes in.
    writer.commit(vec![poisoned[0].clone()]).await.unwrap();
    assert_eq!((db.stored(0).await.0, db.number("select count(*) from things").await), (2, 2));
    // A constraint that is checked at the end of the transaction is a row's fault as well.
    db.sql("alter table things add other text, add constraint late unique (other) deferrable initially deferred").await;
    let schema = self::schema(2, r#"{"name":"id","type":"string"},{"name":"other","type":"string"}"#);
    let twin =
        |offset, id| row(&schema, 0, offset, crate::harness::record([("id", text(id)), ("other", text("same"))]));
    assert!(refusal(writer.commit(vec![twin(5, "x"), twin(6, "y")]).await).contains("late"));
    assert_eq!(db.stored(0).await.0, 2);
}
