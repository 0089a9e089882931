//! Instances that come and go amid work: each time partitions move, and with them who keeps their state.

use std::time::{Duration, Instant};

use headwater_tests::{Process, eventually, full};
use tokio::time::sleep;

use super::{SOON, Shop};

/// What the process says when partitions are taken from it.
const TAKEN: &str = "partitions are taken away";

/// Under load one instance after the other comes, which takes partitions from those that work; the oldest is killed or
/// stopped, and its partitions move once its session is over. The next one takes its name, and finds its old disk.
async fn come_and_go(mut shop: Shop) {
    let rounds = if full() { 8 } else { 2 };
    let mut running = vec![shop.start("0")];
    shop.pay(500, 40);
    eventually("all have been totalled", SOON, async || shop.is_through()).await;
    for round in 1..=rounds {
        shop.goes_on(3_000).await;
        sleep(Duration::from_millis(round * 41 % 97)).await;
        let taken = |process: &Process| process.log().matches(TAKEN).count();
        let before = taken(&running[0]);
        running.push(shop.start(&(round % 2).to_string()));
        // All the while there is work under way.
        let patience = Instant::now() + SOON;
        while taken(&running[0]) == before {
            assert!(Instant::now() < patience, "no partitions move: {}", running[0].log());
            shop.pay(50, 40);
            sleep(Duration::from_millis(50)).await;
        }
        shop.goes_on(1_000).await;
        let mut oldest = running.remove(0);
        if round % 2 == 0 {
            assert!(oldest.stop().await.success(), "{}", oldest.log());
        } else {
            oldest.kill().await;
        }
        eventually("all have been totalled", SOON, async || shop.is_through()).await;
        shop.check();
    }
    for mut process in running {
        assert!(process.stop().await.success(), "{}", process.log());
    }
    shop.check();
}

/// Partitions move amid the work of a group that is at least once. State has each input
/// once, and what a changelog says of its inputs only rises.
/// Red when a number's state is closed with the first of its partitions that leaves: the last changes of the others say of
/// their own inputs alone, and the next owner counts again what it reads again.
#[tokio::test(flavor = "multi_thread")]
async fn instances_that_come_and_go_count_each_input_once() {
    come_and_go(Shop::at_least_once_in_small_units("state_come_again").await).await;
}

/// The same exactly once.
/// Red when an old disk counts as up to date, what its changelog has beyond it left unread. Not seen red by another single break on
/// the way there, since each has something behind it: a restore that reads what is uncommitted, or to the last stable offset
/// alone, or before the offsets are read; offsets that are not the stable ones; an owner that does not drain what it gives up.
#[tokio::test(flavor = "multi_thread")]
async fn instances_that_come_and_go_are_exact() {
    come_and_go(Shop::new("state_come").await).await;
}
