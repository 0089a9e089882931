//! Behind PgBouncer in transaction mode, where a connection to the server is a client's for one transaction.

use std::{collections::BTreeSet, path::Path, time::Duration};

use headwater::{
    Sink, TopicPartition,
    spi::{CommitOutcome, Committer as _, OffsetRange, Position, StartFrom, Unit},
};
use headwater_connectors::postgres::{Config, Database, PostgresSink, migrate, pending_migrations};
use headwater_schemas::PaymentCompleted;
use headwater_tests::{ForeignClient, Payments, Process, Space, eventually};

use super::{env, secured, space, sql};
use crate::PROGRAM;

const SOON: Duration = Duration::from_mins(1);
/// Payments that are sent between two kills.
const BATCH: i64 = 200;

/// The database of a space behind the pooler.
async fn pooled(space: &Space) -> Database {
    let config = Config { pooler: true, ..Config::new(secured().pooler_url(&space.name)) };
    config.connect().await.expect("let in")
}

/// A space with sinks of payments on a topic of its own, and what a process needs to reach its database through the pooler.
async fn sinks(name: &str) -> (Space, String, Vec<(String, String)>) {
    let space = space(name).await;
    let topic = space.topic("paid");
    space.create_topics(&[&topic], 4).await;
    let config = format!(
        "[topics.\"{topic}\"]\ntype = \"till.paid\"\n\
         [sinks.log]\nevent = \"till.paid\"\ntable = \"log\"\nmode = \"insert\"\n\
         [sinks.state]\nevent = \"till.paid\"\ntable = \"state\"\nkey = \"order_id\"\n\
         [defaults]\nbatch_records = 20\nsink_linger = \"20ms\"\nsink_connections = 2\n"
    );
    std::fs::write(space.dir.join("headwater.toml"), config).expect("written");
    let set = secured().pooler_env(&space.name);
    (space, topic, set)
}

/// Two sinks write through the pooler, over two connections each, and are killed on the way: each record is a row of the one,
/// and each order's last payment that of the other. Red when a statement has a name, which another's connection does not know
/// (`persistent` not denied), or runs outside of a transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_are_stored_exactly_once_behind_a_pooler() {
    let (space, topic, set) = sinks("pg_pooled_rows").await;
    let (code, out, err) = Process::run(PROGRAM, &space, &["topology", "apply"], &env(&set), "").await;
    assert!(code == 0 && out.contains("migrate database: 1"), "{out}{err}");
    let (foreign, payments) = (ForeignClient::new(&space), Payments::register(&space, &topic).await);
    let args = ["run", "--group", "log", "--group", "state"];
    let rows = async |table: &str| space.count(&format!("select count(*) from {table}")).await;
    for round in 0..3 {
        let mut running = Process::start(PROGRAM, &space, "run", &args, &env(&set));
        let before = rows("log").await;
        for n in round * BATCH..(round + 1) * BATCH {
            let order = format!("o{}", n % 10);
            foreign.send(&topic, Some(&order), Some(&payments.value(&order, n, None)), &[]);
        }
        foreign.flush();
        eventually("rows are stored", SOON, async || rows("log").await > before).await;
        running.kill().await;
    }
    let mut running = Process::start(PROGRAM, &space, "run", &args, &env(&set));
    let all = 3 * BATCH;
    eventually("all are stored", SOON, async || rows("log").await >= all && rows("state").await == 10).await;
    let last = format!("select count(*) from state where amount_cents >= {}", all - 10);
    eventually("the last of each is stored", SOON, async || space.count(&last).await == 10).await;
    assert!(running.stop().await.success(), "{}", running.log());
    let distinct = space.count("select count(distinct (hw_partition, hw_offset)) from log").await;
    assert_eq!((rows("log").await, distinct), (all, all));
    assert!(!running.log().contains("prepared statement"), "{}", running.log());
}

