//! kill -9, again and again: nothing is lost, and what must be there once is there once.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use headwater_tests::{ConsumedRecord, ForeignClient, Process, Space, eventually, full, patience};
use serde_json::json;

use crate::{
    PROGRAM,
    failure::retry::{applied, faults, own_warehouse},
};

/// What has not grown for so long does not grow any more.
const STUCK: Duration = Duration::from_secs(90);
/// What must follow from what is there.
const SOON: Duration = Duration::from_mins(2);
/// Two tables beside `orders` that hide nothing, a ladder that is quick, and a circuit that never opens.
const CONFIG: &str = r#"
[sinks.orders-log]
event = "order.fulfilled"
table = "orders_log"
mode = "insert"
[sinks.payments-log]
event = "payment.completed"
table = "payments_log"
mode = "insert"
[defaults]
retry = ["200ms", "400ms"]
[groups.fulfil-order.breakers.warehouse]
window_calls = 100000
minimum_calls = 100000
"#;

/// Waits until there are so many, however long that takes, as long as there are ever more.
async fn grows(what: &str, target: i64, mut count: impl AsyncFnMut() -> i64) {
    let (mut most, mut since) = (-1, Instant::now());
    loop {
        let now = count().await;
        if now >= target {
            return;
        }
        if now > most {
            (most, since) = (now, Instant::now());
        }
        assert!(since.elapsed() < patience(STUCK), "stuck at {now} of {target}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// What the `n`-th payment is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Good,
    /// Nobody can read it.
    Unreadable,
    /// There is no receipt for it.
    WithoutEmail,
}

impl Kind {
    const fn of(n: i64) -> Self {
        match n % 50 {
            7 => Self::Unreadable,
            11 => Self::WithoutEmail,
            _ => Self::Good,
        }
    }

    fn among(self, count: i64) -> i64 {
        i64::try_from((0..count).filter(|n| Self::of(*n) == self).count()).unwrap_or_default()
    }
}

/// The ids of the events of every order, one for each time that it is published.
fn published(foreign: &ForeignClient) -> HashMap<Vec<u8>, Vec<String>> {
    let mut ids: HashMap<_, Vec<_>> = HashMap::new();
    for seen in foreign.read("events.order") {
        if let Some(key) = seen.key.filter(|key| key.starts_with(b"k-")) {
            ids.entry(key).or_default().push(seen.headers["ce_id"].clone());
        }
    }
    ids
}

/// Dead letters of a group on its topic: each payment once or repeated as it was, and in the table once. Gives how many
/// are repeated.
async fn letters(space: &Space, foreign: &ForeignClient, topic: &str, group: &str, expected: i64) -> usize {
    let kept = format!(
        "select count(*) from headwater.dead_letters where origin_topic = '{topic}' and consumer_group = '{}.{group}' \
         and status = 'open'",
        space.name
    );
    grows(&format!("every letter of {group} is kept"), expected, async || space.count(&kept).await).await;
    assert_eq!(space.count(&kept).await, expected, "letters of {group}");
    let ours = |seen: &ConsumedRecord| seen.headers["hw_origin_topic"] == topic;
    let sent: Vec<ConsumedRecord> =
        foreign.read(&format!("{}.{group}.dlq", space.name)).into_iter().filter(ours).map(timeless).collect();
    let mut places: HashMap<_, &ConsumedRecord> = HashMap::new();
    for seen in &sent {
        let place = (seen.headers["hw_origin_partition"].clone(), seen.headers["hw_origin_offset"].clone());
        assert_eq!(*places.entry(place).or_insert(seen), seen, "a repeated letter is as it was");
    }
    assert_eq!(i64::try_from(places.len()).unwrap_or_default(), expected, "letters on the topic of {group}");
    sent.len() - places.len()
}

/// A letter without what is each copy's own: its place, its moments and its span.
fn timeless(mut seen: ConsumedRecord) -> ConsumedRecord {
    (seen.place, seen.timestamp_ms, seen.raw) = ((0, 0), 0, Vec::new());
    seen.headers.retain(|name, _| !["hw_first_failed", "traceparent"].contains(&name.as_str()));
    seen
}

/// Foreign payments on 6 partitions flow to `orders` while `run` is killed again and again, one in
/// twenty of them failing twice at the warehouse and one in fifty unreadable: each is one row or one dead letter, an insert
/// sink beside it holds no place twice and misses none, and an order's event is repeated only under its own id.
/// 40,000 payments and 8 kills; 1,000,000 and 24 with `HEADWATER_TESTS=full`.
/// Red when positions are committed before their records are processed, when rows and their offsets are two transactions
/// (`points` strikes between them each time), or when a record that waits on a retry topic counts as done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_and_repeat_nothing_but_equal_ids() {
    let (count, kills) = if full() { (1_000_000_i64, 24_u8) } else { (40_000, 8) };
    let (stack, space) = own_warehouse("kills").await;
    let (topic, foreign, payments) = applied(&space, 6, CONFIG).await;
    faults(&space, Some(json!({"status": 503, "first": 2, "ratio": 0.05}))).await;
    for n in 0..count {
        let order = format!("k-{n}");
        let value = match Kind::of(n) {
            Kind::Unreadable => order.clone().into_bytes(),
            kind => payments.value(&order, 100, (kind == Kind::Good).then_some("a@example.org")),
        };
        foreign.send(&topic, Some(&order), Some(&value), &[]);
    }
    foreign.flush();

    let (unreadable, without_email) = (Kind::Unreadable.among(count), Kind::WithoutEmail.among(count));
    let readable = count - unreadable;
    let orders = async || space.count("select count(*) from orders where order_id like 'k-%'").await;
    let mut process = Process::start(PROGRAM, &space, "run", &["run"], &[]);
    for kill in 1..=kills {
        grows("orders before a kill", readable * i64::from(kill) / i64::from(kills + 1), &orders).await;
        // Not always just behind the commit that reached the target.
        tokio::time::sleep(Duration::from_millis(u64::from(kill % 8) * 7)).await;
        process.kill().await;
        process = Process::start(PROGRAM, &space, "run", &["run"], &[]);
    }
    grows("every payment is an order", readable, &orders).await;
    let paid = async || space.count("select count(*) from payments_log where order_id like 'k-%'").await;
    grows("every payment is logged", readable, &paid).await;
    for group in ["fulfil-order", "send-receipt", "payments-log"].map(|group| format!("{}.{group}", space.name)) {
        let mut topics = vec![topic.clone()];
        topics.extend(
            ["200ms", "400ms"].iter().filter(|_| !group.ends_with("log")).map(|delay| format!("{group}.retry.{delay}")),
        );
        for topic in topics {
            let through = async || foreign.passed(&group, &topic) == foreign.ends(&topic);
            eventually(&format!("{group} is through with {topic}"), SOON, through).await;
        }
    }

    let ids = published(&foreign);
    assert_eq!(i64::try_from(ids.len()).unwrap_or_default(), readable, "every order has its event");
    assert!(ids.values().all(|ids| ids.iter().all(|id| *id == ids[0])), "a repeated event has the id of the first");
    let logged = async || space.count("select count(*) from orders_log where order_id like 'k-%'").await;
    let events = i64::try_from(ids.values().map(Vec::len).sum::<usize>()).unwrap_or_default();
    grows("every event is logged", events, &logged).await;
    let mut again = 0;
    for (group, expected) in
        [("fulfil-order", unreadable), ("payments-log", unreadable), ("send-receipt", unreadable + without_email)]
    {
        again += letters(&space, &foreign, &topic, group, expected).await;
    }
    let retried = foreign.ends(&format!("{}.fulfil-order.retry.200ms", space.name));
    assert!(process.stop().await.success(), "{}", process.log());

    assert_eq!((orders().await, paid().await, logged().await), (readable, readable, events));
    for table in ["orders_log", "payments_log"] {
        let twice = format!("select count(*) - count(distinct (hw_topic, hw_partition, hw_offset)) from {table}");
        assert_eq!(space.count(&twice).await, 0, "{table} holds no place twice");
    }
    println!(
        "{count} payments, {kills} kills: {retried} retries, {} letters; repeated: {} events of orders, {again} letters",
        3 * unreadable + without_email,
        events - readable
    );
    stack.stop().await.expect("stopped");
}
