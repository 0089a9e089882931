//! Records that fail, that nobody can process, that the store refuses; and what is bounded.

use std::time::Duration;

use super::{
    scripted::{Bench, Plan, at},
    *,
};
use crate::{CommitError, Committed, ports::Fetched};

fn refused() -> std::result::Result<Committed, CommitError> {
    Err(CommitError::Refused("bad row".to_owned()))
}

/// A linger that puts what two batches bring into one unit.
fn together() -> Settings {
    Settings { linger: Duration::from_millis(10), ..Settings::default() }
}

/// Red when a record that was read with the failing one begins before that has succeeded.
#[test]
fn what_was_read_with_a_failing_record_waits_for_it() {
    let plan = Plan::default();
    let mut bench = Bench::publisher(&plan, Settings::default()).assigned(1);
    // The schema is fetched for the first record: a failure after that comes before the next record begins.
    assert_eq!(bench.records(0, 1, 0, "a").log(), "unit a, commit 0:1");
    plan.fail("a1", Failure::retry("once"));
    bench.records(0, 1, 1, "a b a").advance(SECOND / 2 - Duration::from_millis(1));
    assert_eq!((plan.seen().as_str(), bench.log().as_str()), ("a0 a1", "pause 0"));
    bench.advance(Duration::from_millis(1));
    assert_eq!((plan.seen().as_str(), bench.log().as_str()), ("a0 a1 a1 b2 a3", "resume 0, unit a b a, commit 0:4"));
}

/// Red when two records of one key run at once, or a later key waits for an earlier one.
#[test]
fn one_record_of_a_key_runs_at_a_time() {
    let plan = Plan::default();
    let a0 = plan.gate("a0");
    let mut bench = Bench::publisher(&plan, Settings { concurrency: 2, ..Settings::default() }).assigned(1);
    bench.records(0, 1, 0, "a a b c");
    assert_eq!(plan.seen(), "a0 b2 c3");
    a0.send(Ok(())).unwrap();
    bench.advance(Duration::ZERO);
    assert_eq!(plan.seen(), "a0 b2 c3 a1");
}

/// A person moves the group past the offset that is named: everything before it must be done by then.
/// Red when a stop lets go of what waits for its key or for another attempt before the offset, or one of a key overtakes
/// another that failed.
#[test]
fn what_stands_before_a_poison_record_still_runs_and_commits() {
    let plan = Plan::default();
    let (a0, b2) = (plan.gate("a0"), plan.gate("b2"));
    let mut bench = Bench::publisher(&plan, Settings::default()).assigned(1);
    bench.records(0, 1, 0, "a a b a c");
    plan.fail("a0", Failure::retry("twice"));
    a0.send(Err(Failure::retry("once"))).unwrap();
    bench.advance(Duration::from_millis(100));
    b2.send(Err(Failure::reject("never"))).unwrap();
    bench.advance(Duration::ZERO);
    assert_eq!(bench.log(), "unit c, pause 0, pause 0");
    assert_eq!(bench.advance(10 * SECOND).log(), "unit a a, commit 0:2");
    assert_eq!(plan.seen(), "a0 b2 c4 a0 a0 a1");
    assert!(bench.state.troubles()[0].contains("stopped at offset 2 (rejected): never"));
}

