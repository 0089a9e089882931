//! How much is left to do, as the metrics and `groups` tell it: what somebody has still to process, and nothing else.

use std::time::Duration;

use headwater_tests::{Payments, Process, Space, eventually};
use rdkafka::{
    ClientConfig,
    producer::{BaseProducer, BaseRecord, Producer as _},
};
use serde_json::Value as Json;

use crate::{
    PROGRAM,
    failure::retry::applied,
    faults::{outage::ready, supervision::group},
    space,
};

const SOON: Duration = Duration::from_mins(1);
const PATIENCE: Duration = Duration::from_secs(20);

/// A client of somebody else's that produces in transactions, and begins one.
fn begun(space: &Space) -> BaseProducer {
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", &space.endpoints.kafka_bootstrap)
        .set("transactional.id", &space.name)
        .create()
        .expect("a producer");
    producer.init_transactions(PATIENCE).expect("initialised");
    producer.begin_transaction().expect("begun");
    producer
}

fn send(producer: &BaseProducer, topic: &str, payments: &Payments, count: i64) {
    for n in 0..count {
        let (order, value) = (format!("o{n}"), payments.value(&format!("o{n}"), 1, Some("a@example.org")));
        producer.send(BaseRecord::to(topic).partition(0).key(&order).payload(&value)).expect("sent");
    }
    producer.flush(PATIENCE).expect("acknowledged");
}

/// Twenty records behind an open transaction are lag, with that reason, and no fault of ours; once it is over, and they are
/// processed, nothing is left behind its marker, whether the group runs or not.
/// Red when the end is the last stable offset, markers count (`Partition::ends`, or `counted`), or the reason is not said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_lies_behind_an_open_transaction_is_lag_and_its_marker_is_not() {
    let space = space("lag_open").await;
    let (topic, _, payments) = applied(&space, 2, "").await;
    let mut process = Process::start(PROGRAM, &space, "run", &["run", "--group", "send-receipt"], &[]);
    let http = process.address().await;
    eventually("it is ready", SOON, async || ready(&http).await.0 == 200).await;
    let producer = begun(&space);
    send(&producer, &topic, &payments, 20);
    let label = format!("{{group=\"{}.send-receipt\",topic=\"{topic}\"}}", space.name);
    let metric = async |name: &str| process.metric(&format!("headwater_{name}{label}")).await;
    eventually("they are lag, and get older", SOON, async || {
        metric("lag_records").await == 20.0 && metric("lag_seconds").await > 0.0
    })
    .await;
    assert_eq!(metric("lag_behind_transactions_records").await, 20.0);
    let said = group(&space, "send-receipt", &http).await;
    let reason = said["standing_still"][0]["reason"].as_str().unwrap_or_default();
    assert!(said["lag"] == 20 && reason.contains("20 wait behind a transaction"), "{said}");
    assert_eq!(ready(&http).await.0, 200, "it is nobody's fault here");

    producer.commit_transaction(PATIENCE).expect("committed");
    eventually("nothing is left", SOON, async || metric("lag_records").await == 0.0).await;
    let at_rest = async || {
        let said = group(&space, "send-receipt", &http).await;
        said["lag"] == 0 && said["standing_still"] == Json::Array(Vec::new())
    };
    eventually("`groups` says so", SOON, at_rest).await;
    // One that was given up leaves records that nobody reads, and another marker.
    producer.begin_transaction().expect("begun");
    send(&producer, &topic, &payments, 3);
    producer.abort_transaction(PATIENCE).expect("aborted");
    eventually("still nothing is left", SOON, async || metric("lag_records").await == 0.0).await;
    assert!(process.stop().await.success(), "{}", process.log());
    eventually("nor of a group that is stopped", SOON, at_rest).await;
}
