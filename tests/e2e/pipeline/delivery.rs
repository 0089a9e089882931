//! Delivery: positions, long handlers, holes, rebalances, shutdown.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use headwater::{Binding, Event, KeyFormat, Ladder, Order, Pipeline, Policy, Result, Sink, spi::Metric, with};
use headwater_connectors::kafka::{Assignor, Cluster};
use headwater_schemas::PaymentCompleted;
use headwater_tests::{Engine, ForeignClient, Group, Payments, Space, eventually};
use rdkafka::producer::{BaseRecord, Producer};

use crate::space;

const SOON: Duration = Duration::from_secs(20);

/// What a processor has seen: partition and offset of each call, in order.
#[derive(Clone, Default)]
struct Calls {
    calls: Arc<Mutex<Vec<(i32, i64)>>>,
    finished: Arc<Mutex<Vec<(i32, i64)>>>,
    /// While this is set, the payment of this order does not end.
    stuck: Arc<Mutex<Option<String>>>,
    slow: Option<Duration>,
}

impl Calls {
    fn calls(&self) -> Vec<(i32, i64)> {
        self.calls.lock().unwrap().clone()
    }

    fn times(&self, place: (i32, i64)) -> usize {
        self.calls().iter().filter(|p| **p == place).count()
    }

    fn finished(&self) -> Vec<(i32, i64)> {
        self.finished.lock().unwrap().clone()
    }

    fn stick(&self, order: Option<&str>) {
        *self.stuck.lock().unwrap() = order.map(str::to_owned);
    }
}

async fn watch(seen: Calls, payment: Event<PaymentCompleted>) -> Result<()> {
    let place = (payment.meta.origin.partition.partition, payment.meta.origin.offset);
    seen.calls.lock().unwrap().push(place);
    while seen.stuck.lock().unwrap().as_deref() == Some(&payment.order_id) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    if let Some(slow) = seen.slow {
        tokio::time::sleep(slow).await;
    }
    seen.finished.lock().unwrap().push(place);
    Ok(())
}

fn watching(topic: &str, seen: &Calls) -> Pipeline {
    let binding = Binding { event_type: "payment.completed".to_owned(), key: KeyFormat::Text };
    Pipeline::default().on("watch", with(seen.clone(), watch)).bind(topic, binding)
}

/// A topic of this space with `count` payments, `o0`, `o1`, …
async fn payments(space: &Space, partitions: i32, count: usize) -> (String, ForeignClient, Payments) {
    let topic = space.topic("payments");
    space.create_topics(&[&topic], partitions).await;
    space.create_topics(&["events.payment"], 6).await;
    let foreign = ForeignClient::new(space);
    let writer = Payments::register(space, &topic).await;
    for n in 0..count {
        let order = format!("o{n}");
        foreign.send(&topic, Some(&order), Some(&writer.value(&order, 100, None)), &[]);
    }
    foreign.flush();
    (topic, foreign, writer)
}

/// Offset 10 is slow and 11 to 20 are done when the process dies: 10 is read again, what was committed is not.
/// Red when the worker commits the position of the last finished record.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_record_is_read_again_after_a_crash_though_later_ones_were_done() {
    let space = space("watermark").await;
    let database = space.migrate().await;
    let (topic, foreign, _) = payments(&space, 1, 21).await;
    let group = format!("{}.watch", space.name);
    let seen = Calls::default();
    seen.stick(Some("o10"));
    let engine = Engine::start(&space, &database, &watching(&topic, &seen), &Group::of(&space));
    eventually("20 of 21 are done", SOON, async || seen.finished().len() == 20).await;
    eventually("what is before 10 is committed", SOON, async || foreign.committed(&group, &topic, 1) == [10]).await;
    drop(engine);
    assert_eq!(foreign.committed(&group, &topic, 1), [10]);

    let seen = Calls::default();
    let engine = Engine::start(&space, &database, &watching(&topic, &seen), &Group::of(&space));
    eventually("the rest is done", SOON, async || seen.finished().len() == 11).await;
    assert_eq!(seen.calls().iter().min(), Some(&(0, 10)));
    eventually("all is committed", SOON, async || foreign.committed(&group, &topic, 1) == [21]).await;
    engine.stop().await;
}

