//! Crash points of a stateful group's transaction, and commits of which nobody hears how they ended.

use std::time::Duration;

use headwater_connectors::store::local::{LocalStore, StateConfig};
use headwater_tests::{HeldRequest, Process, Proxy, Side, eventually};
use tokio::time::sleep;

use super::{SOON, Shop};
use crate::faults::crash_points::{held, kill};

/// How often the local store is written: at once, so that what is kept too early is there after a kill.
const FLUSH: Duration = Duration::from_millis(10);
/// What the process says of a commit that was not confirmed.
const UNKNOWN: &str = "whether a transaction was committed is not known";

/// A shop with a proxy before its broker.
struct Till {
    shop: Shop,
    proxy: Proxy,
    changelog: String,
    /// Of the transactions that keep totals.
    id: String,
}

impl Till {
    async fn new(name: &str) -> Self {
        Self::of(Shop::new(name).await).await
    }

    async fn of(shop: Shop) -> Self {
        let proxy = Proxy::kafka(&shop.space.endpoints.kafka_bootstrap).await;
        let group = shop.group("customer-totals");
        Self { shop, proxy, changelog: format!("{group}.totals.changelog"), id: format!("{group}.one.0") }
    }

    fn start(&self) -> Process {
        let flush = format!("{}ms", FLUSH.as_millis());
        let env = [("HEADWATER__KAFKA__BOOTSTRAP", self.proxy.address()), ("HEADWATER__STATE__FLUSH_INTERVAL", &flush)];
        self.shop.start_with("one", &env)
    }

    /// Waits until a transaction that changes totals comes here.
    async fn reach(&mut self, process: &Process, side: Side, request: &str) -> HeldRequest {
        self.proxy.watch(Side::Before, &["Produce", &self.changelog]);
        let first = held(&mut self.proxy, process).await;
        self.proxy.watch(side, &[request, &self.id]);
        first.pass();
        held(&mut self.proxy, process).await
    }

    /// Whether changes are committed that the local store, which nobody has open, does not know.
    fn is_behind(&self) -> bool {
        let dir = self.shop.space.dir.join("one").join(self.shop.group("customer-totals"));
        let disk = LocalStore::open(&dir, &StateConfig::default()).expect("a disk that opens");
        let reached = |partition| disk.checkpoint("totals", partition).expect("it reads").map_or(0, |at| at.next);
        let committed = self.shop.foreign.read(&self.changelog);
        committed.iter().any(|seen| seen.place.1 >= reached(seen.place.0))
    }

    async fn is_exact(&self) {
        eventually("all have been totalled", SOON, async || self.shop.is_through()).await;
        self.shop.check();
    }
}

/// A stateful group: killed before its transaction, after the outputs, after the offsets were sent, and after
/// the commit, of which the local store does not know. Each payment counts once, in the outputs and in the changelog.
/// Red when the offsets travel outside of the transaction, the local store is written before it, or is not brought up to
/// its changelog at the start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_each_point_of_a_transaction_outputs_and_state_are_exact() {
    let points = [
        (Side::Before, "AddPartitionsToTxn"),
        (Side::Before, "AddOffsetsToTxn"),
        (Side::Before, "TxnOffsetCommit"),
        (Side::Before, "EndTxn"),
        (Side::After, "EndTxn"),
    ];
    let mut till = Till::new("state_points").await;
    till.shop.pay(40, 10);
    let mut process = till.start();
    till.is_exact().await;
    assert!(process.stop().await.success(), "{}", process.log());
    for (side, request) in points {
        till.shop.pay(40, 10);
        let mut process;
        let last = if request == "AddPartitionsToTxn" {
            till.proxy.watch(side, &[request, &till.id]);
            process = till.start();
            held(&mut till.proxy, &process).await
        } else {
            process = till.start();
            till.reach(&process, side, request).await
        };
        // What is kept too early reaches the disk.
        sleep(FLUSH * 20).await;
        kill(&mut till.proxy, &mut process, last).await;
        if side == Side::After {
            eventually("it is committed, and not kept", SOON, async || till.is_behind()).await;
        }
        // Of the same customers: their totals go on from what was kept.
        till.shop.pay(40, 10);
        let mut process = till.start();
        till.is_exact().await;
        assert!(process.stop().await.success(), "{}", process.log());
        assert!(!till.is_behind(), "killed {side:?} {request}: it is kept in the end");
    }
}

/// A stateful group that is at least once: killed before and after the broker has what was repartitioned, the
/// outputs, and their changes, and before offsets are committed. Outputs may come again; each payment counts once, and the
/// changelog knows its inputs.
/// Red when changes are sent before outputs (those of a unit that was killed between are missing for good); when what the changelog
/// has is not skipped; or when a record that was repartitioned twice is two inputs, counted by where it stands now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_each_point_of_a_unit_state_has_each_input_once() {
    let mut till = Till::of(Shop::at_least_once("replay_points").await).await;
    let group = till.shop.group("customer-totals");
    let (repartitioned, changes) = (format!("{group}.customer-totals.repartition"), till.changelog.clone());
    let points = [
        (Side::Before, "Produce", repartitioned.as_str()),
        (Side::After, "Produce", &repartitioned),
        (Side::Before, "Produce", "events.customer"),
        (Side::After, "Produce", "events.customer"),
        (Side::Before, "Produce", &changes),
        (Side::After, "Produce", &changes),
        (Side::Before, "OffsetCommit", &group),
    ];
    till.shop.pay(40, 10);
    let mut process = till.start();
    till.is_exact().await;
    assert!(process.stop().await.success(), "{}", process.log());
    for (side, request, of) in points {
        till.shop.pay(40, 10);
        till.proxy.watch(side, &[request, of]);
        let mut process = till.start();
        let last = held(&mut till.proxy, &process).await;
        // What is kept too early reaches the disk.
        sleep(FLUSH * 20).await;
        kill(&mut till.proxy, &mut process, last).await;
        // Of the same customers: their totals go on from what was kept.
        till.shop.pay(40, 10);
        let mut process = till.start();
        till.is_exact().await;
        assert!(process.stop().await.success(), "{}", process.log());
    }
}

/// The answer to a commit does not come in time. The coordinator has committed; or has never heard of
/// it; or hears of it when others are under way. The process goes on by itself, and each payment counts once.
/// Red when a commit that is not confirmed counts as done, or as aborted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_of_which_nobody_hears_the_end_is_looked_up() {
    let mut till = Till::new("state_unknown").await;
    let mut process = till.start();
    for (round, (side, late)) in (1..).zip([(Side::After, false), (Side::Before, false), (Side::Before, true)]) {
        till.shop.pay(40, 10);
        let first = till.reach(&process, side, "EndTxn").await;
        // What is asked again meanwhile is held as well.
        let unknown = async || process.log().matches(UNKNOWN).count() >= round;
        eventually("it gives up waiting", SOON, unknown).await;
        till.proxy.unwatch();
        if late {
            till.is_exact().await;
            till.shop.pay(40, 10);
            first.pass();
        } else {
            drop(first);
        }
        till.is_exact().await;
    }
    assert!(process.stop().await.success(), "{}", process.log());
    till.shop.check();
    assert!(!till.is_behind(), "everything is kept in the end");
}
