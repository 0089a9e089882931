//! Retry topics: a record waits until it is due, and holds up nobody else meanwhile.

use crate::{
    ports::SourceEvent,
    wire::record::Record,
    worker::tests::{
        scripted::{Bench, Plan, at, record, retry},
        *,
    },
};

/// A record at this offset of partition 0 of the retry topic of one second, due so long after the beginning.
fn waiting(offset: i64, key: &str, due: Duration) -> Record {
    let due = BEGIN_MS + i64::try_from(due.as_millis()).unwrap();
    let headers = [("hw_group", "play".to_owned()), ("hw_due", due.to_string()), ("hw_attempt", "1".to_owned())];
    let headers = headers.iter().map(|(name, value)| (*name, Some(value.as_bytes()))).collect();
    record(&retry(0), offset, key, headers)
}

/// A group with partition 0 of the events (its first start) and of the retry topic (its second).
fn bench(plan: &Plan, settings: GroupSettings) -> Bench {
    let mut bench = Bench::publisher(plan, settings).assigned(1);
    bench.tell(SourceEvent::Assigned(vec![retry(0)])).log();
    bench
}

/// Red when the head begins early or late, one behind it begins with it, or the source is told nothing, or twice.
#[test]
fn a_head_begins_exactly_when_it_is_due() {
    let plan = Plan::default();
    let mut bench = bench(&plan, GroupSettings::default());
    bench.batch(2, vec![waiting(0, "a", SECOND), waiting(1, "b", SECOND), waiting(2, "c", SECOND * 3 / 2)]);
    assert_eq!(bench.advance(SECOND - MS).log(), "pause retry.1s/0");
    assert_eq!(plan.seen(), "");
    let began = "resume retry.1s/0, pause retry.1s/0, unit a b, commit retry.1s/0:2";
    assert_eq!((bench.advance(MS).log().as_str(), plan.seen().as_str()), (began, "a0 b1"));
    assert_eq!(bench.advance(SECOND / 2 - MS).log(), "");
    assert_eq!(bench.advance(MS).log(), "resume retry.1s/0, unit c, commit retry.1s/0:3");
}

/// Red when a due time that is wrong, or a clock that differs, holds a record for longer than its topic says.
#[test]
fn no_record_waits_for_longer_than_its_topic_says() {
    let plan = Plan::default();
    let mut bench = bench(&plan, GroupSettings::default());
    bench.batch(2, vec![waiting(0, "a", 3600 * SECOND), waiting(1, "b", 3600 * SECOND)]).advance(SECOND - MS);
    assert_eq!(plan.seen(), "");
    bench.advance(MS);
    assert_eq!(plan.seen(), "a0", "each waits for itself");
    bench.advance(SECOND);
    assert_eq!(plan.seen(), "a0 b1");
}

/// Red when a record waits without a due time of this group's: a missing, broken, past or foreign one.
#[test]
fn a_record_without_a_due_time_begins_at_once() {
    let plan = Plan::default();
    let mut bench = bench(&plan, GroupSettings::default());
    let foreign = [("hw_group", Some(&b"other"[..])), ("hw_due", Some(b"9999999999999"))];
    let broken = [("hw_group", Some(&b"play"[..])), ("hw_due", Some(b"soon"))];
    bench.advance(SECOND).batch(
        2,
        vec![
            record(&retry(0), 0, "a", Headers::default()),
            record(&retry(0), 1, "b", foreign.into_iter().collect()),
            record(&retry(0), 2, "c", broken.into_iter().collect()),
            waiting(3, "d", Duration::ZERO),
        ],
    );
    assert_eq!(bench.log(), "unit a b c d, commit retry.1s/0:4");
}

/// Red when the source is told of every moment, or of none although many records wait.
#[test]
fn the_source_hears_of_long_waits_and_of_those_of_many_records() {
    let short = SECOND / 10;
    for (count, delivered) in [(99, ""), (100, "pause retry.1s/0, resume retry.1s/0, ")] {
        let mut bench = bench(&Plan::default(), GroupSettings::default());
        bench.batch(2, (0..count).map(|offset| waiting(offset, "a", short)).collect());
        let log = bench.advance(short).log();
        assert!(log.starts_with(&format!("{delivered}unit a")), "{count}: {log}");
    }
    let mut bench = bench(&Plan::default(), GroupSettings::default());
    bench.batch(2, vec![waiting(0, "a", SECOND / 2)]).advance(SECOND / 2 - MS);
    assert_eq!(bench.log(), "pause retry.1s/0");
    // Once told it stays told, however little is left.
    assert_eq!(bench.advance(MS).log(), "resume retry.1s/0, unit a, commit retry.1s/0:1");
}

/// Red when records that wait until they are due take the room of those that could run.
#[test]
fn what_waits_takes_no_room_from_other_partitions() {
    let plan = Plan::default();
    let settings = GroupSettings { prefetch: 3, in_flight: 2, concurrency: 1, ..GroupSettings::default() };
    let mut bench = bench(&plan, settings);
    bench.batch(2, (0..5).map(|offset| waiting(offset, "w", SECOND)).collect());
    assert!(bench.wants());
    bench.records(0, 1, 0, "a b").records(0, 1, 2, "c").log();
    assert_eq!(plan.seen(), "a0 b1 c2");
    bench.advance(SECOND);
    assert_eq!(plan.seen(), "a0 b1 c2 w0 w1 w2 w3 w4");
}

