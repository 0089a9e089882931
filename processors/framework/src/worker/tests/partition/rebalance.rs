//! Partitions that come, go, are taken by others, and a store that does not answer.

use std::time::Duration;

use crate::{
    ports::{
        SourceEvent,
        unit::{CommitError, CommitOutcome},
    },
    worker::tests::{
        scripted::{Bench, Plan, at},
        *,
    },
};

fn outage() -> std::result::Result<CommitOutcome, CommitError> {
    Err(CommitError::Outage("no answer".to_owned()))
}

/// Red when what waits for its key or has not begun still runs, when the partition is released while a record of it is
/// under way, or before its last position is committed.
#[test]
fn a_revoked_partition_ends_what_runs_and_commits_before_it_is_released() {
    let plan = Plan::default();
    let (a0, b2) = (plan.gate("a0"), plan.gate("b2"));
    let mut bench = Bench::publisher(&plan, GroupSettings { concurrency: 2, ..GroupSettings::default() }).assigned(1);
    bench.records(0, 1, 0, "a a b c").tell(SourceEvent::Revoked(vec![at(0)]));
    b2.send(Ok(())).unwrap();
    assert_eq!(bench.log(), "unit b");
    a0.send(Ok(())).unwrap();
    assert_eq!(bench.log(), "unit a, commit 0:1, released 0, forget 0");
    assert_eq!(plan.seen(), "a0 b2");
}

/// Red when the drain deadline does not hold: the group would wait for a hanging record for ever.
#[test]
fn a_revoked_partition_is_released_at_the_drain_deadline() {
    let plan = Plan::default();
    let _a0 = plan.gate("a0");
    let mut bench = Bench::publisher(&plan, GroupSettings::default()).assigned(1);
    bench.records(0, 1, 0, "a").tell(SourceEvent::Revoked(vec![at(0)])).advance(20 * SECOND - Duration::from_millis(1));
    assert_eq!(bench.log(), "");
    assert_eq!(bench.advance(Duration::from_millis(1)).log(), "released 0, forget 0");
}

/// Red when a partition that is not ours is not released at once: the source would wait for it.
#[test]
fn an_unknown_partition_is_released_at_once() {
    let mut bench = Bench::publisher(&Plan::default(), GroupSettings::default()).assigned(1);
    assert_eq!(bench.tell(SourceEvent::Revoked(vec![at(7)])).log(), "released 7");
}

/// Red when a lost partition commits, or what ends late is booked for its next start.
#[test]
fn a_lost_partition_commits_nothing_and_what_ends_late_is_dropped() {
    let (plan, lost, assigned) =
        (Plan::default(), || SourceEvent::Lost(vec![at(0)]), || SourceEvent::Assigned(vec![at(0)]));
    let (late, b1) = (plan.gate("b1"), plan.gate("b1"));
    let mut bench = Bench::publisher(&plan, GroupSettings::default()).assigned(1);
    bench.silent(true).records(0, 1, 0, "a b").tell(lost());
    assert_eq!(bench.silent(false).log(), "unit a, forget 0", "what was on its way is published, and nothing else");
    bench.tell(assigned()).records(0, 2, 0, "a b");
    late.send(Ok(())).unwrap();
    assert_eq!(bench.log(), "start 0, begin 0#2, resume 0, unit a, commit 0:1");
    bench.silent(true);
    b1.send(Ok(())).unwrap();
    bench.tell(lost()).tell(assigned());
    assert_eq!(bench.silent(false).log(), "unit b, forget 0, start 0, begin 0#3, resume 0");
}

/// Red when the start of a batch is not compared.
#[test]
fn a_batch_of_an_earlier_start_is_dropped() {
    let plan = Plan::default();
    let mut bench = Bench::publisher(&plan, GroupSettings::default()).assigned(1);
    bench.tell(SourceEvent::Lost(vec![at(0)])).tell(SourceEvent::Assigned(vec![at(0)])).records(0, 1, 5, "a").log();
    assert_eq!(plan.seen(), "");
    assert_eq!(bench.records(0, 2, 0, "b").log(), "unit b, commit 0:1");
}

