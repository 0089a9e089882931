//! The orders pipeline as the program runs it: from a foreign payment to a row, and back to its cause.

use std::time::Duration;

use headwater_tests::{ForeignClient, Payments, Process, Proxy, Side, Space, eventually, patience};
use rustix::process::Signal;
use serde_json::Value as Json;
use sqlx::{AssertSqlSafe, Row};

use crate::{PROGRAM, space};

const SOON: Duration = Duration::from_secs(30);

/// Binds the space's own topic to payments, applies the topology, and gives the foreign side.
async fn ready(space: &Space, partitions: i32, more: &str) -> (String, ForeignClient, Payments) {
    let topic = space.topic("payments");
    space.create_topics(&[&topic], partitions).await;
    let config = format!("[topics.\"{topic}\"]\ntype = \"payment.completed\"\n{more}");
    std::fs::write(space.dir.join("headwater.toml"), config).expect("the configuration is written");
    let (code, out, err) = Process::run(PROGRAM, space, &["topology", "apply"], &[], "").await;
    assert_eq!(code, 0, "topology apply: {out}\n{err}");
    (topic.clone(), ForeignClient::new(space), Payments::register(space, &topic).await)
}

fn run(space: &Space, name: &str) -> Process {
    Process::start(PROGRAM, space, name, &["run"], &[])
}

async fn text(space: &Space, sql: String) -> Vec<Option<String>> {
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&space.pool).await.expect("one row");
    (0..row.len()).map(|at| row.get(at)).collect()
}

/// A payment without headers and one with all of them become orders and receipts in Postgres; the ids lead
/// back to the payment, and `tail` prints every field of both.
/// Red when the id of a foreign event is not derived from its place, or a header is not carried over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn foreign_payments_become_rows_that_are_traceable_to_their_cause() {
    let space = space("traceable").await;
    let (topic, foreign, payments) = ready(&space, 1, "").await;
    let mut process = run(&space, "run");
    foreign.send(&topic, Some("tr-1"), Some(&payments.value("tr-1", 990, Some("a@example.org"))), &[]);
    let headers = [
        ("ce_specversion", "1.0"),
        ("ce_id", "till-7"),
        ("ce_source", "//till"),
        ("ce_type", "payment.completed"),
        ("ce_time", "2026-02-03T04:05:06.000007Z"),
        ("ce_subject", "tr-2"),
        ("ce_aggregatetype", "order"),
        ("ce_aggregateversion", "4"),
        ("ce_category", "integration"),
        ("ce_priority", "1"),
        ("ce_dataversion", "1"),
        ("ce_correlationid", "talk-9"),
        ("ce_causationid", "click-3"),
        ("ce_userid", "ann"),
        ("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
        ("tracestate", "vendor=1"),
        ("x-till", "north"),
    ];
    foreign.send(&topic, Some("tr-2"), Some(&payments.value("tr-2", 10, Some("b@example.org"))), &headers);
    foreign.flush();
    let rows = async || {
        space.count("select count(*) from orders where order_id like 'tr-%'").await == 2
            && space.count("select count(*) from receipts where order_id like 'tr-%'").await == 2
    };
    eventually("both orders and receipts are stored", SOON, rows).await;

    let id = derived_id(&topic, 0, &foreign);
    let ids = "hw_correlation_id, hw_causation_id, reservation";
    let first = text(&space, format!("select {ids} from orders where order_id = 'tr-1'")).await;
    assert_eq!(first[..2], [Some(id.clone()), Some(id)]);
    let second = text(&space, format!("select {ids} from orders where order_id = 'tr-2'")).await;
    assert_eq!(second[..2], [Some("talk-9".to_owned()), Some("till-7".to_owned())]);
    assert!(second[2].as_deref().is_some_and(|reservation| !reservation.is_empty()));
    let event = text(&space, "select hw_event_id from orders where order_id = 'tr-2'".to_owned()).await;
    let order = foreign.read("events.order").into_iter().find(|seen| seen.key.as_deref() == Some(b"tr-2"));
    let headers = order.expect("the order's event").headers;
    assert_eq!(headers.get("ce_id").cloned(), event[0]);
    assert_eq!(headers["ce_source"], "headwater/fulfil-order");
    assert_eq!(headers["ce_userid"], "ann");
    assert!(headers["traceparent"].starts_with("00-4bf92f3577b34da6a3ce929d0e0e4736-"));
    assert_eq!(headers["tracestate"], "vendor=1");
    assert!(!headers.contains_key("x-till"), "a foreign header is the payment's own");

    tail_prints_every_field(&space, &topic).await;
    assert!(process.stop().await.success(), "{}", process.log());
}

