//! Retry: what fails waits on its own topic or in its place, comes back when it is due, and is never lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use headwater::{
    Binding, Event, Failure, KeyFormat, Ladder, Order, Pipeline, Policy, Result,
    spi::{DeadLetterKind, Metric},
    with,
};
use headwater_dev::{KafkaChoice, PostgresChoice, RegistryChoice, Stack, StackConfig};
use headwater_schemas::PaymentCompleted;
use headwater_tests::{
    ConsumedRecord, Engine, ForeignClient, Group, Payments, Process, SharedStack, Space, eventually, full,
};
use tokio::sync::watch;

use crate::{PROGRAM, shared, space};

const SOON: Duration = Duration::from_mins(1);

/// One attempt at a payment.
#[derive(Clone, Debug)]
struct Attempt {
    order: String,
    cents: i64,
    /// Attempts made before it.
    before: u32,
    /// Id, trace id and event time.
    identity: (String, String, String),
    at: Instant,
}

/// What a processor has tried, and what has succeeded: order and cents, in order.
#[derive(Clone, Default)]
struct Tries {
    all: Arc<Mutex<Vec<Attempt>>>,
    done: Arc<Mutex<Vec<(String, i64)>>>,
    /// The payments of so many cents fail so many times.
    fails: Arc<BTreeMap<i64, usize>>,
}

impl Tries {
    fn failing(fails: impl IntoIterator<Item = (i64, usize)>) -> Self {
        Self { fails: Arc::new(fails.into_iter().collect()), ..Self::default() }
    }

    fn of(&self, cents: i64) -> Vec<Attempt> {
        self.all.lock().unwrap().iter().filter(|attempt| attempt.cents == cents).cloned().collect()
    }

    fn done(&self) -> Vec<(String, i64)> {
        self.done.lock().unwrap().clone()
    }

    /// The cents of an order's payments as they were done.
    fn of_order(&self, order: &str) -> Vec<i64> {
        self.done().into_iter().filter(|(o, _)| o == order).map(|(_, cents)| cents).collect()
    }
}

async fn attempt(tries: Tries, payment: Event<PaymentCompleted>) -> Result<()> {
    let (order, cents) = (payment.order_id.clone(), payment.amount_cents);
    let meta = &payment.meta;
    if !meta.origin.partition.topic.ends_with("-payments") {
        // Of another test: `events.payment` is everybody's.
        return Ok(());
    }
    let identity = (meta.id.clone(), meta.trace.trace_id_hex(), meta.time.to_string());
    let before = tries.of(cents).iter().filter(|attempt| attempt.order == order).count();
    let now = Attempt { order: order.clone(), cents, before: meta.attempt, identity, at: Instant::now() };
    tries.all.lock().unwrap().push(now);
    if tries.fails.get(&cents).is_some_and(|times| before < *times) {
        return Err(Failure::retry(format!("order {order} fails for the {}. time", before + 1)));
    }
    tries.done.lock().unwrap().push((order, cents));
    Ok(())
}

fn ladder(ms: &[u64]) -> Ladder {
    Ladder::try_new(ms.iter().map(|ms| Duration::from_millis(*ms))).expect("a valid ladder")
}

/// A bound topic of a space, the foreign side, and the topics that the groups of a pipeline own.
struct Scene {
    space: Space,
    topic: String,
    foreign: ForeignClient,
    payments: Payments,
    /// Of the topics that its groups own.
    own_partitions: i32,
}

impl Scene {
    async fn new(name: &str, partitions: i32) -> Self {
        let space = space(name).await;
        let topic = space.topic("payments");
        space.create_topics(&[&topic], partitions).await;
        space.create_topics(&["events.payment"], 6).await;
        let (foreign, payments) = (ForeignClient::new(&space), Payments::register(&space, &topic).await);
        Self { space, topic, foreign, payments, own_partitions: partitions.max(3) }
    }

    /// Runs a pipeline over the bound topic.
    async fn run(&self, pipeline: Pipeline) -> Engine {
        let binding = Binding { event_type: "payment.completed".to_owned(), key: KeyFormat::Text };
        let (pipeline, how) = (pipeline.bind(&self.topic, binding), Group::of(&self.space));
        how.make_topics(&self.space, &pipeline, self.own_partitions, 1_048_588).await;
        Engine::start(&self.space, &self.space.migrate().await, &pipeline, &how)
    }

