//! What a record keeps on its whole way: its history, and itself, however old or large it is.

use std::{collections::BTreeSet, time::Duration};

use headwater::{Headers, TopicPartition, spi::Outgoing};
use headwater_connectors::kafka::{Cluster, Compression, Producer, TopicSpec, delete_records_before};
use headwater_tests::{ConsumedRecord, ForeignClient, Process, RawRecord, Space, eventually};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    client::DefaultClientContext,
};
use serde_json::json;
use sqlx::{AssertSqlSafe, Row};

use crate::{
    PROGRAM,
    failure::retry::{applied, faults, own_warehouse},
};

const SOON: Duration = Duration::from_mins(1);
/// The first moment of 2020, milliseconds.
const OLD: i64 = 1_577_836_800_000;
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

fn run(space: &Space, groups: &[&str]) -> Process {
    let args: Vec<&str> = ["run"].into_iter().chain(groups.iter().flat_map(|group| ["--group", group])).collect();
    Process::start(PROGRAM, space, "run", &args, &[])
}

async fn topic(space: &Space, name: &str, config: &[(&str, &str)]) {
    let config = config.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let spec = TopicSpec { name: name.to_owned(), partitions: 1, replication: 1, config };
    Cluster::new(&space.kafka()).expect("valid").apply(&[spec]).await.expect("the topic is created");
}

/// Letters of `fulfil-order` from the space's own topic: `events.payment` is everybody's.
async fn letters(space: &Space, status: &str) -> Vec<String> {
    let sql = format!(
        "select id::text from headwater.dead_letters where processor = 'fulfil-order' and origin_topic = '{}' and {status}",
        space.topic("payments")
    );
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&space.pool).await.expect("letters")
}

/// Waits for this many letters in the table and sends them back.
async fn redrive(space: &Space, count: usize) {
    let open = async || letters(space, "status = 'open'").await;
    eventually("the letters are in their table", SOON, async || open().await.len() == count).await;
    for id in open().await {
        let (code, out, err) =
            Process::run(PROGRAM, space, &["dlq", "redrive", "fulfil-order", "--id", &id], &[], "").await;
        assert_eq!(code, 0, "{out}\n{err}");
    }
}

async fn resolved(space: &Space) -> usize {
    letters(space, "status = 'resolved' and redrive_count = 1").await.len()
}

/// A retry ladder of one step, and a circuit that stays closed: calls for others' payments fail too.
fn config(delay: &str) -> String {
    format!(
        "[groups.fulfil-order]\nretry = [\"{delay}\"]\n\
         [groups.fulfil-order.breakers.warehouse]\nwindow_calls = 10000\nminimum_calls = 10000\n"
    )
}

/// Whether the broker, and not whoever sends, says the time of a topic's records.
async fn has_log_append_time(space: &Space, topic: &str) -> bool {
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &space.endpoints.kafka_bootstrap).create().expect("a client");
    let asked = admin.describe_configs(&[ResourceSpecifier::Topic(topic)], &AdminOptions::new()).await;
    let settings = asked.expect("an answer").remove(0).expect("the topic is there");
    settings.get("message.timestamp.type").is_some_and(|entry| entry.value.as_deref() == Some("LogAppendTime"))
}