async fn tail_prints_every_field(space: &Space, topic: &str) {
    let args = ["tail", "payment.completed", "--from-beginning", "--limit", "2"];
    let (code, out, err) = Process::run(PROGRAM, space, &args, &[], "").await;
    assert_eq!(code, 0, "{err}");
    let lines: Vec<Json> = out.lines().map(|line| serde_json::from_str(line).expect("json")).collect();
    let of = |key: &str| lines.iter().find(|line| line["subject"] == key).unwrap_or_else(|| panic!("{key} in {out}"));
    let full = of("tr-2");
    for (field, value) in [
        ("id", "till-7"),
        ("source", "//till"),
        ("type", "payment.completed"),
        ("time", "2026-02-03T04:05:06.000007Z"),
        ("aggregate_type", "order"),
        ("category", "integration"),
        ("correlation_id", "talk-9"),
        ("causation_id", "click-3"),
        ("user_id", "ann"),
    ] {
        assert_eq!(full[field], value, "{field} in {full}");
    }
    assert_eq!((&full["aggregate_version"], &full["data_version"]), (&Json::from(4), &Json::from(1)));
    assert!(full.to_string().contains("4bf92f3577b34da6a3ce929d0e0e4736"), "{full}");
    assert!(full.to_string().contains("x-till"), "{full}");
    assert_eq!(full["data"]["amount_cents"], 10);
    assert_eq!(of("tr-1")["source"], format!("kafka://{topic}"));
}

/// The id that the contract gives the first record of a partition, made here from the contract's words.
fn derived_id(topic: &str, partition: i32, foreign: &ForeignClient) -> String {
    let seen = foreign.read(topic);
    let first = seen.iter().find(|seen| seen.place == (partition, 0)).expect("the first record");
    let namespace = uuid::Uuid::from_u128(0x98f0_eb0e_3dd1_573a_ae72_a93d_7cf6_d360);
    let name = format!("{topic}/{partition}/0/{}", first.timestamp_ms);
    uuid::Uuid::new_v5(&namespace, name.as_bytes()).to_string()
}

/// Red when a topic that is bound needs a type of the catalogue, or the table is not made from the schema.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_bound_topic_reaches_a_table_by_configuration_alone() {
    let space = space("config_only").await;
    let topic = space.topic("shipments");
    space.create_topics(&[&topic], 2).await;
    let config = format!(
        "[topics.\"{topic}\"]\ntype = \"shipment.sent\"\n\
         [sinks.shipments]\nevent = \"shipment.sent\"\ntable = \"shipments\"\nkey = \"id\"\ndelete = true\n"
    );
    std::fs::write(space.dir.join("headwater.toml"), config).expect("written");
    let (code, _, err) = Process::run(PROGRAM, &space, &["topology", "apply"], &[], "").await;
    assert_eq!(code, 0, "{err}");
    let schema = r#"{"type":"record","name":"Shipment","namespace":"com.example","fields":[
        {"name":"id","type":"string"},{"name":"kg","type":["null","double"],"default":null},
        {"name":"tags","type":{"type":"array","items":"string"}}]}"#;
    let id = headwater_tests::register(&space, &format!("{topic}-value"), schema).await;
    let encoder = headwater::spi::codec::Encoder::new(id, schema).expect("valid");
    let foreign = ForeignClient::new(&space);
    let mut process = Process::start(PROGRAM, &space, "run", &["run", "--group", "shipments"], &[]);
    for key in ["s1", "s2"] {
        let value = serde_json::json!({"id": key, "kg": 2.5, "tags": ["a", "b"]});
        foreign.send(&topic, Some(key), Some(&encoder.encode_json(&value).expect("it fits")), &[]);
    }
    foreign.flush();
    let stored = async || space.count("select count(*) from shipments where kg = 2.5 and tags->>1 = 'b'").await == 2;
    eventually("both are stored", SOON, stored).await;
    let args = ["produce", "shipment.sent", "--key", "id"];
    let (code, _, err) = Process::run(PROGRAM, &space, &args, &[], "{\"id\": \"s3\", \"tags\": []}").await;
    assert_eq!(code, 0, "the newest schema of the bound topic is used: {err}");
    eventually("the third is stored", SOON, async || space.count("select count(*) from shipments").await == 3).await;
    foreign.send(&topic, Some("s1"), None, &[]);
    foreign.flush();
    eventually("one is deleted", SOON, async || space.count("select count(*) from shipments").await == 2).await;
    assert!(process.stop().await.success());
}

