//! A process's place in its groups: what takes it away, and who may have it.

use std::time::Duration;

use headwater_tests::{Process, eventually};
use tokio::time::sleep;

use crate::{PROGRAM, outage::ready, retry::applied, space};

const SOON: Duration = Duration::from_mins(2);

/// Red when the earlier of two processes with one instance's name ends (having been in its place is not looked at), or both take
/// turns for ever (nobody ends): the later one never says that there is another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_processes_with_one_name_the_later_one_ends() {
    let space = space("namesakes").await;
    let (topic, foreign, payments) = applied(&space, 2, "").await;
    let start = |name: &str| {
        let dir = space.dir.join(name).display().to_string();
        // Longer than it takes the first to ask for its place again: until then the second is no settled member.
        let session = ("HEADWATER__KAFKA__CONSUMER__SESSION_TIMEOUT", "12s");
        let env = [("HEADWATER__INSTANCE", "w1"), ("HEADWATER__DIR", dir.as_str()), session];
        Process::start(PROGRAM, &space, name, &["run", "--group", "send-receipt"], &env)
    };
    let send = |name: &str| {
        for n in 0..20 {
            let order = format!("na-{name}-{n}");
            foreign.send(&topic, Some(&order), Some(&payments.value(&order, 1, Some("a@example.org"))), &[]);
        }
        foreign.flush();
    };
    let receipts = |name: &str| {
        let key = format!("na-{name}-");
        let ours = |seen: &headwater_tests::Seen| seen.key.as_ref().is_some_and(|k| k.starts_with(key.as_bytes()));
        foreign.read("events.receipt").into_iter().filter(ours).count()
    };
    let mut first = start("first");
    send("one");
    eventually("the first works", SOON, async || receipts("one") >= 20).await;
    // Settled in its place: longer than a session.
    sleep(Duration::from_secs(13)).await;
    let mut second = start("second");
    let said = "another process runs group namesakes.send-receipt as instance w1-";
    second.logs(said, SOON).await;
    send("two");
    eventually("the first works on", SOON, async || receipts("two") >= 20).await;
    assert!(!first.log().contains("another process runs"), "{}", first.log());
    let (status, why) = ready(&second.address().await).await;
    assert!(status == 503 && why.contains("another process runs"), "{status} {why}");
    for process in [&mut first, &mut second] {
        assert!(process.stop().await.success(), "{}", process.log());
    }
}