/// Red when a new owner's epoch is not seen through the pooler, or offsets move without their transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replaced_owner_is_fenced_behind_a_pooler() {
    let space = space("pg_pooled_fence").await;
    let database = pooled(&space).await;
    let ran: Vec<i64> = migrate(&database).await.expect("migrated").iter().map(|ran| ran.version).collect();
    assert_eq!((ran, pending_migrations(&database).await), (vec![1, 2], Ok(Vec::new())));
    let partition = TopicPartition::new("events.payment", 0);
    let sink = || Sink::of::<PaymentCompleted>("payments").key("payment_id");
    let owner = || PostgresSink::new(&database, "fenced", sink()).expect("a sink");
    let moves = |from: i64| Unit {
        positions: vec![OffsetRange { from, to: Position { partition: partition.clone(), next: from + 1 } }],
        ..Unit::default()
    };
    let place = std::slice::from_ref(&partition);
    let (mut old, mut new) = (owner(), owner());
    assert_eq!(old.start(place).await.unwrap(), [StartFrom::Policy]);
    assert_eq!(old.commit(&moves(0)).await.unwrap(), CommitOutcome::Done);
    assert_eq!(new.start(place).await.unwrap(), [StartFrom::Offset(1)]);
    assert_eq!(old.commit(&moves(1)).await.unwrap(), CommitOutcome::Fenced(vec![partition.clone()]));
    assert_eq!(new.commit(&moves(1)).await.unwrap(), CommitOutcome::Done);
    assert_eq!(space.count("select next_offset from headwater.consumer_offsets").await, 2);
}

/// A row that the table refuses is found among others, becomes a letter, and is stored once it was sent back, all of it through
/// the pooler. Red when savepoints, letters or the redrive keep something in a session, or a lock is a session's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_row_is_a_letter_and_is_sent_back_behind_a_pooler() {
    let (space, topic, set) = sinks("pg_pooled_letters").await;
    let (code, out, err) = Process::run(PROGRAM, &space, &["topology", "apply"], &env(&set), "").await;
    assert_eq!(code, 0, "{out}{err}");
    sql(
        &space,
        "create table public.log (order_id text, amount_cents int8 constraint solvent check (amount_cents <> 7))",
    )
    .await;
    let (foreign, payments) = (ForeignClient::new(&space), Payments::register(&space, &topic).await);
    for n in 0..50 {
        foreign.send(&topic, Some("o"), Some(&payments.value("o", n, None)), &[]);
    }
    foreign.flush();
    let args = ["run", "--group", "log", "--group", "dead-letters"];
    let mut running = Process::start(PROGRAM, &space, "run", &args, &env(&set));
    let count = async |sql: &str| space.count(sql).await;
    eventually("all others are stored", SOON, async || count("select count(*) from log").await == 49).await;
    let open = "select count(*) from headwater.dead_letters where status = 'open'";
    eventually("it is a letter", SOON, async || count(open).await == 1).await;
    sql(&space, "alter table log drop constraint solvent").await;
    let (code, out, err) = Process::run(PROGRAM, &space, &["dlq", "redrive", "log", "--json"], &env(&set), "").await;
    assert_eq!(code, 0, "{out}{err}");
    let resolved = "select count(*) from headwater.dead_letters where status = 'resolved'";
    eventually("it is resolved", SOON, async || count(resolved).await == 1).await;
    assert_eq!(count("select count(*) from log where amount_cents = 7").await, 1);
    assert!(running.stop().await.success(), "{}", running.log());
}

/// Red when `topology apply` goes through the pooler although it is said how to get past it: nobody listens there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topology_apply_goes_past_the_pooler_where_it_is_told_to() {
    let space = space("pg_direct").await;
    let direct = space.dir.join("direct-url");
    std::fs::write(&direct, secured().postgres_url(&space.name) + "\n").expect("written");
    let nobody = "postgres://app@127.0.0.1:1/nowhere";
    let path = |file: &Path| file.display().to_string();
    let set = [("URL", nobody.to_owned()), ("POOLER", "true".to_owned()), ("DIRECT_URL_FILE", path(&direct))]
        .map(|(name, value)| (format!("HEADWATER__POSTGRES__{name}"), value));
    let (code, out, err) = Process::run(PROGRAM, &space, &["topology", "apply"], &env(&set), "").await;
    assert!(code == 0 && out.contains("migrate database: 2") && out.contains("table "), "{out}{err}");
    let done: BTreeSet<&str> = out.lines().collect();
    assert_eq!(space.count("select count(*) from headwater._sqlx_migrations").await, 2, "{done:?}");
}