    fn pay(&self, order: &str, cents: i64, headers: &[(&str, &str)]) {
        let value = self.payments.value(order, cents, None);
        self.foreign.send(&self.topic, Some(order), Some(&value), headers);
    }

    /// What has come from this test's topic: `events.payment` is everybody's.
    fn read(&self, topic: &str) -> Vec<ConsumedRecord> {
        let all = self.foreign.read(&format!("{}.{topic}", self.space.name));
        all.into_iter().filter(|seen| seen.headers["hw_origin_topic"] == self.topic).collect()
    }

    fn passed(&self, group: &str) -> i64 {
        self.foreign.passed(&format!("{}.{group}", self.space.name), &self.topic)
    }
}

/// Names of the headers of a record that waits, those of its producer and its trace aside.
const WAITING: [&str; 13] = [
    "hw_attempt",
    "hw_due",
    "hw_error_detail",
    "hw_error_fingerprint",
    "hw_error_kind",
    "hw_error_message",
    "hw_first_failed",
    "hw_group",
    "hw_origin_offset",
    "hw_origin_partition",
    "hw_origin_timestamp",
    "hw_origin_topic",
    "hw_processor",
];

/// Two payments, one without headers and one with, fail twice and succeed at the third attempt; the others behind
/// them do not wait, nor does the source's position. On each hop key, value and the producer's headers are what they were,
/// and the delivery headers are of that hop. The ladder is `1s`, `4s`; `1s`, `10s` with `HEADWATER_TESTS=full`.
/// Red when a record begins before it is due, its attempts are not counted on, its headers are added to, or its id or trace
/// is derived from the topic that it waits on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_fails_twice_succeeds_at_its_third_attempt_while_its_source_goes_on() {
    let delays = if full() { [1_000, 10_000] } else { [1_000, 4_000] };
    let names = if full() { ["1s", "10s"] } else { ["1s", "4s"] };
    let scene = Scene::new("third_attempt", 2).await;
    let tries = Tries::failing([(1, 2), (2, 2)]);
    let policy = Policy::new().ladder(ladder(&delays));
    let pipeline = Pipeline::default().on("try", with(tries.clone(), attempt)).policy("try", policy);
    let engine = scene.run(pipeline).await;
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let headers = [("ce_id", "till-7"), ("ce_source", "//till"), ("traceparent", trace), ("x-till", "north")];
    scene.pay("a", 1, &[]);
    scene.pay("b", 2, &headers);
    (3..23).for_each(|cents| scene.pay(if cents % 2 == 0 { "a" } else { "b" }, cents, &[]));
    scene.foreign.flush();
    eventually("the others are done", SOON, async || tries.done().len() == 20).await;
    eventually("the source's position is at its end", SOON, async || scene.passed("try") == 22).await;
    // Since the last delay is at least a second and a position is told within a fifth of it.
    assert_eq!((tries.of(1).len().max(tries.of(2).len()) < 3, tries.done().len()), (true, 20), "they wait still");
    eventually("the two are done", SOON, async || tries.done().len() == 22).await;

    for cents in [1, 2] {
        let attempts = tries.of(cents);
        assert_eq!(attempts.iter().map(|attempt| attempt.before).collect::<Vec<_>>(), [0, 1, 2]);
        for (pair, delay) in attempts.windows(2).zip(delays) {
            let gap = pair[1].at - pair[0].at;
            assert!(gap >= Duration::from_millis(delay), "{gap:?} is shorter than {delay} ms");
            assert_eq!(pair[0].identity, pair[1].identity, "id, trace and event time stay");
        }
    }
    assert_eq!((&*tries.of(2)[0].identity.0, &*tries.of(2)[0].identity.1), ("till-7", &trace[3..35]));
    let sources = scene.foreign.read(&scene.topic);
    for (hop, name) in names.iter().enumerate() {
        let waiting = scene.read(&format!("try.retry.{name}"));
        assert_eq!(waiting.len(), 2, "on {name}");
        for seen in waiting {
            let source = origin(&sources, &seen);
            let cents = if source.headers.contains_key("ce_id") { 2 } else { 1 };
            hop_is_right(&scene, &seen, source, hop + 1, delays[hop]);
            assert_eq!(seen.trace(), Some(&*tries.of(cents)[0].identity.1), "the same trace, derived or not");
        }
    }
    let state = engine.state("try");
    assert_eq!((state.get(Metric::Retries), state.get(Metric::Failures), scene.read("try.dlq").len()), (4, 4, 0));
    engine.stop().await;
}

