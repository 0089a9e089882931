//! Poison: every kind of bad input is set aside as it is, and what is behind it goes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use headwater::{
    Event, Payload, Pipeline, Result, Sink, TraceContext,
    spi::{Catalogue, DeadLetter, DeadLetterKind, Metric, Outgoing, codec::Encoder},
    with,
};
use headwater_connectors::kafka::{Cluster, Producer, TopicSpec};
use headwater_tests::{ConsumedRecord, Engine, ForeignClient, Group, RawRecord, Space, eventually, register};
use serde::{Deserialize, Serialize};

use crate::space;

const SOON: Duration = Duration::from_mins(1);
const TOPIC: &str = "events.poison";
const GUT: &str = "events.gut";
/// The largest record that the topic takes, bytes, and the largest that the groups read.
const TAKEN: usize = 4_000_000;
const READ: usize = 1_000_000;
const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Tasted {
    id: String,
    grams: i64,
}

impl Payload for Tasted {
    const TYPE: &'static str = "poison.tasted";
    const SCHEMA: &'static str = r#"{"type":"record","name":"Tasted","namespace":"headwater.poison","fields":[
        {"name":"id","type":"string"},{"name":"grams","type":"long"}]}"#;

    fn key(&self) -> &str {
        &self.id
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Digested {
    id: String,
}

impl Payload for Digested {
    const TYPE: &'static str = "gut.digested";
    const SCHEMA: &'static str = r#"{"type":"record","name":"Digested","namespace":"headwater.gut","fields":[
        {"name":"id","type":"string"}]}"#;

    fn key(&self) -> &str {
        &self.id
    }
}

/// What was eaten, and after how many attempts.
type AttemptsById = Arc<Mutex<BTreeMap<String, u32>>>;

async fn eat(eaten: AttemptsById, tasted: Event<Tasted>) -> Result<Digested> {
    eaten.lock().unwrap().insert(tasted.id.clone(), tasted.meta.attempt);
    Ok(Digested { id: tasted.data.id })
}

/// A record, and what becomes of it in the processor and in the sink: a dead letter of this kind, or none.
struct Case {
    name: &'static str,
    eater: Option<DeadLetterKind>,
    sink: Option<DeadLetterKind>,
    value: Option<Vec<u8>>,
    headers: Vec<(&'static str, String)>,
}

impl Case {
    /// Poison for both.
    fn poison(name: &'static str, kind: DeadLetterKind, value: Option<Vec<u8>>) -> Self {
        Self { name, eater: Some(kind), sink: Some(kind), value, headers: Vec::new() }
    }

    fn with(mut self, header: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((header, value.into()));
        self
    }

    /// As it is sent, the `n`-th: half of them belong to a trace.
    fn raw(&self, n: usize) -> RawRecord {
        let text = |name: &str, value: &str| (name.to_owned(), Some(value.as_bytes().to_vec()));
        let mut headers = vec![text("x-case", self.name), ("x-bytes".to_owned(), Some(vec![0xff, 0, 0x80]))];
        headers.push(("x-null".to_owned(), None));
        headers.extend(self.headers.iter().map(|(name, value)| text(name, value)));
        headers.extend(n.is_multiple_of(2).then(|| text("traceparent", TRACE)));
        let key = Some(self.name.as_bytes().to_vec());
        RawRecord { partition: Some(partition(n)), timestamp_ms: None, key, value: self.value.clone(), headers }
    }

