//! A sink that commits over two connections: `1>` in the log is the second one.

use crate::{
    ports::{
        SourceEvent,
        unit::{CommitError, CommitOutcome},
    },
    worker::tests::{
        scripted::{Bench, at},
        *,
    },
};

/// A linger that puts what two batches bring into one unit.
fn together() -> GroupSettings {
    GroupSettings { linger: 10 * MS, ..GroupSettings::default() }
}

fn outage() -> std::result::Result<CommitOutcome, CommitError> {
    Err(CommitError::Outage("no answer".to_owned()))
}

/// Red when a connection has all partitions, one that hangs holds up those of the other, or two units of a partition are
/// under way at once.
#[test]
fn a_connection_that_hangs_holds_up_its_own_partitions_only() {
    let mut bench = Bench::sinks(2, GroupSettings::default());
    bench.tell(SourceEvent::Assigned((0..4).map(at).collect()));
    let starts = bench.log();
    assert!(starts.contains("start 02, ") && starts.contains("1> start 13, "), "{starts}");
    bench.silent(true).records(0, 1, 0, "a").records(1, 2, 0, "b").records(0, 1, 1, "c").records(1, 2, 1, "d");
    bench.records(2, 3, 0, "e").records(3, 4, 0, "f");
    let second = "1> unit 1:1, commit 1:1, 1> unit 1:2, commit 1:2, 1> unit 3:1, commit 3:1";
    assert_eq!(bench.log(), format!("unit 0:1, {second}"));
    assert_eq!(bench.silent(false).log(), "commit 0:1, unit 0:2 2:1, commit 0:2 2:1");
}

/// Red when an outage pauses the other connection, ends for the group when the other one answers, or outlives its end.
#[test]
fn an_outage_over_one_connection_is_that_ones_alone() {
    let mut bench = Bench::sinks(2, GroupSettings::default()).assigned(2);
    bench.answer_of(1, outage()).answer_of(1, outage()).records(1, 2, 0, "b").records(0, 1, 0, "a");
    assert_eq!(bench.log(), "1> unit 1:1, unit 0:1, commit 0:1");
    assert_eq!(bench.metrics.troubles(), ["store: no answer"]);
    bench.advance(500 * MS).records(0, 1, 1, "c");
    assert_eq!((bench.log().as_str(), bench.metrics.troubles().len()), ("1> unit 1:1, unit 0:2, commit 0:2", 1));
    bench.advance(SECOND);
    assert_eq!((bench.log().as_str(), bench.metrics.troubles().len()), ("1> unit 1:1, commit 1:1", 0));
}

/// Red when a connection that failed and has no partition any more keeps the group from being ready.
#[test]
fn an_outage_ends_with_the_partitions_that_it_held() {
    let mut bench = Bench::sinks(2, GroupSettings::default()).assigned(2);
    bench.answer_of(1, outage()).records(1, 2, 0, "b").tell(SourceEvent::Lost(vec![at(1)])).records(0, 1, 0, "a");
    assert_eq!(bench.metrics.troubles(), Vec::<String>::new());
    bench.advance(SECOND);
    assert_eq!(bench.log(), "1> unit 1:1, 1> forget 1, unit 0:1, commit 0:1", "what it held back is not written");
}

/// Red when halves or the letter are committed over another connection, beside each other, or hold up the other's rows.
#[test]
fn a_refused_unit_is_halved_over_its_own_connection() {
    let mut bench = Bench::sinks(2, together()).assigned(2);
    bench.poison("b").records(1, 2, 0, "a b").records(0, 1, 0, "c d").advance(10 * MS);
    let halves = "1> unit 1:1, commit 1:1, 1> unit 1:2, 1> unit 1:2 dlq:b, commit 1:2";
    assert_eq!(bench.log(), format!("unit 0:2, commit 0:2, 1> unit 1:2, {halves}"));
    assert_eq!((bench.metrics.get(Metric::Rows), bench.metrics.letters(crate::failure::DeadLetterKind::Row)), (3, 1));
}

/// Red when a fenced partition is taken anew over the other connection while units of it may be under way, or the other's
/// partition with it.
#[test]
fn a_fenced_partition_starts_anew_over_its_own_connection() {
    let mut bench = Bench::sinks(2, together()).assigned(3);
    bench.answer_of(1, Ok(CommitOutcome::Fenced(vec![at(1)])));
    bench.records(1, 2, 0, "a").records(0, 1, 0, "b").advance(10 * MS);
    assert_eq!(bench.log(), "unit 0:1, commit 0:1, 1> unit 1:1, pause 1");
    assert_eq!(bench.advance(SECOND).log(), "1> start 1, begin 1#4, resume 1");
}

/// Red when a late answer to an earlier start makes a partition start anew that another connection has taken since.
#[test]
fn a_late_fence_does_not_touch_the_next_start() {
    let mut bench = Bench::sinks(2, GroupSettings::default()).assigned(1);
    bench.silent(true).records(0, 1, 0, "a").tell(SourceEvent::Lost(vec![at(0)]));
    bench.answer(Ok(CommitOutcome::Fenced(vec![at(0)]))).tell(SourceEvent::Assigned(vec![at(1)])).log();
    assert_eq!(bench.tell(SourceEvent::Assigned(vec![at(0)])).log(), "1> start 0, begin 0#3, resume 0");
    assert_eq!(
        bench.silent(false).records(0, 3, 1, "b").advance(SECOND).log(),
        "forget 0, start 1, begin 1#2, resume 1, 1> unit 0:2, commit 0:2"
    );
    assert_eq!(bench.metrics.get(Metric::Fenced), 0);
}

/// Red when a stop waits for one connection only, or a partition is given back before its own has answered.
#[test]
fn a_stop_waits_for_every_connection() {
    let mut bench = Bench::sinks(2, GroupSettings::default()).assigned(3);
    bench.silent_of(0, true).silent_of(1, true).records(0, 1, 0, "a").records(1, 2, 0, "b");
    bench.tell(SourceEvent::Revoked(vec![at(0), at(1)])).silent(false);
    assert_eq!(bench.log(), "unit 0:1, 1> unit 1:1, commit 0:1, released 0, forget 0");
    assert_eq!(bench.silent_of(1, false).log(), "commit 1:1, released 1, 1> forget 1");
    bench.silent_of(0, true).records(2, 3, 0, "c").stop();
    assert_eq!(bench.log(), "unit 2:1");
    assert_eq!(bench.silent(false).log(), "commit 2:1, close");
    assert!(matches!(bench.ended, Some(Ok(()))));
}

/// Red when two connections hold twice as many records, or one can take all of them while the other has none to gather.
#[test]
fn connections_share_the_records_in_flight() {
    let settings = GroupSettings { in_flight: 8, ..GroupSettings::default() };
    let mut bench = Bench::sinks(2, settings).assigned(2);
    bench.silent_of(0, true).silent_of(1, true).records(0, 1, 0, "a b c d e").records(1, 2, 0, "f g h i j k");
    assert_eq!(bench.log(), "unit 0:2, 1> unit 1:2");
    assert_eq!(bench.metrics.get(Metric::InFlight), 8);
    assert!(bench.silent(false).log().starts_with("commit 0:2, unit 0:4, "));
}
