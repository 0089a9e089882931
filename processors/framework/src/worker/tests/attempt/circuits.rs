//! A dependency that is down: the group waits behind its circuit breaker, and nothing of that is a record's fault.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::{
    BreakerWindow,
    failure::{
        DeadLetterKind,
        breaker::{BreakerSettings, CircuitState},
    },
    pipeline::{policy::Policy, settings::Order},
    worker::tests::*,
};

/// What the processors call; whether it answers, and how often it was asked.
#[derive(Clone, Default)]
struct Dependency(Arc<Mutex<Health>>);

#[derive(Default)]
struct Health {
    /// How it fails, if it does.
    mood: Mood,
    calls: u32,
    under_way: u32,
    most_under_way: u32,
    /// Attempts made before each call.
    attempts: Vec<u32>,
}

#[derive(Clone, Copy, Default)]
enum Mood {
    #[default]
    Well,
    Down,
    /// It never answers.
    Silent,
}

impl Dependency {
    fn is(&self, mood: Mood) {
        self.0.lock().unwrap().mood = mood;
    }

    fn calls(&self) -> u32 {
        self.0.lock().unwrap().calls
    }
}

/// Counts a call as under way until it is dropped.
struct Call(Dependency);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().under_way -= 1;
    }
}

async fn call(dependency: Dependency, ping: Event<Ping>) -> Result<Pong> {
    let mood = {
        let mut health = dependency.0.lock().unwrap();
        (health.calls, health.under_way) = (health.calls + 1, health.under_way + 1);
        health.most_under_way = health.most_under_way.max(health.under_way);
        health.attempts.push(ping.meta.attempt);
        health.mood
    };
    let _call = Call(dependency);
    match mood {
        Mood::Well => Ok(Pong { id: ping.data.id, seq: ping.data.seq }),
        Mood::Down => Err(Failure::retry("503")),
        Mood::Silent => std::future::pending().await,
    }
}

/// Two failures open it, for five seconds; one probe then decides, within twenty.
fn settings() -> BreakerSettings {
    BreakerSettings {
        window: BreakerWindow::Calls(4),
        failure_rate: 0.6,
        slow_call: Duration::MAX,
        minimum_calls: 2,
        open_for: 5 * SECOND,
        probes: 1,
        half_open_limit: 20 * SECOND,
        ..BreakerSettings::default()
    }
}

fn behind_a_breaker(dependency: &Dependency, order: Order) -> Driver {
    let policy = Policy::new().order(order).breaker("shop", settings());
    Driver::new(Pipeline::default().on("play", with(dependency.clone(), call)).policy("play", policy))
}

fn circuit(driver: &Driver, dependency: &str) -> u64 {
    driver.metrics("play").circuits()[dependency]
}

const CLOSED: u64 = CircuitState::Closed.as_u64();
const OPEN: u64 = CircuitState::Open.as_u64();
const HALF_OPEN: u64 = CircuitState::HalfOpen.as_u64();

/// Red when a call that the breaker refuses, or that fails while it is not closed, is an attempt;
/// when more probes go through than allowed; when the end of the outage is not seen; when nobody is told how the last call
/// failed; or the order of a key is lost.
#[test]
fn an_outage_is_waited_for_and_drains_in_order() {
    for order in [Order::Partition, Order::None] {
        let dependency = Dependency::default();
        let mut driver = behind_a_breaker(&dependency, order);
        assert_eq!(circuit(&driver, "shop"), CLOSED);
        dependency.is(Mood::Down);
        (0..100).for_each(|seq| _ = driver.send(ping(&format!("k{}", seq % 9), seq)));
        assert_eq!((circuit(&driver, "shop"), dependency.calls()), (OPEN, 2));
        driver.advance(600 * SECOND);
        let probes = dependency.calls() - 2;
        assert!((100..=120).contains(&probes), "{probes} probes in ten minutes, one every five seconds");
        assert_eq!((driver.emitted::<Pong>().len(), driver.letters("play").len()), (0, 0));
        assert_eq!(driver.metrics("play").get(Metric::Failures), 1, "the one before it opened");
        assert_eq!(driver.records("play.retry.10s"), [], "a retry topic's records wait as well");
        let troubles = driver.metrics("play").troubles();
        assert!(
            troubles.iter().all(|why| why.contains("waits for `shop`, whose circuit is open: 503"))
                && !troubles.is_empty(),
            "{troubles:?}"
        );
        dependency.is(Mood::Well);
        driver.advance(10 * SECOND);
        assert_eq!((circuit(&driver, "shop"), driver.metrics("play").troubles()), (CLOSED, Vec::new()));
        let pongs: Vec<Event<Pong>> = driver.emitted();
        assert_eq!((pongs.len(), driver.letters("play").len()), (100, 0));
        let health = dependency.0.lock().unwrap();
        assert_eq!(health.attempts.iter().filter(|attempts| **attempts > 1).count(), 0);
        let ordered = |key: &String| seqs(&pongs, key).is_sorted();
        let late = (0..9).map(|n| format!("k{n}")).filter(|key| !ordered(key)).count();
        assert!(late <= usize::from(order == Order::None), "only what failed before it opened may be overtaken");
    }
}

