//! What waits for what, and what is bounded.

use std::time::Duration;

use crate::{
    failure::DeadLetterKind,
    pipeline::settings::Order,
    ports::SourceEvent,
    wire::record::Record,
    worker::tests::{
        scripted::{Bench, Plan, at, record},
        *,
    },
};

/// A linger that puts what two batches bring into one unit.
fn together() -> GroupSettings {
    GroupSettings { linger: Duration::from_millis(10), ..GroupSettings::default() }
}

/// Red when a record that was read with the failing one begins before that has succeeded, or nobody is told why.
#[test]
fn what_was_read_with_a_failing_record_waits_for_it() {
    let plan = Plan::default();
    let settings = GroupSettings { order: Order::Partition, ..GroupSettings::default() };
    let mut bench = Bench::publisher(&plan, settings).assigned(1);
    // The schema is fetched for the first record: a failure after that comes before the next record begins.
    assert_eq!(bench.records(0, 1, 0, "a").log(), "unit a, commit 0:1");
    plan.fail("a1", Failure::retry("once"));
    bench.records(0, 1, 1, "a b a").advance(SECOND - MS);
    assert_eq!((plan.seen().as_str(), bench.log().as_str()), ("a0 a1", "pause 0"));
    assert_eq!(bench.note(&at(0)).as_deref(), Some("offset 1 failed and is tried again: once"));
    bench.advance(MS);
    assert_eq!(bench.note(&at(0)), None);
    assert_eq!((plan.seen().as_str(), bench.log().as_str()), ("a0 a1 a1 b2 a3", "resume 0, unit a b a, commit 0:4"));
}

/// Red when two records of one key run at once, or a later key waits for an earlier one.
#[test]
fn one_record_of_a_key_runs_at_a_time() {
    let plan = Plan::default();
    let a0 = plan.gate("a0");
    let mut bench = Bench::publisher(&plan, GroupSettings { concurrency: 2, ..GroupSettings::default() }).assigned(1);
    bench.records(0, 1, 0, "a a b c");
    assert_eq!(plan.seen(), "a0 b2 c3");
    a0.send(Ok(())).unwrap();
    bench.advance(Duration::ZERO);
    assert_eq!(plan.seen(), "a0 b2 c3 a1");
}

/// Red when those that waited for a schema begin all at once when it comes, one of them is forgotten, or one begins after
/// its partition has gone.
#[test]
fn what_waited_for_a_schema_takes_a_place_like_any_other() {
    let plan = Plan::default();
    let [a0, b1] = ["a0", "b1"].map(|event| plan.gate(event));
    let mut bench = Bench::publisher(&plan, GroupSettings { concurrency: 1, ..GroupSettings::default() }).assigned(1);
    bench.records(0, 1, 0, "a b c d");
    assert_eq!(plan.seen(), "a0");
    a0.send(Ok(())).unwrap();
    bench.advance(Duration::ZERO);
    assert_eq!(plan.seen(), "a0 b1");
    bench.log();
    bench.tell(SourceEvent::Revoked(vec![at(0)]));
    b1.send(Ok(())).unwrap();
    assert_eq!((bench.log().as_str(), plan.seen().as_str()), ("unit b, commit 0:2, released 0, forget 0", "a0 b1"));
}

/// Red when records begin, whatever runs, because those before them of their keys have a schema that nobody knows.
#[test]
fn what_waited_behind_an_unknown_schema_takes_a_place_like_any_other() {
    let plan = Plan::default();
    let [a3, _b4] = ["a3", "b4"].map(|event| plan.gate(event));
    let mut bench = Bench::publisher(&plan, GroupSettings { concurrency: 1, ..GroupSettings::default() }).assigned(1);
    bench.records(0, 1, 0, "w").log();
    let unknown = |offset, key| {
        let good = record(&at(0), offset, key, Headers::default());
        Record { value: Some([&[0, 0, 0, 4, 0], &good.value.unwrap()[5..]].concat()), ..good }
    };
    bench.batch(1, vec![unknown(1, "a"), unknown(2, "b")]).records(0, 1, 3, "a b").advance(10 * SECOND);
    assert_eq!((plan.seen().as_str(), bench.metrics.letters(DeadLetterKind::Decode)), ("w0 a3", 2));
    a3.send(Ok(())).unwrap();
    bench.advance(Duration::ZERO);
    assert_eq!(plan.seen(), "w0 a3 b4");
}