/// The owner of an insert sink is frozen past the session time-out within its transaction, before the offset
/// rows are locked; another takes over, and it thaws: its batch is fenced. Red when the offset rows are updated whoever owns them
/// and wherever they stand (`OwnedOffsets::advance`); either check alone, of the epoch or of the offset, keeps the rows from being there
/// twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_owner_writes_nothing_after_another_has_taken_over() {
    let space = space("zombie").await;
    let sink = "[sinks.paid]\nevent = \"payment.completed\"\ntable = \"paid\"\nmode = \"insert\"\n";
    let (topic, foreign, payments) = ready(&space, 2, sink).await;
    let mut proxy = Proxy::postgres(&space.database_url).await;
    let group = |name: &str, url: &str| {
        Process::start(PROGRAM, &space, name, &["run", "--group", "paid"], &[("HEADWATER__POSTGRES__URL", url)])
    };
    let send = |from: usize, to: usize| {
        for n in from..to {
            let order = format!("z{n}");
            foreign.send(&topic, Some(&order), Some(&payments.value(&order, 1, None)), &[]);
        }
        foreign.flush();
    };
    let paid = async || space.count("select count(*) from paid where order_id like 'z%'").await;
    send(0, 500);
    proxy.watch(Side::Before, &["from headwater.consumer_offsets o join unnest"]);
    let mut first = group("first", proxy.address());
    let held = proxy.next(patience(SOON)).await.expect("it begins a transaction");
    first.signal(Signal::STOP);
    let mut second = group("second", &space.database_url);
    send(500, 1_000);
    eventually("the second has done all", Duration::from_mins(1), async || paid().await >= 1_000).await;
    first.signal(Signal::CONT);
    proxy.unwatch();
    held.pass();
    first.logs("another owner has committed this partition", SOON).await;
    send(1_000, 2_000);
    eventually("all are stored", SOON, async || paid().await >= 2_000).await;
    let distinct = "select count(distinct (hw_topic, hw_partition, hw_offset)) from paid where order_id like 'z%'";
    assert_eq!((paid().await, space.count(distinct).await), (2_000, 2_000));
    let offsets = "select sum(next_offset)::bigint from headwater.consumer_offsets where topic like '%-payments'";
    assert_eq!(space.count(offsets).await, 2_000);
    assert!(first.stop().await.success(), "{}", first.log());
    assert!(second.stop().await.success(), "{}", second.log());
}

/// The owner of a group that publishes at least once is frozen past the session time-out with a unit that waits to be
/// published, and so is that of a sink with letters; another takes over, and it thaws: nothing that it held appears behind
/// what its successor has published.
/// Red when the publisher does not ask whether the partitions are still its own (`PublishPermit::check` says yes), or takes a proof from
/// before it was frozen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_owner_publishes_nothing_after_another_has_taken_over() {
    let space = space("thawed").await;
    let config = "[groups.send-receipt]\nlinger = \"6s\"\n[sinks.paid]\nevent = \"payment.completed\"\ntable = \"paid\"\n\
                  mode = \"insert\"\n[groups.paid]\nlinger = \"6s\"\n";
    let (topic, foreign, payments) = ready(&space, 2, config).await;
    let groups = ["run", "--group", "send-receipt", "--group", "paid"];
    let start = |name: &str| Process::start(PROGRAM, &space, name, &groups, &[]);
    let send = |from: usize, to: usize| {
        for n in from..to {
            let order = format!("th-{n}");
            // One in ten is a letter of both groups.
            let value = payments.value(&order, 1, Some("a@example.org"));
            foreign.send(&topic, Some(&order), Some(if n % 10 == 3 { b"unreadable" } else { &value }), &[]);
        }
        foreign.flush();
    };
    let topics =
        ["events.receipt".to_owned(), format!("{}.paid.dlq", space.name), format!("{}.send-receipt.dlq", space.name)];
    let published = |topic: &str| {
        let ours =
            |seen: &headwater_tests::ConsumedRecord| seen.key.as_ref().is_some_and(|key| key.starts_with(b"th-"));
        foreign.read(topic).into_iter().filter(ours).count()
    };
    let all = |count: usize| [count - count / 10, count / 10, count / 10];
    let counts = async || [0, 1, 2].map(|n: usize| published(&topics[n]));
    let mut first = start("first");
    send(0, 100);
    eventually("the first works", SOON, async || counts().await == all(100)).await;
    send(100, 200);
    // Read by now, and not due yet.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    first.signal(Signal::STOP);
    assert_eq!(counts().await, all(100));
    let mut second = start("second");
    eventually("the second has done all", Duration::from_mins(1), async || counts().await == all(200)).await;
    first.signal(Signal::CONT);
    first.logs("partitions were lost to other members", SOON).await;
    send(200, 300);
    eventually("all are published", SOON, async || counts().await >= all(300)).await;
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(counts().await, all(300), "nothing is there twice");
    for process in [&mut first, &mut second] {
        assert!(process.stop().await.success(), "{}", process.log());
    }
}