/// A handler takes three times the poll limit: its partition stays ours, and it runs once.
/// Red when the source stops polling while the engine has its hands full.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handler_of_three_times_the_poll_limit_keeps_its_partition() {
    let space = space("long_handler").await;
    let database = space.migrate().await;
    let (topic, foreign, _) = payments(&space, 2, 40).await;
    let seen = Calls { slow: Some(Duration::from_secs(9)), ..Calls::default() };
    let mut how = Group::of(&space);
    (how.kafka.consumer.max_poll_interval, how.kafka.consumer.drain) = (Duration::from_secs(3), Duration::from_secs(2));
    // Nothing is read ahead and one runs at a time, so that the engine takes no batch meanwhile.
    (how.settings.concurrency, how.settings.prefetch, how.kafka.consumer.batches) = (1, 1, 1);
    how.kafka.consumer.batch_records = 1;
    let engine = Engine::start(&space, &database, &watching(&topic, &seen), &how);
    eventually("one long handler is done", SOON, async || seen.finished().len() == 1).await;
    let state = engine.state("watch");
    assert_eq!(state.get(Metric::Partitions), 8, "two of the topic and six of events.payment");
    let first = seen.finished()[0];
    eventually("the second is done", SOON, async || seen.finished().len() == 2).await;
    assert_eq!(seen.times(first), 1);
    eventually("it is committed", SOON, async || {
        foreign.committed(&format!("{}.watch", space.name), &topic, 2).iter().any(|at| *at >= 1)
    })
    .await;
    drop(engine);
}

/// Transaction markers leave holes: the committed position reaches the last record all the same.
/// Red when the watermark waits for the next number.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn holes_in_the_offsets_do_not_hold_the_position_up() {
    let space = space("holes").await;
    let database = space.migrate().await;
    let (topic, foreign, writer) = payments(&space, 1, 1).await;
    let producer = foreign.transactional("holes");
    let send = |order: &str| {
        let value = writer.value(order, 100, None);
        producer.send(BaseRecord::to(&topic).key(order).payload(&value)).expect("queued");
    };
    for round in 0..3 {
        producer.begin_transaction().expect("begun");
        send(&format!("kept-{round}"));
        producer.commit_transaction(SOON).expect("committed");
        producer.begin_transaction().expect("begun");
        send(&format!("aborted-{round}"));
        producer.flush(SOON).expect("sent");
        producer.abort_transaction(SOON).expect("aborted");
    }
    let seen = Calls::default();
    let engine = Engine::start(&space, &database, &watching(&topic, &seen), &Group::of(&space));
    eventually("what was committed is done", SOON, async || seen.finished().len() == 4).await;
    // 0: o0; then per round: kept, marker, aborted, marker. The last kept record stands at 9.
    assert_eq!(seen.finished().last(), Some(&(0, 9)));
    let group = format!("{}.watch", space.name);
    eventually("the position is behind it", SOON, async || foreign.committed(&group, &topic, 1) == [10]).await;
    engine.stop().await;
}

/// Stopped under load: what is under way ends and is committed, and the next owner reads no finished record again.
/// Red when stopping drops what is in flight, or the last positions are not committed before the group is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_under_load_leaves_nothing_to_be_done_twice() {
    let space = space("graceful").await;
    let database = space.migrate().await;
    let (topic, foreign, _) = payments(&space, 3, 3_000).await;
    let seen = Calls { slow: Some(Duration::from_millis(5)), ..Calls::default() };
    let mut how = Group::of(&space);
    how.settings.concurrency = 16;
    let engine = Engine::start(&space, &database, &watching(&topic, &seen), &how);
    eventually("some are done", SOON, async || seen.finished().len() > 300).await;
    for ended in engine.stop().await {
        ended.expect("a clean end");
    }
    let first = seen.finished();
    assert!(first.len() < 3_000, "it was stopped under load");
    let mut begun = seen.calls();
    begun.sort_unstable();
    let mut ended = first.clone();
    ended.sort_unstable();
    assert_eq!(begun, ended, "what was begun was finished");

    let again = Calls::default();
    let engine = Engine::start(&space, &database, &watching(&topic, &again), &Group::of(&space));
    eventually("the rest is done", SOON, async || first.len() + again.finished().len() >= 3_000).await;
    let twice: Vec<_> = again.finished().into_iter().filter(|place| first.contains(place)).collect();
    // Within a lane order holds, but lanes run side by side: what finished ahead of the watermark is the only excuse, and
    // a drained worker has none.
    assert_eq!(twice, []);
    assert_eq!(foreign.read(&topic).len(), 3_000);
    engine.stop().await;
}

