//! State of groups that are at least once: what comes again is known, and counted once.

use std::collections::{BTreeSet, HashMap};

use headwater::spi::InputPartition;
use headwater_connectors::store::local::SourceOffsets;
use headwater_schemas::CustomerFlagged;
use headwater_tests::{ConsumedRecord, ForeignClient, Process, eventually, full};

use super::{SOON, Shop};
use crate::PROGRAM;

const AT_LEAST_ONCE: &str =
    "[groups.flag-big-spender]\ndelivery = \"at-least-once\"\n[groups.customer-totals]\ndelivery = \"at-least-once\"\n";

impl Shop {
    pub(super) async fn at_least_once(name: &str) -> Self {
        Self { at_least_once: true, ..Self::with(crate::space(name).await, AT_LEAST_ONCE).await }
    }

    /// The same where one unit of work follows the other even when all partitions are being given up.
    pub(super) async fn at_least_once_in_small_units(name: &str) -> Self {
        let config = format!("{AT_LEAST_ONCE}batch_records = 20\n");
        Self { at_least_once: true, ..Self::with(crate::space(name).await, &config).await }
    }

    async fn all_through(&self) {
        eventually("everything has gone through", SOON * 2, async || self.is_through()).await;
    }

    /// What must hold once everything has gone through: outputs may have come again, but none is missing or was made of an
    /// input that counted twice.
    pub(super) fn check_repeated(&self) {
        for (customer, seen) in self.totals() {
            let (mut next, mut sums) = (1, HashMap::new());
            for (number, sum) in &seen {
                assert!(*number <= next, "{customer}: {number} comes before {next}: {seen:?}");
                next = next.max(number + 1);
                assert_eq!(*sums.entry(*number).or_insert(*sum), *sum, "{customer}: {number} has two sums: {seen:?}");
            }
            assert_eq!((next - 1, sums[&(next - 1)]), self.paid[&customer], "{customer}: {seen:?}");
        }
        let flagged: BTreeSet<String> =
            self.announced::<CustomerFlagged>().into_iter().map(|f| f.customer_id).collect();
        let spenders = self.paid.iter().filter(|(_, (_, cents))| *cents >= 100_000);
        assert_eq!(flagged, spenders.map(|(customer, _)| customer.clone()).collect());
        assert_eq!(self.kept(), self.paid, "the changelog");
        for store in ["flag-big-spender.spend", "customer-totals.totals"] {
            only_rise(&self.foreign, &self.group(&format!("{store}.changelog")));
        }
    }
}

/// What a changelog says of its inputs is never less than what it has said before: who restores from its end knows them all.
pub(crate) fn only_rise(foreign: &ForeignClient, changelog: &str) {
    let mut all: HashMap<i32, HashMap<InputPartition, i64>> = HashMap::new();
    for ConsumedRecord { place, headers, .. } in foreign.read(changelog) {
        let text =
            headers.get("hw_inputs").unwrap_or_else(|| panic!("{changelog} {place:?} says nothing of its inputs"));
        let said: HashMap<_, _> =
            text.parse::<SourceOffsets>().expect("inputs").positions().map(|input| (input.of, input.next)).collect();
        let before = all.entry(place.0).or_default();
        for (of, next) in before.iter() {
            let known = said.get(of);
            assert!(known.is_some_and(|known| known >= next), "{changelog} {place:?}: {of:?} was {next}, is {known:?}");
        }
        *before = said;
    }
}

/// Two instances are killed in turn at any moment: an output may come again, and state has each input once.
/// Red when what a store has is not skipped; when changes are sent before outputs, whose input is skipped then; or when of
/// a key only the last change of a unit is sent, before which a crash leaves the places of others.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_state_has_each_input_once() {
    let kills = if full() { 30 } else { 8 };
    super::killed_at_any_moment(Shop::at_least_once("replay_kills").await, kills).await;
}

/// Offsets are not committed for as long as the process lives. It is killed, and everything comes again: both to where
/// records are repartitioned and from there. Nothing is counted, or announced, twice; no more so when the disk is lost, and
/// what stands in the changelog says how far the inputs had come. After a clean stop the same groups go on exactly once,
/// and then at least once again.
/// Red when what a store has is not skipped; when a record that was repartitioned twice is another input; or when a
/// changelog's records do not say how far the inputs have come.
#[tokio::test(flavor = "multi_thread")]
async fn what_comes_again_is_not_counted_twice() {
    let mut shop = Shop::at_least_once("replay_all").await;
    let never = ("HEADWATER__KAFKA__CONSUMER__COMMIT_INTERVAL", "1h");
    let mut process = shop.start_with("one", &[never]);
    shop.pay(2_000, 40);
    shop.all_through().await;
    for lost in [false, true] {
        process.kill().await;
        if lost {
            std::fs::remove_dir_all(shop.space.dir.join("one")).expect("the state");
        }
        process = shop.start_with("one", &[never]);
        // They stand behind what comes again.
        shop.pay(500, 40);
        shop.all_through().await;
        shop.check_once();
    }
    assert!(process.stop().await.success(), "{}", process.log());
    shop.check();
    let file = shop.space.dir.join("headwater.toml");
    let text = std::fs::read_to_string(&file).expect("the configuration");
    for text in [text.replace("at-least-once", "exactly-once"), text] {
        std::fs::write(&file, text).expect("the configuration is written");
        // Exactly once has a changelog more: of what waits for another attempt.
        let (code, out, err) = Process::run(PROGRAM, &shop.space, &["topology", "apply"], &[], "").await;
        assert_eq!(code, 0, "topology apply: {out}\n{err}");
        process = shop.start("one");
        shop.pay(500, 40);
        shop.all_through().await;
        assert!(process.stop().await.success(), "{}", process.log());
        shop.check_once();
    }
}