    fn kind(&self, group: &str) -> Option<DeadLetterKind> {
        if group == "eater" { self.eater } else { self.sink }
    }
}

fn partition(n: usize) -> i32 {
    i32::try_from(n % 3).expect("small")
}

/// The ids of the schemas that records are written with.
struct Ids {
    tasted: Encoder,
    unheard: Encoder,
    nameless: Encoder,
}

impl Ids {
    async fn register(space: &Space) -> Self {
        let encoder = async |subject: &str, schema: &str| {
            Encoder::new(register(space, &space.topic(subject), schema).await, schema).expect("valid")
        };
        register(space, &format!("{GUT}-headwater.gut.Digested"), Digested::SCHEMA).await;
        let unheard = Tasted::SCHEMA.replace("Tasted", "Unheard");
        let nameless = Tasted::SCHEMA.replace(r#"{"name":"id","type":"string"},"#, "");
        Self {
            tasted: encoder("tasted", Tasted::SCHEMA).await,
            unheard: encoder("unheard", &unheard).await,
            nameless: encoder("nameless", &nameless).await,
        }
    }

    fn good(&self, id: &str, grams: i64) -> Vec<u8> {
        self.tasted.encode(&Tasted { id: id.to_owned(), grams }).expect("it fits")
    }
}

/// Everything bad that a record can be, on both paths.
fn cases(ids: &Ids, group: &str) -> Vec<Case> {
    use DeadLetterKind::{Contract, Decode, Row};
    let good = ids.good("whole", 7);
    let tagged = |id: [u8; 4], rest: &[u8]| Some([&[0][..], &id, rest].concat());
    let unheard = ids.unheard.encode(&Tasted { id: "u".to_owned(), grams: 1 }).expect("it fits");
    let nameless = ids.nameless.encode_json(&serde_json::json!({"grams": 1})).expect("it fits");
    let sound = |name, kind| Case::poison(name, kind, Some(good.clone()));
    let row = Case { eater: None, ..Case::poison("row", Row, Some(ids.good("row", -1))) };
    let other = Case { eater: None, sink: None, ..sound("type that nobody takes", Contract) };
    let forged = |case: Case| {
        let forged = case.with("hw_attempt", "99").with("hw_group", group).with("hw_redrive_count", "7");
        forged.with("hw_origin_topic", "elsewhere").with("hw_resolved", "1")
    };
    vec![
        Case::poison("random bytes", Decode, Some(vec![0x13, 0x37, 0xc0, 0xff, 0xee, 0x42])),
        Case::poison("unknown id", Decode, tagged([0x7f, 0xff, 0xff, 0xff], b"abc")),
        Case::poison("half an id", Decode, Some(vec![0, 0, 1])),
        Case::poison("truncated", Decode, Some(good[..good.len() - 1].to_vec())),
        Case::poison("trailing bytes", Decode, Some([&good[..], &[0]].concat())),
        Case::poison(
            "asks for a gigabyte",
            Decode,
            tagged(ids.tasted.id().to_be_bytes(), &[0x80, 0x80, 0x80, 0x80, 8]),
        ),
        Case::poison("empty", Decode, Some(Vec::new())),
        Case::poison("null", Contract, None),
        Case::poison("oversize", Contract, Some(ids.good(&"x".repeat(1_040_000), 1))),
        sound("malformed id", Contract).with("ce_id", "a\u{1}b"),
        sound("long id", Contract).with("ce_id", "i".repeat(257)),
        sound("old version", Contract).with("ce_specversion", "0.3"),
        sound("another domain", Contract).with("ce_type", "order.fulfilled"),
        Case::poison("unheard record", Contract, Some(unheard)),
        Case::poison("missing field", Contract, Some(nameless)).with("ce_type", Tasted::TYPE),
        sound("structured", Contract).with("content-type", "application/cloudevents+json"),
        row,
        other.with("ce_type", "poison.other"),
        forged(Case::poison("forged", Decode, Some(b"no avro".to_vec()))),
        forged(Case {
            eater: None,
            sink: None,
            ..Case::poison("forged and good", Contract, Some(ids.good("forged", 3)))
        }),
    ]
}

/// A producer of ours, and what it sends back.
struct Desk {
    producer: Producer,
    catalogue: Catalogue,
}

impl Desk {
    fn new(space: &Space, pipeline: &Pipeline) -> Self {
        let producer = Producer::new(&space.kafka()).expect("a producer");
        Self { producer, catalogue: pipeline.catalogue().clone() }
    }