/// Two members, one joins and leaves under load: each record is finished, in order per key, and none twice, since every
/// move of a partition is drained and committed first.
/// Red when a revoked partition is let go before its records are committed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rebalance_under_load_repeats_and_loses_nothing() {
    rebalance("rebalance", Assignor::CooperativeSticky).await;
}

/// The same where every partition leaves its owner at each rebalance. Red as above.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_eager_rebalance_under_load_repeats_and_loses_nothing() {
    rebalance("eager", Assignor::Range).await;
}

async fn rebalance(name: &str, assignor: Assignor) {
    let space = space(name).await;
    let database = space.migrate().await;
    // More than events.payment has, which is empty: an even share of all has records in it.
    let (topic, _, _) = payments(&space, 18, 4_000).await;
    let seen = Calls { slow: Some(Duration::from_millis(20)), ..Calls::default() };
    let mut how = Group::of(&space);
    (how.settings.concurrency, how.kafka.consumer.assignor) = (8, assignor);
    let first = Engine::start(&space, &database, &watching(&topic, &seen), &how);
    eventually("the first works", SOON, async || seen.finished().len() > 200).await;
    let second = Engine::start(&space, &database, &watching(&topic, &seen), &how);
    eventually("the second has partitions", SOON, async || second.state("watch").get(Metric::Partitions) > 0).await;
    let before = seen.finished().len();
    assert!(before < 3_000, "there is work left for both: {before} done");
    second.stop().await;
    eventually("the first has all again", SOON, async || first.state("watch").get(Metric::Partitions) == 24).await;
    let counts = || {
        let mut counts = BTreeMap::new();
        seen.finished().iter().for_each(|place| *counts.entry(*place).or_insert(0) += 1);
        counts
    };
    eventually("all are done", Duration::from_mins(1), async || counts().len() == 4_000).await;
    let counts = counts();
    let twice: Vec<_> = counts.iter().filter(|(_, n)| **n > 1).collect();
    assert!(twice.is_empty(), "{} done twice: {twice:?}", twice.len());
    first.stop().await;
}

/// A topic that was created anew has fewer records than the offset in the database: the sink stops and says so.
/// (A broker forgets its own committed offsets with the topic.) Red when neither the id nor the end of the log stops it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_created_anew_stops_its_sink_with_what_to_do() {
    created_anew("anew", 0).await;
}

/// The same where the new topic has grown past the stored offset: only its id tells. Red when the ids are not compared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_created_anew_stops_its_sink_even_when_it_has_grown() {
    created_anew("grown", 8).await;
}

/// Five payments are stored; then the topic is deleted, created anew, and filled with `count` others.
async fn created_anew(name: &str, count: usize) {
    let space = space(name).await;
    let database = space.migrate().await;
    let (topic, foreign, writer) = payments(&space, 1, 5).await;
    let binding = Binding { event_type: "payment.completed".to_owned(), key: KeyFormat::Text };
    let sink = Sink::of::<PaymentCompleted>("payments").key("payment_id");
    let pipeline = Pipeline::default().bind(&topic, binding).sink("payments-sink", sink);
    let engine = Engine::start(&space, &database, &pipeline, &Group::of(&space));
    let stored = async || space.count("select count(*) from payments").await;
    eventually("all are stored", SOON, async || stored().await == 5).await;
    engine.stop().await;
    space.delete_topic(&topic).await;
    space.create_topics(&[&topic], 1).await;
    drop(foreign);
    let foreign = ForeignClient::new(&space);
    for n in 0..count {
        let order = format!("new-{n}");
        foreign.send(&topic, Some(&order), Some(&writer.value(&order, 100, None)), &[]);
    }
    foreign.flush();
    let engine = Engine::start(&space, &database, &pipeline, &Group::of(&space));
    let says = async || {
        let troubles = engine.state("payments-sink").troubles().join("; ");
        troubles.contains(&topic) && troubles.contains("created anew")
    };
    eventually("the sink says that the topic was created anew", SOON, says).await;
    assert_eq!(stored().await, 5, "nothing of the new topic is stored");
    drop(engine);
}

