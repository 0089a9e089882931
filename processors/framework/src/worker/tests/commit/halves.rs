//! Units that the store refuses: halved until the record stands alone, which becomes a dead letter.

use crate::{
    failure::DeadLetterKind,
    ports::{
        SourceEvent,
        unit::{CommitError, CommitOutcome, OffsetRange},
    },
    wire::record::Position,
    worker::tests::{
        scripted::{Bench, Plan, at, record, redrive, retry},
        *,
    },
};

/// A linger that puts what several batches bring into one unit.
fn together() -> GroupSettings {
    GroupSettings { linger: Duration::from_millis(10), ..GroupSettings::default() }
}

fn fenced(number: i32) -> std::result::Result<CommitOutcome, CommitError> {
    Ok(CommitOutcome::Fenced(vec![at(number)]))
}

/// Red when a good row is lost, written twice or out of order, the letter has another place or its own unit
/// does not pass it, or the halves become single rows.
#[test]
fn one_bad_row_among_a_thousand_becomes_the_only_letter() {
    let mut bench = Bench::sink(together()).assigned(1);
    let keys: Vec<String> = (0..1_000).map(|n| format!("k{n}")).collect();
    bench.poison("k617").records(0, 1, 0, &keys.join(" ")).advance(10 * MS);
    let log = bench.log();
    let units = log.matches("unit").count();
    assert!(units <= 22 && log.ends_with("0:1000"), "{units} units for ten halvings: {log}");
    let wanted: Vec<String> =
        keys.iter().map(|key| if key == "k617" { "dlq:k617".to_owned() } else { key.clone() }).collect();
    assert_eq!(bench.taken(), wanted);
    let own = bench.own();
    let [(letter, positions)] = &own[..] else { panic!("{own:?}") };
    let to = Position { partition: at(0), next: 618 };
    assert_eq!(positions[..], [OffsetRange { from: 617, to }]);
    let headers = delivery(&letter.headers);
    for (name, value) in [("hw_error_kind", "row"), ("hw_error_message", "bad k617"), ("hw_origin_offset", "617")] {
        assert_eq!(headers[name], value);
    }
    assert_eq!((bench.metrics.letters(DeadLetterKind::Row), bench.metrics.get(Metric::Rows)), (1, 999));
    assert_eq!((bench.metrics.troubles(), bench.metrics.get(Metric::Stopped)), (Vec::new(), 0));
}

/// The store says which rows. Red when another record becomes a letter or is left out, a letter is not of the told kind or place,
/// or the rest is taken apart.
#[test]
fn rows_that_the_store_names_become_letters_in_their_unit() {
    let mut bench = Bench::sink(together()).assigned(2);
    bench.bad_row("b", DeadLetterKind::Row).bad_row("d", DeadLetterKind::Contract);
    bench.records(0, 1, 0, "a b c").records(1, 2, 0, "d e").advance(10 * MS);
    assert_eq!(bench.log(), "unit 0:3 1:2, unit 0:3 1:2 dlq:b dlq:d, commit 0:3 1:2");
    assert_eq!(bench.taken(), ["a", "c", "e", "dlq:b", "dlq:d"]);
    let told: Vec<_> = bench.own().iter().map(|(letter, _)| delivery(&letter.headers)).collect();
    let of = |header: &str| told.iter().map(|headers| headers[header].clone()).collect::<Vec<_>>();
    assert_eq!(of("hw_error_kind"), ["row", "contract"]);
    assert_eq!(
        (of("hw_origin_partition"), of("hw_origin_offset")),
        (vec!["0".into(), "1".into()], vec!["1".into(), "0".into()])
    );
    assert_eq!((bench.metrics.letters(DeadLetterKind::Row), bench.metrics.get(Metric::Rows)), (1, 3));
}

/// Red when a letter is published apart from the unit that passes its record, not in the records' order, or to another
/// partition than the origin's.
#[test]
fn a_letter_and_the_position_that_passes_it_are_one_unit() {
    let plan = Plan::default();
    let mut bench = Bench::atomic(&plan, together()).assigned(1);
    plan.fail("b1", Failure::reject("never"));
    plan.fail("c2", Failure::retry("later"));
    bench.records(0, 1, 0, "a b c d").advance(10 * MS);
    assert_eq!(bench.log(), "unit 0:4 a dlq:b retry.1s:c d, commit 0:4");
    assert!(bench.own().iter().all(|(record, _)| record.partition == Some(0)), "that of the origin, not of the key");
}

