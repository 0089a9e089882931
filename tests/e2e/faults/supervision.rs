//! Groups that fail: each is started anew by itself, says why and since when, and takes nobody with it.

use std::time::Duration;

use headwater_dev::{KafkaChoice, PostgresChoice};
use headwater_tests::{Process, Space, eventually};
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer as _},
};
use serde_json::Value as Json;

use crate::{
    PROGRAM,
    faults::outage::{own_stack, ready},
    shared, space,
};

const SOON: Duration = Duration::from_mins(1);

/// What `groups NAME --json` says, where the processes answer at this address.
pub(crate) async fn group(space: &Space, name: &str, http: &str) -> Json {
    let at = [("HEADWATER__HTTP__ADDR", http.trim_start_matches("http://"))];
    let (code, out, err) = Process::run(PROGRAM, space, &["groups", name, "--json"], &at, "").await;
    assert_eq!(code, 0, "{err}");
    serde_json::from_str(&out).expect("a line of JSON")
}

/// A process starts before `topology apply`: its groups lack their schemas and topics, say so, and come up by themselves once
/// that has been done. Red when a group that has failed is not started anew (the loop of `Supervisor::run`), `/readyz` or
/// `groups` do not say why or since when, or `/livez` falls with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_whose_schema_is_not_registered_comes_up_by_itself() {
    let endpoints = shared().endpoints.clone();
    let stack = own_stack("supervised", |config| {
        config.kafka = KafkaChoice::At(endpoints.kafka_bootstrap.clone());
        config.postgres = PostgresChoice::At(endpoints.database_url.clone());
    })
    .await;
    let mut space = space("supervised").await;
    space.endpoints = stack.endpoints().clone();
    let mut process = Process::start(PROGRAM, &space, "run", &["run", "--group", "send-receipt"], &[]);
    let http = process.address().await;
    eventually("/readyz says why and since when", SOON, async || {
        let (status, text) = ready(&http).await;
        status == 503 && text.contains("topology apply") && text.contains("send-receipt: failed since 20")
    })
    .await;
    assert_eq!(reqwest::get(format!("{http}/livez")).await.expect("alive").status(), 200);
    let label = format!("{{group=\"{}.send-receipt\"}}", space.name);
    eventually("it is tried again", SOON, async || {
        process.metric(&format!("headwater_group_failures_total{label}")).await >= 2.0
    })
    .await;
    let said = group(&space, "send-receipt", &http).await;
    let why = said["instances"][0]["troubles"][0].as_str().unwrap_or_default();
    assert!(said["state"] == "failed" && why.contains("failed since 20") && why.contains("topology apply"), "{said}");
    let (code, _, err) = Process::run(PROGRAM, &space, &["topology", "apply"], &[], "").await;
    assert_eq!(code, 0, "{err}");
    eventually("it is ready", SOON, async || ready(&http).await.0 == 200).await;
    let said = group(&space, "send-receipt", &http).await;
    assert!(said["state"] == "running" && said["instances"][0]["troubles"] == serde_json::json!([]), "{said}");
    assert!(process.stop().await.success(), "{}", process.log());
    space.pool.close().await;
    stack.stop().await.expect("stopped");
}

/// Somebody else who takes a member's name.
fn stranger(space: &Space, group: &str, member: &str) -> BaseConsumer {
    let stranger: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &space.endpoints.kafka_bootstrap)
        .set("group.id", group)
        .set("group.instance.id", member)
        .set("partition.assignment.strategy", "cooperative-sticky")
        .create()
        .expect("a consumer");
    stranger.subscribe(&["events.payment"]).expect("subscribed");
    stranger
}

/// A stranger takes a member's name and goes away again: the member is fenced, and comes back. Red when a consumer that failed
/// ends its group for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_name_another_one_took_comes_back() {
    let space = space("supervised_fenced").await;
    let (code, _, err) = Process::run(PROGRAM, &space, &["topology", "apply"], &[], "").await;
    assert_eq!(code, 0, "{err}");
    let mut process = Process::start(PROGRAM, &space, "run", &["run", "--group", "send-receipt"], &[]);
    let http = process.address().await;
    eventually("it is ready", SOON, async || ready(&http).await.0 == 200).await;
    let said = group(&space, "send-receipt", &http).await;
    let member = said["members"][0]["instance"].as_str().expect("a static member").to_owned();
    // Settled in its place, for longer than a session: of one that has just come nobody knows whether it is the later one.
    tokio::time::sleep(Duration::from_secs(4)).await;
    let stranger = stranger(&space, said["group"].as_str().expect("its id"), &member);
    let failures = format!("headwater_group_failures_total{{group=\"{}.send-receipt\"}}", space.name);
    eventually("the member is fenced", SOON, async || {
        stranger.poll(Duration::from_millis(100));
        process.metric(&failures).await >= 1.0
    })
    .await;
    tokio::task::spawn_blocking(move || drop(stranger)).await.expect("dropped");
    eventually("it is ready again", SOON, async || ready(&http).await.0 == 200).await;
    assert_eq!(group(&space, "send-receipt", &http).await["state"], "running");
    assert!(process.stop().await.success(), "{}", process.log());
}

/// Strangers take a member's name one after the other, each sooner than a session after the last one, and live on. Fails where
/// the group that was started anew counts as the one that came later: it would wait for the second stranger, and end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_was_started_anew_is_not_the_one_that_came_later() {
    let space = space("supervised_tenure").await;
    let (code, _, err) = Process::run(PROGRAM, &space, &["topology", "apply"], &[], "").await;
    assert_eq!(code, 0, "{err}");
    // Longer than the rounds below are apart.
    let session = [("HEADWATER__KAFKA__CONSUMER__SESSION_TIMEOUT", "10s")];
    let mut process = Process::start(PROGRAM, &space, "run", &["run", "--group", "send-receipt"], &session);
    let http = process.address().await;
    eventually("it is ready", SOON, async || ready(&http).await.0 == 200).await;
    let said = group(&space, "send-receipt", &http).await;
    let member = said["members"][0]["instance"].as_str().expect("a static member").to_owned();
    // Settled in its place, which it claims for as long.
    tokio::time::sleep(Duration::from_secs(40)).await;
    let failures = format!("headwater_group_failures_total{{group=\"{}.send-receipt\"}}", space.name);
    let mut strangers = Vec::new();
    for round in 1..=2 {
        strangers.push(stranger(&space, said["group"].as_str().expect("its id"), &member));
        eventually("the member is fenced, and asks for its place", SOON, async || {
            strangers.iter().for_each(|stranger| _ = stranger.poll(Duration::from_millis(50)));
            process.metric(&failures).await >= f64::from(round)
        })
        .await;
        eventually("it is ready again", SOON, async || ready(&http).await.0 == 200).await;
        assert!(!process.log().contains("another process runs"), "{}", process.log());
    }
    assert_eq!(group(&space, "send-receipt", &http).await["state"], "running");
    tokio::task::spawn_blocking(move || drop(strangers)).await.expect("dropped");
    assert!(process.stop().await.success(), "{}", process.log());
}
