//! Dependencies that are down: the group waits for them, and nothing of that becomes a dead letter.

use std::time::{Duration, Instant};

use headwater_tests::{ForeignClient, Gate, Payments, Process, Space, eventually, full};
use rustix::process::Signal;
use serde_json::{Value as Json, json};

use crate::{
    PROGRAM,
    failure::retry::{applied, faults, own_warehouse},
    space,
};

const SOON: Duration = Duration::from_mins(2);
/// Payments a second.
const RATE: u32 = 100;
const CLOSED: f64 = 0.0;
const OPEN: f64 = 1.0;
const HALF_OPEN: f64 = 2.0;

/// A process that fulfils orders, and who looks at it from outside.
struct Scene {
    space: Space,
    topic: String,
    foreign: ForeignClient,
    payments: Payments,
    process: Process,
}

impl Scene {
    async fn start(space: &Space, config: &str, groups: &[&str], env: &[(&str, &str)]) -> Self {
        let (topic, foreign, payments) = applied(space, 6, config).await;
        let args: Vec<&str> = ["run"].into_iter().chain(groups.iter().flat_map(|group| ["--group", group])).collect();
        let process = Process::start(PROGRAM, space, "run", &args, env);
        let scene = Self { space: space.clone(), topic, foreign, payments, process };
        eventually("it is ready", SOON, async || scene.ready().await.0 == 200).await;
        scene
    }

    async fn ready(&self) -> (u16, String) {
        let Ok(answer) = reqwest::get(format!("{}/readyz", self.process.address().await)).await else {
            return (0, String::new());
        };
        (answer.status().as_u16(), answer.text().await.unwrap_or_default())
    }

    fn pay(&self, order: &str, cents: i64) {
        let value = self.payments.value(order, cents, None);
        self.foreign.send(&self.topic, Some(order), Some(&value), &[]);
    }

    fn group(&self) -> String {
        format!("{}.fulfil-order", self.space.name)
    }

    async fn circuit(&self) -> f64 {
        let labels = format!("{{group=\"{}\",dependency=\"warehouse\"}}", self.group());
        self.process.metric(&format!("headwater_circuit_state{labels}")).await
    }

    /// Records of the topic that the group has not passed.
    fn lag(&self) -> i64 {
        self.foreign.ends(&self.topic) - self.foreign.passed(&self.group(), &self.topic)
    }

    /// Dead letters of a group from this test's topic: `events.payment` is everybody's.
    fn dead(&self, group: &str) -> usize {
        let letters = self.foreign.read(&format!("{}.{group}.dlq", self.space.name));
        letters.iter().filter(|seen| seen.headers["hw_origin_topic"] == self.topic).count()
    }

    /// The reservations of this test's orders, and all calls that were made for them.
    async fn reservations(&self) -> (usize, u64) {
        let url = format!("{}/reservations", self.space.endpoints.warehouse_url);
        let all: Vec<Json> = reqwest::get(url).await.expect("an answer").json().await.expect("json");
        let ours = |row: &&Json| row["order_id"].as_str().is_some_and(|order| order.starts_with(&self.space.name));
        let calls = all.iter().filter(ours).filter_map(|row| row["calls"].as_u64());
        (all.iter().filter(ours).count(), calls.sum())
    }

    /// A number of this test's orders: `events.order` is everybody's.
    async fn count(&self, what: &str) -> i64 {
        let log = format!("(select * from orders_log where order_id like '{}-%') as log", self.space.name);
        self.space.count(&what.replace("LOG", &log)).await
    }

    async fn fulfilled(&self) -> i64 {
        self.count("select count(distinct amount_cents) from LOG").await
    }
}

/// Every order's event as a row of its own, in the order of the log.
const LOG: &str = "[sinks.orders-log]\nevent = \"order.fulfilled\"\ntable = \"orders_log\"\nmode = \"insert\"\n\
                   [groups.orders-log]\nstart = \"latest\"\n";

/// Order `none`: only what had failed before the circuit opened may be overtaken.
/// Red when there is no breaker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_warehouse_is_waited_for_and_nothing_is_a_dead_letter() {
    println!("{}", outage("down_none", "none").await);
}

