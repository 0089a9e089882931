//! Crash points of processors: handled, published, waiting for another attempt; and the offset that comes after.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use headwater_dev::Stack;
use headwater_tests::{ConsumedRecord, ForeignClient, Payments, Process, Space, eventually};
use serde_json::{Value as Json, json};
use tokio::time::sleep;

use super::{SOON, is_through, repeated};
use crate::{
    PROGRAM,
    failure::retry::{applied, faults, own_warehouse},
};

const GROUPS: [&str; 2] = ["fulfil-order", "send-receipt"];
/// Offsets are committed once at first, and then not before the process is killed.
const SELDOM: [(&str, &str); 1] = [("HEADWATER__KAFKA__CONSUMER__COMMIT_INTERVAL", "10min")];

/// What a shop has published of one sort, by order.
type PublishedRecords<'a> = &'a dyn Fn(&Shop) -> Vec<(String, ConsumedRecord)>;

/// Payments on a topic of their own, and a warehouse of their own to fail.
struct Shop {
    space: Space,
    stack: Stack,
    foreign: ForeignClient,
    payments: Payments,
    topic: String,
    /// What others have published before.
    orders: Vec<i64>,
    receipts: Vec<i64>,
    sent: usize,
}

impl Shop {
    async fn new(name: &str, ladder: &str) -> Self {
        let (stack, space) = own_warehouse(name).await;
        // The circuit is another test's.
        let config = format!(
            "[defaults]\nretry = [{ladder}]\n\
             [groups.fulfil-order.breakers.warehouse]\nwindow_calls = 100000\nminimum_calls = 100000\n"
        );
        let (topic, foreign, payments) = applied(&space, 3, &config).await;
        let [orders, receipts] = ["events.order", "events.receipt"].map(|topic| ends(&foreign, topic));
        Self { space, stack, foreign, payments, topic, orders, receipts, sent: 0 }
    }

    /// Sends 40 more payments, a quarter of them without an e-mail address and a quarter that nobody can read.
    fn send(&mut self) {
        for n in self.sent..self.sent + 40 {
            let order = self.order(n);
            let email = (n % 4 != 1).then_some("a@example.org");
            let value = if n % 4 == 3 { b"\x07poison".to_vec() } else { self.payments.value(&order, 1, email) };
            self.foreign.send(&self.topic, Some(&order), Some(&value), &[]);
        }
        self.foreign.flush();
        self.sent += 40;
    }

    fn order(&self, n: usize) -> String {
        format!("{}-{n}", self.space.name)
    }

    fn orders_with(&self, wanted: impl Fn(usize) -> bool) -> BTreeSet<String> {
        (0..self.sent).filter(|n| wanted(n % 4)).map(|n| self.order(n)).collect()
    }

    fn start(&self, env: &[(&str, &str)]) -> Process {
        let args: Vec<&str> = ["run"].into_iter().chain(GROUPS.into_iter().flat_map(|g| ["--group", g])).collect();
        Process::start(PROGRAM, &self.space, "run", &args, env)
    }

    fn group(&self, name: &str) -> String {
        format!("{}.{name}", self.space.name)
    }

    /// Makes the first call of each of these orders fail from now on.
    async fn fail(&self, ratio: f64) {
        faults(&self.space, Some(json!({"status": 503, "first": 1, "ratio": ratio}))).await;
    }

    async fn reservations(&self) -> usize {
        let url = format!("{}/reservations", self.space.endpoints.warehouse_url);
        let all: Vec<Json> = reqwest::get(url).await.expect("an answer").json().await.expect("json");
        let ours = |one: &&Json| one["order_id"].as_str().is_some_and(|order| self.is_ours(order));
        all.iter().filter(ours).count()
    }

    fn is_ours(&self, order: &str) -> bool {
        order.starts_with(&format!("{}-", self.space.name))
    }

    /// What is on a topic that other tests write too, by order.
    fn outputs(&self, topic: &str, since: &[i64]) -> Vec<(String, ConsumedRecord)> {
        let all = self.foreign.read_since(topic, since).into_iter();
        let keyed = all.filter_map(|seen| Some((String::from_utf8(seen.key.clone()?).ok()?, seen)));
        let order = |key: &str| key.strip_prefix("pay-").unwrap_or(key).to_owned();
        keyed.map(|(key, seen)| (order(&key), seen)).filter(|(order, _)| self.is_ours(order)).collect()
    }

