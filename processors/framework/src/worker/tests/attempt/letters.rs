//! What nobody can process becomes a dead letter of its kind, and the next record goes on.

use crate::{failure::DeadLetterKind, worker::tests::*};

/// The processor and a sink of the same events.
fn both(settings: GroupSettings) -> Driver {
    let sink = Sink::of::<Ping>("pings").key("id");
    Driver::with_settings(Pipeline::default().on("play", with(Script::default(), play)).sink("pings", sink), settings)
}

/// A record, then a good one of the same key: both groups put the first aside at once and process the second.
fn expect_letter(driver: &mut Driver, record: Outgoing, kind: DeadLetterKind, reason: &str) {
    let before = driver.letters("play").len();
    driver.send_record(record.clone()).send(ping("k", 1)).advance(5 * SECOND);
    for group in ["play", "pings"] {
        let letters = driver.letters(group);
        assert_eq!(letters.len(), before + 1, "{group}: {reason}");
        let letter = letters.last().expect("one at least");
        assert_eq!((letter.kind.as_str(), letter.attempts), (kind.as_str(), 1), "{reason}");
        assert!(letter.message.contains(reason), "wanted {reason}, got {}", letter.message);
        assert_eq!((&letter.key, &letter.value), (&record.key, &record.value), "{reason}");
        let last = letter.origin.offset + 2;
        assert_eq!(driver.committed(group, "events.net", place("k")), Some(last), "{reason}");
        assert_eq!(driver.records(&format!("{group}.retry.1s")), [], "no other attempt changes it");
    }
    assert_eq!(driver.emitted::<Pong>().len(), driver.rows("pings").len());
}

/// Red when one of these is taken, skipped, tried again, given another kind or changed; or the next record waits.
#[test]
fn what_breaks_the_contract_is_a_letter_and_says_why() {
    let typed = |name: &'static str| Headers::from_iter([("ce_type", Some(name.as_bytes()))]);
    let (none, some) = (Headers::default, |value| raw("events.net", Some(value), Headers::default()));
    for (record, kind, reason) in [
        (some(b""), DeadLetterKind::Decode, "empty"),
        (some(b"\x07abcdef"), DeadLetterKind::Decode, "magic"),
        (some(b"\0\0\0\0\x63x"), DeadLetterKind::Decode, "the registry has no schema 99"),
        (raw("events.net", None, typed("net.ping")), DeadLetterKind::Contract, "a null value"),
        (raw("events.net", None, none()), DeadLetterKind::Contract, "a tombstone without ce_type"),
        (
            raw("events.net", Some(b"\0\0\0\0\x01x"), typed("ops.alarm")),
            DeadLetterKind::Contract,
            "`ops.alarm` does not",
        ),
        (
            raw("events.net", Some(b"x"), Headers::from_iter([("ce_id", Some(&b""[..]))])),
            DeadLetterKind::Contract,
            "header ce_id is not text",
        ),
        (some(&[0; 101]), DeadLetterKind::Contract, "the value is 101 bytes, over the limit of 100"),
    ] {
        expect_letter(
            &mut both(GroupSettings { max_record_bytes: 100, ..GroupSettings::default() }),
            record,
            kind,
            reason,
        );
    }
}

/// Red when a datum that is cut, runs on, or is of an unknown type passes.
#[test]
fn a_datum_that_does_not_fit_is_a_letter() {
    let mut driver = both(GroupSettings::default());
    driver.send(ping("k", 0)).send(Alarm { id: "k".to_owned(), seq: 0 });
    let value = |driver: &Driver, topic| driver.records(topic).remove(0).value.expect("a value");
    let (good, alarm) = (value(&driver, "events.net"), value(&driver, "events.ops"));
    let (cut, longer) = (&good[..good.len() - 1], [&good[..], b"\0"].concat());
    for (value, kind, reason) in [
        (cut, DeadLetterKind::Decode, ""),
        (&longer, DeadLetterKind::Decode, "1 bytes follow the datum"),
        (&alarm, DeadLetterKind::Contract, "headwater.ops.Alarm"),
    ] {
        expect_letter(&mut driver, raw("events.net", Some(value), Headers::default()), kind, reason);
    }
}

/// Red when a rejected record is tried again, holds its partition, or its key's followers.
#[test]
fn a_rejected_record_is_a_letter_at_once() {
    let script = Script::of([Failure::reject("no such thing")]);
    let mut driver = Driver::new(Pipeline::default().on("play", with(script, play)));
    driver.send(ping("bad", 1)).send(ping("bad", 2)).send(ping("good", 1));
    assert_eq!((seqs(&driver.emitted(), "bad"), seqs(&driver.emitted(), "good")), (vec![2], vec![1]));
    assert_eq!(driver.committed("play", "events.net", place("bad")), Some(2));
    let letter = driver.letters("play").remove(0);
    assert_eq!((letter.kind.as_str(), letter.message.as_str(), letter.attempts), ("rejected", "no such thing", 1));
    let state = driver.metrics("play");
    assert_eq!(
        (state.letters(DeadLetterKind::Rejected), state.get(Metric::Failures), state.get(Metric::Stopped)),
        (1, 0, 0)
    );
    assert_eq!(state.troubles(), Vec::<String>::new());
}

/// Red when an event that is too large is sent, or tried again.
#[test]
fn an_emitted_event_that_is_too_large_is_rejected() {
    async fn grow(ping: Ping) -> Result<Pong> {
        Ok(Pong { id: ping.id.repeat(100), seq: 1 })
    }
    let settings = GroupSettings { max_event_bytes: 50, ..GroupSettings::default() };
    let mut driver = Driver::with_settings(Pipeline::default().on("grow", grow), settings);
    let letter = driver.send(ping("abc", 1)).letters("grow").remove(0);
    assert_eq!(letter.kind, "rejected");
    assert!(letter.message.starts_with("`answer.pong` is") && driver.records("events.answer").is_empty());
}

/// Red when an error behind `or_reject` is retried, or its reason is lost.
#[test]
fn or_reject_says_why() {
    async fn parse(ping: Ping) -> Result<()> {
        ping.id.parse::<u8>().or_reject("the id is no number")?;
        Ok(())
    }
    let mut driver = Driver::new(Pipeline::default().on("parse", parse));
    let letters = driver.send(ping("1", 1)).send(ping("x", 1)).letters("parse");
    assert_eq!((letters.len(), letters[0].kind.as_str()), (1, "rejected"));
    assert!(letters[0].message.starts_with("the id is no number: invalid digit"), "{letters:?}");
}