/// The record that a waiting one says it was.
fn origin<'a>(sources: &'a [ConsumedRecord], seen: &ConsumedRecord) -> &'a ConsumedRecord {
    let number = |name: &str| seen.headers[name].parse::<i64>().expect("a number");
    let (partition, offset) = (number("hw_origin_partition"), number("hw_origin_offset"));
    let source = sources.iter().find(|s| (i64::from(s.place.0), s.place.1) == (partition, offset));
    let source = source.expect("the origin is a record of the source");
    assert_eq!(number("hw_origin_timestamp"), source.timestamp_ms);
    source
}

fn hop_is_right(scene: &Scene, seen: &ConsumedRecord, source: &ConsumedRecord, attempt: usize, delay_ms: u64) {
    assert!(seen.key == source.key && seen.value == source.value, "key and value are what was produced");
    assert_eq!(seen.others(), source.others());
    assert_eq!(seen.place.0, source.place.0, "the partition number is the origin's");
    let names: Vec<&str> = seen.raw.iter().map(|(name, _)| name.as_str()).filter(|n| n.starts_with("hw_")).collect();
    let once: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!((once.into_iter().collect::<Vec<_>>(), names.len()), (WAITING.to_vec(), 13));
    assert_eq!(seen.raw.iter().filter(|(name, _)| name == "traceparent").count(), 1);
    let group = format!("{}.try", scene.space.name);
    for (name, value) in [
        ("hw_attempt", attempt.to_string().as_str()),
        ("hw_group", &group),
        ("hw_processor", "try"),
        ("hw_origin_topic", &scene.topic),
        ("hw_error_kind", "exhausted"),
    ] {
        assert_eq!(seen.headers[name], value, "{name}");
    }
    assert!(seen.headers["hw_error_message"].ends_with(&format!("fails for the {attempt}. time")), "the last failure");
    let number = |name: &str| seen.headers[name].parse::<i64>().expect("a number");
    let failed = number("hw_due") - i64::try_from(delay_ms).expect("small");
    assert!(failed >= source.timestamp_ms && failed <= seen.timestamp_ms, "due is so long after the failure");
    assert!((attempt == 1) == (number("hw_first_failed") == failed), "the first failure is kept");
}