    fn orders(&self) -> Vec<(String, ConsumedRecord)> {
        self.outputs("events.order", &self.orders)
    }

    /// What is on a topic that a group of ours owns, by order, where it came from our topic.
    fn owned(&self, group: &str, topic: &str) -> Vec<(String, ConsumedRecord)> {
        let all = self.foreign.read(&format!("{}.{topic}", self.group(group))).into_iter();
        let ours = all.filter(|seen| seen.headers.get("hw_origin_topic") == Some(&self.topic));
        ours.map(|seen| (String::from_utf8(seen.key.clone().expect("a key")).expect("text"), seen)).collect()
    }

    /// How many of these, which a group has published, came from records whose offset it has not committed.
    fn ahead(&self, group: &str, published: &[(String, ConsumedRecord)]) -> usize {
        let committed = self.foreign.committed(&self.group(group), &self.topic, 3);
        let ahead =
            |seen: &ConsumedRecord| committed[usize::try_from(seen.place.0).expect("a partition")] <= seen.place.1;
        let source = self.foreign.read(&self.topic).into_iter().filter(ahead);
        let keys: BTreeSet<_> = source.filter_map(|seen| String::from_utf8(seen.key?).ok()).collect();
        published.iter().filter(|(order, _)| keys.contains(order)).count()
    }

    /// Whether no group has committed anything of our topic.
    fn is_untouched(&self) -> bool {
        let committed = |group| self.foreign.committed(&self.group(group), &self.topic, 3);
        GROUPS.into_iter().flat_map(committed).all(|at| at <= 0)
    }

    /// Runs everything to its end, and checks that nothing is missing and that what is repeated is equal. Gives how much
    /// of orders, receipts and letters is repeated.
    async fn finish(&self, ladder: &[&str]) -> [usize; 4] {
        let mut process = self.start(&[]);
        let through = async |group: &str, topic: &str| {
            let what = format!("{group} is through with {topic}");
            eventually(&what, SOON, async || is_through(&self.foreign, &self.group(group), topic)).await;
        };
        for group in GROUPS {
            through(group, &self.topic).await;
            for delay in ladder {
                through(group, &format!("{}.retry.{delay}", self.group(group))).await;
            }
        }
        assert!(process.stop().await.success(), "{}", process.log());
        let (readable, unreadable) = (self.orders_with(|n| n != 3), self.orders_with(|n| n == 3));
        let letters = [("fulfil-order", unreadable), ("send-receipt", self.orders_with(|n| n == 3 || n == 1))];
        let [dead, refused] =
            letters.map(|(group, orders)| same(group, orders, self.owned(group, "dlq"), &["hw_first_failed"]));
        let receipts = self.outputs("events.receipt", &self.receipts);
        [
            same("orders", readable, self.orders(), &[]),
            same("receipts", self.orders_with(|n| n % 2 == 0), receipts, &[]),
            dead,
            refused,
        ]
    }

    async fn close(self) {
        self.space.pool.close().await;
        self.stack.stop().await.expect("stopped");
    }
}

/// The offset that comes next in each partition of a topic.
fn ends(foreign: &ForeignClient, topic: &str) -> Vec<i64> {
    foreign.watermarks(topic).into_iter().map(|(_, next)| next).collect()
}

/// Every order has its record, and one that is repeated is the same but for the moment and the span of its copy.
fn same(what: &str, orders: BTreeSet<String>, seen: Vec<(String, ConsumedRecord)>, own: &[&str]) -> usize {
    let strip = |(order, seen): (String, ConsumedRecord)| {
        let ConsumedRecord { key, value, mut headers, .. } = seen;
        for name in own.iter().chain(&["traceparent", "hw_due"]) {
            headers.remove(*name);
        }
        (order, (key, value, headers))
    };
    repeated(orders, seen.into_iter().map(strip)).unwrap_or_else(|why| panic!("{what}: {why}"))
}

