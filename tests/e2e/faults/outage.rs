//! Outages: what does not answer is waited for, said, and nothing is lost.

use std::{path::Path, time::Duration};

use headwater_dev::{KafkaChoice, PostgresChoice, Stack, StackConfig};
use headwater_tests::{ForeignClient, Payments, Process, SharedStack, Space, eventually, register};
use tokio::sync::watch;

use crate::{PROGRAM, faults::supervision, shared, space};

const SOON: Duration = Duration::from_mins(1);

/// A stack of its own, to be broken.
pub(crate) async fn own_stack(name: &str, change: impl FnOnce(&mut StackConfig)) -> Stack {
    let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    headwater_dev::remove_data(&data).expect("an old folder can be removed");
    let mut config = StackConfig { for_tests: true, ..StackConfig::new(data) };
    change(&mut config);
    let (_keep, cancel) = watch::channel(false);
    Stack::start(config, cancel).await.expect("it starts")
}

pub(crate) async fn ready(http: &str) -> (u16, String) {
    match reqwest::get(format!("{http}/readyz")).await {
        Ok(answer) => (answer.status().as_u16(), answer.text().await.unwrap_or_default()),
        Err(_) => (0, String::new()),
    }
}

/// The address that a process has bound, as it logs it.
pub(crate) async fn address(process: &Process) -> String {
    process.address().await
}

/// The database and then the broker are killed and come back while payments flow: `/readyz` says which, `/livez` stays 200, and
/// in the end every payment is an order. What waits for the database is lag, and says so. Red when an outage ends a group, a unit
/// of work that failed is dropped, or what a unit holds is not counted with its age (`Partition::place`).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_and_a_broker_that_die_and_return_are_waited_for() {
    let mut stack = own_stack("outage", |_| {}).await;
    let at = SharedStack::at(stack.endpoints().clone(), Path::new(env!("CARGO_TARGET_TMPDIR")).join("outage"));
    let space = Space::new(&at, "outage").await;
    let (code, _, err) = Process::run(PROGRAM, &space, &["topology", "apply"], &[], "").await;
    assert_eq!(code, 0, "{err}");
    let (foreign, payments) = (ForeignClient::new(&space), Payments::register(&space, "events.payment").await);
    let send = |from: usize, to: usize| {
        for n in from..to {
            let order = format!("o{n}");
            foreign.send("events.payment", Some(&order), Some(&payments.value(&order, 1, Some("a@example.org"))), &[]);
        }
        foreign.flush();
    };
    let quick = [("HEADWATER__DEFAULTS__BACKOFF_MAX", "1s")];
    let mut process = Process::start(PROGRAM, &space, "run", &["run"], &quick);
    let http = process.address().await;
    send(0, 100);
    eventually("it is ready", SOON, async || ready(&http).await.0 == 200).await;

    stack.postgres().expect("its own").kill().await.expect("killed");
    send(100, 200);
    eventually("/readyz names the sink", SOON, async || {
        let (status, text) = ready(&http).await;
        status == 503 && text.contains("orders-sink")
    })
    .await;
    assert_eq!(reqwest::get(format!("{http}/livez")).await.expect("alive").status(), 200);
    let waited = format!("headwater_lag_seconds{{group=\"{}.orders-sink\",topic=\"events.order\"}}", space.name);
    eventually("the oldest row that waits gets older", SOON, async || process.metric(&waited).await > 1.0).await;
    eventually("`groups` names the database", SOON, async || {
        let said = supervision::group(&space, "orders-sink", &http).await;
        let reasons = [&said["instances"][0]["troubles"], &said["standing_still"]].map(ToString::to_string);
        reasons.iter().all(|reason| reason.contains("postgres ") && reason.contains("it cannot be reached"))
    })
    .await;
    stack.postgres().expect("its own").start().await.expect("started");
    let orders = async || space.count("select count(*) from orders").await;
    eventually("200 orders", SOON, async || orders().await == 200).await;
    eventually("it is ready again", SOON, async || ready(&http).await.0 == 200).await;

    stack.kafka().expect("its own").kill().await.expect("killed");
    eventually("/readyz names kafka", SOON, async || {
        let (status, text) = ready(&http).await;
        status == 503 && text.contains("kafka")
    })
    .await;
    stack.kafka().expect("its own").start().await.expect("started");
    send(200, 300);
    eventually("300 orders", SOON, async || orders().await == 300).await;
    eventually("it is ready again", SOON, async || ready(&http).await.0 == 200).await;
    assert!(process.stop().await.success(), "{}", process.log());
    space.pool.close().await;
    stack.stop().await.expect("stopped");
}

/// Red when an incompatible schema is registered all the same, or the registry's reason is not passed on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn topology_apply_refuses_a_schema_that_the_registry_finds_incompatible() {
    let space = space("incompatible").await;
    let endpoints = shared().endpoints.clone();
    let stack = own_stack("incompatible", |config| {
        config.kafka = KafkaChoice::At(endpoints.kafka_bootstrap.clone());
        config.postgres = PostgresChoice::At(endpoints.database_url.clone());
    })
    .await;
    let mut elsewhere = space.clone();
    elsewhere.endpoints = stack.endpoints().clone();
    let subject = "events.order-headwater.order.OrderFulfilled";
    let url = format!("{}/config/{subject}", elsewhere.endpoints.schema_registry_url);
    let level = serde_json::json!({"compatibility": "FULL_TRANSITIVE"});
    reqwest::Client::new().put(url).json(&level).send().await.expect("an answer").error_for_status().expect("set");
    let other = r#"{"type":"record","name":"OrderFulfilled","namespace":"headwater.order","fields":[
        {"name":"order_id","type":"string"},{"name":"shelf","type":"string"}]}"#;
    register(&elsewhere, subject, other).await;
    let (code, out, err) = Process::run(PROGRAM, &elsewhere, &["topology", "apply"], &[], "").await;
    assert_eq!(code, 1, "{out}{err}");
    assert!(err.contains(subject) && err.contains("payment_id"), "the reason names the field: {err}");
    stack.stop().await.expect("stopped");
}
