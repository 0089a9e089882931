//! A process's place in its groups: what takes it away, and who may have it.

use std::time::Duration;

use headwater_tests::{Process, eventually};
use tokio::time::sleep;

use crate::{
    PROGRAM,
    failure::retry::applied,
    faults::{outage::ready, supervision},
    space,
};

const SOON: Duration = Duration::from_mins(2);

/// Two processes of one name, the second started once the first is settled in its place, and with what `while_two` does from
/// then on until the second has ended: the first goes on, the second waits, says why, and ends.
async fn the_later_one_ends(name: &str, delivery: &str, while_two: impl AsyncFn(&dyn Fn(&str))) {
    let space = space(name).await;
    let config = format!("[groups.send-receipt]\ndelivery = \"{delivery}\"\n");
    let (topic, foreign, payments) = applied(&space, 2, &config).await;
    let start = |instance: &str| {
        let dir = space.dir.join(instance).display().to_string();
        // Longer than it takes the first to ask for its place again: until then the second is no settled member.
        let session = ("HEADWATER__KAFKA__CONSUMER__SESSION_TIMEOUT", "12s");
        let env = [("HEADWATER__INSTANCE", "w1"), ("HEADWATER__DIR", dir.as_str()), session];
        Process::start(PROGRAM, &space, instance, &["run", "--group", "send-receipt"], &env)
    };
    let send = |batch: &str| {
        for n in 0..20 {
            let order = format!("{name}-{batch}-{n}");
            foreign.send(&topic, Some(&order), Some(&payments.value(&order, 1, Some("a@example.org"))), &[]);
        }
        foreign.flush();
    };
    let receipts = |batch: &str| {
        let key = format!("{name}-{batch}-");
        let ours =
            |seen: &headwater_tests::ConsumedRecord| seen.key.as_ref().is_some_and(|k| k.starts_with(key.as_bytes()));
        foreign.read("events.receipt").into_iter().filter(ours).count()
    };
    let mut first = start("first");
    send("one");
    eventually("the first works", SOON, async || receipts("one") >= 20).await;
    // Settled in its place: longer than a session.
    sleep(Duration::from_secs(13)).await;
    let mut second = start("second");
    let http = second.address().await;
    let ends = async {
        eventually("/readyz says why the second waits, and since when", SOON, async || {
            let (status, why) = ready(&http).await;
            status == 503 && why.contains("send-receipt: group: the place of instance w1-") && why.contains("since 20")
        })
        .await;
        let said = supervision::group(&space, "send-receipt", &http).await["instances"].to_string();
        assert!(said.contains("the place of instance w1-"), "`groups` says it too: {said}");
        second.logs(&format!("another process runs group {name}.send-receipt as instance w1-"), SOON).await;
    };
    tokio::select! {
        () = ends => {}
        () = while_two(&send) => {}
    }
    send("two");
    eventually("the first works on", SOON, async || receipts("two") >= 20).await;
    assert!(!first.log().contains("another process runs"), "{}", first.log());
    let (status, why) = ready(&http).await;
    assert!(status == 503 && why.contains("another process runs"), "{status} {why}");
    for process in [&mut first, &mut second] {
        assert!(process.stop().await.success(), "{}", process.log());
    }
}

/// Fails where the earlier of two processes with one instance's name ends, both take turns for ever, or the one that waits
/// does not say so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_with_one_name_the_later_one_ends() {
    the_later_one_ends("namesakes", "at-least-once", async |_| std::future::pending().await).await;
}

/// The same exactly once and at rest: little is committed, and the group is the first to tell of the other. Fails where the
/// earlier one ends, as it does when nobody counts as settled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_once_and_at_rest_the_later_one_ends() {
    the_later_one_ends("namesakes_rest", "exactly-once", async |_| std::future::pending().await).await;
}

/// The same exactly once and at work: mostly a producer hears of the other one before the group's next heartbeat does. Fails
/// where a producer that is shut out does not wait for what the source says: its group is started anew as often as it hears of
/// the other, and neither ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exactly_once_and_at_work_the_later_one_ends() {
    let at_work = async |send: &dyn Fn(&str)| loop {
        send("between");
        sleep(Duration::from_millis(50)).await;
    };
    the_later_one_ends("namesakes_work", "exactly-once", at_work).await;
}

/// Two processes of one instance that read different topics, as one with another ladder does, are two members of their group, and
/// write under one transactional id: the one that came later says so, and ends.
/// Red when nobody ends (`Fencing::verdict` always fails the group, which is then started anew): they fence each other for ever;
/// when the first one does; or when the one that waits does not say so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_that_read_different_topics_the_later_one_ends() {
    let space = space("namesakes_apart").await;
    let config = "[groups.send-receipt]\ndelivery = \"exactly-once\"\nretry = [\"1s\"]\n";
    let (topic, foreign, payments) = applied(&space, 2, config).await;
    let read = std::fs::read_to_string(space.dir.join("headwater.toml")).expect("the configuration");
    std::fs::write(space.dir.join("other.toml"), read.replace("[\"1s\"]", "[\"2s\"]")).expect("it is written");
    let (code, out, err) =
        Process::run(PROGRAM, &space, &["--config", "other.toml", "topology", "apply"], &[], "").await;
    assert_eq!(code, 0, "{out}\n{err}");
    let start = |name: &str, config: &str| {
        let dir = space.dir.join(name).display().to_string();
        let env = [
            ("HEADWATER__INSTANCE", "w1"),
            ("HEADWATER__DIR", dir.as_str()),
            ("HEADWATER__KAFKA__CONSUMER__SESSION_TIMEOUT", "6s"),
            // Each has one partition of the payments.
            ("HEADWATER__KAFKA__CONSUMER__ASSIGNOR", "range"),
        ];
        Process::start(PROGRAM, &space, name, &["--config", config, "run", "--group", "send-receipt"], &env)
    };
    let send = |batch: &str| {
        for n in 0..20 {
            let order = format!("apart-{batch}-{n}");
            foreign.send(&topic, Some(&order), Some(&payments.value(&order, 1, Some("a@example.org"))), &[]);
        }
        foreign.flush();
    };
    let receipts = |batch: &str| {
        let key = format!("apart-{batch}-");
        let ours =
            |seen: &headwater_tests::ConsumedRecord| seen.key.as_ref().is_some_and(|k| k.starts_with(key.as_bytes()));
        foreign.read("events.receipt").into_iter().filter(ours).count()
    };
    let mut first = start("first", "headwater.toml");
    send("one");
    eventually("the first works", SOON, async || receipts("one") >= 20).await;
    let mut second = start("second", "other.toml");
    let http = second.address().await;
    let ends = async {
        eventually("/readyz says why the second waits", SOON, async || {
            let (status, why) = ready(&http).await;
            status == 503 && why.contains("reads other topics") && why.contains("whether it lives")
        })
        .await;
        second.logs("and was there before this one: stop one of them", SOON).await;
    };
    let at_work = async {
        loop {
            send("between");
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::select! {
        () = ends => {}
        () = at_work => {}
    }
    send("two");
    eventually("the first works on", SOON, async || receipts("two") >= 20).await;
    assert!(!first.log().contains("was there before this one"), "{}", first.log());
    let (status, why) = ready(&http).await;
    assert!(status == 503 && why.contains("until a person acts") && why.contains("an `instance` of its own"), "{why}");
    for process in [&mut first, &mut second] {
        assert!(process.stop().await.success(), "{}", process.log());
    }
}
