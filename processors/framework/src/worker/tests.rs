//! The engine over topics in memory, on a clock of its own.

mod scripted;

mod attempt;
mod commit;
mod partition;
mod schedule;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{
    driver::Driver,
    event::{Event, Meta, payload::Payload},
    failure::{Failure, OrReject, Result},
    pipeline::{Pipeline, settings::GroupSettings, sink::Sink},
    processor::{input::Any, matching, with},
    telemetry::metrics::Metric,
    wire::record::{Headers, Outgoing},
};

const SECOND: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);
/// Where the wall clock begins, milliseconds since the epoch.
const BEGIN_MS: i64 = 1_767_225_600_000;

macro_rules! event {
    ($name:ident, $type:literal, $namespace:literal) => {
        #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
        struct $name {
            id: String,
            seq: i64,
        }

        impl Payload for $name {
            const TYPE: &'static str = $type;
            const SCHEMA: &'static str = concat!(
                r#"{"type":"record","name":""#,
                stringify!($name),
                r#"","namespace":""#,
                $namespace,
                r#"","fields":[{"name":"id","type":"string"},{"name":"seq","type":"long"}]}"#
            );

            fn key(&self) -> &str {
                &self.id
            }
        }
    };
}

event!(Ping, "net.ping", "headwater.net");
event!(Pong, "answer.pong", "headwater.answer");
event!(Alarm, "ops.alarm", "headwater.ops");

fn ping(id: &str, seq: i64) -> Ping {
    Ping { id: id.to_owned(), seq }
}

/// Answers as told, then succeeds; remembers what it was given.
#[derive(Clone, Default)]
struct Script {
    answers: Arc<Mutex<VecDeque<Failure>>>,
    seen: Arc<Mutex<Vec<(String, i64)>>>,
}

impl Script {
    fn of(answers: impl IntoIterator<Item = Failure>) -> Self {
        Self { answers: Arc::new(Mutex::new(answers.into_iter().collect())), ..Self::default() }
    }

    fn seen(&self) -> Vec<(String, i64)> {
        self.seen.lock().unwrap().clone()
    }
}

async fn play(script: Script, ping: Ping) -> Result<Pong> {
    script.seen.lock().unwrap().push((ping.id.clone(), ping.seq));
    let failure = if ping.id == "bad" { script.answers.lock().unwrap().pop_front() } else { None };
    match failure {
        Some(failure) => Err(failure),
        None => Ok(Pong { id: ping.id, seq: ping.seq }),
    }
}

/// A record for a topic of pings, by key `k`.
fn raw(topic: &str, value: Option<&[u8]>, headers: Headers) -> Outgoing {
    let key = Some(b"k".to_vec());
    Outgoing { topic: topic.into(), partition: None, key, value: value.map(<[u8]>::to_vec), headers }
}

/// The delivery headers of a record.
fn delivery(headers: &Headers) -> BTreeMap<String, String> {
    let text = |value: Option<&[u8]>| String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
    headers.iter().filter(|(name, _)| name.starts_with("hw_")).map(|(name, v)| (name.to_owned(), text(v))).collect()
}

/// Keeps the metadata of every attempt, and fails the first so many.
#[derive(Clone, Default)]
struct Failing {
    seen: Arc<Mutex<Vec<Meta>>>,
    first: usize,
}

impl Failing {
    fn first(first: usize) -> Self {
        Self { first, ..Self::default() }
    }

    fn seen(&self) -> Vec<Meta> {
        self.seen.lock().unwrap().clone()
    }

    /// Attempts made before each attempt.
    fn attempts(&self) -> Vec<u32> {
        self.seen().iter().map(|meta| meta.attempt).collect()
    }
}

async fn fail(failing: Failing, ping: Event<Ping>) -> Result<Pong> {
    let count = {
        let mut seen = failing.seen.lock().unwrap();
        seen.push(ping.meta.as_ref().clone());
        seen.len()
    };
    if count <= failing.first {
        return Err(Failure::retry(format!("failure {count}")));
    }
    Ok(Pong { id: ping.data.id, seq: ping.data.seq })
}

/// The partition of a key.
fn place(key: &str) -> i32 {
    crate::wire::murmur2::partition_for(key.as_bytes(), 6)
}

/// Delays of so many seconds.
fn ladder(seconds: &[u64]) -> crate::failure::ladder::Ladder {
    crate::failure::ladder::Ladder::try_new(seconds.iter().map(|s| Duration::from_secs(*s))).expect("valid")
}

/// Another key of the same partition.
fn key_beside(key: &str) -> String {
    (0..).map(|n| format!("{key}{n}")).find(|other| place(other) == place(key)).expect("one in six")
}

