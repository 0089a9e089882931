//! The order `key`: what failed, and what follows it, waits in the group's state, and other keys go on.

use crate::{
    failure::{DeadLetterKind, Failure},
    pipeline::settings::Order,
    ports::{
        SourceEvent,
        unit::{CommitError, CommitOutcome},
    },
    worker::tests::{
        scripted::{Bench, Plan, at, record, redrive},
        *,
    },
};

fn by_key() -> GroupSettings {
    GroupSettings {
        order: Order::Key,
        ladder: crate::failure::ladder::Ladder::try_new([SECOND]).expect("valid"),
        ..GroupSettings::default()
    }
}

/// A group whose effects are transactions, with partition 0 of every topic that goes by number.
fn bench(plan: &Plan, settings: GroupSettings) -> Bench {
    let mut bench = Bench::atomic(plan, settings);
    bench.tell(SourceEvent::Assigned(vec![at(0), redrive(0)])).log();
    bench
}

/// The number of the last start of partition 0.
fn start(log: &str) -> u64 {
    let (_, rest) = log.rsplit_once("begin 0#").expect("partition 0 is begun");
    rest.split(',').next().and_then(|number| number.trim().parse().ok()).expect("a number")
}

fn fail(plan: &Plan, event: &str) {
    plan.fail(event, Failure::retry("not yet"));
}

/// Red when a waiting record is tried before the store has it: it could be done with, and then be kept.
#[test]
fn a_record_is_not_tried_again_before_it_is_kept() {
    let plan = Plan::default();
    let mut bench = bench(&plan, by_key());
    fail(&plan, "a1");
    bench.records(0, 1, 0, "b").silent(true).records(0, 1, 1, "a").advance(5 * SECOND);
    assert_eq!(plan.seen(), "b0 a1");
    bench.silent(false).advance(MS);
    assert_eq!((plan.seen().as_str(), bench.taken()), ("b0 a1 a1", vec!["b".to_owned(), "a".to_owned()]));
    assert_eq!(bench.metrics.get(Metric::Waiting), 0);
}

/// Red when a unit of records that waited says nothing of where a partition stands: a member that has lost its partitions
/// could commit it. Red as well when it moves that.
#[test]
fn a_unit_of_records_that_waited_leaves_the_position_where_it_is() {
    let plan = Plan::default();
    let mut bench = bench(&plan, by_key());
    fail(&plan, "a0");
    bench.records(0, 1, 0, "a b c a");
    assert_eq!(bench.log(), "unit 0:4 b c, commit 0:4");
    assert_eq!(bench.metrics.get(Metric::Waiting), 2);
    // The follower begins once the head is done, in the same turn.
    assert_eq!(bench.advance(SECOND).log(), "unit 0:4 a, unit 0:4 a");
    assert_eq!(plan.seen(), "a0 b1 c2 a0 a3");
}

/// Red when what waits is not read again with the state, or loses its order, its attempts or its due time by that.
#[test]
fn what_waits_outlives_a_new_start() {
    let plan = Plan::default();
    let mut bench = bench(&plan, by_key());
    fail(&plan, "a0");
    bench.records(0, 1, 0, "a a b").log();
    // Nobody knows what became of the next unit.
    bench.answer(Err(CommitError::OutcomeUnknown("cut off".to_owned()))).records(0, 1, 3, "c");
    let log = bench.log();
    assert!(!log.contains("waiting"), "the source hears of it: {log}");
    fail(&plan, "a0");
    bench.records(0, start(&log), 3, "a c").advance(SECOND - MS);
    assert_eq!(plan.seen(), "a0 b2 c3 c4", "a record that comes later waits behind");
    bench.advance(MS);
    assert_eq!(plan.seen(), "a0 b2 c3 c4 a0 a1 a3");
    assert_eq!(bench.taken(), ["b", "c", "dlq:a", "a", "a"]);
    assert_eq!(bench.metrics.letters(DeadLetterKind::Exhausted), 1);
}