/// A payment of 2020 fails, waits, fails again and is a dead letter: both are still there after the broker's
/// retention has run over a topic with a record as old, and once it is sent back its order is of 2020.
/// Red when the topics of a group have `CreateTime`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_old_record_outlives_retention_on_every_topic_of_its_group() {
    let (stack, space) = own_warehouse("old").await;
    let (source, sentinel) = (space.topic("payments"), space.topic("sentinel"));
    topic(&space, &source, &[("retention.ms", "-1")]).await;
    topic(&space, &sentinel, &[]).await;
    let (_, foreign, payments) = applied(&space, 1, &config("1s")).await;
    faults(&space, Some(json!({ "status": 500 }))).await;
    let mut process = run(&space, &["fulfil-order", "orders-sink", "dead-letters"]);
    let (key, value) = (Some(b"old-1".to_vec()), Some(payments.value("old-1", 1, None)));
    let old = RawRecord { timestamp_ms: Some(OLD), key, value, ..RawRecord::default() };
    foreign.send_raw(&source, &old);
    foreign.flush();
    let own = |name: &str| format!("{}.fulfil-order.{name}", space.name);
    eventually("it is a dead letter", SOON, async || letters(&space, "status = 'open'").await.len() == 1).await;
    for deleted in 1..=2 {
        foreign.send_raw(&sentinel, &old);
        foreign.flush();
        eventually("retention runs", SOON, async || foreign.watermarks(&sentinel)[0].0 >= deleted).await;
    }
    assert!(has_log_append_time(&space, &own("redrive")).await);
    for name in ["retry.1s", "dlq"] {
        assert!(has_log_append_time(&space, &own(name)).await, "{name}");
        let kept: Vec<ConsumedRecord> =
            foreign.read(&own(name)).into_iter().filter(|seen| seen.key == old.key).collect();
        assert_eq!(kept.len(), 1, "still on {name}");
        assert_eq!(kept[0].headers["hw_origin_timestamp"], OLD.to_string());
        assert!(kept[0].timestamp_ms > OLD && kept[0].value == old.value);
    }
    faults(&space, None).await;
    redrive(&space, 1).await;
    let of_2020 = "select count(*) from orders where order_id = 'old-1' and hw_event_time = '2020-01-01T00:00:00Z'";
    eventually("its order is of its time", SOON, async || space.count(of_2020).await == 1).await;
    eventually("its letter is resolved", SOON, async || resolved(&space).await == 1).await;
    assert!(process.stop().await.success(), "{}", process.log());
    stack.stop().await.expect("stopped");
}

/// Text that no codec makes much smaller.
fn noise(count: usize) -> String {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        char::from(33 + state.to_le_bytes()[0] % 94)
    };
    std::iter::repeat_with(&mut next).take(count).collect()
}

/// A record of exactly its source's limit waits, is a dead letter, is sent back, waits again and succeeds, and is
/// the very bytes all the way. Red when the topics of a group have no room for its headers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_exactly_the_sources_limit_takes_the_whole_way() {
    let limit = 1_300_000;
    // The largest of the group's inputs: `events.payment` has the broker's limit, which is lower.
    let (stack, space) = own_warehouse("largest").await;
    let (source, trial) = (space.topic("payments"), space.topic("trial"));
    for name in [&source, &trial] {
        topic(&space, name, &[("max.message.bytes", &limit.to_string())]).await;
    }
    let (_, foreign, payments) = applied(&space, 1, &config("500ms")).await;
    let own = |name: &str| format!("{}.fulfil-order.{name}", space.name);
    let mut plain = space.kafka();
    plain.producer.compression = Compression::None;
    let producer = Producer::new(&plain).expect("a producer");
    let record = |topic: &str, length: usize| Outgoing {
        topic: topic.into(),
        partition: Some(0),
        key: Some(b"largest".to_vec()),
        value: Some(payments.value("largest", 1, Some(&noise(length)))),
        headers: Headers::default(),
    };
    let (mut fits, mut refused) = (limit - 1_000, limit);
    while refused - fits > 1 {
        let length = usize::midpoint(fits, refused);
        match producer.send(&[record(&trial, length)]).await {
            Ok(()) => fits = length,
            Err(_) => refused = length,
        }
    }
    faults(&space, Some(json!({ "status": 500, "first": 3 }))).await;
    let mut process = run(&space, &["fulfil-order", "orders-sink", "dead-letters"]);
    let largest = record(&source, fits);
    producer.send(std::slice::from_ref(&largest)).await.expect("it is taken");
    redrive(&space, 1).await;
    let stored = "select count(*) from orders where order_id = 'largest'";
    eventually("it is fulfilled", SOON, async || space.count(stored).await == 1).await;
    eventually("its letter is resolved", SOON, async || resolved(&space).await == 1).await;
    for (name, times) in [("retry.500ms", 2), ("dlq", 1), ("redrive", 1)] {
        let there = foreign.read(&own(name)).into_iter().filter(|seen| seen.value == largest.value).count();
        assert_eq!(there, times, "on {name}");
    }
    producer.close(Duration::from_secs(10)).await.expect("nothing is left");
    assert!(process.stop().await.success(), "{}", process.log());
    stack.stop().await.expect("stopped");
}