/// Red when two processes take the same slot, or a restart takes another one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_runs_on_one_host_keep_their_own_instance() {
    let space = space("two_runs").await;
    let (topic, foreign, payments) = ready(&space, 6, "").await;
    let (mut first, mut second) = (run(&space, "first"), run(&space, "second"));
    let send = |from: usize, to: usize| {
        for n in from..to {
            let order = format!("tw-{n}");
            foreign.send(&topic, Some(&order), Some(&payments.value(&order, 1, Some("a@example.org"))), &[]);
        }
        foreign.flush();
    };
    let orders = async || space.count("select count(*) from orders where order_id like 'tw-%'").await;
    send(0, 100);
    eventually("100 orders", SOON, async || orders().await == 100).await;
    assert!(first.stop().await.success());
    let mut third = run(&space, "third");
    send(100, 200);
    eventually("200 orders", SOON, async || orders().await == 200).await;
    for process in [&mut second, &mut third] {
        assert!(process.stop().await.success());
    }
    let slot = |process: &Process| {
        let log = process.log();
        let at = log.find("instance=").unwrap_or_else(|| panic!("no instance in {log}"));
        log[at..].split_whitespace().next().unwrap_or_default().to_owned()
    };
    assert_ne!(slot(&first), slot(&second));
    assert_eq!(slot(&first), slot(&third));
    for process in [&first, &second, &third] {
        assert!(!process.log().to_lowercase().contains("fenced"), "{}", process.log());
    }
}

/// Red when the first problem hides the others, the exit code is 1, or `config show` prints a password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_configuration_names_every_problem_and_exits_with_2() {
    let space = space("wrong_config").await;
    let config =
        "[kafak]\nbootstrap = \"x\"\n[defaults]\nlinger = \"soon\"\n[sinks.a]\nevent = \"a.b\"\ntable = \"t\"\n";
    std::fs::write(space.dir.join("headwater.toml"), config).expect("written");
    for command in [&["config", "check"][..], &["run"]] {
        let (code, _, err) = Process::run(PROGRAM, &space, command, &[("HEADWATER__HTTP__ADRR", "x")], "").await;
        assert_eq!(code, 2, "{err}");
        for problem in ["kafak", "linger", "adrr"] {
            assert!(err.to_lowercase().contains(problem), "{problem} is not named: {err}");
        }
    }
    std::fs::remove_file(space.dir.join("headwater.toml")).expect("removed");
    let secret = [("HEADWATER__POSTGRES__URL", "postgres://user:hunter2@127.0.0.1/x")];
    let (code, out, err) = Process::run(PROGRAM, &space, &["config", "show"], &secret, "").await;
    assert_eq!(code, 0, "{err}");
    assert!(out.contains("***") && !out.contains("hunter2") && !err.contains("hunter2"), "{out}");
}

/// Red when a refused line stops the others, is not named by its number, or the exit code is 0; or when the byte order mark that
/// the input begins with makes its first line one that is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_line_is_named_and_the_others_are_sent() {
    let space = space("produce").await;
    ready(&space, 1, "").await;
    let line = |id: &str| format!(r#"{{"payment_id":"{id}","order_id":"{id}","email":"a@example.org"}}"#);
    let input = format!(
        "\u{feff}{}\n{}\nnot json\n{}\n",
        line("pr-1"),
        line("pr-2").replace("\"a@example.org\"", "7"),
        line("pr-3")
    );
    let (code, _, err) = Process::run(PROGRAM, &space, &["produce", "receipt.requested"], &[], &input).await;
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("line 2: email") && err.contains("line 3: not JSON"), "{err}");
    let seen = ForeignClient::new(&space).read("events.receipt");
    let keys: Vec<_> =
        seen.iter().filter_map(|seen| seen.key.as_deref()).filter(|key| key.starts_with(b"pr-")).collect();
    assert_eq!(keys.len(), 2, "{keys:?}");
}

/// A restart within the session, with a rung more on its ladder: the new retry topic is read. Red when a static member keeps
/// its name whatever it reads: Kafka gives it the partitions that it had.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_quick_restart_with_another_ladder_reads_its_new_topics() {
    let space = space("ladders").await;
    let reads = async |ladder: &str, topic: &str| {
        let ladder = [("HEADWATER__DEFAULTS__RETRY", ladder), ("HEADWATER__INSTANCE", "same")];
        let (code, _, err) = Process::run(PROGRAM, &space, &["topology", "apply"], &ladder, "").await;
        assert_eq!(code, 0, "{err}");
        let mut process = Process::start(PROGRAM, &space, ladder[0].1, &["run"], &ladder);
        let topic = format!("{}.fulfil-order.retry.{topic}", space.name);
        eventually("the retry topic is read", Duration::from_mins(1), async || {
            let (_, out, _) = Process::run(PROGRAM, &space, &["groups", "fulfil-order", "-v"], &ladder, "").await;
            out.contains(&topic)
        })
        .await;
        assert!(process.stop().await.success(), "{}", process.log());
    };
    reads("1s", "1s").await;
    reads("1s,3s", "3s").await;
}