    async fn redrive(&self, dlq: &str, letters: &[ConsumedRecord]) {
        let back = |seen: &ConsumedRecord| DeadLetter::read(&seen.record(dlq), &self.catalogue).redriven();
        let back: Vec<Outgoing> = letters.iter().map(back).collect();
        self.producer.send(&back).await.expect("sent back");
    }
}

/// The letters on a topic by their case, those with this many redrives.
fn by_case(foreign: &ForeignClient, dlq: &str, redrives: usize) -> BTreeMap<String, ConsumedRecord> {
    let count =
        |seen: &ConsumedRecord| seen.headers.get("hw_redrive_count").map_or("0", String::as_str).parse().unwrap_or(99);
    let those: Vec<ConsumedRecord> = foreign.read(dlq).into_iter().filter(|seen| count(seen) == redrives).collect();
    let many = those.len();
    let by: BTreeMap<_, _> = those.into_iter().map(|seen| (seen.headers["x-case"].clone(), seen)).collect();
    assert_eq!(by.len(), many, "one letter each on {dlq}");
    by
}

async fn topics(space: &Space) {
    let size = ("max.message.bytes".to_owned(), TAKEN.to_string());
    let spec =
        |name: &str| TopicSpec { name: name.to_owned(), partitions: 3, replication: 1, config: vec![size.clone()] };
    Cluster::new(&space.kafka()).expect("valid").apply(&[spec(TOPIC), spec(GUT)]).await.expect("topics");
}

/// Everything bad that a record can be, each with a good one of its key behind it, through a
/// processor and a sink: the right kind each, the very bytes, one trace, the origin's partition, no growth when it is sent
/// back twice; the good ones arrive. Forged delivery headers have no effect, are counted once, and end with their record.
/// Red when any kind is another's, a poison record stops its partition or its key, a hop adds headers, loses a null or
/// changes a byte, or a forged header is believed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_poison_is_set_aside_as_it_is_and_nothing_waits_behind_it() {
    let space = space("poison").await;
    let database = space.migrate().await;
    topics(&space).await;
    let ids = Ids::register(&space).await;
    let eaten = AttemptsById::default();
    let pipeline = Pipeline::default()
        .on("eater", with(eaten.clone(), eat))
        .sink("sink", Sink::of::<Tasted>("public.tasted").key("id"));
    let mut how = Group::of(&space);
    how.settings.max_record_bytes = READ;
    how.make_topics(&space, &pipeline, 3, TAKEN).await;
    let sql = "create table public.tasted (id text primary key, grams int8 not null check (grams >= 0))";
    sqlx::query(sql).execute(&space.pool).await.expect("created");
    let engine = Engine::start(&space, &database, &pipeline, &how);

    let foreign = ForeignClient::new(&space);
    let cases = cases(&ids, &format!("{}.eater", space.name));
    for (n, case) in cases.iter().enumerate() {
        foreign.send_raw(TOPIC, &case.raw(n));
        let (key, value) = (Some(case.name.as_bytes().to_vec()), Some(ids.good(&format!("good-{n}"), 1)));
        foreign.send_raw(TOPIC, &RawRecord { partition: Some(partition(n)), key, value, ..RawRecord::default() });
    }
    foreign.flush();
    let good = i64::try_from(cases.len()).expect("few");
    let stored = async || space.count("select count(*) from public.tasted where id like 'good-%'").await;
    eventually("every good one is stored", SOON, async || stored().await == good).await;
    let all = cases.len() + 2;
    eventually("every good one is eaten", SOON, async || eaten.lock().unwrap().len() == all).await;
    for group in ["eater", "sink"] {
        let id = format!("{}.{group}", space.name);
        eventually("it has passed all", SOON, async || foreign.passed(&id, TOPIC) == 2 * good).await;
    }
    forged_headers_mean_nothing(&engine, &eaten, &foreign);
    let sources = foreign.read(TOPIC);
    let desk = Desk::new(&space, &pipeline);
    for group in ["eater", "sink"] {
        let dlq = format!("{}.{group}.dlq", space.name);
        let first = by_case(&foreign, &dlq, 0);
        assert_eq!(kinds(&first), expected(&cases, group), "{group}");
        first.iter().for_each(|(case, letter)| is_as_it_was(&sources, case, letter));
        let mut last = first;
        for round in 1..=2 {
            desk.redrive(&dlq, &last.values().cloned().collect::<Vec<_>>()).await;
            let back = async || by_case(&foreign, &dlq, round).len() == last.len();
            eventually("all come back", SOON, back).await;
            let next = by_case(&foreign, &dlq, round);
            next.iter().for_each(|(case, letter)| has_not_grown(&sources, case, &last[case], letter, round));
            last = next;
        }
        let letters: u64 = DeadLetterKind::ALL.iter().map(|kind| engine.state(group).letters(*kind)).sum();
        assert_eq!(letters, 3 * last.len() as u64, "each was counted");
    }
    engine.stop().await;
}

fn kinds(letters: &BTreeMap<String, ConsumedRecord>) -> BTreeMap<String, String> {
    letters.iter().map(|(case, seen)| (case.clone(), seen.headers["hw_error_kind"].clone())).collect()
}

fn expected(cases: &[Case], group: &str) -> BTreeMap<String, String> {
    let kind = |case: &Case| Some((case.name.to_owned(), case.kind(group)?.as_str().to_owned()));
    cases.iter().filter_map(kind).collect()
}

fn forged_headers_mean_nothing(engine: &Engine, eaten: &AttemptsById, foreign: &ForeignClient) {
    assert_eq!(eaten.lock().unwrap()["forged"], 0, "no attempt was made before");
    for group in ["eater", "sink"] {
        let state = engine.state(group);
        assert_eq!((state.get(Metric::HeadersForged), state.get(Metric::Skipped)), (10, 1), "{group}");
    }
    let digested = foreign.read(GUT);
    let foreign =
        |seen: &&ConsumedRecord| seen.headers.keys().any(|name| name.starts_with("hw_") || name.starts_with("x-"));
    assert_eq!((digested.len(), digested.iter().filter(foreign).count()), (eaten.lock().unwrap().len(), 0));
}

/// The record that a letter was, by its case.
fn source<'a>(sources: &'a [ConsumedRecord], case: &str) -> &'a ConsumedRecord {
    sources.iter().find(|seen| seen.headers.get("x-case").is_some_and(|name| name == case)).expect("it was sent")
}