/// Red when a probe that never ends keeps the circuit half-open, is joined by others, or never gives its
/// place back.
#[test]
fn a_probe_that_never_returns_does_not_keep_the_circuit_half_open() {
    let dependency = Dependency::default();
    let mut driver = behind_a_breaker(&dependency, Order::Partition);
    dependency.is(Mood::Down);
    (0..20).for_each(|seq| _ = driver.send(ping(&format!("k{seq}"), seq)));
    let begun = dependency.calls();
    dependency.is(Mood::Silent);
    let (mut row, mut longest) = (0, 0);
    for _ in 0..59 {
        driver.advance(SECOND);
        row = if circuit(&driver, "shop") == HALF_OPEN { row + 1 } else { 0 };
        longest = longest.max(row);
    }
    assert!((19..=20).contains(&longest), "half-open for {longest} s");
    assert_eq!(dependency.calls(), begun + 1, "its place is taken until its time limit");
    dependency.is(Mood::Well);
    driver.advance(60 * SECOND);
    assert_eq!((circuit(&driver, "shop"), driver.emitted::<Pong>().len()), (CLOSED, 20));
    assert_eq!((driver.letters("play").len(), driver.metrics("play").letters(DeadLetterKind::Timeout)), (0, 0));
    assert_eq!(dependency.0.lock().unwrap().attempts.iter().max(), Some(&1), "of those that opened it");
}

/// A record that fails whenever it is tried is in the way of an outage's end: it must not be the only one that is tried.
/// Red when those are not tried first that have been tried least.
#[test]
fn a_record_that_always_fails_does_not_keep_a_circuit_open() {
    async fn sick(down: Arc<AtomicBool>, ping: Ping) -> Result<Pong> {
        if down.load(Ordering::Relaxed) || ping.id.starts_with("bad") {
            return Err(Failure::retry("503"));
        }
        Ok(Pong { id: ping.id, seq: ping.seq })
    }
    let key =
        |name: &str, at: i32| (0..).map(|n| format!("{name}{n}")).find(|key| place(key) == at).expect("one in six");
    for probes in [1, 3] {
        let down = Arc::new(AtomicBool::new(true));
        let policy = Policy::new()
            .order(Order::Partition)
            .ladder(ladder(&[1]))
            .breaker("shop", BreakerSettings { probes, ..settings() });
        let mut driver = Driver::new(Pipeline::default().on("play", with(down.clone(), sick)).policy("play", policy));
        let mut good = 0;
        for at in 0..6 {
            driver.send(ping(&key(if at < 2 { "bad" } else { "good" }, at), 0));
        }
        driver.advance(60 * SECOND);
        assert_eq!(circuit(&driver, "shop"), OPEN);
        down.store(false, Ordering::Relaxed);
        for seq in 1..60 {
            (2..6).for_each(|at| _ = driver.send(ping(&key("good", at), seq)));
            good += 4;
            driver.advance(2 * SECOND);
        }
        assert_eq!((driver.emitted::<Pong>().len(), driver.letters("play").len()), (good + 4, 2), "{probes} probes");
    }
}

/// Red when a failure counts against a dependency that it is not the fault of, or against none.
#[test]
fn a_failure_of_one_dependency_leaves_the_others_closed() {
    async fn named(_: (), ping: Ping) -> Result<Pong> {
        Err(Failure::retry("no answer").of(if ping.id == "bank" { "bank" } else { "shop" }))
    }
    for (id, bank, shop) in [("bank", OPEN, CLOSED), ("shop", CLOSED, OPEN)] {
        let policy = Policy::new().breaker("bank", settings()).breaker("shop", settings());
        let mut driver = Driver::new(Pipeline::default().on("play", with((), named)).policy("play", policy));
        (0..4).for_each(|seq| _ = driver.send(ping(id, seq)));
        assert_eq!((circuit(&driver, "bank"), circuit(&driver, "shop")), (bank, shop));
    }
}