/// Killed after the handlers and before anything is published, which the producer's linger keeps back: orders,
/// receipts, retries and letters alike. No offset is committed, and nothing is missing in the end.
/// Red when offsets are committed before the records of their unit are acknowledged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_handled_and_not_published_is_handled_again() {
    let mut shop = Shop::new("points_handled", "\"200ms\"").await;
    shop.fail(0.5).await;
    shop.send();
    let keep_back =
        [("HEADWATER__KAFKA__PRODUCER__LINGER", "2min"), ("HEADWATER__KAFKA__CONSUMER__COMMIT_INTERVAL", "10ms")];
    let mut process = shop.start(&keep_back);
    // The other half has failed once, and is to be retried.
    eventually("the warehouse is asked", SOON, async || shop.reservations().await > 5).await;
    // What would be committed too early has time for it.
    sleep(Duration::from_secs(2)).await;
    process.kill().await;
    assert!(shop.orders().is_empty(), "it struck before anything was published");
    assert!(shop.is_untouched(), "offsets are committed of records whose results are nowhere");
    assert_eq!(shop.finish(&["200ms"]).await, [0; 4], "nothing was there before");
    shop.close().await;
}

/// Killed once an order is published and before its offset, then likewise a retry, then a letter: each is
/// published again, with the same id and the same bytes, and nothing is missing.
/// Red when ids or values differ from one run to the next, or the retry or the letter is not the record that failed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_published_before_its_offset_is_published_again_as_it_was() {
    let mut shop = Shop::new("points_published", "\"200ms\"").await;
    let points: [(&str, &str, PublishedRecords); 3] = [
        ("an order", "fulfil-order", &Shop::orders),
        ("a retry", "fulfil-order", &|shop| shop.owned("fulfil-order", "retry.200ms")),
        ("a letter", "send-receipt", &|shop| shop.owned("send-receipt", "dlq")),
    ];
    shop.fail(0.5).await;
    for (what, group, published) in points {
        let before = published(&shop).len();
        shop.send();
        let mut process = shop.start(&SELDOM);
        eventually(what, SOON, async || published(&shop).len() > before).await;
        // The first offsets are committed at once: these come after them.
        shop.send();
        eventually(what, SOON, async || shop.ahead(group, &published(&shop)) > 0).await;
        process.kill().await;
        assert!(shop.ahead(group, &published(&shop)) > 0, "it struck after {what} and before its offset");
    }
    let again = shop.finish(&["200ms"]).await;
    assert!(again.iter().all(|again| *again > 0), "all of them are repeated: {again:?}");
    let retried = shop.owned("fulfil-order", "retry.200ms");
    let failed: BTreeSet<String> = retried.iter().map(|(order, _)| order.clone()).collect();
    let attempts = retried.iter().map(|(_, seen)| seen.headers["hw_attempt"].as_str()).collect::<BTreeSet<_>>();
    assert_eq!(attempts, BTreeSet::from(["1"]));
    same("retries", failed, retried, &["hw_first_failed"]);
    shop.close().await;
}

/// Killed while records wait on a retry topic. Each is still tried again, not before it is due, and the source
/// is not read again.
/// Red when a record that waits counts as done, or runs before it is due.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_wait_for_another_attempt_outlive_the_process() {
    let mut shop = Shop::new("points_waiting", "\"5s\"").await;
    shop.fail(1.0).await;
    shop.send();
    let readable = shop.orders_with(|n| n != 3);
    let mut process = shop.start(&[]);
    let waiting = async || {
        let group = shop.group("fulfil-order");
        is_through(&shop.foreign, &group, &shop.topic) && shop.owned("fulfil-order", "retry.5s").len() == readable.len()
    };
    eventually("all wait", SOON, waiting).await;
    process.kill().await;
    assert!(shop.orders().is_empty(), "it struck while they wait");
    let [orders, ..] = shop.finish(&["5s"]).await;
    assert_eq!(orders, 0, "each is tried again once");
    let retried = shop.owned("fulfil-order", "retry.5s");
    let due: BTreeMap<_, i64> =
        retried.into_iter().map(|(order, seen)| (order, seen.headers["hw_due"].parse().expect("ms"))).collect();
    assert!(shop.orders().iter().all(|(order, seen)| seen.timestamp_ms >= due[order]), "none runs before it is due");
    shop.close().await;
}