/// Red when a fenced unit of records that waited counts as committed, or the group goes on with what it had.
#[test]
fn a_fenced_unit_of_records_that_waited_is_done_again() {
    let plan = Plan::default();
    let mut bench = bench(&plan, by_key());
    fail(&plan, "a0");
    bench.records(0, 1, 0, "a b").log();
    bench.answer(Ok(CommitOutcome::Fenced(vec![at(0)]))).advance(SECOND);
    assert_eq!((plan.seen().as_str(), bench.taken()), ("a0 b1 a0", vec!["b".to_owned()]));
    let log = bench.advance(SECOND).log();
    assert!(log.contains("begin 0#"), "{log}");
    bench.records(0, start(&log), 2, "c").advance(SECOND);
    assert_eq!((plan.seen().as_str(), bench.taken()), ("a0 b1 a0 c2 a0", vec!["b".into(), "c".into(), "a".to_owned()]));
}

/// Red when more wait than may, or what has no room is lost or overtaken.
#[test]
fn what_has_no_room_waits_in_its_partition() {
    let plan = Plan::default();
    let mut bench = bench(&plan, GroupSettings { waiting_records: 2, ..by_key() });
    fail(&plan, "a0");
    bench.records(0, 1, 0, "a a a b").records(0, 1, 4, "b");
    assert_eq!((plan.seen().as_str(), bench.metrics.get(Metric::Waiting)), ("a0 b3", 2));
    let why = bench.note(&at(0)).expect("it says why");
    assert!(why.contains("waiting_records"), "{why}");
    bench.advance(3 * SECOND);
    assert_eq!((plan.seen().as_str(), bench.note(&at(0))), ("a0 b3 a0 a1 a2 b4", None));
    // A record that fails where there is no room is tried again in its place.
    ["c5", "d6", "e7"].iter().for_each(|event| fail(&plan, event));
    bench.records(0, 1, 5, "c d e f").advance(MS);
    assert_eq!((bench.taken().len(), bench.metrics.get(Metric::Waiting)), (5, 2));
    let taken = bench.advance(3 * SECOND).taken();
    assert_eq!(taken[5..].iter().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(["c", "d", "e", "f"]));
}

/// Red when a partition is given back while a record that waited is under way: its next owner would begin it too.
#[test]
fn a_partition_leaves_with_its_records_that_waited() {
    let plan = Plan::default();
    let mut bench = bench(&plan, by_key());
    fail(&plan, "a0");
    bench.records(0, 1, 0, "a").log();
    let gate = plan.gate("a0");
    bench.advance(SECOND).log();
    let log = bench.tell(SourceEvent::Revoked(vec![at(0), redrive(0)])).log();
    assert!(!log.contains("released"), "{log}");
    gate.send(Ok(())).expect("it runs");
    let log = bench.log();
    assert!(log.contains("unit 0:1 a, released 0redrive/0"), "{log}");
    assert_eq!(bench.metrics.get(Metric::Waiting), 0);
}

/// Red when what waits under a number leaves with its first partition that does (`leave` does not look at the others of the
/// number): nobody would try it again.
#[test]
fn records_that_wait_stay_while_a_partition_of_their_number_does() {
    let plan = Plan::default();
    let mut bench = bench(&plan, by_key());
    fail(&plan, "a0");
    bench.records(0, 1, 0, "a").batch(3, vec![record(&redrive(0), 7, "b", Headers::default())]).log();
    let log = bench.tell(SourceEvent::Revoked(vec![at(0)])).log();
    assert!(log.contains("released 0"), "{log}");
    bench.advance(SECOND);
    assert_eq!((plan.seen().as_str(), bench.taken()), ("a0 b7 a0", vec!["b".to_owned(), "a".to_owned()]));
}

/// Red when a record that waited and whose event is refused is tried for ever, or is lost, or another one that waits in its
/// place later counts as refused.
#[test]
fn a_refused_record_that_waited_is_a_letter() {
    let plan = Plan::default();
    let mut bench = bench(&plan, by_key());
    fail(&plan, "bad0");
    bench.poison("bad").records(0, 1, 0, "bad b").advance(SECOND);
    let log = bench.advance(SECOND).log();
    bench.records(0, start(&log), 2, "c").advance(SECOND);
    assert_eq!((bench.taken().join(" ").as_str(), bench.metrics.get(Metric::Waiting)), ("b c dlq:bad", 0), "{log}");
    // Once what waited is read anew the next one has the number that the refused one had.
    bench.answer(Err(CommitError::OutcomeUnknown("cut off".to_owned()))).records(0, start(&log), 3, "d");
    let log = bench.log();
    fail(&plan, "e3");
    bench.records(0, start(&log), 3, "e").advance(SECOND);
    assert_eq!(bench.taken().join(" "), "b c dlq:bad e");
}