/// Order `partition`. The warehouse answers 503 for ten seconds (two minutes with
/// `HEADWATER_TESTS=full`) while 100 payments a second flow, and later fails a part of them once: no dead letter, lag grows, calls stay few, the circuit's state is
/// in the metrics; then everything is fulfilled, of each key in order, each reservation made once.
/// Red when there is no breaker, or what fails leaves its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_of_the_warehouse_keeps_the_order_of_each_key() {
    println!("{}", outage("down_partition", "partition").await);
}

/// What was seen of it, in a line.
async fn outage(name: &str, order: &str) -> String {
    let seconds = if full() { 120 } else { 10 };
    let (stack, space) = own_warehouse(name).await;
    // In its place a record waits by the ladder, and its calls come no faster.
    let ladder = if full() { "" } else { "retry = [\"1s\", \"2s\", \"1m\", \"10m\"]\n" };
    let config = format!("{LOG}[groups.fulfil-order]\norder = \"{order}\"\n{ladder}");
    let mut scene = Scene::start(&space, &config, &["fulfil-order", "orders-log"], &[]).await;
    let mut sent = 0;
    flow(&scene, &mut sent, 2, async || ()).await;
    eventually("it works", SOON, async || scene.fulfilled().await == i64::from(sent)).await;
    faults(&space, Some(json!({ "status": 503 }))).await;
    let (begun, mut opened, mut lags) = (sent, false, Vec::new());
    flow(&scene, &mut sent, seconds, async || {
        opened |= scene.circuit().await == OPEN;
        lags.push(scene.lag());
    })
    .await;
    assert!(opened, "the circuit was seen open");
    let last = lags.last().copied().unwrap_or_default();
    assert!(last > i64::from(sent - begun) / 2, "{lags:?}: most of {} payments wait", sent - begun);
    assert_eq!(scene.dead("fulfil-order"), 0);
    faults(&space, None).await;
    flow(&scene, &mut sent, 2, async || ()).await;
    eventually("all are fulfilled", SOON, async || scene.fulfilled().await == i64::from(sent)).await;
    let failed = scene.reservations().await.1 - u64::from(sent);
    // A third of the orders fail once, which is no outage.
    faults(&space, Some(json!({ "status": 503, "first": 1, "ratio": 0.3 }))).await;
    flow(&scene, &mut sent, 2, async || ()).await;
    faults(&space, None).await;
    eventually("all are fulfilled", SOON, async || scene.fulfilled().await == i64::from(sent)).await;
    eventually("the circuit is closed", SOON, async || scene.circuit().await == CLOSED).await;
    eventually("nothing lags", SOON, async || scene.lag() == 0).await;
    assert_eq!((scene.reservations().await.0, scene.dead("fulfil-order")), (sent as usize, 0));
    // Those that opened it, what was under way then, and three probes every five seconds.
    let bound = 100 + 256 + 3 * (u64::from(seconds) / 5 + 2);
    assert!(failed <= bound, "{failed} calls failed: at most {bound} were to reach the warehouse");
    if order == "partition" {
        // What is delivered again, as after a member was taken for dead, counts where it stood first.
        let late = "select count(*) from (select amount_cents < lag(amount_cents) over (partition by order_id order by \
                    at) as late from (select order_id, amount_cents, min(hw_offset) as at from LOG group by 1, 2) \
                    as first) as seen where late";
        assert_eq!(scene.count(late).await, 0, "each key in its order");
    }
    let again = scene.count("select count(*) - count(distinct amount_cents) from LOG").await;
    let seen = format!(
        "{order}: {sent} payments, {failed} calls failed in {seconds} s of outage, lag up to {last}, {again} again"
    );
    assert!(scene.process.stop().await.success(), "{}", scene.process.log());
    stack.stop().await.expect("stopped");
    seen
}