/// Red when a fenced partition is given up, starts again without a pause, keeps what ran, or moves on.
#[test]
fn a_fenced_partition_drops_what_ran_and_starts_again() {
    let plan = Plan::default();
    let b1 = plan.gate("b1");
    let mut bench = Bench::atomic(&plan, GroupSettings::default()).assigned(1);
    bench.answer(Ok(CommitOutcome::Fenced(vec![at(0)]))).records(0, 1, 0, "a b");
    assert_eq!(bench.log(), "unit 0:1 a, pause 0");
    b1.send(Ok(())).unwrap();
    assert_eq!(bench.advance(SECOND / 2 - Duration::from_millis(1)).log(), "");
    assert_eq!(bench.advance(Duration::from_millis(1)).log(), "start 0, begin 0#2, resume 0");
    assert_eq!(bench.records(0, 2, 0, "a b").log(), "unit 0:2 a b, commit 0:2");
    assert_eq!(bench.metrics.get(Metric::Fenced), 1);
}

/// Red when a partition that starts anew is still said to wait for what its last start waited for.
#[test]
fn a_partition_that_starts_anew_says_nothing_of_its_last_start() {
    let plan = Plan::default();
    let mut bench = Bench::atomic(&plan, GroupSettings::default()).assigned(1);
    bench.records(0, 1, 0, "a").log();
    plan.fail("b2", Failure::Throttled(3600 * SECOND));
    bench.silent(true).answer(Ok(CommitOutcome::Fenced(vec![at(0)]))).records(0, 1, 1, "a b").advance(SECOND);
    assert_eq!(bench.note(&at(0)).as_deref(), Some("throttled"));
    bench.silent(false).advance(SECOND);
    assert_eq!((bench.note(&at(0)), bench.metrics.troubles()), (None, Vec::new()));
    assert!(bench.records(0, 2, 1, "a b").log().ends_with("unit 0:3 a b, commit 0:3"));
}

/// Red when a fence is answered for a partition that has gone, or one on its way out is taken again.
#[test]
fn a_fence_does_not_bring_back_a_partition_that_leaves() {
    let mut bench = Bench::sink(GroupSettings::default()).assigned(2);
    let fenced = || Ok(CommitOutcome::Fenced(vec![at(0)]));
    bench.silent(true).answer(fenced()).records(0, 1, 0, "a").tell(SourceEvent::Revoked(vec![at(0)]));
    assert_eq!(bench.silent(false).advance(SECOND).log(), "unit 0:1, released 0, forget 0");
    bench.tell(SourceEvent::Assigned(vec![at(0)])).log();
    bench.silent(true).answer(fenced()).records(0, 3, 0, "a").tell(SourceEvent::Lost(vec![at(0)]));
    assert_eq!(bench.silent(false).advance(SECOND).log(), "unit 0:1, forget 0");
}

/// A rebalance waits for everybody: red when a partition leaves only at the drain deadline although its store does not answer, or
/// leaves while it is being asked, or while a record is still processed.
#[test]
fn a_partition_does_not_wait_on_its_way_out_for_a_store_that_does_not_answer() {
    let plan = Plan::default();
    let b1 = plan.gate("b1");
    let mut bench = Bench::atomic(&plan, GroupSettings::default()).assigned(3);
    bench.answer(outage()).records(0, 1, 0, "a").log();
    assert_eq!(bench.tell(SourceEvent::Revoked(vec![at(0)])).log(), "released 0, forget 0");
    bench.records(1, 2, 0, "a b").log();
    assert_eq!(bench.tell(SourceEvent::Revoked(vec![at(1)])).log(), "", "one of it is processed");
    b1.send(Ok(())).unwrap();
    assert_eq!(bench.advance(Duration::from_millis(1)).log(), "released 1, forget 1");
    bench.silent(true).answer(outage()).records(2, 3, 0, "a").advance(SECOND / 2);
    assert_eq!(bench.tell(SourceEvent::Revoked(vec![at(2)])).log(), "unit 2:1 a", "the store is asked");
    assert_eq!(bench.silent(false).advance(Duration::from_millis(1)).log(), "released 2, forget 2");
}

