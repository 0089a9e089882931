//! Inputs that come again, of groups that are at least once: which of them are known, over which route, and how long what is
//! known of them is kept.

use crate::{
    failure::DeadLetterKind,
    pipeline::settings::Order,
    ports::{SourceEvent, unit::CommitError},
    wire::record::{Record, TopicPartition},
    worker::tests::{
        scripted::{Bench, at, record, redrive, repartition},
        *,
    },
};

/// Two records a unit or more, and what fails is tried again in its place.
fn in_place() -> GroupSettings {
    GroupSettings { order: Order::Partition, linger: 10 * MS, ..GroupSettings::default() }
}

/// Where the pings of two steps that share a store are read after they are repartitioned.
fn pings(number: i32) -> TopicPartition {
    TopicPartition::new("play.ping.repartition", number)
}

/// The same of the other events.
fn others(number: i32) -> TopicPartition {
    TopicPartition::new("play.other.repartition", number)
}

/// The other event of pings' topic.
fn other(place: &TopicPartition, offset: i64, key: &str, mut headers: Headers) -> Record {
    headers.push_text("ce_type", "net.other");
    record(place, offset, key, headers)
}

/// A record as a step reads it that was repartitioned: the headers say where it stood.
fn moved(bench: &Bench, at: usize, place: &TopicPartition) -> Record {
    let (outgoing, _) = bench.own().swap_remove(at);
    assert_eq!(outgoing.topic, place.topic);
    record(place, 0, "a", outgoing.headers)
}

/// Each of two steps that share a store has a repartition topic of its own, and they are read in any order.
/// Red when an input counts as replayed because a later one of its topic has reached the other step: nothing has crashed.
#[test]
fn steps_that_share_a_store_read_in_any_order() {
    let mut bench = Bench::sharing(false, in_place());
    bench.tell(SourceEvent::Assigned(vec![at(0), redrive(0), pings(0), others(0)])).log();
    let read = vec![record(&at(0), 10, "a", Headers::default()), other(&at(0), 11, "a", Headers::default())];
    bench.batch(1, read).advance(10 * MS);
    let (ping, later) = (moved(&bench, 0, &pings(0)), moved(&bench, 1, &others(0)));
    let again = |record: &Record, offset| vec![Record { offset, ..record.clone() }];
    bench.batch(4, vec![later.clone()]).advance(10 * MS);
    bench.batch(3, vec![ping.clone()]).advance(10 * MS);
    assert_eq!(bench.taken()[2..], ["a1", "a2"]);
    // Both are known if they come again.
    bench.batch(4, again(&later, 1)).batch(3, again(&ping, 1)).advance(10 * MS);
    assert_eq!((bench.taken().len(), bench.metrics.get(Metric::Replayed)), (4, 2));
}

/// Red when what a step reads where it stands, events or what was redriven, says something of what another reads after it
/// was repartitioned: an earlier record of the same partition is lost that is still on its way.
#[test]
fn a_step_that_reads_in_place_does_not_overtake_one_that_is_repartitioned() {
    let mut bench = Bench::sharing(true, in_place());
    bench.tell(SourceEvent::Assigned(vec![at(0), redrive(0), others(0)])).log();
    let read = vec![other(&at(0), 10, "a", Headers::default()), record(&at(0), 11, "a", Headers::default())];
    bench.batch(1, read).advance(10 * MS);
    let keyed = moved(&bench, 0, &others(0));
    bench.batch(3, vec![keyed]).advance(10 * MS);
    assert_eq!(bench.taken()[1..], ["a1", "a2"]);
    // A letter of before it was repartitioned goes that way again; one of behind that is read where it stands.
    let back = |topic: &str| {
        let origin = [("hw_origin_topic", topic), ("hw_origin_partition", "0"), ("hw_origin_offset", "1")];
        let more = [("hw_group", "play"), ("hw_redrive_count", "1"), ("hw_origin_timestamp", "1")];
        origin.into_iter().chain(more).map(|(name, value)| (name, Some(value.as_bytes()))).collect::<Headers>()
    };
    let letters =
        vec![other(&redrive(0), 3, "a", back("events.net")), other(&redrive(0), 4, "a", back(&others(0).topic))];
    bench.batch(2, letters).advance(10 * MS);
    let (sent_again, _) = bench.own().into_iter().filter(|(out, _)| out.topic == others(0).topic).nth(1).expect("it");
    bench.batch(3, vec![record(&others(0), 1, "a", sent_again.headers)]).advance(10 * MS);
    assert_eq!(
        (bench.metrics.get(Metric::Changes), bench.metrics.get(Metric::Replayed)),
        (4, 0),
        "{:?}",
        bench.taken()
    );
}