/// Red when what is refused before the positions move has another kind than what was rejected, or what its unit publishes
/// beside it is lost or repeated.
#[test]
fn an_event_that_the_broker_refuses_is_a_letter() {
    let mut bench = Bench::publisher(&Plan::default(), together()).assigned(2);
    bench.poison("b").records(0, 1, 0, "a b").records(1, 2, 0, "c d").advance(10 * MS);
    let log = bench.log();
    assert!(log.ends_with("unit dlq:b, commit 0:2, unit c d, commit 1:2"), "{log}");
    assert_eq!(bench.taken(), ["a", "dlq:b", "c", "d"]);
    let letter = bench.own().remove(0).0;
    assert_eq!(delivery(&letter.headers)["hw_error_kind"], "rejected");
    assert_eq!((bench.metrics.letters(DeadLetterKind::Rejected), bench.metrics.get(Metric::Emitted)), (1, 3));
}

/// Red when a record whose next attempt cannot be written down stops its partition.
#[test]
fn a_retry_that_the_broker_refuses_is_a_letter() {
    let plan = Plan::default();
    let mut bench = Bench::publisher(&plan, GroupSettings::default()).assigned(1);
    plan.fail("a0", Failure::retry("once"));
    bench.poison("retry.1s:a").records(0, 1, 0, "a");
    assert_eq!(bench.log(), "unit retry.1s:a, unit dlq:a, commit 0:1");
    assert_eq!((bench.metrics.get(Metric::Retries), bench.metrics.letters(DeadLetterKind::Rejected)), (0, 1));
}

/// Red when the good partition does not commit, the bad one goes on, what ends later is committed past the refused row, or
/// nobody is told what to do.
#[test]
fn a_refused_letter_stops_its_partition_and_no_other() {
    let plan = Plan::default();
    let d1 = plan.gate("d1");
    let mut bench = Bench::atomic(&plan, together()).assigned(2);
    bench.poison("c").poison("dlq:c");
    bench.records(0, 1, 0, "a b").records(1, 2, 0, "c d e").advance(10 * MS);
    assert_eq!(
        bench.log(),
        "unit 0:2 1:1 a b c, unit 0:1 a, commit 0:1, unit 0:2 1:1 b c, unit 0:2 b, commit 0:2, unit 1:1 c, unit 1:1 dlq:c, pause 1"
    );
    d1.send(Ok(())).unwrap();
    bench.records(1, 2, 3, "f").records(1, 3, 3, "f").records(0, 1, 2, "g").advance(SECOND);
    assert_eq!(bench.log(), "unit 0:3 g, commit 0:3");
    assert_eq!(bench.metrics.troubles(), ["events.net/1: stopped: bad dlq:c"]);
    assert_eq!((bench.metrics.get(Metric::Stopped), bench.metrics.letters(DeadLetterKind::Row)), (1, 0));
    bench.tell(SourceEvent::Lost(vec![at(1)])).tell(SourceEvent::Assigned(vec![at(1)])).log();
    assert_eq!((bench.metrics.troubles(), bench.metrics.get(Metric::Stopped)), (Vec::new(), 0));
}

/// Red when a refusal makes a partition ours again that has gone, or holds up one that leaves.
#[test]
fn a_refusal_does_not_bring_back_a_partition_that_leaves() {
    let mut bench = Bench::sink(GroupSettings::default()).assigned(1);
    bench.poison("a").poison("dlq:a");
    bench.silent(true).records(0, 1, 0, "a").tell(SourceEvent::Revoked(vec![at(0)]));
    assert_eq!(bench.silent(false).log(), "unit 0:1, unit 0:1 dlq:a, released 0, forget 0");
    bench.tell(SourceEvent::Assigned(vec![at(0)])).log();
    bench.silent(true).records(0, 2, 0, "a").tell(SourceEvent::Lost(vec![at(0)]));
    assert_eq!(bench.silent(false).log(), "unit 0:1, forget 0");
    assert_eq!((bench.metrics.get(Metric::Partitions), bench.metrics.get(Metric::Stopped)), (0, 0));
    assert_eq!(bench.metrics.troubles(), Vec::<String>::new());
}

/// Red when an outage that ended with a refusal is still reported.
#[test]
fn a_refusal_is_an_answer() {
    let mut bench = Bench::sink(GroupSettings::default()).assigned(1);
    bench.answer(Err(CommitError::Outage("no answer".to_owned()))).poison("a").poison("dlq:a");
    bench.records(0, 1, 0, "a").advance(SECOND);
    assert_eq!(bench.log(), "unit 0:1, unit 0:1, unit 0:1 dlq:a, pause 0");
    assert_eq!(bench.metrics.troubles(), ["events.net/0: stopped: bad dlq:a"]);
}