/// Red when a rejection counts as a failure, or not at all: two failures in four answers do not open it.
#[test]
fn a_rejection_is_an_answer_of_a_healthy_dependency() {
    let answers = [Failure::reject("no"), Failure::reject("no"), Failure::retry("503"), Failure::retry("503")];
    let script = Script::of(answers);
    let policy = Policy::new().breaker("shop", settings());
    let mut driver = Driver::new(Pipeline::default().on("play", with(script, play)).policy("play", policy));
    (0..4).for_each(|seq| _ = driver.send(ping("bad", seq)));
    assert_eq!((circuit(&driver, "shop"), driver.metrics("play").letters(DeadLetterKind::Rejected)), (CLOSED, 2));
    assert_eq!(driver.records("play.retry.1s").len(), 2);
}

/// Red when a record waits although something else can process it, the processor's circuit never closes again, or what the
/// fallback emits is not the processor's.
#[test]
fn a_fallback_runs_while_the_circuit_is_open() {
    async fn instead(_: (), ping: Ping) -> Result<Pong> {
        Ok(Pong { id: ping.id, seq: -1 })
    }
    let dependency = Dependency::default();
    let policy = Policy::new().breaker("shop", settings());
    let pipeline = Pipeline::default().on("play", with(dependency.clone(), call)).policy("play", policy);
    let mut driver = Driver::new(pipeline.fallback("play", with((), instead)));
    dependency.is(Mood::Down);
    (0..10).for_each(|seq| _ = driver.send(ping("k", seq)));
    driver.advance(MS);
    // The first failed before it opened, and waits on a retry topic.
    assert_eq!(seqs(&driver.emitted(), "k"), [-1; 9]);
    driver.advance(SECOND);
    let pongs = driver.emitted::<Pong>();
    assert_eq!((pongs.len(), driver.metrics("play").get(Metric::Fallbacks), dependency.calls()), (10, 10, 2));
    for pong in &pongs {
        let cause = pong.meta.causation_id.as_deref().expect("a cause");
        assert_eq!(pong.meta.id, crate::wire::ids::emitted_id("kafka://events.net", cause, "play", 0));
        assert_eq!(pong.meta.source, "headwater/play");
    }
    dependency.is(Mood::Well);
    driver.advance(5 * SECOND).send(ping("k", 10)).send(ping("k", 11));
    assert_eq!((circuit(&driver, "shop"), seqs(&driver.emitted(), "k")[10..].to_vec()), (CLOSED, vec![10, 11]));
}

/// Red when a partition that waits for a circuit is kept, or a group that is asked to wait for ever does not stop.
#[test]
fn a_group_behind_an_open_circuit_stops_at_once() {
    use crate::ports::SourceEvent;
    use crate::worker::tests::scripted::{Bench, Plan, at};
    let plan = Plan::default();
    let mut bench = Bench::publisher(
        &plan,
        GroupSettings { breakers: [("shop".to_owned(), settings())].into(), ..GroupSettings::default() },
    );
    bench.tell(SourceEvent::Assigned(vec![at(0), at(1)])).log();
    ["a0", "a1"].into_iter().for_each(|event| plan.fail(event, Failure::retry("503")));
    bench.records(0, 1, 0, "a a a").records(1, 2, 0, "b").log();
    assert_eq!(plan.seen(), "a0 a1");
    assert_eq!(bench.tell(SourceEvent::Revoked(vec![at(0)])).log(), "released 0, forget 0");
    assert_eq!(bench.stop().log(), "close");
    assert!(matches!(bench.ended, Some(Ok(()))));
}

/// Red when a registry that does not answer makes a letter or an attempt, or its recovery is not
/// seen.
#[test]
fn a_registry_that_does_not_answer_holds_the_partition() {
    use crate::worker::tests::scripted::{Bench, Plan, at};
    let plan = Plan::default();
    let mut bench = Bench::publisher(&plan, GroupSettings::default()).assigned(2);
    bench.registry_down(true).records(0, 1, 0, "a b").advance(600 * SECOND);
    assert_eq!((bench.log().as_str(), plan.seen().as_str()), ("pause 0", ""));
    assert_eq!(bench.metrics.troubles(), ["events.net/0: the schema registry does not answer: 503"]);
    assert_eq!(bench.note(&at(0)).as_deref(), Some("the schema registry does not answer: 503"));
    bench.registry_down(false).advance(SECOND);
    assert_eq!(bench.log(), "resume 0, unit a b, commit 0:2");
    assert_eq!((bench.metrics.troubles(), bench.note(&at(0))), (Vec::new(), None));
    assert_eq!(bench.metrics.get(Metric::Failures), 0);
}
