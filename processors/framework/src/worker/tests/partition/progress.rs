//! Where partitions stand, as others see it.

use crate::{
    ports::{
        SourceEvent,
        unit::{CommitError, CommitOutcome},
    },
    telemetry::metrics::PartitionProgress,
    wire::record::{Headers, Record},
    worker::tests::{
        scripted::{Bench, Plan, at, record},
        *,
    },
};

fn outage() -> std::result::Result<CommitOutcome, CommitError> {
    Err(CommitError::Outage("no answer".to_owned()))
}

/// A record of partition 0 whose timestamp is a thousand times its offset.
fn dated(offset: i64) -> Record {
    Record { timestamp_ms: offset * 1_000, ..record(&at(0), offset, "a", Headers::default()) }
}

fn place(bench: &Bench) -> PartitionProgress {
    bench.metrics.progress()[&at(0)]
}

/// Red when what a unit holds that the store does not take does not count as waiting, or counts without its age; or the
/// partition's note does not say why, or goes on saying it.
#[test]
fn what_the_store_does_not_take_waits_and_says_why() {
    let plan = Plan::default();
    for bench in [Bench::sink(GroupSettings::default()), Bench::publisher(&plan, GroupSettings::default())] {
        let mut bench = bench.assigned(1);
        (0..3).for_each(|_| _ = bench.answer(outage()));
        bench.batch(1, vec![dated(5), dated(6)]).advance(SECOND).batch(1, vec![dated(7)]).advance(SECOND);
        assert_eq!(place(&bench).oldest_ms, Some(5_000));
        assert!(place(&bench).next.is_none_or(|next| next <= 5), "{:?}", place(&bench));
        assert_eq!(bench.note(&at(0)).as_deref(), Some("no answer"));
        bench.advance(60 * SECOND);
        assert_eq!(place(&bench), PartitionProgress { next: Some(8), oldest_ms: None });
        assert_eq!(bench.note(&at(0)), None);
    }
}

/// Red when markers behind the last record count as waiting, or hide a record that does.
#[test]
fn markers_behind_the_last_record_wait_for_nobody() {
    let mut bench = Bench::sink(GroupSettings::default()).assigned(1);
    bench.nothing_before(0, 1, 3).advance(SECOND);
    assert_eq!(place(&bench).next, Some(3));
    bench.batch(1, vec![dated(5)]).nothing_before(0, 1, 9).advance(SECOND);
    assert_eq!(place(&bench), PartitionProgress { next: Some(9), oldest_ms: None });
    bench.answer(outage()).batch(1, vec![dated(10)]).nothing_before(0, 1, 12).advance(MS);
    assert!(place(&bench).next.is_some_and(|next| next <= 10) && place(&bench).oldest_ms == Some(10_000));
}

/// Red when a group counts as at work while its store has not said where its partitions begin, or not once it has, or again not after
/// it was given more.
#[test]
fn a_group_is_at_work_once_its_partitions_have_begun() {
    let mut bench = Bench::sink(GroupSettings::default());
    bench.silent(true).tell(SourceEvent::Assigned(vec![at(0), at(1)]));
    assert!(bench.metrics.has_joined() && !bench.metrics.is_at_work());
    bench.silent(false).advance(SECOND);
    assert!(bench.metrics.is_at_work());
    bench.silent(true).tell(SourceEvent::Assigned(vec![at(2)]));
    assert!(!bench.metrics.is_at_work());
    bench.tell(SourceEvent::Lost(vec![at(2)]));
    assert!(bench.metrics.is_at_work());
}