/// Red when a later reason, or a pause, hides that of the first record that stopped the partition, or an earlier one is not told.
#[test]
fn a_stopped_partition_names_its_first_poison_record() {
    let plan = Plan::default();
    let [waits, a0, b1, c2] = ["a0", "a0", "b1", "c2"].map(|event| plan.gate(event));
    let mut bench = Bench::publisher(&plan, Settings::default()).assigned(1);
    bench.records(0, 1, 0, "a b c");
    for (gate, failure, why) in [
        (b1, Failure::reject("b"), "1 (rejected): b"),
        (c2, Failure::reject("c"), "1 (rejected): b"),
        (waits, Failure::Throttled(SECOND), "1 (rejected): b"),
        (a0, Failure::reject("a"), "0 (rejected): a"),
    ] {
        gate.send(Err(failure)).unwrap();
        bench.advance(SECOND);
        assert!(bench.state.troubles()[0].ends_with(why), "wanted {why}, got {:?}", bench.state.troubles());
    }
    assert_eq!(bench.state.get(Metric::Stopped), 1);
    bench.tell(Fetched::Assigned(vec![at(0)])).advance(Duration::ZERO);
    assert_eq!(bench.state.troubles(), Vec::<String>::new(), "a new start has no trouble yet");
}

/// Red when the good partition does not commit, the bad one goes on, what ends later is committed past the refused row,
/// or a later row of it.
#[test]
fn a_refused_unit_is_split_and_only_the_bad_partition_stops() {
    let plan = Plan::default();
    let d1 = plan.gate("d1");
    let mut bench = Bench::atomic(&plan, together()).assigned(2);
    bench.answer(refused()).answer(Ok(Committed::Done)).answer(refused());
    bench.records(0, 1, 0, "a b").records(1, 2, 0, "c d e").advance(Duration::from_millis(10));
    assert_eq!(bench.log(), "unit 0:2 1:1 a b c, unit 0:2 a b, commit 0:2, unit 1:1 c, pause 1");
    d1.send(Ok(())).unwrap();
    bench.records(1, 2, 3, "f").records(1, 3, 3, "f").records(0, 1, 2, "g").advance(SECOND);
    assert_eq!(bench.log(), "unit 0:3 g, commit 0:3");
    assert_eq!(bench.state.troubles(), ["events.net/1: stopped (row): bad row"]);
    assert_eq!(bench.state.get(Metric::Stopped), 1);
}

/// Red when a unit that is split loses what it was to publish: its positions would be committed all the same.
#[test]
fn a_refused_unit_is_split_with_what_it_publishes() {
    let mut bench = Bench::publisher(&Plan::default(), together()).assigned(2);
    bench.answer(refused()).answer(Ok(Committed::Done)).answer(refused());
    bench.records(0, 1, 0, "a b").records(1, 2, 0, "c").records(0, 1, 2, "d").advance(Duration::from_millis(10));
    assert_eq!(bench.log(), "unit a b c d, unit a b d, commit 0:3, unit c, pause 1");
}

/// Red when a refusal makes a partition ours again that has gone, or holds up one that leaves.
#[test]
fn a_refusal_does_not_bring_back_a_partition_that_leaves() {
    let mut bench = Bench::sink(Settings::default()).assigned(1);
    bench.silent(true).answer(refused()).records(0, 1, 0, "a").tell(Fetched::Revoked(vec![at(0)]));
    assert_eq!(bench.silent(false).log(), "unit 0:1, released 0, forget 0");
    bench.tell(Fetched::Assigned(vec![at(0)])).log();
    bench.silent(true).answer(refused()).records(0, 2, 0, "a").tell(Fetched::Lost(vec![at(0)]));
    assert_eq!(bench.silent(false).log(), "unit 0:1, forget 0");
    assert_eq!((bench.state.get(Metric::Partitions), bench.state.get(Metric::Stopped)), (0, 0));
    assert_eq!(bench.state.troubles(), Vec::<String>::new());
}

/// Red when an outage that ended with a refusal is still reported.
#[test]
fn a_refusal_is_an_answer() {
    let mut bench = Bench::sink(Settings::default()).assigned(1);
    bench.answer(Err(CommitError::Outage("no answer".to_owned()))).answer(refused());
    bench.records(0, 1, 0, "a").advance(SECOND);
    assert_eq!(bench.state.troubles(), ["events.net/0: stopped (row): bad row"]);
}

