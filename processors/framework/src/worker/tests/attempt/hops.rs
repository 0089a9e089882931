//! What a record carries from hop to hop, and whose word about it is believed.

use crate::{
    wire::{record::Record, trace_context::TraceContext},
    worker::tests::*,
};

const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const HOPS: [&str; 3] = ["play.retry.1s", "play.retry.2s", "play.dlq"];

/// A group that always fails, with delays of one and two seconds.
fn hopeless(failing: &Failing) -> Driver {
    let settings = GroupSettings { ladder: ladder(&[1, 2]), ..GroupSettings::default() };
    Driver::with_settings(Pipeline::default().on("play", with(failing.clone(), fail)), settings)
}

/// The only record of a topic.
fn only(driver: &Driver, topic: &str) -> Record {
    let mut records = driver.records(topic);
    assert_eq!(records.len(), 1, "{topic}");
    records.remove(0)
}

/// Headers that are neither of the delivery nor of the trace.
fn others(headers: &Headers) -> Vec<(String, Option<Vec<u8>>)> {
    let other = |name: &str| !name.starts_with("hw_") && !name.starts_with("trace");
    headers.iter().filter(|(name, _)| other(name)).map(|(n, v)| (n.to_owned(), v.map(<[u8]>::to_vec))).collect()
}

/// Red when a hop adds to these headers instead of replacing them, leaves one out, changes key, value or another header,
/// moves to another partition, or leaves the trace.
#[test]
fn each_hop_replaces_the_delivery_headers_and_keeps_all_else() {
    let mut driver = hopeless(&Failing::first(99));
    let headers = Headers::from_iter([
        ("x-free", Some(&[0, 255][..])),
        ("ce_id", Some(b"id-7")),
        ("x-null", None),
        ("traceparent", Some(TRACE.as_bytes())),
        ("x-free", Some(b"again")),
        ("tracestate", Some(b"v=1")),
    ]);
    driver.advance(5 * SECOND).send_with(ping("a", 1), headers.clone()).advance(3 * SECOND);
    let source = only(&driver, "events.net");
    let mut fingerprint = None;
    for (attempt, topic) in (1..).zip(HOPS) {
        let hop = only(&driver, topic);
        assert_eq!((&hop.key, &hop.value, hop.partition), (&source.key, &source.value, source.partition));
        assert_eq!(others(&hop.headers), others(&headers));
        let trace = hop.headers.get("traceparent").flatten().and_then(TraceContext::parse).expect("valid");
        assert_eq!(trace.trace_id_hex(), &TRACE[3..35]);
        assert_eq!(hop.headers.get("tracestate"), Some(Some(&b"v=1"[..])));
        let mut found = delivery(&hop.headers);
        assert_eq!(hop.headers.len(), 4 + 2 + found.len(), "none stands twice: {:?}", hop.headers);
        let print = found.remove("hw_error_fingerprint").expect("a fingerprint");
        assert_eq!((print.len(), fingerprint.get_or_insert(print.clone())), (16, &mut print.clone()));
        let due = [1_000, 3_000].get(attempt - 1).map(|after| ("hw_due", (BEGIN_MS + 5_000 + after).to_string()));
        let wanted = [
            ("hw_attempt", attempt.to_string()),
            ("hw_first_failed", (BEGIN_MS + 5_000).to_string()),
            ("hw_group", "play".to_owned()),
            ("hw_processor", "play".to_owned()),
            ("hw_origin_topic", "events.net".to_owned()),
            ("hw_origin_partition", place("a").to_string()),
            ("hw_origin_offset", "0".to_owned()),
            ("hw_origin_timestamp", (BEGIN_MS + 5_000).to_string()),
            ("hw_error_kind", "exhausted".to_owned()),
            ("hw_error_message", format!("failure {attempt}")),
            ("hw_error_detail", format!("failure {attempt}")),
        ];
        let wanted = wanted.into_iter().chain(due).map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(found, wanted);
    }
}