/// A warehouse that fails the first two calls of every twentieth order and is otherwise well, and a worker that is away for
/// eight seconds (fifteen with `HEADWATER_TESTS=full`): what failed before and meanwhile is due together and fails together,
/// and the circuit stays closed; a real outage then opens it at once. Red when retries are weighed with first calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_that_are_due_together_after_a_pause_do_not_open_the_circuit() {
    let (away, after) = if full() { (15, 60) } else { (8, 12) };
    let (stack, space) = own_warehouse("crowd").await;
    let ladder = "[groups.fulfil-order]\nretry = [\"1s\", \"2s\", \"4s\", \"8s\"]\n";
    let mut scene = Scene::start(&space, &format!("{LOG}{ladder}"), &["fulfil-order", "orders-log"], &[]).await;
    faults(&space, Some(json!({ "status": 503, "first": 2, "ratio": 0.05 }))).await;
    let mut sent = 0;
    flow_of(u32::MAX, &scene, &mut sent, 3, async || ()).await;
    scene.process.signal(Signal::STOP);
    flow_of(u32::MAX, &scene, &mut sent, away, async || ()).await;
    scene.process.signal(Signal::CONT);
    flow_of(u32::MAX, &scene, &mut sent, after, async || ()).await;
    eventually("all are fulfilled", SOON, async || scene.fulfilled().await == i64::from(sent)).await;
    assert!(!scene.process.log().contains("the circuit is open"), "{}", scene.process.log());
    let calls = scene.reservations().await.1;
    assert!(calls > u64::from(sent), "{calls} calls: some orders failed at first");
    faults(&space, Some(json!({ "status": 503 }))).await;
    flow_of(u32::MAX, &scene, &mut sent, 1, async || ()).await;
    eventually("an outage opens it", SOON, async || scene.circuit().await == OPEN).await;
    faults(&space, None).await;
    eventually("all are fulfilled", SOON, async || scene.fulfilled().await == i64::from(sent)).await;
    eventually("the circuit is closed", SOON, async || scene.circuit().await == CLOSED).await;
    assert_eq!((scene.reservations().await.0, scene.dead("fulfil-order")), (sent as usize, 0));
    assert!(scene.process.stop().await.success(), "{}", scene.process.log());
    stack.stop().await.expect("stopped");
}

/// Sends payments of twenty orders at the rate for so many seconds; their cents count up. Looks on each second.
async fn flow(scene: &Scene, sent: &mut u32, seconds: u32, look: impl AsyncFnMut()) {
    flow_of(20, scene, sent, seconds, look).await;
}

/// The same of so many orders.
async fn flow_of(orders: u32, scene: &Scene, sent: &mut u32, seconds: u32, mut look: impl AsyncFnMut()) {
    let begin = Instant::now();
    for second in 1..=seconds {
        for _ in 0..RATE {
            scene.pay(&format!("{}-{}", scene.space.name, *sent % orders), i64::from(*sent));
            *sent += 1;
        }
        scene.foreign.flush();
        look().await;
        tokio::time::sleep_until((begin + Duration::from_secs(u64::from(second))).into()).await;
    }
}

/// On the running system. The warehouse fails, and then takes calls and never answers: the circuit leaves
/// half-open within its limit each time, few calls are made, and once the warehouse answers again all is fulfilled.
/// Red when a half-open circuit waits for its probe.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warehouse_that_never_answers_does_not_keep_the_circuit_half_open() {
    let (stack, space) = own_warehouse("silent").await;
    let config = "[client]\ntimeout = \"1min\"\n[groups.fulfil-order]\ntime_limit = \"20s\"\n\
                  [groups.fulfil-order.breakers.warehouse]\nwindow_calls = 4\nminimum_calls = 2\nprobes = 1\n\
                  open_for = \"1s\"\nhalf_open_limit = \"2s\"\n";
    let mut scene = Scene::start(&space, &format!("{LOG}{config}"), &["fulfil-order", "orders-log"], &[]).await;
    faults(&space, Some(json!({ "status": 503 }))).await;
    (0..8).for_each(|n| scene.pay(&format!("silent-{n}"), n));
    scene.foreign.flush();
    eventually("the circuit opens", SOON, async || scene.circuit().await == OPEN).await;
    faults(&space, Some(json!({ "delay_ms": 600_000 }))).await;
    let begin = Instant::now();
    for _ in 0..2 {
        eventually("it is half-open", SOON, async || scene.circuit().await == HALF_OPEN).await;
        // Long before the probe's time limit.
        eventually("it is no longer", Duration::from_secs(12), async || scene.circuit().await == OPEN).await;
    }
    let (_, calls) = scene.reservations().await;
    // One probe in the time that one may take, beside those that opened it and the one at the border.
    let most = begin.elapsed().as_secs() / 20 + 2;
    assert!(calls <= most + 8, "{calls} calls within {:?}", begin.elapsed());
    faults(&space, None).await;
    eventually("all are fulfilled", SOON, async || scene.fulfilled().await == 8).await;
    eventually("the circuit is closed", SOON, async || scene.circuit().await == CLOSED).await;
    assert_eq!((scene.reservations().await.0, scene.dead("fulfil-order")), (8, 0));
    assert!(scene.process.stop().await.success(), "{}", scene.process.log());
    stack.stop().await.expect("stopped");
}