/// Red when an outage between the halves drops one, repeats what was taken, or begins something new before it.
#[test]
fn an_outage_between_halves_is_waited_for() {
    let mut bench = Bench::sink(together()).assigned(1);
    bench.answer(Ok(CommitOutcome::Done)).answer(Err(CommitError::Outage("gone".to_owned())));
    bench.poison("b").records(0, 1, 0, "a b c").advance(10 * MS).records(0, 1, 3, "d").advance(SECOND);
    assert_eq!(bench.taken(), ["a", "dlq:b", "c", "d"]);
    assert!(bench.log().ends_with("commit 0:4"));
}

/// Red when a half is committed for a partition that another owner took in between, its bad record becomes a letter, or
/// the other partition's part goes with it.
#[test]
fn a_partition_that_is_fenced_between_halves_leaves_them() {
    let done = || Ok(CommitOutcome::Done);
    for (answers, wanted, start) in [
        // The first half of [a b c d] is [a b]; then a alone is fenced, and b goes with it.
        (vec![done(), done(), fenced(0)], vec!["c", "d"], "start 0"),
        // Partition 1 is fenced with its whole half.
        (vec![done(), done(), done(), done(), done(), fenced(1)], vec!["a", "dlq:b"], "start 1"),
    ] {
        let mut bench = Bench::sink(together()).assigned(2);
        answers.into_iter().for_each(|answer| _ = bench.answer(answer));
        bench.poison("b").records(0, 1, 0, "a b").records(1, 2, 0, "c d").advance(10 * MS);
        assert_eq!(bench.taken(), wanted);
        assert!(bench.advance(SECOND).log().contains(start));
        assert_eq!(bench.metrics.get(Metric::Fenced), 1);
    }
}

/// Red when a row that is put aside takes the news along that it has succeeded, or a good one beside it loses its own.
#[test]
fn halves_keep_the_markers_of_their_records() {
    let sent_back = |key: &str, offset| {
        let headers = [("hw_group", Some(&b"play"[..])), ("hw_redrive_count", Some(b"1")), ("hw_attempt", Some(b"0"))];
        record(&redrive(0), offset, key, headers.into_iter().collect())
    };
    let mut bench = Bench::atomic(&Plan::default(), together());
    bench.tell(SourceEvent::Assigned(vec![redrive(0), retry(0)])).log();
    bench.poison("b").batch(1, vec![sent_back("a", 0), sent_back("b", 1), sent_back("c", 2)]).advance(10 * MS);
    assert_eq!(bench.taken(), ["a", "dlq:a!", "dlq:b", "c", "dlq:c!"]);
    assert_eq!((bench.metrics.get(Metric::Resolved), bench.metrics.letters(DeadLetterKind::Rejected)), (2, 1));
    assert_eq!(delivery(&bench.own()[1].0.headers)["hw_redrive_count"], "1");
    assert!(bench.own().iter().all(|(record, _)| record.partition == Some(0)));
}

/// Red when a letter that its topic refuses stops its partition, or a record whose next attempt is as large; or
/// the letter is cut that would have gone through whole, which is tried first.
#[test]
fn a_letter_that_is_too_large_for_its_topic_goes_with_its_beginning() {
    let plan = Plan::default();
    let mut bench = Bench::publisher(&plan, GroupSettings::default()).assigned(1);
    plan.fail("a0", Failure::retry("once"));
    plan.fail("b1", Failure::reject("never"));
    bench.largest(100_000);
    let large = |offset, key: &str, bytes: usize| {
        record(&at(0), offset, key, Headers::from_iter([("x-large", Some(&vec![7; bytes][..]))]))
    };
    bench.batch(1, vec![large(0, "a", 200_000), large(1, "b", 150_000), large(2, "c", 200_000)]);
    bench.advance(SECOND);
    assert_eq!(bench.taken(), ["dlq:a", "dlq:b", "c"], "{}", bench.log());
    for (letter, kind) in bench.own().iter().zip(["rejected", "rejected"]) {
        let headers = delivery(&letter.0.headers);
        assert_eq!((headers["hw_error_kind"].as_str(), headers["hw_headers_cut"].as_str()), (kind, "1"));
    }
    assert_eq!((bench.metrics.get(Metric::Stopped), bench.metrics.troubles()), (0, Vec::new()));
    // One that goes nowhere although little is left of it is for a person.
    plan.fail("d3", Failure::reject("never"));
    bench.largest(10).batch(1, vec![large(3, "d", 200_000)]);
    assert_eq!(bench.metrics.troubles(), ["events.net/0: stopped: dlq:d is too large"]);
}