/// Red when a partition whose head waits is kept until that is due, or a group that stops waits for it.
#[test]
fn a_partition_that_waits_is_given_back_at_once() {
    let plan = Plan::default();
    let [mut revoked, mut stopped] = [(); 2].map(|()| bench(&plan, GroupSettings::default()));
    for bench in [&mut revoked, &mut stopped] {
        bench.batch(2, vec![waiting(0, "a", SECOND)]).log();
    }
    assert_eq!(revoked.tell(SourceEvent::Revoked(vec![retry(0)])).log(), "released retry.1s/0, forget retry.1s/0");
    assert_eq!(stopped.stop().log(), "close");
    assert!(matches!(stopped.ended, Some(Ok(()))) && plan.seen().is_empty());
}

/// The bench fails when the group looks around without an end. Red when the time of a head that is due, and has no place
/// yet, is waited for; or that of one which has come while the group stops.
#[test]
fn a_head_that_is_due_and_has_no_place_is_not_waited_for() {
    let plan = Plan::default();
    let [x0, _w0] = ["x0", "w0"].map(|event| plan.gate(event));
    let mut bench = bench(&plan, GroupSettings { concurrency: 1, ..GroupSettings::default() });
    bench.records(0, 1, 0, "x").batch(2, vec![waiting(0, "w", SECOND)]).advance(2 * SECOND);
    assert_eq!(plan.seen(), "x0");
    x0.send(Ok(())).unwrap();
    bench.advance(Duration::ZERO);
    assert_eq!(plan.seen(), "x0 w0");
    bench.batch(2, vec![waiting(1, "v", 3 * SECOND)]).stop().batch(2, vec![waiting(2, "u", 3 * SECOND)]);
    bench.advance(5 * SECOND).advance(20 * SECOND);
    assert_eq!((plan.seen().as_str(), bench.ended.is_some()), ("x0 w0", true));
}

/// Red when the source goes on because a hold is over, although the head is not due: what it delivers would be bounded by
/// nothing.
#[test]
fn a_hold_that_ends_does_not_end_the_wait_for_the_head() {
    let plan = Plan::default();
    let mut bench = bench(&plan, GroupSettings::default());
    bench.batch(2, vec![waiting(0, "w", Duration::ZERO)]).log();
    let a1 = plan.gate("a1");
    bench.batch(2, vec![waiting(1, "a", Duration::ZERO), waiting(2, "b", SECOND)]);
    assert_eq!(bench.log(), "pause retry.1s/0");
    a1.send(Err(Failure::Throttled(SECOND / 10))).unwrap();
    assert_eq!(bench.advance(SECOND / 10).log(), "pause retry.1s/0, unit a, commit retry.1s/0:2");
    assert_eq!(bench.advance(SECOND).log(), "resume retry.1s/0, unit b, commit retry.1s/0:3");
    assert_eq!(bench.records(0, 1, 0, "x").log(), "unit x, commit 0:1");
}

/// Red when a group joins before its store answers: it would hold partitions that others could work on. Red as well when it
/// does not join then, or it is not said what it waits for.
#[test]
fn a_group_joins_once_its_store_answers() {
    let mut bench = Bench::sink(GroupSettings::default());
    bench.store_down(true).advance(60 * SECOND);
    assert!(!bench.has_joined());
    assert_eq!(bench.metrics.troubles(), ["joining its consumer group", "store: no database"]);
    bench.store_down(false).advance(60 * SECOND);
    assert!(bench.has_joined());
    assert_eq!(bench.metrics.troubles(), ["joining its consumer group"]);
    assert_eq!(bench.tell(SourceEvent::Assigned(vec![at(0)])).log(), "start 0, begin 0#1, resume 0");
    assert!(bench.metrics.troubles().is_empty());
}

/// Red when what waits until it is due leaves the byte bound, the head that says when is let go of too, or the
/// rest is read again before.
#[test]
fn of_more_than_there_is_room_for_the_head_stays_until_it_is_due() {
    let plan = Plan::default();
    let mut bench = bench(&plan, GroupSettings { in_flight_bytes: 400, ..GroupSettings::default() });
    bench.batch(2, (0..200).map(|offset| waiting(offset, "r", SECOND)).collect());
    assert_eq!(bench.log(), "pause retry.1s/0");
    assert!(bench.wants(), "the others go on");
    assert_eq!(bench.batch(2, vec![waiting(200, "r", SECOND)]).advance(SECOND - MS).log(), "");
    assert_eq!(
        bench.advance(MS).log(),
        "resume retry.1s/0, begin retry.1s/0#3, resume retry.1s/0, unit r, commit retry.1s/0:1"
    );
    bench.batch(3, (0..3).map(|offset| waiting(offset, "r", SECOND)).collect());
    assert_eq!((plan.seen().as_str(), bench.log().contains("commit retry.1s/0:3")), ("r0 r1 r2", true));
}