/// Red when what was held begins at the end of its pause, whatever runs then: two would call what takes one at a time.
/// Red too when a partition that leaves waits for a place for it.
#[test]
fn what_was_held_takes_a_place_like_any_other() {
    let plan = Plan::default();
    let [a0, again, b0, _c1] = ["a0", "a0", "b0", "c1"].map(|event| plan.gate(event));
    let mut bench = Bench::publisher(&plan, GroupSettings { concurrency: 1, ..GroupSettings::default() }).assigned(2);
    bench.records(0, 1, 0, "a").advance(Duration::ZERO);
    a0.send(Err(Failure::Throttled(SECOND))).unwrap();
    bench.records(1, 2, 0, "b c").advance(2 * SECOND);
    assert_eq!((plan.seen().as_str(), bench.log().as_str()), ("a0 b0", "pause 0"));
    b0.send(Ok(())).unwrap();
    assert_eq!((bench.log().as_str(), plan.seen().as_str()), ("unit b, commit 1:1", "a0 b0 a0"));
    again.send(Err(Failure::Throttled(SECOND))).unwrap();
    assert_eq!((bench.log().as_str(), plan.seen().as_str()), ("", "a0 b0 a0 c1"));
    // A partition that leaves does not wait for the place.
    bench.advance(2 * SECOND).tell(SourceEvent::Revoked(vec![at(0)]));
    assert_eq!((bench.log().as_str(), plan.seen().as_str()), ("released 0, forget 0", "a0 b0 a0 c1"));
}

/// Red when bytes do not cut a unit.
#[test]
fn a_unit_is_cut_by_bytes() {
    let mut bench = Bench::sink(GroupSettings { batch_bytes: 1, ..together() }).assigned(1);
    assert_eq!(bench.records(0, 1, 0, "a b").log(), "unit 0:1, commit 0:1, unit 0:2, commit 0:2");
}

/// Red when what finished ahead of a slow record is not counted: all that is read would wait in memory.
#[test]
fn what_a_transaction_holds_back_counts_as_in_flight() {
    let plan = Plan::default();
    let a0 = plan.gate("a0");
    let mut bench = Bench::atomic(&plan, GroupSettings { in_flight: 3, ..GroupSettings::default() }).assigned(1);
    bench.records(0, 1, 0, "a b c d e");
    assert_eq!((plan.seen().as_str(), bench.metrics.get(Metric::InFlight)), ("a0 b1 c2", 3));
    a0.send(Ok(())).unwrap();
    assert_eq!(bench.log(), "unit 0:3 a b c, commit 0:3, unit 0:5 d e, commit 0:5");
}

/// Red when a publisher may run any number of records ahead of a slow one.
#[test]
fn a_publisher_runs_ahead_of_a_slow_record_within_bounds() {
    let plan = Plan::default();
    let a0 = plan.gate("a0");
    let mut bench = Bench::publisher(&plan, GroupSettings { in_flight: 2, ..GroupSettings::default() }).assigned(1);
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
    let mut bench = Bench::publisher(&plan, GroupSettings::default()).assigned(2);
    bench.advance(SECOND).records(1, 2, 0, "c").records(0, 1, 0, "a b").records(1, 2, 1, "c").advance(SECOND);
    assert_eq!(bench.log(), "unit c, commit 1:1, pause 0, unit c, commit 1:2");
    assert_eq!(bench.tell(SourceEvent::Revoked(vec![at(0)])).log(), "released 0, forget 0");
}

/// The bench fails when the group looks around without an end. Red when a pause of no time is taken at its word.
#[test]
fn a_pause_of_no_time_is_a_pause() {
    let plan = Plan::default();
    (0..20_000).for_each(|_| plan.fail("a0", Failure::Throttled(Duration::ZERO)));
    let mut bench = Bench::publisher(&plan, GroupSettings::default()).assigned(1);
    assert_eq!(bench.records(0, 1, 0, "a").advance(SECOND).log(), "pause 0");
    assert_eq!(bench.metrics.get(Metric::Throttled), 101);
}

