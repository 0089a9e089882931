//! Dead letters that are sent back to their group: what it makes of them, and how the dead letters hear of it.

use crate::{
    failure::dead_letter::DeadLetter,
    pipeline::catalogue::{Binding, KeyFormat},
    worker::tests::*,
};

/// A group that fails `bad` in these ways, with one letter of it.
fn rejected(more: impl IntoIterator<Item = Failure>) -> (Driver, DeadLetter) {
    let script = Script::of([Failure::reject("first")].into_iter().chain(more));
    let mut driver = Driver::new(Pipeline::default().on("play", with(script, play)));
    driver.advance(SECOND).send(ping("bad", 1));
    let letter = driver.letters("play").remove(0);
    (driver, letter)
}

/// The headers of the marker that the record at this place has succeeded, after so many times of being sent back.
fn marker_headers(
    group: &str,
    (topic, partition, offset, timestamp_ms): (&str, i32, i64, i64),
    count: u32,
) -> BTreeMap<String, String> {
    [
        ("hw_group", group.to_owned()),
        ("hw_processor", group.to_owned()),
        ("hw_origin_topic", topic.to_owned()),
        ("hw_origin_partition", partition.to_string()),
        ("hw_origin_offset", offset.to_string()),
        ("hw_origin_timestamp", timestamp_ms.to_string()),
        ("hw_redrive_count", count.to_string()),
        ("hw_resolved", "1".to_owned()),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

/// The place of the record that `rejected` sends.
fn origin() -> (&'static str, i32, i64, i64) {
    ("events.net", place("bad"), 0, BEGIN_MS + 1_000)
}

/// Red when the news is missing, repeated, carries the value, another header or another place, or is told of a record that
/// was never sent back.
#[test]
fn a_letter_that_is_sent_back_and_succeeds_leaves_one_marker() {
    let (mut driver, letter) = rejected([]);
    driver.advance(3600 * SECOND).send_record(letter.redriven()).send(ping("good", 1)).advance(3600 * SECOND);
    let pongs: Vec<_> = driver.emitted::<Pong>().into_iter().filter(|pong| pong.id == "bad").collect();
    assert_eq!((pongs.len(), pongs[0].meta.causation_id.as_ref()), (1, Some(&letter.event_id)));
    assert_eq!(pongs[0].meta.time.millis(), BEGIN_MS + 1_000, "it is the same event still");
    let records = driver.records("play.dlq");
    let [_, marker] = &records[..] else { panic!("{records:?}") };
    assert_eq!((marker.key.as_deref(), &marker.value, marker.partition), (Some(&b"bad"[..]), &None, place("bad")));
    assert_eq!((delivery(&marker.headers), marker.headers.len()), (marker_headers("play", origin(), 1), 9));
    assert_eq!((driver.letters("play")[1].resolved, driver.metrics("play").get(Metric::Resolved)), (true, 1));
}

/// Red when the letter that comes back has another origin, counts old attempts or not how often it was sent back.
#[test]
fn a_letter_that_is_sent_back_and_fails_is_a_letter_with_its_count() {
    let (mut driver, first) = rejected([Failure::reject("second"), Failure::reject("third")]);
    let mut letter = first.clone();
    for (count, message) in [(1, "second"), (2, "third")] {
        letter = driver.advance(SECOND).send_record(letter.redriven()).letters("play").remove(count as usize);
        assert_eq!((letter.redrives, letter.message.as_str(), letter.attempts), (count, message, 1));
        assert_eq!((&letter.origin, letter.first_failed_ms), (&first.origin, first.first_failed_ms));
        assert_eq!((&letter.key, &letter.value, &letter.event_id), (&first.key, &first.value, &first.event_id));
        assert!(!letter.resolved);
    }
    let marker = driver.send_record(letter.redriven()).records("play.dlq").remove(3);
    assert_eq!(delivery(&marker.headers), marker_headers("play", origin(), 3));
}

/// Red when a retry forgets that its record was sent back, or tells of success before there is any.
#[test]
fn a_letter_that_is_retried_first_leaves_its_marker_when_it_succeeds() {
    let (mut driver, letter) = rejected([Failure::retry("not yet")]);
    driver.send_record(letter.redriven());
    let hop = delivery(&driver.records("play.retry.1s")[0].headers);
    assert_eq!((hop["hw_redrive_count"].as_str(), hop["hw_attempt"].as_str()), ("1", "1"));
    assert_eq!(driver.records("play.dlq").len(), 1);
    let marker = driver.advance(SECOND).records("play.dlq").remove(1);
    assert_eq!(delivery(&marker.headers), marker_headers("play", origin(), 1));
}

/// Red when a letter is sent back to the events' topic, or the redrive topic of another group.
#[test]
fn a_letter_is_sent_back_to_its_group_alone() {
    let scripts = ["a", "b"].map(|_| Script::of((0..2).map(|_| Failure::reject("no"))));
    let pipeline = Pipeline::default().on("a", with(scripts[0].clone(), play)).on("b", with(scripts[1].clone(), play));
    let mut driver = Driver::new(pipeline);
    let letter = driver.send(ping("bad", 1)).letters("a").remove(0);
    driver.send_record(letter.redriven()).advance(3600 * SECOND);
    assert_eq!((driver.letters("a").len(), driver.letters("b").len()), (2, 1));
    assert_eq!((scripts[0].seen().len(), scripts[1].seen().len()), (2, 1));
    assert_eq!((driver.metrics("a").get(Metric::Records), driver.metrics("b").get(Metric::Records)), (2, 1));
}

/// The id is that of vectors.json. Red when the new event is not the old one's child, keeps its id or its origin, or its
/// time is that of the editing.
#[test]
fn an_edited_letter_is_a_new_event_that_the_old_one_caused() {
    let failing = Failing::first(1);
    let settings = GroupSettings { ladder: ladder(&[]), ..GroupSettings::default() };
    let mut driver = Driver::with_settings(Pipeline::default().on("play", with(failing.clone(), fail)), settings);
    let talk = Headers::from_iter([("ce_correlationid", Some(&b"talk-1"[..])), ("x-free", Some(b"kept"))]);
    driver.send_with(ping("a", 1), talk).send(ping("b", 2)).advance(3600 * SECOND);
    let (letter, old) = (driver.letters("play").remove(0), failing.seen().remove(0));
    let mended = driver.records("events.net").into_iter().find(|r| r.key.as_deref() == Some(b"b")).expect("sent");
    let edited = letter.edited("0b0e9a52-6f0e-4d0e-9a35-3f6b8f0b7c11", mended.value.clone().expect("a value"));
    let found = delivery(&edited.headers).into_keys().collect::<Vec<_>>();
    assert_eq!(found, ["hw_attempt", "hw_group", "hw_processor", "hw_redrive_count"], "its origin is its own place");
    driver.send_record(edited);
    let new = failing.seen().pop().expect("the third");
    assert_eq!((new.id.as_str(), new.source.as_str()), ("f77f0dee-ffc7-5916-b0d7-127e4dd4ed46", "headwater/edit"));
    assert_eq!((new.correlation_id.as_str(), new.causation_id), ("talk-1", Some(old.id)));
    assert_eq!((new.time, new.attempt, new.trace.trace_id), (old.time, 0, old.trace.trace_id));
    assert_eq!((&*new.origin.partition.topic, new.origin.offset), ("play.redrive", 0));
    assert_eq!(new.extra, old.extra);
    assert_eq!(driver.emitted::<Pong>().last().map(|pong| pong.data.seq), Some(2), "the new value counts");
    let marker = driver.records("play.dlq").remove(1);
    let place = ("play.redrive", place("a"), 0, BEGIN_MS + 3_600_000);
    assert_eq!((delivery(&marker.headers), marker.partition), (marker_headers("play", place, 1), place.1));
}

/// Red when a header that nobody could read makes a letter of the edited one too.
#[test]
fn an_edited_letter_breaks_no_contract() {
    let control = "\u{7}".repeat(3);
    let broken = [
        ("ce_specversion", "0.3"),
        ("ce_id", &control),
        ("ce_type", &control),
        ("content-type", "application/cloudevents+json"),
    ];
    for header in broken {
        let mut driver = Driver::new(Pipeline::default().on("play", with(Script::default(), play)));
        driver.send_with(ping("k", 1), [(header.0, Some(header.1.as_bytes()))].into_iter().collect());
        let letter = driver.letters("play").remove(0);
        assert_eq!(letter.kind, "contract", "{header:?}");
        let value = letter.value.clone().expect("a value");
        driver.send_record(letter.edited("0b0e9a52-6f0e-4d0e-9a35-3f6b8f0b7c11", value));
        assert!(driver.letters("play")[1].resolved, "{header:?}: {:?}", driver.letters("play"));
        assert_eq!(driver.emitted::<Pong>().len(), 1);
    }
}

/// Red when the type that only its topic's binding says is lost with the topic.
#[test]
fn an_edited_letter_of_a_bound_topic_keeps_its_type() {
    let sink = Sink { event: "shop.order".to_owned(), ..Sink::of::<Ping>("orders").key("id") };
    let binding = Binding { event_type: "shop.order".to_owned(), key: KeyFormat::Text };
    let mut driver = Driver::new(Pipeline::default().bind("orders", binding).sink("orders-sink", sink));
    let value = driver.send(ping("k", 1)).records("events.net").remove(0).value.expect("a value");
    driver.send_record(raw("orders", Some(&[&value[..], b"\0"].concat()), Headers::default()));
    let letter = driver.letters("orders-sink").remove(0);
    assert_eq!((letter.kind.as_str(), letter.event_type.as_deref()), ("decode", Some("shop.order")));
    driver.send_record(letter.edited("0b0e9a52-6f0e-4d0e-9a35-3f6b8f0b7c11", value));
    let rows = driver.rows("orders-sink");
    assert_eq!((rows.len(), rows[0].meta.event_type.as_str()), (1, "shop.order"));
    assert!(driver.letters("orders-sink")[1].resolved, "a sink tells of success as well");
    let again = driver.send_record(letter.redriven()).letters("orders-sink").remove(2);
    assert_eq!((again.kind.as_str(), again.redrives, &again.origin), ("decode", 1, &letter.origin));
}
