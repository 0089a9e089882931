//! State that is not committed: seen by later records, and forgotten with what it rests on.

use crate::{
    failure::DeadLetterKind,
    pipeline::settings::Order,
    ports::{
        SourceEvent,
        unit::{CommitError, CommitOutcome},
    },
    wire::record::{Headers, TopicPartition},
    worker::tests::{
        scripted::{Bench, at, record, redrive, repartition},
        *,
    },
};

/// A linger that puts what several batches bring into one unit.
fn together() -> GroupSettings {
    GroupSettings { linger: Duration::from_millis(10), ..GroupSettings::default() }
}

/// The same where what fails is tried again in its place.
fn in_place() -> GroupSettings {
    GroupSettings { order: Order::Partition, ..together() }
}

/// A counting group with partition 0 of every topic that goes by number.
fn counting() -> Bench {
    let mut bench = Bench::counting(together());
    bench.tell(SourceEvent::Assigned(vec![at(0), redrive(0)])).log();
    bench
}

/// The number of the last start of partition 0.
fn start(log: &str) -> u64 {
    let (_, rest) = log.rsplit_once("begin 0#").expect("partition 0 is begun");
    rest.split(',').next().and_then(|number| number.trim().parse().ok()).expect("a number")
}

/// Red when a record does not see what an earlier one has changed and nothing has committed, or sees it twice.
#[test]
fn a_record_sees_what_is_not_committed_yet() {
    let mut bench = counting();
    bench.silent(true).records(0, 1, 0, "a b a").advance(10 * MS);
    bench.records(0, 1, 3, "a b").silent(false).advance(10 * MS);
    assert_eq!(bench.taken(), ["a1", "b1", "a2", "a3", "b2"]);
    bench.records(0, 1, 5, "a").advance(10 * MS);
    assert_eq!(bench.taken().last().map(String::as_str), Some("a4"));
}

/// Red when the outcome that nobody knows is taken for an outage: the unit would be committed again. Red as well when what
/// is not committed outlives the new start: the counts would go on from it.
#[test]
fn after_an_unknown_outcome_everything_starts_from_what_is_committed() {
    let mut bench = counting();
    bench.answer(Err(CommitError::OutcomeUnknown("cut off".to_owned())));
    bench.records(0, 1, 0, "a b a").advance(10 * MS);
    let log = bench.log();
    assert!(log.contains("pause 0") && log.contains("start 0redrive/0"), "{log}");
    assert_eq!(bench.taken(), Vec::<String>::new());
    bench.records(0, start(&log), 0, "a b a").advance(10 * MS);
    assert_eq!(bench.taken(), ["a1", "b1", "a2"]);
    assert_eq!(bench.metrics.get(Metric::Changes), 3);
}

/// Red when a partition that is fenced starts anew alone, or with what others of its number have made of a key.
#[test]
fn the_partitions_of_a_number_start_anew_together() {
    let mut bench = counting();
    bench.answer(Ok(CommitOutcome::Fenced(vec![at(0)])));
    bench.records(0, 1, 0, "a a").advance(10 * MS);
    let log = bench.advance(SECOND).log();
    assert!(log.contains("start 0redrive/0"), "{log}");
    bench.records(0, start(&log), 0, "a a").advance(10 * MS);
    assert_eq!(bench.taken(), ["a1", "a2"]);
}

/// Red when later records keep what a record has changed whose event was refused and which is a letter instead.
#[test]
fn a_refused_record_leaves_no_state() {
    let mut bench = counting();
    bench.poison("a2").records(0, 1, 0, "a b a a").advance(10 * MS);
    // What has passed is committed; the rest is read again.
    let log = bench.log();
    bench.records(0, start(&log), 2, "a a").advance(10 * MS);
    // Without what the first of them has changed the second is what was refused.
    let log = bench.log();
    assert_eq!(bench.taken(), ["a1", "b1", "dlq:a"], "{log}");
    assert_eq!(bench.metrics.letters(DeadLetterKind::Rejected), 1);
    bench.records(0, start(&log), 3, "a").advance(10 * MS);
    assert_eq!(bench.taken(), ["a1", "b1", "dlq:a", "dlq:a"]);
}

/// Red when a partition begins whose namesakes another member has: two would keep one key's state. Red as well when an
/// unknown outcome starts it with the others.
#[test]
fn partitions_of_one_number_are_not_begun_apart() {
    let mut bench = Bench::counting(together());
    let log = bench.tell(SourceEvent::Assigned(vec![at(0), at(1), redrive(0)])).log();
    assert!(log.contains("start 0redrive/0") && !log.contains("start 01"), "{log}");
    let why = bench.metrics.troubles().join("; ");
    assert!(why.contains("partition 1 of play.redrive") && why.contains("topology apply"), "{why}");
    assert_eq!(bench.metrics.get(Metric::Stopped), 1);
    // No more does it begin with those that start anew for another reason.
    bench.answer(Err(CommitError::OutcomeUnknown("cut off".to_owned())));
    let log = bench.records(0, 1, 0, "a").advance(10 * MS).log();
    assert!(log.contains("begin 0#") && !log.contains("begin 1#"), "{log}");
    assert_eq!(bench.metrics.get(Metric::Stopped), 1);
    // The next assignment mends it.
    bench.tell(SourceEvent::Assigned(vec![at(0), at(1), redrive(0), redrive(1)]));
    assert_eq!(bench.metrics.troubles(), Vec::<String>::new());
}

