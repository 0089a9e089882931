//! State whose offsets are gone, and topics that grow under it: nothing is counted a second time or in a second place.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use headwater_tests::{Process, eventually};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions, NewPartitions},
    client::DefaultClientContext,
};
use tokio::time::sleep;

use super::{SOON, Shop};
use crate::PROGRAM;

const TOTALS: &str = "customer-totals";

impl Shop {
    fn admin(&self) -> AdminClient<DefaultClientContext> {
        ClientConfig::new().set("bootstrap.servers", &self.space.endpoints.kafka_bootstrap).create().expect("a client")
    }

    fn totals_alone(&self, instance: &str) -> Process {
        let env = [("HEADWATER__INSTANCE", instance)];
        Process::start(PROGRAM, &self.space, instance, &["run", "--group", TOTALS], &env)
    }

    /// Every offset of the group is gone, as after seven days at rest.
    #[expect(clippy::disallowed_methods, reason = "this process's broker stays where it is")]
    async fn lose_offsets(&self) {
        let (admin, group) = (self.admin(), self.group(TOTALS));
        eventually("nobody is in the group, and it is deleted", SOON, async || {
            let deleted = admin.delete_groups(&[&group], &AdminOptions::new()).await.expect("an answer");
            deleted.iter().all(Result::is_ok)
        })
        .await;
    }

    /// Runs a reset as soon as the group has no members.
    pub(super) async fn reset(&self, more: &[&str]) -> String {
        let arguments = [&["offsets", "reset", TOTALS], more].concat();
        let said = RefCell::new(String::new());
        eventually("the group is reset", SOON, async || {
            let (code, out, err) = Process::run(PROGRAM, &self.space, &arguments, &[], "").await;
            assert!(code == 0 || err.contains("has members"), "{arguments:?}: {out}{err}");
            said.replace(out);
            code == 0
        })
        .await;
        said.into_inner()
    }

    async fn all_kept(&self) {
        eventually("all is kept", SOON, async || self.kept() == self.paid).await;
    }
}

/// The offsets are deleted, the group stops and says both ways out, and each of them is gone.
async fn neither_way_counts_twice(mut shop: Shop) {
    let mut process = shop.totals_alone("one");
    shop.pay(300, 30);
    shop.all_kept().await;
    assert!(process.stop().await.success(), "{}", process.log());

    shop.lose_offsets().await;
    let process = shop.totals_alone("two");
    process.logs("--keep-state", SOON).await;
    assert!(process.log().contains("--with-state") && process.log().contains("expired"), "{}", process.log());
    drop(process);
    let plain = ["offsets", "reset", TOTALS, "--to", "earliest"];
    let (code, _, err) = Process::run(PROGRAM, &shop.space, &plain, &[], "").await;
    assert!(code == 2 && err.contains("--with-state") && err.contains("--keep-state"), "{code}: {err}");
    let dry = shop.reset(&["--to", "earliest", "--with-state", "--dry-run"]).await;
    assert!(dry.contains("nothing was changed") && dry.contains("its state is wiped"), "{dry}");
    assert_eq!(shop.kept(), shop.paid);

    shop.reset(&["--to", "earliest", "--with-state"]).await;
    assert_eq!(shop.kept(), BTreeMap::new());
    // The instance whose disk has all of it, and then one that has none.
    for instance in ["one", "three"] {
        let mut process = shop.totals_alone(instance);
        shop.pay(30, 30);
        shop.all_kept().await;
        assert!(process.stop().await.success(), "{}", process.log());
    }

    shop.lose_offsets().await;
    shop.reset(&["--to", "latest", "--keep-state"]).await;
    let mut process = shop.totals_alone("one");
    shop.pay(30, 30);
    shop.all_kept().await;
    assert!(process.stop().await.success(), "{}", process.log());
    assert_eq!(shop.kept(), shop.paid);
}

/// Red when the offsets are not looked for (300 payments count as 600, or 900), when a wipe leaves what a local
/// disk has, or when what was repartitioned before is read again beside its input.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_are_gone_stop_a_group_that_has_state() {
    neither_way_counts_twice(Shop::new("state_gone").await).await;
}

/// The same at least once. Red when in addition how far inputs have come outlives the wipe: nothing would be counted then.
#[tokio::test(flavor = "multi_thread")]
async fn offsets_that_are_gone_stop_a_group_at_least_once_too() {
    neither_way_counts_twice(Shop::at_least_once("state_gone_once").await).await;
}

/// A topic of records that are repartitioned grows from 6 partitions to 8 under two instances and a stream of
/// payments. Both stop and say what to do, nothing was written by eight, and no customer has two states.
/// Red when the count of the producer's metadata says where a key goes, or when an instance that was not given one of the new
/// partitions goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_grows_stops_the_whole_group_and_no_key_gets_two_states() {
    let mut shop = Shop::new("state_grows").await;
    let running = [shop.totals_alone("one"), shop.totals_alone("two")];
    shop.pay(500, 50);
    shop.all_kept().await;
    let repartition = format!("{}.{TOTALS}.repartition", shop.group(TOTALS));
    let grown = shop.admin().create_partitions(&[NewPartitions::new(&repartition, 8)], &AdminOptions::new()).await;
    assert!(grown.expect("an answer").iter().all(Result::is_ok));
    let said = format!("topic {repartition} has 8 partitions and");
    let deadline = Instant::now() + SOON;
    while !running.iter().all(|process| process.log().contains(&said)) {
        assert!(Instant::now() < deadline, "both should have stopped");
        shop.pay(50, 50);
        sleep(Duration::from_millis(50)).await;
    }
    for process in &running {
        assert!(process.log().contains("--with-state"), "{}", process.log());
    }
    let ends: Vec<i64> = shop.foreign.watermarks(&repartition).into_iter().map(|(_, end)| end).collect();
    assert_eq!((ends.len(), &ends[6..]), (8, &[0, 0][..]), "records that were repartitioned");
    let mut places: BTreeMap<String, BTreeSet<i32>> = BTreeMap::new();
    for seen in shop.foreign.read(&format!("{}.totals.changelog", shop.group(TOTALS))) {
        let customer = String::from_utf8(seen.key.expect("a key")).expect("text");
        places.entry(customer).or_default().insert(seen.place.0);
    }
    places.retain(|customer, _| shop.paid.contains_key(customer));
    assert!(places.len() == 50 && places.values().all(|places| places.len() == 1), "{places:?}");
}