/// Red when bytes do not cut a unit.
#[test]
fn a_unit_is_cut_by_bytes() {
    let mut bench = Bench::sink(Settings { batch_bytes: 1, ..together() }).assigned(1);
    assert_eq!(bench.records(0, 1, 0, "a b").log(), "unit 0:1, commit 0:1, unit 0:2, commit 0:2");
}

/// Red when what finished ahead of a slow record is not counted: all that is read would wait in memory.
#[test]
fn what_a_transaction_holds_back_counts_as_in_flight() {
    let plan = Plan::default();
    let a0 = plan.gate("a0");
    let mut bench = Bench::atomic(&plan, Settings { in_flight: 3, ..Settings::default() }).assigned(1);
    bench.records(0, 1, 0, "a b c d e");
    assert_eq!((plan.seen().as_str(), bench.state.get(Metric::InFlight)), ("a0 b1 c2", 3));
    a0.send(Ok(())).unwrap();
    assert_eq!(bench.log(), "unit 0:3 a b c, commit 0:3, unit 0:5 d e, commit 0:5");
}

/// Red when a publisher may run any number of records ahead of a slow one.
#[test]
fn a_publisher_runs_ahead_of_a_slow_record_within_bounds() {
    let plan = Plan::default();
    let a0 = plan.gate("a0");
    let mut bench = Bench::publisher(&plan, Settings { in_flight: 2, ..Settings::default() }).assigned(1);
    bench.records(0, 1, 0, "a b c d e f g h i j k").advance(SECOND);
    assert_eq!(plan.seen().split(' ').count(), 2 * crate::worker::AHEAD);
    a0.send(Ok(())).unwrap();
    bench.advance(SECOND);
    assert_eq!(plan.seen().split(' ').count(), 11);
    assert!(bench.log().ends_with("commit 0:11"));
}

/// Red when a pause is added to the clock without a bound: the group would end with a panic.
#[test]
fn a_pause_without_end_holds_its_partition_only() {
    let plan = Plan::default();
    plan.fail("a0", Failure::Throttled(Duration::MAX));
    let mut bench = Bench::publisher(&plan, Settings::default()).assigned(2);
    bench.advance(SECOND).records(1, 2, 0, "c").records(0, 1, 0, "a b").records(1, 2, 1, "c").advance(SECOND);
    assert_eq!(bench.log(), "unit c, commit 1:1, pause 0, unit c, commit 1:2");
    assert_eq!(bench.tell(Fetched::Revoked(vec![at(0)])).log(), "released 0, forget 0");
}

/// Red when what is read is bounded by its count alone, or what was passed still counts.
#[test]
fn a_group_reads_no_further_than_its_bytes() {
    let plan = Plan::default();
    let a0 = plan.gate("a0");
    let settings = Settings { in_flight_bytes: 40, ..Settings::default() };
    let mut bench = Bench::publisher(&plan, settings).assigned(1);
    assert!(bench.wants());
    bench.records(0, 1, 0, "a b c d e f");
    assert!(!bench.wants(), "five finished records wait for the first");
    a0.send(Ok(())).unwrap();
    bench.advance(Duration::ZERO);
    assert!(bench.wants());
    assert!(bench.log().ends_with("commit 0:6"));
}

/// Red when a store that does not answer lets effects pile up.
#[test]
fn a_group_begins_nothing_while_the_bytes_of_its_effects_are_too_many() {
    let plan = Plan::default();
    let settings = Settings { in_flight_bytes: 40, ..Settings::default() };
    let mut bench = Bench::publisher(&plan, settings).assigned(1);
    // The first waits for its schema.
    bench.records(0, 1, 0, "w").silent(true).records(0, 1, 1, "a b c d e f");
    assert_eq!(plan.seen(), "w0 a1", "one with what it publishes is more than 40 bytes");
    bench.silent(false).advance(Duration::ZERO);
    assert_eq!(plan.seen(), "w0 a1 b2 c3 d4 e5 f6");
}