/// Of key K the second of five payments fails twice, while other keys are paid. Under `partition` nothing of its
/// partition overtakes it and the other partitions go on; under `key` the other keys go on, those of its partition too; under
/// `none` the later ones overtake it. Either way nothing is lost and nothing is done twice.
/// Red when the record that failed under `partition` leaves its place or holds the other partitions too, under `none` holds
/// its own, or under `key` holds another key or is overtaken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_keeps_its_order_under_partition_and_key_and_loses_nothing_under_none() {
    // As `events.payment` has, which the group reads as well: under `key` a group's topics have one count.
    const PARTITIONS: i32 = 6;
    let scene = Scene::new("orders_of_retry", PARTITIONS).await;
    let [held, queued, free] = [(); 3].map(|()| Tries::failing([(2, 2)]));
    let policy = |order| Policy::new().ladder(ladder(&[1_000, 1_500])).order(order);
    let pipeline = Pipeline::default()
        .on("held", with(held.clone(), attempt))
        .policy("held", policy(Order::Partition))
        .on("queued", with(queued.clone(), attempt))
        .policy("queued", policy(Order::Key))
        .on("free", with(free.clone(), attempt))
        .policy("free", policy(Order::None));
    let engine = scene.run(pipeline).await;
    for cents in 1..=5 {
        scene.pay("K", cents, &[]);
        (0..12).for_each(|n| scene.pay(&format!("o{n}"), cents + 10, &[]));
    }
    scene.foreign.flush();
    let sources = scene.foreign.read(&scene.topic);
    let partition_of = |key: &str| sources.iter().find(|s| s.key.as_deref() == Some(key.as_bytes())).map(|s| s.place.0);
    let elsewhere = (0..12).map(|n| format!("o{n}")).filter(|key| partition_of(key) != partition_of("K"));
    let elsewhere: Vec<String> = elsewhere.collect();
    assert!((1..12).contains(&elsewhere.len()), "keys lie on K's partition and on others");
    let all: Vec<String> = (0..12).map(|n| format!("o{n}")).collect();
    for (tries, of_k, go_on) in
        [(&held, [1, 2, 3, 4, 5], &elsewhere), (&queued, [1, 2, 3, 4, 5], &all), (&free, [1, 3, 4, 5, 2], &all)]
    {
        eventually("all are done", SOON, async || tries.done().len() == 65).await;
        assert_eq!(tries.of_order("K"), of_k);
        for key in &all {
            assert_eq!(tries.of_order(key), [11, 12, 13, 14, 15], "{key}");
        }
        let attempts = tries.of(2);
        assert_eq!(attempts.iter().map(|attempt| attempt.before).collect::<Vec<_>>(), [0, 1, 2]);
        assert!(attempts[1].at - attempts[0].at >= Duration::from_secs(1), "in place it waits by the ladder too");
        let done = tries.done();
        let two = done.iter().position(|(order, cents)| order == "K" && *cents == 2);
        let before = |key: &String| done.iter().position(|(order, cents)| order == key && *cents == 15) < two;
        assert!(go_on.iter().all(before), "what need not wait goes on");
    }
    let waited =
        |group: &str| scene.read(&format!("{group}.retry.1s")).len() + scene.read(&format!("{group}.dlq")).len();
    assert_eq!((waited("held"), waited("queued"), waited("free")), (0, 0, 1));
    engine.stop().await;
}

/// Of two groups on one topic the one that always fails changes nothing for the other: 100 effects here, 100 dead
/// letters there, each after every attempt, and both positions at the end.
/// Red when a failing record holds up others, a failure of one group counts for another, or attempts go on after the ladder.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_always_fails_affects_no_other() {
    let scene = Scene::new("isolated", 3).await;
    let (well, badly) = (Tries::default(), Tries::failing((0..100).map(|cents| (cents, usize::MAX))));
    let policy = || Policy::new().ladder(ladder(&[300, 600]));
    let pipeline = Pipeline::default()
        .on("a", with(well.clone(), attempt))
        .policy("a", policy())
        .on("b", with(badly.clone(), attempt))
        .policy("b", policy());
    let engine = scene.run(pipeline).await;
    (0..100).for_each(|cents| scene.pay(&format!("o{}", cents % 7), cents, &[]));
    scene.foreign.flush();
    eventually("A has done all", SOON, async || well.done().len() == 100).await;
    let letters = engine.state("b");
    eventually("B has given up all", SOON, async || letters.letters(DeadLetterKind::Exhausted) == 100).await;
    let at_end = async || scene.passed("a") == 100 && scene.passed("b") == 100;
    eventually("both positions are at the end", SOON, at_end).await;
    let dead = scene.read("b.dlq");
    let ids: BTreeSet<_> =
        dead.iter().map(|seen| (&seen.headers["hw_origin_partition"], &seen.headers["hw_origin_offset"])).collect();
    assert_eq!((dead.len(), ids.len(), scene.read("a.dlq").len()), (100, 100, 0));
    assert!(dead.iter().all(|seen| seen.headers["hw_error_kind"] == "exhausted" && seen.headers["hw_attempt"] == "3"));
    assert!((0..100).all(|cents| badly.of(cents).len() == 3 && well.of(cents).len() == 1));
    let makes: BTreeSet<_> = dead.iter().map(|seen| &seen.headers["hw_error_fingerprint"]).collect();
    assert_eq!(makes.len(), 1, "failures of one make have one fingerprint");
    engine.stop().await;
}

/// A stack of its own but for what the run shares: its warehouse fails as the test says.
pub(crate) async fn own_warehouse(name: &str) -> (Stack, Space) {
    own_warehouse_beside(shared(), name).await
}