/// A payment fans out to a receipt and an order, which fails, waits, is a dead letter, is sent back, fails and
/// waits once more and succeeds; one payment says who it is, the other nothing. Over all topics and rows there is one
/// correlation id, one trace, and one tree of causes; the letter tells its history and is resolved.
/// Red when a hop derives id or trace from its own place, an event carries over what is not its cause, or the marker is left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_history_leads_through_retry_dead_letter_and_redrive() {
    let (stack, space) = own_warehouse("history").await;
    let (source, foreign, payments) = applied(&space, 2, &config("500ms")).await;
    // Of each order the first two calls make a letter, the third comes after the redrive.
    faults(&space, Some(json!({ "status": 500, "first": 3 }))).await;
    let groups = ["fulfil-order", "send-receipt", "orders-sink", "receipts-sink", "dead-letters"];
    let mut process = run(&space, &groups);
    let headers = [
        ("ce_id", "till-7"),
        ("ce_source", "//till"),
        ("ce_correlationid", "talk-9"),
        ("ce_causationid", "click-3"),
        ("traceparent", TRACE),
    ];
    for (order, headers) in [("history-1", &headers[..]), ("history-2", &[])] {
        foreign.send(&source, Some(order), Some(&payments.value(order, 1, Some("a@example.org"))), headers);
    }
    foreign.flush();
    redrive(&space, 2).await;
    let orders = "select count(*) from orders where order_id like 'history-%'";
    eventually("both are fulfilled", SOON, async || space.count(orders).await == 2).await;
    eventually("both letters are resolved", SOON, async || resolved(&space).await == 2).await;
    for (order, says) in [("history-1", true), ("history-2", false)] {
        history(&space, &foreign, &source, order, says).await;
    }
    assert!(process.stop().await.success(), "{}", process.log());
    stack.stop().await.expect("stopped");
}

async fn history(space: &Space, foreign: &ForeignClient, source: &str, order: &str, says: bool) {
    let own = |name: &str| format!("{}.fulfil-order.{name}", space.name);
    let of = |topic: &str| -> Vec<ConsumedRecord> {
        foreign.read(topic).into_iter().filter(|seen| seen.key.as_deref() == Some(order.as_bytes())).collect()
    };
    let payment = of(source).remove(0);
    let outputs: Vec<ConsumedRecord> = ["events.order", "events.receipt"].iter().flat_map(|topic| of(topic)).collect();
    let outputs: Vec<&ConsumedRecord> =
        outputs.iter().filter(|seen| seen.headers.contains_key("ce_causationid")).collect();
    assert_eq!(outputs.len(), 2, "one order and one receipt");
    let id = outputs[0].headers["ce_causationid"].clone();
    let (correlation, trace) = if says {
        assert_eq!(id, "till-7");
        ("talk-9".to_owned(), TRACE[3..35].to_owned())
    } else {
        (id.clone(), outputs[0].trace().expect("a trace").to_owned())
    };
    for output in &outputs {
        assert_eq!((&output.headers["ce_causationid"], &output.headers["ce_correlationid"]), (&id, &correlation));
        assert_eq!(output.trace(), Some(&*trace));
    }
    let hops = [("retry.500ms", 2), ("dlq", 1), ("redrive", 1)];
    for (name, times) in hops {
        let there: Vec<ConsumedRecord> = of(&own(name)).into_iter().filter(|seen| seen.value.is_some()).collect();
        assert_eq!(there.len(), times, "on {name}");
        for seen in there {
            assert!(seen.value == payment.value && seen.others() == payment.others(), "on {name} it is what it was");
            assert_eq!(seen.trace(), Some(&*trace), "on {name}");
        }
    }
    let markers: Vec<ConsumedRecord> =
        of(&own("dlq")).into_iter().filter(|seen| seen.headers.contains_key("hw_resolved")).collect();
    assert_eq!((markers.len(), &*markers[0].headers["hw_redrive_count"], &markers[0].value), (1, "1", &None));
    assert_eq!(markers[0].trace(), Some(&*trace), "the news of it too");
    assert_eq!(markers[0].headers["hw_origin_offset"], payment.place.1.to_string());
    let mut ids: BTreeSet<String> = outputs.iter().map(|seen| seen.headers["ce_id"].clone()).collect();
    ids.insert(id.clone());
    assert_eq!(ids.len(), 3, "a tree of three");
    rows(space, order, (&id, &correlation, &ids)).await;
}