/// Red when an id, a trace or a time is derived from the place of a hop instead of the origin's.
#[test]
fn a_record_without_headers_is_the_same_event_in_the_same_trace_on_every_hop() {
    let failing = Failing::first(99);
    let mut driver = hopeless(&failing);
    driver.send(ping("a", 0)).advance(3600 * SECOND).send(ping("a", 1)).advance(SECOND * 3);
    let seen: Vec<Meta> = failing.seen().split_off(3);
    let first = &seen[0];
    assert_eq!(first.id, crate::wire::ids::foreign_id("events.net", place("a"), 1, BEGIN_MS + 3_600_000));
    assert_eq!((first.time.millis(), &first.correlation_id), (BEGIN_MS + 3_600_000, &first.id));
    for (attempt, meta) in (0..).zip(&seen) {
        assert_eq!(*meta, Meta { attempt, ..first.clone() });
    }
    for topic in HOPS {
        let hop = driver.records(topic).remove(1);
        assert_eq!(others(&hop.headers), [], "nothing is written that the producer left out");
        assert_eq!(hop.headers.get("traceparent"), Some(Some(&first.trace.header()[..])), "{topic}");
    }
    let letter = driver.letters("play").remove(1);
    assert_eq!((&letter.event_id, &letter.correlation_id), (&first.id, &first.id));
    assert_eq!((letter.trace().as_ref(), &letter.origin), (Some(&first.trace), &first.origin));
}

/// Red when a header that makes a record unreadable is replaced or dropped: a person could not see it.
#[test]
fn a_broken_record_keeps_its_headers_in_its_letter() {
    let mut driver = hopeless(&Failing::default());
    let headers = Headers::from_iter([("ce_id", Some(&b""[..])), ("traceparent", Some(b"junk")), ("ce_type", None)]);
    driver.send_with(ping("a", 1), headers.clone());
    let letter = driver.letters("play").remove(0);
    assert_eq!((letter.headers, letter.kind.as_str()), (headers, "contract"));
}

fn forged(group: &str) -> Headers {
    let mut headers = Headers::default();
    for (name, value) in [
        ("hw_attempt", "99"),
        ("hw_due", "9999999999999"),
        ("hw_first_failed", "1"),
        ("hw_group", group),
        ("hw_processor", "x"),
        ("hw_origin_topic", "events.other"),
        ("hw_origin_partition", "5"),
        ("hw_origin_offset", "77"),
        ("hw_origin_timestamp", "5"),
        ("hw_redrive_count", "3"),
        ("hw_resolved", "1"),
        ("hw_new", "1"),
    ] {
        headers.push_text(name, value);
    }
    headers
}

/// Red when one of these headers has an effect, is not counted or counted twice, or travels on.
#[test]
fn delivery_headers_on_an_event_reach_nothing() {
    let failing = Failing::first(1);
    let mut driver = hopeless(&failing);
    driver.send_with(ping("a", 1), forged("play"));
    let state = driver.metrics("play");
    assert_eq!((failing.attempts(), state.get(Metric::HeadersForged)), (vec![0], 12));
    let hop = delivery(&only(&driver, "play.retry.1s").headers);
    assert_eq!((hop["hw_attempt"].as_str(), hop["hw_origin_topic"].as_str(), hop.len()), ("1", "events.net", 13));
    assert_eq!(hop["hw_first_failed"], BEGIN_MS.to_string());
    driver.advance(SECOND);
    assert_eq!((failing.attempts(), state.get(Metric::HeadersForged)), (vec![0, 1], 12));
    assert_eq!(driver.records("play.dlq"), [], "nothing was sent back, so there is no news of it");
    assert_eq!(delivery(&only(&driver, "events.answer").headers).len(), 0);
}

/// Red when another group's word is taken on a topic of this one, its due time included, or is not counted, or travels on.
#[test]
fn another_groups_delivery_headers_reach_nothing() {
    let failing = Failing::first(1);
    let mut driver = hopeless(&failing);
    driver.send_with(ping("a", 1), Headers::default()).advance(SECOND);
    let value = only(&driver, "events.net").value;
    for topic in ["play.retry.1s", "play.redrive"] {
        driver.send_record(raw(topic, value.as_deref(), forged("other")));
        let seen = failing.seen().pop().expect("one at least");
        assert_eq!((seen.attempt, &*seen.origin.partition.topic), (0, topic), "it runs at once");
    }
    assert_eq!(driver.metrics("play").get(Metric::HeadersForged), 24);
    assert_eq!(driver.records("play.dlq"), []);
    assert_eq!(delivery(&driver.records("events.answer")[0].headers).len(), 0);
}
