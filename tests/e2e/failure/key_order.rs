//! The order `key` in the program: what waits in a group's state outlives the process and its disk.

use std::time::Duration;

use headwater::Payload as _;
use headwater::spi::codec::{self, WriterSchema};
use headwater_schemas::OrderFulfilled;
use headwater_tests::{ForeignClient, Process, Space, eventually, quiet_stack};

use crate::{
    PROGRAM,
    failure::retry::{applied, faults, own_warehouse_beside},
};

const SOON: Duration = Duration::from_mins(2);
const ORDER: &str = "waits-1";

/// The amounts of our order's events, as committed transactions have announced them.
fn fulfilled(foreign: &ForeignClient) -> Vec<i64> {
    let schema = WriterSchema::parse(0, OrderFulfilled::SCHEMA, &[]).expect("a schema");
    let ours = foreign.read("events.order").into_iter().filter(|seen| seen.key.as_deref() == Some(ORDER.as_bytes()));
    let amount = |seen: headwater_tests::ConsumedRecord| {
        let (_, datum) = codec::split(seen.value.as_deref().expect("a value")).expect("confluent's wire format");
        schema.decode::<OrderFulfilled>(datum).expect("an event of its type").amount_cents
    };
    ours.map(amount).collect()
}

/// `headwater state list`, as the instance that runs answers.
async fn listed(space: &Space) -> String {
    let args = ["state", "list", "fulfil-order", "waiting", "--json"];
    let (code, out, err) = Process::run(PROGRAM, space, &args, &[], "").await;
    assert_eq!(code, 0, "{out}{err}");
    out
}

/// Under the order `key`: of an order the first of three payments fails twice. The
/// program is killed while all of them wait, its disk is lost, and it is killed again while the first waits anew: each is
/// fulfilled once, in order, and nothing waits any more.
/// Red when what waits is not restored, when its number is looked for where a key of that name would be, when it is overtaken, or when it is kept although it is done with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_waits_in_state_survives_kills_and_a_lost_disk() {
    let (stack, space) = own_warehouse_beside(quiet_stack(env!("CARGO_TARGET_TMPDIR")), "waiting_in_state").await;
    let config = "[kafka.producer]\ntransaction_timeout = \"3s\"\n\
                  [groups.fulfil-order]\norder = \"key\"\nretry = [\"5s\", \"6s\"]\n\
                  [groups.fulfil-order.breakers.warehouse]\nwindow_calls = 10000\nminimum_calls = 10000\n";
    let (topic, foreign, payments) = applied(&space, 6, config).await;
    faults(&space, Some(serde_json::json!({"status": 500, "first": 2, "order_id": ORDER}))).await;
    let start = || {
        Process::start(PROGRAM, &space, "one", &["run", "--group", "fulfil-order"], &[("HEADWATER__INSTANCE", "one")])
    };
    let mut process = start();
    for cents in 1..=3 {
        foreign.send(&topic, Some(ORDER), Some(&payments.value(ORDER, cents, None)), &[]);
    }
    foreign.flush();
    let group = format!("{}.fulfil-order", space.name);
    let changelog = format!("{group}.waiting.changelog");
    eventually("all wait", SOON, async || foreign.read(&changelog).len() == 3).await;
    eventually("the position is told", SOON, async || foreign.passed(&group, &topic) == 3).await;
    let list = listed(&space).await;
    assert!(list.contains(ORDER) && list.contains("hw_error_message") && list.contains("500"), "{list}");
    let args = ["state", "get", "fulfil-order", "waiting", "1", "--json"];
    let (code, out, err) = Process::run(PROGRAM, &space, &args, &[], "").await;
    assert!(code == 0 && out.contains(ORDER) && out.contains("00000000000000000001"), "{out}{err}");
    process.kill().await;
    std::fs::remove_dir_all(space.dir.join("one")).expect("the disk is lost");

    process = start();
    eventually("the first waits anew", SOON, async || foreign.read(&changelog).len() == 4).await;
    assert_eq!(fulfilled(&foreign), Vec::<i64>::new());
    process.kill().await;
    process = start();
    eventually("all are fulfilled", SOON, async || fulfilled(&foreign).len() >= 3).await;
    assert_eq!(fulfilled(&foreign), [1, 2, 3]);
    eventually("nothing waits", SOON, async || foreign.read(&changelog).len() == 7).await;
    assert!(process.stop().await.success(), "{}", process.log());
    assert_eq!(fulfilled(&foreign), [1, 2, 3]);
    assert_eq!(foreign.read(&changelog).len(), 7, "three that wait, one that waits anew, three that are done");
    assert_eq!(foreign.read(&format!("{group}.dlq")).len(), 0);
    stack.stop().await.expect("stopped");
}