/// Red when an outage drops the unit, changes it, is not reported, is retried at once, or outlives its end.
#[test]
fn an_outage_of_the_store_pauses_and_the_same_unit_is_tried_again() {
    let mut bench = Bench::sink(GroupSettings::default()).assigned(1);
    bench.answer(outage()).answer(outage()).records(0, 1, 0, "a");
    assert_eq!(bench.log(), "unit 0:1");
    assert_eq!(bench.metrics.troubles(), ["store: no answer"]);
    assert_eq!(bench.records(0, 1, 1, "b").advance(SECOND / 2 - Duration::from_millis(1)).log(), "");
    assert_eq!(bench.advance(Duration::from_millis(1)).log(), "unit 0:1");
    assert_eq!(bench.advance(SECOND - Duration::from_millis(1)).log(), "", "the second pause is twice as long");
    assert_eq!(bench.advance(Duration::from_millis(1)).log(), "unit 0:1, commit 0:1, unit 0:2, commit 0:2");
    assert_eq!(bench.metrics.troubles(), Vec::<String>::new());
    assert_eq!(bench.metrics.get(Metric::CommitFailures), 2);
}

/// Red when a start that failed is not asked again.
#[test]
fn an_outage_at_the_start_of_a_partition_is_waited_for() {
    let mut bench = Bench::sink(GroupSettings::default());
    bench.answer(outage()).tell(SourceEvent::Assigned(vec![at(0)]));
    assert_eq!(bench.log(), "start 0");
    assert_eq!(bench.advance(SECOND / 2).log(), "start 0, begin 0#1, resume 0");
}

/// Red when a unit that is tried again still holds a partition that was lost meanwhile.
#[test]
fn a_unit_that_is_tried_again_leaves_out_what_is_no_longer_ours() {
    for (lost, unit) in [(1, "unit 0:1 a, commit 0:1"), (0, "unit 1:1 b, commit 1:1")] {
        let settings = GroupSettings { linger: Duration::from_millis(10), ..GroupSettings::default() };
        let mut bench = Bench::atomic(&Plan::default(), settings).assigned(2);
        bench.answer(outage()).records(0, 1, 0, "a").records(1, 2, 0, "b").advance(Duration::from_millis(10));
        assert_eq!(bench.log(), "unit 0:1 1:1 a b");
        let wanted = format!("forget {lost}, {unit}");
        assert_eq!(bench.tell(SourceEvent::Lost(vec![at(lost)])).advance(SECOND).log(), wanted);
    }
}

/// The store belongs to what it is asked, so that a second question at once does not compile.
/// Red when the store is not asked again after its answer, or units go before the starts of partitions.
#[test]
fn the_store_is_asked_one_thing_at_a_time() {
    let mut bench = Bench::sink(GroupSettings::default()).assigned(1);
    bench.silent(true).records(0, 1, 0, "a").records(0, 1, 1, "b").tell(SourceEvent::Assigned(vec![at(1)]));
    assert_eq!(bench.advance(SECOND).log(), "unit 0:1");
    assert_eq!(bench.silent(false).log(), "commit 0:1, start 1, begin 1#2, resume 1, unit 0:2, commit 0:2");
}

/// Red when a group that is told to stop begins something new, closes before what runs is committed, or never ends.
#[test]
fn a_group_that_stops_ends_what_runs_commits_it_and_closes() {
    let plan = Plan::default();
    let (a0, b2) = (plan.gate("a0"), plan.gate("b2"));
    let mut bench = Bench::publisher(&plan, GroupSettings { concurrency: 2, ..GroupSettings::default() }).assigned(1);
    assert_eq!(bench.records(0, 1, 0, "a a b c").stop().records(0, 1, 4, "d").log(), "");
    b2.send(Ok(())).unwrap();
    assert_eq!(bench.log(), "unit b");
    a0.send(Ok(())).unwrap();
    assert_eq!(bench.log(), "unit a, commit 0:1, close");
    assert!(matches!(bench.ended, Some(Ok(()))) && plan.seen() == "a0 b2");
}

/// Red when the drain deadline does not hold at a stop.
#[test]
fn a_group_that_stops_does_not_wait_for_ever() {
    let plan = Plan::default();
    let _a0 = plan.gate("a0");
    let mut bench = Bench::publisher(&plan, GroupSettings::default()).assigned(1);
    assert_eq!(bench.records(0, 1, 0, "a").stop().advance(20 * SECOND - Duration::from_millis(1)).log(), "");
    assert_eq!(bench.advance(Duration::from_millis(1)).log(), "close");
    assert!(matches!(bench.ended, Some(Ok(()))));
}