/// The same with the other servers of this stack.
pub(crate) async fn own_warehouse_beside(beside: &SharedStack, name: &str) -> (Stack, Space) {
    let data = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-warehouse"));
    headwater_dev::remove_data(&data).expect("an old folder can be removed");
    let endpoints = beside.endpoints.clone();
    let mut config = StackConfig { for_tests: true, ..StackConfig::new(data) };
    config.kafka = KafkaChoice::At(endpoints.kafka_bootstrap);
    config.postgres = PostgresChoice::At(endpoints.database_url);
    config.registry = RegistryChoice::At(endpoints.schema_registry_url);
    let (_keep, cancel) = watch::channel(false);
    let stack = Stack::start(config, cancel).await.expect("it starts");
    let at = SharedStack::at(stack.endpoints().clone(), beside.data.clone());
    let space = Space::new(&at, name).await;
    (stack, space)
}

/// Tells a space's warehouse how to fail; `None` to be well again.
pub(crate) async fn faults(space: &Space, faults: Option<serde_json::Value>) {
    let (client, url) = (reqwest::Client::new(), format!("{}/faults", space.endpoints.warehouse_url));
    let request = faults.map_or_else(|| client.delete(&url), |faults| client.put(&url).json(&faults));
    request.send().await.expect("an answer").error_for_status().expect("taken");
}

/// A topic of the space that is bound to payments, with this configuration behind it, and everything that is applied to it.
pub(crate) async fn applied(space: &Space, partitions: i32, more: &str) -> (String, ForeignClient, Payments) {
    let topic = space.topic("payments");
    space.create_topics(&[&topic], partitions).await;
    let config = format!("[topics.\"{topic}\"]\ntype = \"payment.completed\"\n{more}");
    std::fs::write(space.dir.join("headwater.toml"), config).expect("the configuration is written");
    let (code, out, err) = Process::run(PROGRAM, space, &["topology", "apply"], &[], "").await;
    assert_eq!(code, 0, "topology apply: {out}\n{err}");
    (topic.clone(), ForeignClient::new(space), Payments::register(space, &topic).await)
}

/// The program is killed while records wait on their retry topic, and again while they wait on the next: none is
/// lost. Red when a source's position is told before the retry is acknowledged, or waiting counts from the start of the
/// process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_wait_survive_kills() {
    let (stack, space) = own_warehouse("waiting_kills").await;
    // Calls for others' payments fail as well: the circuit is to stay closed.
    let config = "[groups.fulfil-order]\nretry = [\"3s\", \"6s\"]\n\
                  [groups.fulfil-order.breakers.warehouse]\nwindow_calls = 10000\nminimum_calls = 10000\n";
    let (topic, foreign, payments) = applied(&space, 2, config).await;
    faults(&space, Some(serde_json::json!({"status": 500, "first": 2}))).await;
    let run =
        || Process::start(PROGRAM, &space, "run", &["run", "--group", "fulfil-order", "--group", "orders-sink"], &[]);
    let mut process = run();
    for n in 0..4 {
        let order = format!("wk-{n}");
        foreign.send(&topic, Some(&order), Some(&payments.value(&order, 1, None)), &[]);
    }
    foreign.flush();
    let group = format!("{}.fulfil-order", space.name);
    let orders = async || space.count("select count(*) from orders where order_id like 'wk-%'").await;
    // Each once: a kill between the acknowledgement and the position has it published again.
    let ours = |name: &str| {
        let there = foreign.read(&format!("{group}.{name}")).into_iter().filter_map(|seen| seen.key);
        there.filter(|key| key.starts_with(b"wk-")).collect::<BTreeSet<_>>().len()
    };
    for delay in ["3s", "6s"] {
        eventually("all wait", SOON, async || ours(&format!("retry.{delay}")) == 4).await;
        eventually("the position is told", SOON, async || foreign.passed(&group, &topic) == 4).await;
        assert_eq!(orders().await, 0);
        process.kill().await;
        process = run();
    }
    eventually("all are fulfilled", SOON, async || orders().await == 4).await;
    assert_eq!(ours("dlq"), 0);
    assert!(process.stop().await.success(), "{}", process.log());
    stack.stop().await.expect("stopped");
}
