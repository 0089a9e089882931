//! `headwater load` against the orders pipeline: what it says is what happened.

use std::time::Duration;

use headwater_tests::{ForeignClient, Process, Space, eventually};
use rustix::process::Signal;
use serde_json::Value as Json;

use crate::{PROGRAM, space};

const SOON: Duration = Duration::from_secs(30);
const TO_BOTH: [&str; 4] = ["--to-topic", "order.fulfilled", "--to-table", "orders-sink"];

/// A topic of the space's own, bound to payments, and everything that the pipeline needs.
async fn ready(name: &str) -> (Space, String) {
    let space = space(name).await;
    let topic = space.topic("payments");
    space.create_topics(&[&topic], 3).await;
    let config = format!("[topics.\"{topic}\"]\ntype = \"payment.completed\"\n");
    std::fs::write(space.dir.join("headwater.toml"), config).expect("the configuration is written");
    let (code, out, err) = Process::run(PROGRAM, &space, &["topology", "apply"], &[], "").await;
    assert_eq!(code, 0, "topology apply: {out}\n{err}");
    (space, topic)
}

/// The orders pipeline at work.
async fn working(space: &Space) -> Process {
    // Frozen for a while it stays a member.
    let session = [("HEADWATER__KAFKA__CONSUMER__SESSION_TIMEOUT", "45s")];
    let process =
        Process::start(PROGRAM, space, "run", &["run", "--group", "fulfil-order", "--group", "orders-sink"], &session);
    let address = process.address().await;
    eventually("it is ready", SOON, async || {
        reqwest::get(format!("{address}/readyz")).await.is_ok_and(|answer| answer.status().is_success())
    })
    .await;
    process
}

/// Runs a load of payments; gives its exit code, its report, and what it said meanwhile.
async fn load(space: &Space, topic: &str, more: &[&str]) -> (i32, Json, String) {
    let args = [&["load", "payment.completed", "--topic", topic, "--json"], more].concat();
    let (code, out, err) = Process::run(PROGRAM, space, &args, &[], "").await;
    let report = serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error} in {out:?}\n{err}"));
    (code, report, err)
}

/// What is measured of a latency is there and in order.
fn assert_measured(of: &Json, count: u64) {
    assert_eq!(of["count"], count, "{of}");
    let quantiles =
        ["p50_ms", "p90_ms", "p99_ms", "p99_9_ms", "max_ms"].map(|name| of[name].as_f64().expect("a number"));
    assert!(quantiles.is_sorted() && quantiles[0] > 0.0, "{of}");
}

/// Every payment of a load is on its topic, is seen as an event on the next topic and as a row, with headers and without.
/// Red when a correlation id is not that of the contract, a record is counted twice or not sent, or an arrival that comes
/// before its acknowledgement is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_is_acknowledged_and_seen_on_topic_and_table() {
    let (space, topic) = ready("load_seen").await;
    let mut process = working(&space).await;
    let foreign = ForeignClient::new(&space);
    for (round, more) in [(101, &["--producers", "2"][..]), (102, &["--headers"])] {
        let seed = format!("{round}");
        let more = [&["--rate", "300/s", "--count", "900", "--seed", &seed], &TO_BOTH[..], more].concat();
        let (code, report, err) = load(&space, &topic, &more).await;
        assert_eq!(code, 0, "{report}\n{err}\n{}", process.log());
        for (name, count) in [("sent", 900), ("acknowledged", 900), ("failed", 0)] {
            assert_eq!(report[name], count, "{name} of {report}");
        }
        assert_measured(&report["acknowledgement"], 900);
        // 900 at 300/s: never faster than that, however slow the machine.
        assert!(report["duration_s"].as_f64().is_some_and(|took| took >= 2.99), "{report}");
        assert!(report["acknowledged_per_s"].as_u64().is_some_and(|rate| (1..=301).contains(&rate)), "{report}");
        let ends = report["end_to_end"].as_array().expect("a list");
        assert_eq!(ends.len(), 2, "{report}");
        for end in ends {
            assert_eq!(
                (&end["seen"], &end["unfinished"], &end["superseded"]),
                (&900.into(), &0.into(), &0.into()),
                "{end}"
            );
            assert_measured(end, 900);
        }
        // Orders of other tests are on that topic too.
        let stored = format!("select count(*) from orders where order_id like '{round}-%'");
        assert_eq!(space.count(&stored).await, 900);
        assert!(err.contains("acknowledged") && err.contains("p99"), "a line of progress each second: {err}");
    }
    let seen = foreign.read(&topic);
    assert_eq!((seen.len(), seen.iter().filter(|seen| seen.headers.contains_key("ce_id")).count()), (1_800, 900));
    assert!(process.stop().await.success(), "{}", process.log());
}

/// The open loop, end to end. The pipeline is frozen for two seconds under a load that goes on: the longest latency is that
/// of the freeze, and many are of more than a second, since all that were due meanwhile count from when they were due.
/// Red when the load waits for what has not arrived and counts from when it goes on: then only what was in flight is late.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_pipeline_shows_in_the_latency() {
    let (space, topic) = ready("load_frozen").await;
    let mut process = working(&space).await;
    let freeze = async {
        eventually("the load has begun", SOON, async || {
            space.count("select count(*) from orders where order_id like '103-%'").await > 0
        })
        .await;
        process.signal(Signal::STOP);
        tokio::time::sleep(Duration::from_millis(3_200)).await;
        process.signal(Signal::CONT);
    };
    let more = [&["--rate", "100/s", "--duration", "12s", "--seed", "103"], &TO_BOTH[..]].concat();
    let ((code, report, err), ()) = tokio::join!(load(&space, &topic, &more), freeze);
    assert_eq!(code, 0, "{report}\n{err}\n{}", process.log());
    for end in report["end_to_end"].as_array().expect("a list") {
        assert_measured(end, 1_200);
        let ms = |name: &str| end[name].as_f64().unwrap_or_default();
        assert!(ms("max_ms") >= 3_000.0, "the freeze of three seconds: {end}");
        assert!(ms("p90_ms") >= 1_000.0, "220 of 1200 were due in its first 2.2 seconds: {end}");
    }
    assert!(process.stop().await.success(), "{}", process.log());
}