fn is_as_it_was(sources: &[ConsumedRecord], case: &str, letter: &ConsumedRecord) {
    let source = source(sources, case);
    assert!(letter.key == source.key && letter.value == source.value, "{case}: key and value are what was produced");
    assert_eq!(letter.others(), source.others(), "{case}");
    for (name, value) in [
        ("hw_attempt", "1".to_owned()),
        ("hw_origin_topic", TOPIC.to_owned()),
        ("hw_origin_partition", source.place.0.to_string()),
        ("hw_origin_offset", source.place.1.to_string()),
        ("hw_origin_timestamp", source.timestamp_ms.to_string()),
    ] {
        assert_eq!(letter.headers[name], value, "{case}: {name}");
    }
    assert!(!letter.headers.contains_key("hw_redrive_count") && !letter.headers.contains_key("hw_resolved"), "{case}");
    assert_eq!(letter.place.0, source.place.0, "{case}: the partition number is the origin's");
    assert_eq!(letter.trace().map(str::to_owned), trace(case, source), "{case}");
}

/// The trace that a record belongs to, from the contract's words; none where its id is broken and it says none.
fn trace(case: &str, source: &ConsumedRecord) -> Option<String> {
    if let Some(trace) = source.trace() {
        return Some(trace.to_owned());
    }
    if ["malformed id", "long id", "old version", "structured"].contains(&case) {
        return None;
    }
    let namespace = uuid::Uuid::from_u128(0x98f0_eb0e_3dd1_573a_ae72_a93d_7cf6_d360);
    let name = format!("{TOPIC}/{}/{}/{}", source.place.0, source.place.1, source.timestamp_ms);
    let id = uuid::Uuid::new_v5(&namespace, name.as_bytes()).to_string();
    Some(TraceContext::derived(&format!("kafka://{TOPIC}"), &id).trace_id_hex())
}

fn has_not_grown(
    sources: &[ConsumedRecord],
    case: &str,
    before: &ConsumedRecord,
    letter: &ConsumedRecord,
    round: usize,
) {
    let source = source(sources, case);
    assert!(letter.key == source.key && letter.value == source.value, "{case}: still what was produced");
    assert_eq!(letter.others(), source.others(), "{case}");
    assert_eq!((letter.trace(), letter.place.0), (before.trace(), source.place.0), "{case}");
    let names = |seen: &ConsumedRecord| seen.raw.iter().map(|(name, _)| name.clone()).collect::<BTreeSet<_>>();
    let mut wanted = names(before);
    wanted.insert("hw_redrive_count".to_owned());
    assert_eq!((names(letter), letter.raw.len()), (wanted.clone(), wanted.len()), "{case}: redrive {round}");
    for same in ["hw_attempt", "hw_first_failed", "hw_error_kind", "hw_error_fingerprint", "hw_origin_offset"] {
        assert_eq!(letter.headers[same], before.headers[same], "{case}: {same}");
    }
}