/// The warehouse answers 429 and how long to wait: so long nobody asks, and it is no attempt.
/// Red when the time is not waited for, or a throttled call is a failure.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_warehouse_that_asks_to_wait_is_waited_for() {
    let space = space("throttled").await;
    let gate = Gate::before(&space.endpoints.warehouse_url).await;
    let env = [("HEADWATER__WAREHOUSE__URL", gate.url())];
    let mut scene = Scene::start(&space, LOG, &["fulfil-order", "orders-log"], &env).await;
    gate.answer(Some("429 Too Many Requests\r\nretry-after: 2"));
    scene.pay("throttled-1", 1);
    scene.foreign.flush();
    eventually("it asks again and again", SOON, async || gate.requests("throttled-1").len() >= 6).await;
    let gaps: Vec<Duration> = gate.requests("throttled-1").windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| *gap >= Duration::from_secs(2)), "{gaps:?}");
    let group = scene.group();
    let count = async |metric: &str| scene.process.metric(&format!("headwater_{metric}{{group=\"{group}\"}}")).await;
    assert!(count("throttled_total").await >= 5.0);
    assert_eq!(
        (count("failures_total").await, count("retries_total").await, scene.dead("fulfil-order")),
        (0.0, 0.0, 0)
    );
    assert_eq!(scene.circuit().await, CLOSED);
    gate.answer(None);
    eventually("it is fulfilled", SOON, async || scene.fulfilled().await == 1).await;
    assert!(scene.process.stop().await.success(), "{}", scene.process.log());
}

/// The registry answers 503 for five seconds (thirty with `HEADWATER_TESTS=full`) when a schema is needed that
/// nobody has asked for yet: the record waits, others go on, and it is decoded once the registry answers; no restart, no
/// dead letter. Red when what the registry does not answer is taken for "there is none", or remembered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registry_that_is_down_is_waited_for() {
    let space = space("registry_down").await;
    let gate = Gate::before(&space.endpoints.schema_registry_url).await;
    let env = [("HEADWATER__REGISTRY__URL", gate.url())];
    let sink = "[sinks.paid]\nevent = \"payment.completed\"\ntable = \"paid\"\nmode = \"insert\"\n";
    let mut scene = Scene::start(&space, sink, &["paid"], &env).await;
    let paid = async |order: &str| space.count(&format!("select count(*) from paid where order_id = '{order}'")).await;
    scene.pay("rd-old", 1);
    scene.foreign.flush();
    eventually("the first is stored", SOON, async || paid("rd-old").await == 1).await;

    let text = include_str!("../../../schemas/avro/payment.completed/v1.avsc")
        .replace("A customer's payment for an order", "A till's payment");
    let other = Payments::register_as(&space, &space.topic("till"), &text).await;
    assert_ne!(other.id(), scene.payments.id());
    let question = format!("/schemas/ids/{}", other.id());
    gate.answer(Some("503 Service Unavailable"));
    let begin = Instant::now();
    scene.foreign.send(&scene.topic, Some("rd-new"), Some(&other.value("rd-new", 1, None)), &[]);
    scene.foreign.flush();
    (0..20).for_each(|n| scene.pay(&format!("rd-{n}"), 1));
    scene.foreign.flush();
    let says = async || scene.ready().await.1.contains("the schema registry does not answer");
    eventually("it says what it waits for", SOON, says).await;
    let others = async || space.count("select count(distinct hw_partition) from paid where order_id like 'rd-%'").await;
    eventually("the other partitions go on", SOON, async || others().await >= 4).await;
    let outage = Duration::from_secs(if full() { 30 } else { 5 });
    let over = async || begin.elapsed() >= outage && gate.requests(&question).len() >= 4;
    eventually("the outage is over", SOON, over).await;
    let dead = || scene.dead("paid");
    assert_eq!((paid("rd-new").await, dead()), (0, 0));
    gate.answer(None);
    eventually("it is stored", SOON, async || paid("rd-new").await == 1).await;
    let all = async || space.count("select count(*) from paid where order_id like 'rd-%'").await == 22;
    eventually("all are stored", SOON, all).await;
    eventually("it is ready", SOON, async || scene.ready().await.0 == 200).await;
    assert_eq!(dead(), 0);
    assert!(scene.process.stop().await.success(), "{}", scene.process.log());
}