/// Red when a row that a later one replaced is waited for, or Zipf's first key is no more than the others.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_are_replaced_count_as_superseded() {
    let (space, topic) = ready("load_keys").await;
    let mut process = working(&space).await;
    let keys = ["--rate", "max", "--count", "3000", "--keys", "50", "--zipf", "1.2", "--producers", "2", "--seed", "7"];
    let (code, report, err) = load(&space, &topic, &[&keys[..], &TO_BOTH].concat()).await;
    assert_eq!(code, 0, "{report}\n{err}\n{}", process.log());
    assert_eq!(report["rate_per_s"], Json::Null, "as fast as possible");
    let of = |name: &str, what: &str| {
        let ends = report["end_to_end"].as_array().expect("a list");
        let end = ends.iter().find(|end| end["to"].as_str().is_some_and(|to| to.contains(name))).expect(name);
        end[what].as_u64().expect("a number")
    };
    assert_eq!(of("events.order", "seen"), 3_000);
    let (seen, superseded) = (of("table", "seen"), of("table", "superseded"));
    assert_eq!(seen + superseded, 3_000, "{report}");
    let rows = space.count("select count(*) from orders where order_id like '7-%'").await;
    assert!(superseded > 0 && (20..=50).contains(&rows), "{rows} rows, {report}");
    let records = ForeignClient::new(&space).read(&topic);
    let of = |key: &[u8]| records.iter().filter(|seen| seen.key.as_deref() == Some(key)).count();
    assert!(of(b"7-0") > 5 * of(b"7-40"), "{} of the first key, {} of a late one", of(b"7-0"), of(b"7-40"));
    assert!(process.stop().await.success(), "{}", process.log());
}

/// Nobody works: what does not arrive is said, and so is a load that Ctrl-C ends. Red when the exit code is 0, the wait does not
/// end, or nothing is reported.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_arrive_and_what_is_cut_short_are_reported() {
    let (space, topic) = ready("load_lost").await;
    let more = ["--rate", "100/s", "--count", "50", "--to-table", "orders-sink", "--wait", "500ms"];
    let (code, report, err) = load(&space, &topic, &more).await;
    assert_eq!(code, 1, "{report}\n{err}");
    let end = &report["end_to_end"][0];
    assert_eq!((&end["seen"], &end["unfinished"], &end["p50_ms"]), (&0.into(), &50.into(), &Json::Null), "{report}");

    let args = ["load", "payment.completed", "--topic", &topic, "--rate", "50/s", "--duration", "5min"];
    let mut process = Process::start(PROGRAM, &space, "load", &args, &[]);
    process.logs("2 s: sent", SOON).await;
    let status = process.stop().await;
    let log = process.log();
    assert_eq!(status.code(), Some(130), "{log}");
    assert!(log.contains("LATENCY (MS)") && log.contains("at 50/s") && log.contains("failed 0"), "{log}");
}

/// Red when a wrong argument costs a record, is found by the first failure, or the message does not say what to do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_usage_is_refused_before_anything_is_sent() {
    let (space, topic) = ready("load_refused").await;
    for (args, words) in [
        (&["payment.complete"][..], &["payment.complete", "`payment.completed`"][..]),
        (&["payment.completed", "--rate", "0/s"], &["--rate", "500/s", "max"]),
        (&["payment.completed", "--rate", "fast"], &["--rate", "500/s"]),
        (&["payment.completed", "--template", r#"{"oder_id":"x"}"#], &["oder_id", "`order_id`"]),
        (&["payment.completed", "--template", r#"{"amount_cents":"x"}"#], &["amount_cents", "long"]),
        (&["payment.completed", "--key", "order"], &["`order`", "order_id"]),
        (&["payment.completed", "--to-table", "order-sink"], &["order-sink", "`orders-sink`"]),
        (&["payment.completed", "--to-topic", "order.fulfiled"], &["`order.fulfilled`"]),
        (&["payment.completed", "--keys", "2", "--producers", "3"], &["--keys", "--producers"]),
        (&["payment.completed", "--warm-up", "10s"], &["--warm-up"]),
        (&["payment.completed", "--zipf", "1.1"], &["--keys"]),
    ] {
        let args = [&["load", "--topic", &topic], args].concat();
        let (code, out, err) = Process::run(PROGRAM, &space, &args, &[], "").await;
        assert_eq!((code, out.as_str()), (2, ""), "{args:?}: {err}");
        assert!(words.iter().all(|word| err.contains(word)), "{args:?}: {err}");
    }
    let (code, _, err) =
        Process::run(PROGRAM, &space, &["load", "payment.completed", "--topic", "none-such"], &[], "").await;
    assert!(code == 1 && err.contains("none-such"), "{err}");
    assert_eq!(ForeignClient::new(&space).ends(&topic), 0, "nothing was sent");
}