/// What that rests on. Red when a missing topic is an error, or when a topic that is named twice is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_tells_the_ids_of_the_topics_that_there_are() {
    let space = space("topic_ids").await;
    let (one, other, none) = (space.topic("one"), space.topic("other"), space.topic("none"));
    space.create_topics(&[&one, &other], 1).await;
    let cluster = Cluster::new(&space.kafka()).expect("valid");
    let ids = cluster.topic_ids(&[&other, &none, &one, &other]).await.expect("an answer");
    assert_eq!(ids.keys().collect::<Vec<_>>(), [&one, &other]);
    // 16 bytes in base64.
    assert!(ids.values().all(|id| id.len() == 22), "{ids:?}");
    assert_ne!(ids[&one], ids[&other]);
    assert_eq!(cluster.topic_ids(&[&one, &other]).await.expect("an answer"), ids);
}

/// Order `partition`: a processor that fails for a while holds what is behind it. Red when a failure is passed over, or a
/// record runs again that had succeeded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_processor_that_fails_for_a_while_holds_order_and_loses_nothing() {
    async fn flaky(state: (Arc<AtomicBool>, Calls), payment: Event<PaymentCompleted>) -> Result<()> {
        if state.0.load(Ordering::Relaxed) {
            return Err(headwater::Failure::retry("the other side is down"));
        }
        watch(state.1, payment).await
    }
    let space = space("flaky").await;
    let database = space.migrate().await;
    let (topic, _, _) = payments(&space, 2, 100).await;
    let (down, seen) = (Arc::new(AtomicBool::new(true)), Calls::default());
    let binding = Binding { event_type: "payment.completed".to_owned(), key: KeyFormat::Text };
    let ladder = Ladder::try_new((1..=16).map(|n| Duration::from_millis(500 + n))).expect("a valid ladder");
    let pipeline = Pipeline::default()
        .on("flaky", with((down.clone(), seen.clone()), flaky))
        .policy("flaky", Policy::new().order(Order::Partition).ladder(ladder))
        .bind(&topic, binding);
    let engine = Engine::start(&space, &database, &pipeline, &Group::of(&space));
    eventually("it fails", SOON, async || engine.state("flaky").get(Metric::Failures) > 3).await;
    assert_eq!(seen.finished(), []);
    down.store(false, Ordering::Relaxed);
    eventually("all are done", SOON, async || seen.finished().len() == 100).await;
    assert_eq!(seen.calls().len(), 100);
    engine.stop().await;
}

/// Seven records, batches of five, a linger that nobody waits for: five are stored by count, and a stop flushes the
/// other two. Red when stopping drops what waits for its batch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_flushes_what_waits_for_its_batch() {
    let space = space("flush").await;
    let database = space.migrate().await;
    let (topic, _, _) = payments(&space, 1, 7).await;
    let binding = Binding { event_type: "payment.completed".to_owned(), key: KeyFormat::Text };
    let sink = Sink::of::<PaymentCompleted>("payments").key("payment_id");
    let pipeline = Pipeline::default().bind(&topic, binding).sink("payments-sink", sink);
    let mut how = Group::of(&space);
    (how.settings.batch_records, how.settings.linger) = (5, Duration::from_secs(3_600));
    let engine = Engine::start(&space, &database, &pipeline, &how);
    let stored = async || space.count("select count(*) from payments").await;
    eventually("five are stored", SOON, async || stored().await == 5).await;
    let state = engine.state("payments-sink");
    eventually("two wait", SOON, async || state.get(Metric::InFlight) == 2).await;
    for ended in engine.stop().await {
        ended.expect("a clean end");
    }
    assert_eq!((stored().await, state.get(Metric::Commits)), (7, 2));
}