/// Red when what is read is bounded by its count alone, or what was passed still counts.
#[test]
fn a_group_reads_no_further_than_its_bytes() {
    let plan = Plan::default();
    let a0 = plan.gate("a0");
    let settings = GroupSettings { in_flight_bytes: 40, ..GroupSettings::default() };
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
    let settings = GroupSettings { in_flight_bytes: 40, ..GroupSettings::default() };
    let mut bench = Bench::publisher(&plan, settings).assigned(1);
    // The first waits for its schema.
    bench.records(0, 1, 0, "w").silent(true).records(0, 1, 1, "a b c d e f");
    assert_eq!(plan.seen(), "w0 a1", "one with what it publishes is more than 40 bytes");
    bench.silent(false).advance(Duration::ZERO);
    assert_eq!(plan.seen(), "w0 a1 b2 c3 d4 e5 f6");
}

/// Red when what stands still leaves the byte bound: each partition that is held would keep as much as all may;
/// when it blocks the others; or when what was let go of is lost, runs twice or runs out of its key's order.
#[test]
fn partitions_that_stand_still_let_go_of_what_they_have_read() {
    let plan = Plan::default();
    let settings = GroupSettings { in_flight_bytes: 400, order: Order::Partition, ..GroupSettings::default() };
    let mut bench = Bench::publisher(&plan, settings).assigned(4);
    bench.records(3, 4, 0, "w").log();
    for partition in 0..3 {
        let name = char::from(b"abc"[usize::try_from(partition).unwrap()]);
        plan.fail(&format!("{name}0"), Failure::retry("once"));
        let keys = [name.to_string().as_str(); 40].join(" ");
        bench.records(partition, u64::from(partition.unsigned_abs()) + 1, 0, &keys);
        assert_eq!(bench.log(), format!("pause {partition}"));
        assert!(bench.wants(), "the others go on, and nothing is kept of {partition}");
    }
    // What is under way at the source comes too early.
    bench.records(0, 1, 40, "a a a");
    assert_eq!(bench.records(3, 4, 1, "d").log(), "unit d, commit 3:2");
    bench.advance(SECOND);
    let log = bench.log();
    let begins = ["begin 0#5", "begin 1#6", "begin 2#7"];
    assert!(begins.iter().all(|begin| log.contains(begin)) && log.contains("commit 0:1"), "{log}");
    assert_eq!(plan.seen(), "w0 a0 b0 c0 d1 a0 b0 c0");
    bench.records(0, 1, 43, "a").records(0, 5, 0, "a a a a");
    assert_eq!(plan.seen(), "w0 a0 b0 c0 d1 a0 b0 c0 a1 a2 a3");
    assert!(bench.log().ends_with("commit 0:4"));
}

/// Retention takes what a partition has let go of, behind which another record is done. Fails where that waits for the next
/// record to finish: the position stands, and in a transaction its effects do.
#[test]
fn what_is_done_behind_a_record_that_is_gone_waits_for_nothing() {
    for (atomic, committed) in [(false, "commit 0:3"), (true, "unit 0:3 b, commit 0:3")] {
        let plan = Plan::default();
        let a0 = plan.gate("a0");
        let settings = GroupSettings { in_flight_bytes: 20, order: Order::Partition, ..GroupSettings::default() };
        let bench = if atomic { Bench::atomic(&plan, settings) } else { Bench::publisher(&plan, settings) };
        let mut bench = bench.assigned(2);
        bench.records(1, 2, 0, "w").advance(SECOND).records(0, 1, 0, "a a b").advance(SECOND);
        assert_eq!(plan.seen(), "w0 a0 b2");
        a0.send(Err(Failure::retry("once"))).unwrap();
        bench.advance(Duration::ZERO).log();
        bench.advance(SECOND);
        let log = bench.log();
        assert!(log.contains("begin 0#3") && log.contains("commit 0:1"), "{log}");
        assert_eq!(bench.nothing_before(0, 3, 3).advance(SECOND).log(), committed);
        assert_eq!(plan.seen(), "w0 a0 b2 a0");
    }
}
