//! Poison in floods: good records between ten thousand bad ones go on.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use headwater::{
    Binding, Event, KeyFormat, Payload, Pipeline, Result,
    spi::{DeadLetterKind, codec::Encoder},
    with,
};
use headwater_connectors::postgres::Database;
use headwater_tests::{Engine, ForeignClient, Group, RawRecord, Space, eventually, full, register};
use serde::{Deserialize, Serialize};

use crate::space;

const LIMIT: Duration = Duration::from_mins(4);
const POISON: usize = 10_000;
const PARTITIONS: i32 = 6;
const KEYS: usize = 500;

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Poured {
    id: String,
}

impl Payload for Poured {
    const TYPE: &'static str = "flood.poured";
    const SCHEMA: &'static str = r#"{"type":"record","name":"Poured","namespace":"headwater.flood","fields":[
        {"name":"id","type":"string"}]}"#;

    fn key(&self) -> &str {
        &self.id
    }
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Drained {
    id: String,
}

impl Payload for Drained {
    const TYPE: &'static str = "drain.drained";
    const SCHEMA: &'static str = r#"{"type":"record","name":"Drained","namespace":"headwater.drain","fields":[
        {"name":"id","type":"string"}]}"#;

    fn key(&self) -> &str {
        &self.id
    }
}

/// When each good record was processed.
type ProcessedAt = Arc<Mutex<Vec<Instant>>>;

/// Takes as long as a processor that calls somebody.
async fn drain(times: ProcessedAt, poured: Event<Poured>) -> Result<Drained> {
    tokio::time::sleep(Duration::from_millis(4)).await;
    times.lock().unwrap().push(Instant::now());
    Ok(Drained { id: poured.data.id })
}

/// Ten thousand poison records in a row with good ones of the same keys between them, two to each (ten with
/// `HEADWATER_TESTS=full`): the good ones are processed at least at a quarter (half) of their speed without poison. All are of
/// one schema id that there is not, or random bytes, or of a thousand such ids. What an unknown id costs is the second
/// look, two seconds each time it is found missing, for the keys that have one: the shorter the run, the larger its part.
/// Red when a schema is asked for only when its record is the next of its key, a question to the registry waits for
/// another's second look, or what was found missing is asked again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn good_records_between_ten_thousand_bad_ones_keep_half_their_speed() {
    let (good, least) = if full() { (10 * POISON, 0.5) } else { (2 * POISON, 0.25) };
    let space = space("flood").await;
    let database = space.migrate().await;
    space.create_topics(&["events.flood", "events.drain"], PARTITIONS).await;
    register(&space, "events.drain-headwater.drain.Drained", Drained::SCHEMA).await;
    let id = register(&space, "flood-value", Poured::SCHEMA).await;
    let encoder = Encoder::new(id, Poured::SCHEMA).expect("valid");
    let tagged = |id: usize| Some([&[0][..], &u32::try_from(id).expect("small").to_be_bytes(), b"water"].concat());
    let alone = pour(&space, &database, &encoder, "clean", good, |_| None).await;
    for (name, value) in [
        ("one-id", &(|_| tagged(900_000)) as &dyn Fn(usize) -> Option<Vec<u8>>),
        ("bytes", &|n| Some(n.to_string().into_bytes())),
        ("ids", &|n| tagged(1_000_000 + n % 1_000)),
    ] {
        let among = pour(&space, &database, &encoder, name, good, value).await;
        let ratio = among / alone;
        println!("{name}: {among:.0}/s good ones among poison, {alone:.0}/s without: {ratio:.2}");
        assert!(ratio >= least, "{name}: {ratio:.2} of {alone:.0}/s");
    }
}

/// Good records a second, with poison among them where there is any: from a topic that is full to its last good record.
async fn pour(
    space: &Space,
    database: &Database,
    encoder: &Encoder,
    name: &str,
    good: usize,
    poison: impl Fn(usize) -> Option<Vec<u8>>,
) -> f64 {
    let space = space.named(name);
    let topic = space.topic("poured");
    space.create_topics(&[&topic], PARTITIONS).await;
    let foreign = ForeignClient::new(&space);
    let send = |n: usize, value: Vec<u8>| {
        let key = Some(format!("k{}", n % KEYS).into_bytes());
        foreign.send_raw(&topic, &RawRecord { key, value: Some(value), ..RawRecord::default() });
    };
    let mut bad = 0;
    for n in 0..good {
        send(n, encoder.encode(&Poured { id: n.to_string() }).expect("it fits"));
        if n.is_multiple_of(good / POISON)
            && let Some(value) = poison(bad)
        {
            bad += 1;
            send(n + 1, value);
        }
    }
    foreign.flush();
    let times = ProcessedAt::default();
    let binding = Binding { event_type: Poured::TYPE.to_owned(), key: KeyFormat::Text };
    let pipeline = Pipeline::default().on("drain", with(times.clone(), drain)).bind(&topic, binding);
    let mut how = Group::of(&space);
    how.settings.concurrency = 32;
    how.make_topics(&space, &pipeline, PARTITIONS, 1_048_588).await;
    let begin = Instant::now();
    let engine = Engine::start(&space, database, &pipeline, &how);
    eventually("every good one is processed", LIMIT, async || times.lock().unwrap().len() == good).await;
    let first = times.lock().unwrap().first().copied().unwrap_or(begin);
    let last = times.lock().unwrap().last().copied().unwrap_or(begin);
    eventually("every bad one is set aside", LIMIT, async || {
        engine.state("drain").letters(DeadLetterKind::Decode) == u64::try_from(bad).unwrap_or_default()
    })
    .await;
    assert_eq!(foreign.ends(&format!("{}.drain.dlq", space.name)), i64::try_from(bad).expect("few"));
    engine.stop().await;
    let count = f64::from(u32::try_from(good).expect("few"));
    count / (last - first).as_secs_f64()
}