/// Red when a record is processed again whose change the store has, or one is skipped that it has not; when what is skipped
/// does not pass, or is not counted.
#[test]
fn what_comes_again_and_is_in_the_store_is_skipped() {
    let mut bench = Bench::counting_again(in_place());
    bench.tell(SourceEvent::Assigned(vec![at(0), redrive(0)])).log();
    bench.records(0, 1, 0, "a b a").advance(10 * MS);
    bench.answer(Ok(CommitOutcome::Fenced(vec![at(0)]))).records(0, 1, 3, "a b").advance(10 * MS);
    let log = bench.advance(SECOND).log();
    bench.records(0, start(&log), 1, "b a a b").advance(10 * MS);
    assert_eq!(bench.taken(), ["a1", "b1", "a2", "a3", "b2"]);
    assert_eq!((bench.metrics.get(Metric::Replayed), bench.metrics.get(Metric::Changes)), (2, 5));
    assert!(bench.log().contains("unit 0:5"), "what is skipped passes");
}

/// Red when the news that a letter which was sent back has succeeded is lost where its change was committed before: the letter
/// would never be resolved.
#[test]
fn a_letter_that_comes_again_is_told_to_be_resolved_again() {
    let mut bench = Bench::counting_again(in_place());
    bench.tell(SourceEvent::Assigned(vec![at(0), redrive(0)])).log();
    let back = || {
        let headers = [("hw_group", "play"), ("hw_redrive_count", "1")];
        let headers = headers.iter().map(|(name, value)| (*name, Some(value.as_bytes()))).collect();
        vec![record(&redrive(0), 3, "a", headers)]
    };
    bench.batch(2, back()).advance(10 * MS);
    bench.answer(Ok(CommitOutcome::Fenced(vec![at(0)]))).records(0, 1, 0, "b").advance(10 * MS);
    let log = bench.advance(SECOND).log();
    let (_, rest) = log.rsplit_once("begin redrive/0#").expect("it is begun");
    let start = rest.split(',').next().and_then(|number| number.trim().parse().ok()).expect("a number");
    bench.batch(start, back()).advance(10 * MS);
    assert_eq!(bench.taken(), ["a1", "dlq:a!", "dlq:a!"]);
    assert_eq!(bench.metrics.get(Metric::Replayed), 1);
}

/// Red when a group whose inputs come again keeps what waits: a crash between that and a change would count it twice.
#[test]
fn nothing_waits_in_state_where_inputs_come_again() {
    let mut bench = Bench::counting_again(together());
    bench.log();
    let why = bench.ended.map(|ended| ended.unwrap_err().to_string()).expect("it does not begin");
    assert!(why.contains("order = \"partition\""), "{why}");
}

/// Red when a record that comes again is taken for the same input because its offset is, and it stands elsewhere.
#[test]
fn inputs_are_told_apart_by_their_partitions() {
    let mut bench = Bench::counting_again(in_place());
    bench.tell(SourceEvent::Assigned(vec![at(0), redrive(0)])).log();
    bench.records(0, 1, 5, "a").advance(10 * MS);
    bench.batch(2, vec![record(&redrive(0), 3, "a", Headers::default())]).advance(10 * MS);
    assert_eq!(bench.taken(), ["a1", "a2"]);
}

/// Red when a record that was repartitioned does not say where it stood, so that another copy of it counts as another input;
/// also while the first is not committed yet.
#[test]
fn a_record_that_was_repartitioned_twice_is_one_input() {
    let mut bench = Bench::repartitioning(in_place());
    bench.tell(SourceEvent::Assigned(vec![at(0), redrive(0), repartition(0)])).log();
    bench.records(0, 1, 7, "a").advance(10 * MS);
    let (moved, _) = bench.own().pop().expect("it is repartitioned");
    assert_eq!(moved.headers.get("hw_input"), Some(Some(&b"events.net/0/7"[..])), "the id is not known");
    let copy = |place: &TopicPartition, offset| record(place, offset, "a", moved.headers.clone());
    bench.batch(3, (0..2).map(|offset| copy(&repartition(0), offset)).collect()).advance(10 * MS);
    bench.batch(3, vec![copy(&repartition(0), 2)]).advance(10 * MS);
    assert_eq!(bench.taken(), ["play.repartition:a", "a1"]);
    assert_eq!(bench.metrics.get(Metric::Replayed), 2);
}

/// Red when the header is believed of a record that the group has not repartitioned: anybody could have records skipped.
#[test]
fn a_foreign_record_does_not_say_where_it_stands() {
    let mut bench = Bench::counting_again(in_place());
    bench.tell(SourceEvent::Assigned(vec![at(0), redrive(0)])).log();
    let mut headers = Headers::default();
    headers.push_text("hw_input", "events.net/0/7");
    bench.batch(1, (0..2).map(|offset| record(&at(0), offset, "a", headers.clone())).collect()).advance(10 * MS);
    assert_eq!(bench.taken(), ["a1", "a2"]);
}