/// An id is base64, with slashes in it. Red when what stood on a topic that is gone is booked under the topic of its name that
/// is there now: that one's records begin again at offset 0, and would be passed over.
#[test]
fn records_of_a_topic_that_was_created_anew_are_other_inputs() {
    let mut bench = Bench::repartitioning(in_place());
    bench.created("1st/+").tell(SourceEvent::Assigned(vec![at(0), redrive(0), repartition(0)])).log();
    bench.records(0, 1, 700, "a").advance(10 * MS);
    let old = moved(&bench, 0, &repartition(0));
    assert_eq!(old.headers.get("hw_input"), Some(Some(&b"events.net/0/700/1st/+"[..])));
    bench.created("2nd/+").batch(3, vec![old.clone()]).records(0, 1, 1_000, "a").advance(10 * MS);
    let (new, _) = bench.own().pop().expect("it is repartitioned");
    let new = Record { headers: new.headers, offset: 1, ..old.clone() };
    assert_eq!(new.headers.get("hw_input"), Some(Some(&b"events.net/0/1000/2nd/+"[..])));
    let mut low = Headers::default();
    low.push_text("hw_input", "events.net/0/3/2nd/+");
    bench.batch(3, vec![Record { headers: low, ..new.clone() }, Record { offset: 2, ..new }]).advance(10 * MS);
    // What was repartitioned by a version that did not say the id counts as of the topic that is there.
    let mut of_before = Headers::default();
    of_before.push_text("hw_input", "events.net/0/5");
    bench.batch(3, vec![Record { headers: of_before, offset: 3, ..old }]).advance(10 * MS);
    assert_eq!(
        (bench.metrics.get(Metric::Changes), bench.metrics.get(Metric::Replayed)),
        (3, 1),
        "{:?}",
        bench.taken()
    );
}

/// Red when the first partition of a number that leaves takes with it what records of the others have changed and
/// nothing has committed yet.
#[test]
fn what_is_not_committed_of_a_number_stays_until_its_last_partition_leaves() {
    let mut bench = Bench::counting_again(in_place());
    bench.tell(SourceEvent::Assigned(vec![at(0), redrive(0)])).log();
    bench.silent(true).records(0, 1, 0, "a").advance(10 * MS);
    bench.tell(SourceEvent::Revoked(vec![redrive(0)]));
    assert_eq!(bench.log(), "unit 0:1 a1, released redrive/0");
    bench.records(0, 1, 1, "a").silent(false).advance(10 * MS);
    assert_eq!(bench.taken(), ["a1", "a2"]);
}

/// In a group without state it is given back at once while its store does not answer. Fails where that is so in one with state
/// (`keeps` in `let_leavers_go`): what it has changed is dropped, and what the others of its number have made of it is committed.
#[test]
fn a_partition_of_a_group_with_state_waits_on_its_way_out_for_a_store_that_does_not_answer() {
    let mut bench = Bench::counting(in_place());
    bench.tell(SourceEvent::Assigned(vec![at(0), redrive(0)])).log();
    bench.answer(Err(CommitError::Outage("no answer".to_owned()))).records(0, 1, 0, "a").advance(10 * MS);
    bench.batch(2, vec![record(&redrive(0), 0, "a", Headers::default())]);
    bench.tell(SourceEvent::Revoked(vec![at(0)])).advance(SECOND);
    let log = bench.log();
    assert_eq!(bench.taken(), ["a1", "a2"], "{log}");
    assert!(log.contains("released 0"), "{log}");
}

