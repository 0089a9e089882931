//! What is no row's fault, such as a revoked grant or a full disk, and servers that go away.

use std::{task::Poll, time::Duration};

use crate::harness::{Db, Writer, outage, partition, plain, row, stack, thing, things};
use headwater::spi::{CommitError, CommitOutcome, Committer};
use headwater_connectors::postgres::{Config, PostgresError, PostgresSink, migrate};
use sqlx::{Connection, PgConnection};

/// Red when a connection's end is taken for the row's fault.
#[tokio::test]
async fn a_sink_goes_on_when_its_connections_were_cut() {
    let mut db = Db::new("cut_connections").await;
    let mut writer = Writer::new(&db, things()).await;
    let schema = plain();
    writer.commit(vec![row(&schema, 0, 0, thing("a", "x"))]).await.unwrap();
    // Held by a lock in the middle of its transaction, the sink is cut off.
    let mut holder = PgConnection::connect(&db.url).await.unwrap();
    let mut lock = holder.begin().await.unwrap();
    sqlx::query("select * from things for update").fetch_all(&mut *lock).await.unwrap();
    let again = vec![row(&schema, 0, 1, thing("a", "y"))];
    let cut = async {
        let waiting = "select count(*) from (select pg_terminate_backend(pid) from pg_stat_activity \
                       where datname = current_database() and wait_event_type = 'Lock') t";
        while db.number(waiting).await == 0 {
            tokio::task::yield_now().await;
        }
    };
    let (outcome, ()) = tokio::join!(writer.commit(again.clone()), cut);
    outage(outcome);
    lock.rollback().await.unwrap();
    assert_eq!(db.stored(0).await.0, 1);
    assert_eq!(writer.commit(again).await.unwrap(), CommitOutcome::Done);
    assert_eq!(db.texts("select name from things").await, [r#"{"name":"y"}"#]);
}

/// Red when a server that is down is anything but an outage, or the sink does not find it again.
#[tokio::test]
async fn a_stopped_server_is_an_outage_until_it_is_back() {
    let folder = tempfile::tempdir().unwrap();
    let mut stack = stack(folder.path()).await;
    let url = stack.endpoints().database_url.clone();
    let config = Config { connect_timeout: Duration::from_secs(2), ..Config::new(url) };
    let database = config.connect().await.unwrap();
    migrate(&database).await.unwrap();
    let mut sink = PostgresSink::new(&database, "things", things()).unwrap();
    sink.start(&[partition(0)]).await.unwrap();
    stack.postgres().unwrap().stop().await.unwrap();
    let unit = crate::harness::unit(vec![row(&plain(), 0, 0, thing("a", "x"))], vec![crate::harness::moves(0, 0, 1)]);
    outage(sink.commit(&unit).await);
    assert!(matches!(sink.start(&[partition(0)]).await, Err(CommitError::Outage(_))));
    assert!(matches!(database.ping().await, Err(PostgresError::Outage(_))));
    // A program may start while its database is down.
    assert!(config.build().is_ok());
    stack.postgres().unwrap().start().await.unwrap();
    assert_eq!(sink.commit(&unit).await.unwrap(), CommitOutcome::Done);
    database.ping().await.unwrap();
    stack.stop().await.unwrap();
    headwater_dev::remove_data(folder.path()).unwrap();
}

/// Red when classes other than 22 and 23 count as the row's fault, or a changed table is never looked at again.
#[tokio::test]
async fn a_changed_table_or_a_missing_right_is_no_poison() {
    let mut db = Db::new("no_poison").await;
    let mut sink = things();
    sink.evolve = false;
    let mut writer = Writer::new(&db, sink).await;
    let schema = plain();
    writer.commit(vec![row(&schema, 0, 0, thing("a", "x"))]).await.unwrap();
    db.sql("alter table things drop column name").await;
    let next = || vec![row(&schema, 0, 1, thing("a", "y"))];
    outage(writer.commit(next()).await);
    let why = outage(writer.commit(next()).await);
    assert!(why.contains(r#"alter table "public"."things" add column "name" text"#), "{why}");
    db.sql("alter table things add column name text").await;
    writer.commit(next()).await.unwrap();
    db.sql("drop table things").await;
    outage(writer.commit(vec![row(&schema, 0, 2, thing("a", "y"))]).await);
    writer.commit(vec![row(&schema, 0, 2, thing("a", "z"))]).await.unwrap();
    assert_eq!(db.texts("select name from things").await, [r#"{"name":"z"}"#]);
    db.sql("alter table headwater.consumer_offsets rename to gone").await;
    let why = outage(writer.commit(vec![row(&schema, 0, 3, thing("a", "z"))]).await);
    assert!(why.contains("headwater topology apply"), "{why}");
    db.sql("alter table headwater.gone rename to consumer_offsets").await;
    db.sql("alter database t_no_poison set default_transaction_read_only = on").await;
    // Only new connections see that.
    let db = Config::new(&db.url).connect().await.unwrap();
    let mut sink = PostgresSink::new(&db, "things", things()).unwrap();
    assert!(matches!(sink.start(&[partition(0)]).await, Err(CommitError::Outage(why)) if why.contains("primary")));
}

/// A unit is given up wherever it waits for the server's answer. Red when its connection goes back to the pool: sqlx does not
/// know of a transaction whose beginning it has not heard of, and it stays open.
#[tokio::test]
async fn a_unit_that_is_given_up_leaves_no_transaction_open() {
    let mut db = Db::new("given_up").await;
    let database = Config { max_connections: 1, ..Config::new(&db.url) }.connect().await.unwrap();
    let mut writer = Writer::on(&database, things()).await;
    let schema = plain();
    writer.commit(vec![row(&schema, 0, 0, thing("a", "x"))]).await.unwrap();
    let open =
        "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in trans%'";
    // A server that answers at once lets a unit pass without waiting: one of them waits in more than three places.
    let (mut waited, mut stored) = (0, 1);
    while waited <= 3 {
        assert!(stored <= 100, "no unit waits in more than {waited} places");
        for answers in 0.. {
            let mut left = answers;
            let mut commit = Box::pin(writer.commit(vec![row(&schema, 0, stored, thing("b", "x"))]));
            let done = std::future::poll_fn(|context| {
                if left == 0 {
                    return Poll::Ready(false);
                }
                left -= 1;
                commit.as_mut().poll(context).map(|outcome| outcome.unwrap() == CommitOutcome::Done)
            });
            let done = done.await;
            drop(commit);
            let ended = async {
                while db.number(open).await > 0 {
                    tokio::task::yield_now().await;
                }
            };
            let ended = tokio::time::timeout(Duration::from_secs(10), ended).await;
            ended.unwrap_or_else(|_| panic!("open after {answers}"));
            if done {
                waited = answers;
                break;
            }
        }
        stored += 1;
    }
    assert_eq!(db.number("select count(*) from things").await, 2);
}

/// A trigger of the user's writes to a table without a schema. Red when the search path is the server's: the schema that is
/// called as the user would come first.
#[tokio::test]
async fn a_table_without_a_schema_is_in_public() {
    let mut db = Db::new("search_path").await;
    PostgresSink::apply_table(&db.database, &things(), &plain()).await.unwrap();
    db.sql(
        "create table headwater.audit (id text); create table public.audit (id text); \
         create function audit() returns trigger language plpgsql as $$ begin \
         insert into audit values (new.id); return new; end $$; \
         create trigger audit after insert on things for each row execute function audit()",
    )
    .await;
    let mut writer = Writer::new(&db, things()).await;
    writer.commit(vec![row(&plain(), 0, 0, thing("a", "x"))]).await.unwrap();
    assert_eq!(db.number("select count(*) from public.audit").await, 1);
}

/// Red when class 40 is an outage at once, or the row's fault.
#[tokio::test]
async fn a_deadlock_is_repeated_at_once() {
    let mut db = Db::new("deadlock").await;
    let mut writer = Writer::new(&db, things()).await;
    let schema = plain();
    let both = |offset: i64, name| {
        vec![row(&schema, 0, offset, thing("a", name)), row(&schema, 0, offset + 1, thing("b", name))]
    };
    writer.commit(both(0, "x")).await.unwrap();
    // Another locks `b`, then wants `a`, and is the more patient of the two.
    let mut other = PgConnection::connect(&db.url).await.unwrap();
    sqlx::query("set deadlock_timeout = '60s'").execute(&mut other).await.unwrap();
    let mut tx = other.begin().await.unwrap();
    sqlx::query("update things set name = 'other' where id = 'b'").execute(&mut *tx).await.unwrap();
    let crossing = async {
        let waiting =
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'";
        while db.number(waiting).await == 0 {
            tokio::task::yield_now().await;
        }
        sqlx::query("update things set name = 'other' where id = 'a'").execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    };
    let (outcome, ()) = tokio::join!(writer.commit(both(2, "y")), crossing);
    assert_eq!(outcome.unwrap(), CommitOutcome::Done);
    assert_eq!(db.number("select count(*) from things where name = 'y'").await, 2);
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    while db.number(deadlocks).await == 0 {
        tokio::task::yield_now().await;
    }
}

/// A user with no more rights than a sink needs once its table is there, and a sink of this user's.
async fn modest(db: &mut Db, user: &str) -> Writer {
    PostgresSink::apply_table(&db.database, &things(), &plain()).await.unwrap();
    db.sql(&format!(
        "do $$ begin create role {user} login; exception when duplicate_object then null; end $$; \
         alter role {user} reset all; grant usage on schema headwater, public to {user}; \
         grant select, insert, update on headwater.consumer_offsets, things to {user}"
    ))
    .await;
    let database = Config::new(db.url.replace("headwater@", &format!("{user}@"))).connect().await.unwrap();
    Writer::on(&database, things()).await
}

/// Red when what is broken counts as the row's fault, commits a part, is not said with what helps, or is remembered once
/// it is mended. A full disk is what a trigger says, as the server would.
#[tokio::test]
async fn what_is_no_rows_fault_waits_until_it_is_mended() {
    let mut db = Db::new("mended").await;
    let mut writer = modest(&mut db, "t_mended").await;
    let full = "create function full_disk() returns trigger language plpgsql as $$ begin \
                raise exception 'could not extend file: No space left on device' using errcode = '53100'; end $$; \
                create trigger full_disk before insert on things for each row execute function full_disk()";
    let cut = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 't_mended'";
    let read_only = format!("alter role t_mended set default_transaction_read_only = on; {cut}");
    let cases = [
        ("revoke insert on things from t_mended", "grant insert on things to t_mended", "(42501); grant the right"),
        (
            "revoke update on headwater.consumer_offsets from t_mended",
            "grant update on headwater.consumer_offsets to t_mended",
            "(42501); grant the right",
        ),
        (full, "drop function full_disk cascade", "(53100); free disk space"),
        (
            &read_only,
            "alter role t_mended reset all",
            "(25006); the server is a read-only replica: point the url at the primary",
        ),
        ("alter table things drop column name", "alter table things add column name text", "add column \"name\" text"),
        (
            "alter table things rename to gone",
            "alter table gone rename to things",
            "create table \"public\".\"things\"",
        ),
    ];
    for (offset, (broken, mended, remedy)) in (0..).zip(cases) {
        let rows = || vec![row(&plain(), 0, offset, thing("a", &offset.to_string()))];
        db.sql(broken).await;
        // A dropped column is first found missing by the statement, and then looked at.
        let whys = [outage(writer.commit(rows()).await), outage(writer.commit(rows()).await)];
        assert!(whys[1].contains(remedy), "{broken}: {whys:?}");
        let committed = "select count(*) from headwater.consumer_offsets where next_offset > ";
        assert_eq!(db.number(&format!("{committed} {offset}")).await, 0, "{broken}");
        db.sql(mended).await;
        assert_eq!(writer.commit(rows()).await.unwrap(), CommitOutcome::Done, "{mended}");
        assert_eq!(db.texts("select hw_offset from things").await, [format!(r#"{{"hw_offset":{offset}}}"#)]);
    }
}

/// Red when class 40 is not repeated at once, more often than thrice, or in the end anything but an outage.
#[tokio::test]
async fn what_the_server_asks_to_repeat_is_repeated_and_then_waits() {
    let mut db = Db::new("repeats").await;
    let mut writer = Writer::new(&db, things()).await;
    db.sql(
        "create table things (id text primary key, name text); create sequence tries; \
         create function again() returns trigger language plpgsql as $$ begin \
         if nextval('tries') <= tg_argv[0]::int then raise exception 'once more' using errcode = '40001'; end if; \
         return new; end $$; \
         create trigger again before insert on things for each row execute function again(2)",
    )
    .await;
    assert_eq!(writer.commit(vec![row(&plain(), 0, 0, thing("a", "x"))]).await.unwrap(), CommitOutcome::Done);
    db.sql(
        "select setval('tries', 1, false); drop trigger again on things; \
         create trigger again before insert on things for each row execute function again(3)",
    )
    .await;
    let next = || vec![row(&plain(), 0, 1, thing("b", "x"))];
    let why = outage(writer.commit(next()).await);
    assert!(why.contains("40001"), "{why}");
    assert_eq!((db.number("select last_value from tries").await, db.stored(0).await.0), (3, 1));
    assert_eq!(writer.commit(next()).await.unwrap(), CommitOutcome::Done);
}

/// Red when the configuration derives `Debug`.
#[test]
fn the_url_is_not_printed() {
    let shown = format!("{:?}", Config::new("postgres://user:hunter2@localhost/db"));
    assert!(!shown.contains("hunter2") && shown.contains("***"), "{shown}");
}

/// Red when a bad url is found only at the first commit, or repeated in the message.
#[tokio::test]
async fn a_url_that_is_none_is_refused() {
    let refused = |url: &str| Config::new(url).build().expect_err("refused").to_string();
    for url in ["hunter2 is no url", "postgres://user:hunter2@host:port/db"] {
        let why = refused(url);
        assert!(why.contains("url") && !why.contains("hunter2"), "{why}");
    }
}