/// What the tables say of it.
async fn rows(space: &Space, order: &str, (id, correlation, ids): (&str, &str, &BTreeSet<String>)) {
    for table in ["orders", "receipts"] {
        let sql =
            format!("select hw_event_id, hw_correlation_id, hw_causation_id from {table} where order_id = '{order}'");
        let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&space.pool).await.expect("one row");
        assert!(ids.contains(row.get::<&str, _>(0)), "{table}: an event of the tree");
        assert_eq!((row.get::<&str, _>(1), row.get::<&str, _>(2)), (correlation, id), "{table}");
    }
    let sql = format!(
        "select event_id, correlation_id, kind, status, attempts, redrive_count, first_failed_at <= dead_lettered_at \
         from headwater.dead_letters where convert_from(key, 'UTF8') = '{order}'"
    );
    let row = sqlx::query(AssertSqlSafe(sql)).fetch_one(&space.pool).await.expect("one letter");
    assert_eq!((row.get::<&str, _>(0), row.get::<&str, _>(1)), (id, correlation));
    assert_eq!((row.get::<&str, _>(2), row.get::<&str, _>(3)), ("exhausted", "resolved"));
    assert_eq!((row.get::<i32, _>(4), row.get::<i32, _>(5), row.get::<bool, _>(6)), (2, 1, true));
}

/// Random hex digits, which pack to half.
fn hex(count: usize) -> Vec<u8> {
    noise(count).bytes().map(|byte| b"0123456789abcdef"[usize::from(byte % 16)]).collect()
}

/// What a broker takes since it is packed, and what is packed no smaller than that by us: a healthy payment of
/// 1.5 MB is retried whole, its like that is poison is a letter byte for byte, 64 MiB of one byte are a letter with their
/// first 64 KiB, and 17 MiB of headers one with those that say which event it is; the payment behind them is fulfilled. A
/// redrive fetches what was cut from its origin; where that is over the limit, or there no more, it says so.
/// Red when any of them holds up the partition, is cut that need not be, or is sent back as its beginning.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_unpacks_larger_than_it_travels_gets_through() {
    let (stack, space) = own_warehouse("unpacked").await;
    let source = space.topic("payments");
    // With the broker's limit, 1 MiB.
    topic(&space, &source, &[]).await;
    let (_, foreign, payments) = applied(&space, 1, &config("500ms")).await;
    let own = |name: &str| format!("{}.fulfil-order.{name}", space.name);
    let mut packing = space.kafka();
    (packing.max_record_bytes, packing.producer.queue_bytes) = (80 << 20, 200 << 20);
    packing.producer.compression = Compression::Zstd;
    let producer = Producer::new(&packing).expect("a producer");
    let email = String::from_utf8(hex(1_500_000)).expect("digits");
    let (poison, flat) = (hex(1_500_000), vec![b'7'; 64 << 20]);
    let record = |key: &str, value: Vec<u8>, headers: Headers| Outgoing {
        topic: source.as_str().into(),
        partition: Some(0),
        key: Some(key.into()),
        value: Some(value),
        headers,
    };
    let wide = Headers::from_iter([("x-wide", Some(&vec![b'h'; 17 << 20][..])), ("ce_id", Some(b"wide"))]);
    let payment = |order: &str, email| payments.value(order, 1, email);
    for one in [
        record("healthy", payment("healthy", Some(&email)), Headers::default()),
        record("poison", poison.clone(), Headers::default()),
        record("flat", flat.clone(), Headers::default()),
        record("wide", payment("wide", None), wide),
        record("behind", payment("behind", None), Headers::default()),
    ] {
        producer.send(&[one]).await.expect("the broker takes it");
    }
    faults(&space, Some(json!({ "status": 500, "first": 1, "order_id": "healthy" }))).await;
    let mut process = run(&space, &["fulfil-order", "orders-sink", "dead-letters"]);
    let stored = "select count(*) from orders where order_id in ('healthy', 'behind')";
    eventually("both are fulfilled", SOON, async || space.count(stored).await == 2).await;
    eventually("the others are letters", SOON, async || letters(&space, "status = 'open'").await.len() == 3).await;
    let retried = foreign.read(&own("retry.500ms")).into_iter().map(|seen| seen.value).collect::<Vec<_>>();
    assert!(retried == [Some(payment("healthy", Some(&email)))], "whole");

    let there: Vec<ConsumedRecord> = foreign.read(&own("dlq"));
    let of = |key: &str| there.iter().find(|seen| seen.key.as_deref() == Some(key.as_bytes())).expect("a letter");
    assert!(of("poison").value.as_ref() == Some(&poison) && of("poison").headers["hw_error_kind"] == "decode");
    let (cut, wide) = (of("flat"), of("wide"));
    assert!(cut.value.as_deref() == Some(&flat[..65_536]), "its first 64 KiB");
    assert_eq!(
        (cut.headers["hw_error_kind"].as_str(), cut.headers["hw_value_bytes"].as_str()),
        ("contract", "67108864")
    );
    assert_eq!(cut.headers["hw_value_sha256"].len(), 64);
    assert!(wide.value == Some(payment("wide", None)), "the value is whole");
    assert_eq!((wide.headers["ce_id"].as_str(), wide.headers["hw_headers_cut"].as_str()), ("wide", "1"));
    assert!(!wide.headers.contains_key("x-wide"));
    let sizes = "select count(*) from headwater.dead_letters where octet_length(value) = 65536 and headers::text like \
        '%hw_value_bytes%67108864%'";
    assert_eq!(space.count(sizes).await, 1, "its row says the same");

    what_was_cut_is_fetched(&space, &foreign, &flat).await;
    producer.close(Duration::from_secs(10)).await.expect("nothing is left");
    assert!(process.stop().await.success(), "{}", process.log());
    stack.stop().await.expect("stopped");
}