/// Red when a partition that is being given back begins anew because a record of it is refused, or when what rests on that
/// record in the other partitions of its number is committed.
#[test]
fn a_number_that_leaves_is_given_back_where_a_record_of_it_is_refused() {
    let mut bench = Bench::counting(in_place());
    bench.tell(SourceEvent::Assigned(vec![at(0), redrive(0)])).log();
    bench.poison("a2").silent(true).records(0, 1, 0, "a a").advance(10 * MS);
    bench.batch(2, vec![record(&redrive(0), 0, "a", Headers::default())]);
    bench.tell(SourceEvent::Revoked(vec![at(0), redrive(0)])).silent(false).advance(SECOND);
    let log = bench.log();
    assert!(log.contains("released 0redrive/0") && !log.contains("start 0, begin"), "{log}");
    assert_eq!((bench.taken(), bench.metrics.letters(DeadLetterKind::Rejected)), (vec!["a1".to_owned()], 0), "{log}");
}

/// Red when a commit goes on for partitions that are given up at the drain deadline, or are lost: what it has
/// not sent yet would stand behind what the next owner has. Red as well when what is still ours is not tried again.
#[test]
fn a_commit_ends_with_the_partitions_that_it_is_for() {
    let mut bench = Bench::counting_again(in_place()).cancelling();
    bench.tell(SourceEvent::Assigned((0..2).flat_map(|number| [at(number), redrive(number)]).collect())).log();
    bench.silent(true).records(0, 1, 0, "a").advance(10 * MS).log();
    bench.tell(SourceEvent::Revoked(vec![at(0), redrive(0)])).advance(20 * SECOND - MS);
    assert_eq!(bench.log(), "released redrive/0", "what has left and is not of the unit ends nothing");
    assert_eq!(bench.advance(MS).log(), "released 0, cancelled, forget redrive/00");
    assert_eq!(bench.silent(false).advance(SECOND).log(), "");
    bench.tell(SourceEvent::Assigned(vec![at(0), redrive(0)])).log();
    bench.silent(true).records(0, 5, 0, "a").records(1, 3, 0, "b").advance(10 * MS);
    bench.tell(SourceEvent::Lost(vec![at(0), redrive(0)]));
    let log = bench.silent(false).advance(SECOND).log();
    assert_eq!(log, "unit 0:1 1:1 a1 b1, cancelled, forget 0redrive/0, unit 1:1 b1, commit 1:1");
    assert_eq!(bench.taken(), ["b1"]);
}

/// Red when a commit goes on once the group closes, or a new one is begun: its partitions may be another's.
#[test]
fn a_group_that_closes_at_the_drain_deadline_commits_nothing_more() {
    for cancels in [true, false] {
        let bench = Bench::counting_again(in_place()).slow_to_close();
        let mut bench = if cancels { bench.cancelling() } else { bench };
        bench.tell(SourceEvent::Assigned(vec![at(0), redrive(0)])).log();
        bench.silent(true).records(0, 1, 0, "a").advance(10 * MS).records(0, 1, 1, "b").advance(10 * MS).log();
        bench.stop().advance(20 * SECOND - MS);
        assert_eq!(bench.log(), "");
        bench.advance(MS).silent(false).advance(SECOND);
        // Where the store shuts out former owners what is under way may end.
        let (log, taken) = if cancels { ("close, cancelled", vec![]) } else { ("close, commit 0:1", vec!["a1"]) };
        assert_eq!((bench.log().as_str(), bench.taken()), (log, taken.into_iter().map(str::to_owned).collect()));
    }
}