fn seqs(pongs: &[Event<Pong>], id: &str) -> Vec<i64> {
    pongs.iter().filter(|p| p.id == id).map(|p| p.seq).collect()
}

/// Red when ordinals do not run over the flattened value, or correlation, causation, source, time or trace are not passed on.
#[test]
fn what_is_emitted_names_its_cause_and_keeps_the_conversation() {
    async fn two(ping: Event<Ping>) -> Result<(Option<Pong>, Vec<Alarm>)> {
        let Ping { id, seq } = ping.data;
        Ok((Some(Pong { id: id.clone(), seq }), vec![Alarm { id: id.clone(), seq }, Alarm { id, seq }]))
    }
    let mut driver = Driver::new(Pipeline::default().on("two", two));
    let headers = Headers::from_iter([
        ("ce_id", Some(&b"id-7"[..])),
        ("ce_source", Some(b"//till")),
        ("ce_correlationid", Some(b"talk-1")),
        ("ce_userid", Some(b"ann")),
        ("ce_time", Some(b"2026-02-03T04:05:06Z")),
        ("traceparent", Some(b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")),
    ]);
    driver.send_with(ping("a", 1), headers);
    let (pongs, alarms) = (driver.emitted::<Pong>(), driver.emitted::<Alarm>());
    let ids: Vec<_> =
        pongs.iter().map(|p| &p.meta).chain(alarms.iter().map(|a| &a.meta)).map(|m| m.id.clone()).collect();
    let wanted: Vec<_> = (0..3).map(|ordinal| crate::wire::ids::emitted_id("//till", "id-7", "two", ordinal)).collect();
    assert_eq!(ids, wanted);
    for meta in [&pongs[0].meta, &alarms[0].meta, &alarms[1].meta] {
        assert_eq!(meta.source, "headwater/two");
        assert_eq!((meta.correlation_id.as_str(), meta.causation_id.as_deref()), ("talk-1", Some("id-7")));
        assert_eq!((meta.user_id.as_deref(), meta.subject.as_deref()), (Some("ann"), Some("a")));
        assert_eq!(meta.time.to_string(), "2026-02-03T04:05:06Z");
        assert_eq!(meta.trace.trace_id_hex(), "4bf92f3577b34da6a3ce929d0e0e4736");
    }
}

/// Offset 0 slow, the others of its partition done: they are published, and the committed position stays before 0.
/// Red when the position of the last finished record is committed.
#[test]
fn a_slow_record_holds_the_committed_position_and_not_the_others() {
    type Gate = Arc<Mutex<Option<tokio::sync::oneshot::Receiver<()>>>>;
    async fn wait(gate: Gate, ping: Ping) -> Result<Pong> {
        let slow = gate.lock().unwrap().take().filter(|_| ping.seq == 0);
        if let Some(open) = slow {
            open.await?;
        }
        Ok(Pong { id: ping.id, seq: ping.seq })
    }
    let (open, gate) = tokio::sync::oneshot::channel();
    let gate: Gate = Arc::new(Mutex::new(Some(gate)));
    let mut driver = Driver::new(Pipeline::default().on("wait", with(gate, wait)));
    let keys: Vec<String> = (0..200).map(|n| format!("k{n}")).filter(|k| place(k) == 0).take(10).collect();
    for (key, seq) in keys.iter().zip(0..) {
        driver.send(ping(key, seq));
    }
    assert_eq!(driver.emitted::<Pong>().len(), 9);
    assert_eq!(driver.committed("wait", "events.net", 0), None);
    open.send(()).expect("the processor waits");
    driver.advance(Duration::ZERO);
    assert_eq!(driver.emitted::<Pong>().len(), 10);
    assert_eq!(driver.committed("wait", "events.net", 0), Some(10));
}

/// Red when a pause counts as an attempt, or ends early.
#[test]
fn a_throttled_record_waits_as_long_as_it_was_asked_to() {
    let script = Script::of([Failure::Throttled(5 * SECOND)]);
    let mut driver = Driver::new(Pipeline::default().on("play", with(script, play)));
    driver.send(ping("bad", 1)).advance(5 * SECOND - Duration::from_millis(1));
    assert_eq!(driver.emitted::<Pong>().len(), 0);
    driver.advance(Duration::from_millis(1));
    assert_eq!(driver.emitted::<Pong>().len(), 1);
    let state = driver.metrics("play");
    assert_eq!((state.get(Metric::Failures), state.get(Metric::Throttled)), (0, 1));
}

/// Red when the time limit is not kept, or a panic ends the group or is no attempt.
#[test]
fn a_processor_that_hangs_or_panics_is_tried_again() {
    async fn moody(turn: Arc<Mutex<u32>>, ping: Ping) -> Result<Pong> {
        let turn = {
            let mut turn = turn.lock().unwrap();
            *turn += 1;
            *turn
        };
        match turn {
            1 => std::future::pending().await,
            2 => panic!("not today"),
            _ => Ok(Pong { id: ping.id, seq: ping.seq }),
        }
    }
    let mut driver = Driver::new(Pipeline::default().on("moody", with(Arc::default(), moody)));
    driver.send(ping("a", 1)).advance(59 * SECOND);
    assert_eq!(driver.metrics("moody").get(Metric::Failures), 0);
    driver.advance(60 * SECOND);
    assert_eq!(driver.metrics("moody").get(Metric::Failures), 2);
    assert_eq!(driver.emitted::<Pong>().len(), 1);
}

/// Red when a lone `*` reads single topics only, or its types are matched by segment.
#[test]
fn a_new_topic_under_a_wildcard_is_read_from_its_first_event() {
    async fn audit(seen: Arc<Mutex<Vec<String>>>, event: Event<Any>) -> Result<()> {
        seen.lock().unwrap().push(format!("{} {}", event.meta.event_type, event.name));
        Ok(())
    }
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let audit = matching("*", with(seen.clone(), audit));
    let mut driver = Driver::new(Pipeline::default().on("audit", audit).event::<Ping>());
    driver.send_with(
        Alarm { id: "a".to_owned(), seq: 1 },
        Headers::from_iter([("ce_type", Some(&b"ops.alarm.raised"[..]))]),
    );
    driver.send(ping("b", 1));
    let mut seen = seen.lock().unwrap().clone();
    seen.sort();
    assert_eq!(seen, ["net.ping headwater.net.Ping", "ops.alarm.raised headwater.ops.Alarm"]);
}

/// Red when a unit is cut by time alone, or waits for more than the count.
#[test]
fn a_batch_is_cut_by_count_and_by_time() {
    let settings = GroupSettings { batch_records: 5, linger: Duration::from_millis(200), ..GroupSettings::default() };
    let pipeline = Pipeline::default().sink("pings", Sink::of::<Ping>("pings").key("id")).event::<Ping>();
    let mut driver = Driver::with_settings(pipeline, settings);
    (0..4).for_each(|seq| _ = driver.send(ping("a", seq)));
    assert_eq!(driver.rows("pings").len(), 0);
    driver.send(ping("a", 4));
    assert_eq!((driver.rows("pings").len(), driver.metrics("pings").get(Metric::Commits)), (5, 1));
    driver.send(ping("a", 5)).send(ping("a", 6));
    assert_eq!((driver.rows("pings").len(), driver.metrics("pings").get(Metric::Commits)), (5, 1));
    driver.advance(Duration::from_millis(199));
    assert_eq!(driver.rows("pings").len(), 5);
    driver.advance(Duration::from_millis(1));
    assert_eq!((driver.rows("pings").len(), driver.metrics("pings").get(Metric::Commits)), (7, 2));
}

/// Red when an unsubscribed type is processed, or stops the partition, or is not passed.
#[test]
fn a_type_that_nobody_takes_is_skipped_and_counted() {
    let mut driver = Driver::new(Pipeline::default().on("play", with(Script::default(), play)));
    let other = Headers::from_iter([("ce_type", Some(&b"net.unheard"[..]))]);
    driver.send_record(raw("events.net", Some(b"whatever"), other)).send(ping("k", 1));
    let state = driver.metrics("play");
    assert_eq!((state.get(Metric::Skipped), state.get(Metric::Failures)), (1, 0));
    assert_eq!(driver.emitted::<Pong>().len(), 1);
    assert_eq!(driver.committed("play", "events.net", place("k")), Some(2));
}

/// Red when a tombstone is poison for a sink with delete, or a row for one without.
#[test]
fn a_tombstone_is_for_sinks_with_delete() {
    let typed = Headers::from_iter([("ce_type", Some(&b"net.ping"[..]))]);
    let pipeline = Pipeline::default()
        .event::<Ping>()
        .sink("deletes", Sink::of::<Ping>("pings").key("id").delete())
        .sink("keeps", Sink::of::<Ping>("kept").key("id"));
    let mut driver = Driver::new(pipeline);
    driver.send_record(raw("events.net", None, typed));
    let rows = driver.rows("deletes");
    assert!(rows.len() == 1 && rows[0].data.is_none() && rows[0].record.key.as_deref() == Some(b"k"));
    assert_eq!(driver.rows("keeps").len(), 0);
    assert_eq!(driver.metrics("keeps").letters(crate::failure::DeadLetterKind::Contract), 1);
}