async fn what_was_cut_is_fetched(space: &Space, foreign: &ForeignClient, flat: &Vec<u8>) {
    let redrive = format!("{}.fulfil-order.redrive", space.name);
    // Whole, it is over the limit of who sends it, until that is raised.
    let [flat_id, wide_id] = ["flat", "wide"].map(|key| format!("convert_from(key, 'UTF8') = '{key}'"));
    let (flat_id, wide_id) = (letters(space, &flat_id).await.remove(0), letters(space, &wide_id).await.remove(0));
    let sent = async |id: &str, env: &[(&str, &str)]| {
        Process::run(PROGRAM, space, &["dlq", "redrive", "fulfil-order", "--id", id], env, "").await
    };
    let (code, _, said) = sent(&flat_id, &[]).await;
    assert!(code == 1 && said.contains("raise kafka.max_record_bytes"), "{said}");
    let larger =
        [("HEADWATER__KAFKA__MAX_RECORD_BYTES", "80MiB"), ("HEADWATER__KAFKA__PRODUCER__QUEUE_BYTES", "200MiB")];
    let (code, _, said) = sent(&flat_id, &larger).await;
    assert_eq!(code, 0, "{said}");
    let back = foreign.read(&redrive);
    assert!(back.len() == 1 && back[0].value.as_ref() == Some(flat), "whole, from its origin");
    assert!(!back[0].headers.contains_key("hw_value_bytes"), "{:?}", back[0].headers.keys());
    let again = async || letters(space, "status = 'open' and redrive_count = 1").await.len() == 1;
    eventually("it is a letter again", SOON, again).await;

    let cluster = Cluster::new(&space.kafka()).expect("valid");
    delete_records_before(&cluster, &[(TopicPartition::new(space.topic("payments"), 0), 5)]).await.expect("deleted");
    let (code, _, said) = sent(&wide_id, &larger).await;
    assert!(code == 1 && said.contains("the record is not there any more"), "{said}");
    assert!(said.contains("all but 1 of the headers"), "{said}");
}
