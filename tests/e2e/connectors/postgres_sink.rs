//! Sinks: batches by size and time, and rows that Postgres refuses.

use std::time::Duration;

use headwater::{
    Binding, KeyFormat, Pipeline, Sink,
    spi::{DeadLetterKind, Metric},
};
use headwater_schemas::PaymentCompleted;
use headwater_tests::{Engine, ForeignClient, Group, Payments, Process, Space, eventually};
use sqlx::AssertSqlSafe;

use crate::{PROGRAM, failure::retry::applied, faults::outage::address, space};

const SOON: Duration = Duration::from_mins(1);

/// A pipeline of one sink, `payments-sink`, over a topic of this space with one partition; its own topics are there.
async fn sink(space: &Space) -> (Pipeline, String) {
    let topic = space.topic("payments");
    let owned = ["redrive", "dlq"].map(|own| format!("{}.payments-sink.{own}", space.name));
    space.create_topics(&[&topic, &owned[0], &owned[1]], 1).await;
    let binding = Binding { event_type: "payment.completed".to_owned(), key: KeyFormat::Text };
    let sink = Sink::of::<PaymentCompleted>("payments").key("payment_id");
    (Pipeline::default().bind(&topic, binding).sink("payments-sink", sink), topic)
}

/// How many rows each transaction has stored, the most first.
async fn transactions(space: &Space) -> Vec<i64> {
    let sql = "select count(*) from public.payments group by xmin::text order by 1 desc";
    sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_all(&space.pool).await.unwrap_or_default()
}

/// Seven records, batches of five, a linger of 200 ms: five are stored by count, and two by time. Red when the
/// linger is not waited for (seven transactions), or a batch may be larger (one).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn batches_are_cut_by_size_and_by_time() {
    let space = space("batches").await;
    let database = space.migrate().await;
    let (pipeline, topic) = sink(&space).await;
    let (foreign, writer) = (ForeignClient::new(&space), Payments::register(&space, &topic).await);
    (0..7).map(|n| format!("o{n}")).for_each(|order| {
        foreign.send(&topic, Some(&order), Some(&writer.value(&order, 100, None)), &[]);
    });
    foreign.flush();
    let mut how = Group::of(&space);
    (how.settings.batch_records, how.settings.linger) = (5, Duration::from_millis(200));
    let engine = Engine::start(&space, &database, &pipeline, &how);
    eventually("all are stored", SOON, async || space.count("select count(*) from public.payments").await == 7).await;
    assert_eq!(transactions(&space).await, [5, 2]);
    assert_eq!(engine.state("payments-sink").get(Metric::Commits), 2);
    engine.stop().await;
}

/// One of a thousand rows violates a constraint: 999 are stored, and the one is a dead letter that says so,
/// byte for byte what was produced. Red when a refused batch stops its partition, or is given up as a whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_refused_row_of_a_thousand_is_a_letter_and_the_others_are_stored() {
    let space = space("refused").await;
    let database = space.migrate().await;
    let (pipeline, topic) = sink(&space).await;
    let sql =
        "create table public.payments (payment_id text primary key, amount_cents int8 check (amount_cents < 1000))";
    sqlx::query(sql).execute(&space.pool).await.expect("created");
    let (foreign, writer) = (ForeignClient::new(&space), Payments::register(&space, &topic).await);
    for n in 0..1_000 {
        let (order, cents) = (format!("o{n}"), if n == 617 { 5_000 } else { 100 });
        foreign.send(&topic, Some(&order), Some(&writer.value(&order, cents, None)), &[]);
    }
    foreign.flush();
    let engine = Engine::start(&space, &database, &pipeline, &Group::of(&space));
    let state = engine.state("payments-sink");
    eventually("999 are stored", SOON, async || space.count("select count(*) from public.payments").await == 999).await;
    eventually("one is dead", SOON, async || state.letters(DeadLetterKind::Row) == 1).await;
    let letters = foreign.read(&format!("{}.payments-sink.dlq", space.name));
    let [letter] = &letters[..] else { panic!("{} letters", letters.len()) };
    let header = |name: &str| {
        letter.headers.iter().find(|(n, _)| n.as_str() == name).map(|(_, v)| v.as_str()).unwrap_or_default()
    };
    assert_eq!(letter.value, Some(writer.value("o617", 5_000, None)));
    assert_eq!((header("hw_error_kind"), header("hw_origin_offset"), header("hw_attempt")), ("row", "617", "1"));
    assert!(header("hw_error_message").contains("payments_amount_cents_check"), "{}", header("hw_error_message"));
    engine.stop().await;
    assert_eq!(
        space.count("select next_offset from headwater.consumer_offsets where topic like '%payments'").await,
        1_000
    );
}

/// Fifty poison records of two makes are two groups of letters, 30 and 20, and a gauge of 50. Red when the
/// fingerprint counts what differs from record to record, letters are counted by place alone, or nobody keeps them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_grouped_by_make_and_counted() {
    let space = space("makes").await;
    // On a topic of its own: what is wrong on `events.payment` is a letter of every other test too.
    let (topic, foreign, writer) = applied(&space, 2, "").await;
    for n in 0..50 {
        let order = format!("order-{n}");
        let value = if n < 30 { writer.value(&order, 100, None) } else { vec![0, 0, 0] };
        foreign.send(&topic, Some(&order), Some(&value), &[]);
    }
    foreign.flush();
    let mut process = Process::start(PROGRAM, &space, "run", &["run"], &[]);
    let http = address(&process).await;
    let gauge = format!("headwater_dead_letters_waiting{{group=\"{}.send-receipt\"}} 50", space.name);
    eventually("the gauge shows 50", SOON, async || {
        let answer = reqwest::get(format!("{http}/metrics")).await;
        match answer {
            Ok(answer) => answer.text().await.unwrap_or_default().contains(&gauge),
            Err(_) => false,
        }
    })
    .await;
    let (code, out, err) = Process::run(PROGRAM, &space, &["dlq", "groups", "send-receipt", "--json"], &[], "").await;
    assert_eq!(code, 0, "{err}");
    let makes: Vec<serde_json::Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let mut makes: Vec<_> = makes.iter().map(|make| (make["open"].clone(), make["kind"].clone())).collect();
    makes.sort_by_key(|(open, _)| open.as_u64());
    assert_eq!(makes, [(20.into(), "decode".into()), (30.into(), "rejected".into())], "{out}");
    assert!(process.stop().await.success(), "{}", process.log());
}

/// A sink's misspelt key is found by `config check`, and `run` refuses it: nothing becomes a dead letter. Red when the key is not
/// looked up in the catalogue's schema (`PostgresSink::problem_of`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_misspelt_key_is_refused_before_the_first_record() {
    let space = space("misspelt").await;
    let config = "[sinks.audit]\nevent = \"order.fulfilled\"\ntable = \"audit\"\nkey = \"ordr_id\"\n";
    std::fs::write(space.dir.join("headwater.toml"), config).expect("written");
    for arguments in [&["config", "check"][..], &["run", "--group", "audit"], &["topology", "apply", "--dry-run"]] {
        let (code, out, err) = Process::run(PROGRAM, &space, arguments, &[], "").await;
        assert!(code == 2 && err.contains("sink audit: its key `ordr_id` is no field"), "{arguments:?}: {out}{err}");
    }
}
