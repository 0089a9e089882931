//! kill -9, again and again: nothing is lost, and what must be there once is there once.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use headwater_tests::{Foreign, Payments, Process, full};

use crate::{PROGRAM, space};

/// What has not grown for so long does not grow any more.
const STUCK: Duration = Duration::from_secs(90);

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
        assert!(since.elapsed() < STUCK, "stuck at {now} of {target}: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// SPEC C9, PITFALLS 4. Foreign payments on 6 partitions flow to `orders` while `run` is killed again and again: each is one
/// row, an insert sink beside it holds no place twice and misses none, and an order's event is repeated only under its own id.
/// 100,000 payments and 8 kills; 1,000,000 and 24 with `HEADWATER_TESTS=full`.
/// Red when positions are committed before their records are processed, or rows in a transaction before their offsets'.
/// (The other way round it is red only when a kill happens to fall between the two.)
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_lose_nothing_and_repeat_nothing_but_equal_ids() {
    let (count, kills) = if full() { (1_000_000, 24_u8) } else { (100_000, 8) };
    let space = space("kills").await;
    let topic = space.topic("payments");
    space.create_topics(&[&topic], 6).await;
    let config = format!(
        "[topics.\"{topic}\"]\ntype = \"payment.completed\"\n\
         [sinks.orders-log]\nevent = \"order.fulfilled\"\ntable = \"orders_log\"\nmode = \"insert\"\n\
         [sinks.payments-log]\nevent = \"payment.completed\"\ntable = \"payments_log\"\nmode = \"insert\"\n"
    );
    std::fs::write(space.dir.join("headwater.toml"), config).expect("written");
    let (code, _, err) = Process::run(PROGRAM, &space, &["topology", "apply"], &[], "").await;
    assert_eq!(code, 0, "{err}");
    let (foreign, payments) = (Foreign::new(&space), Payments::register(&space, &topic).await);
    for n in 0..count {
        let order = format!("k-{n}");
        foreign.send(&topic, Some(&order), Some(&payments.value(&order, 100, Some("a@example.org"))), &[]);
    }
    foreign.flush();

    let orders = async || space.count("select count(*) from orders where order_id like 'k-%'").await;
    let mut process = Process::start(PROGRAM, &space, "run", &["run"], &[]);
    for kill in 1..=kills {
        let target = i64::from(count) * i64::from(kill) / i64::from(kills + 1);
        grows("orders before a kill", target, &orders).await;
        // Not always just behind the commit that reached the target.
        tokio::time::sleep(Duration::from_millis(u64::from(kill % 8) * 7)).await;
        process.kill().await;
        process = Process::start(PROGRAM, &space, "run", &["run"], &[]);
    }
    grows("every payment is an order", i64::from(count), &orders).await;
    let paid = async || space.count("select count(*) from payments_log where order_id like 'k-%'").await;
    grows("every payment is logged", i64::from(count), &paid).await;

    let sent = foreign.read("events.order");
    let mut ids: HashMap<_, Vec<_>> = HashMap::new();
    for seen in sent.iter().filter(|seen| seen.key.as_deref().is_some_and(|key| key.starts_with(b"k-"))) {
        ids.entry(seen.key.clone()).or_default().push(seen.headers["ce_id"].clone());
    }
    assert_eq!(ids.len(), usize::try_from(count).unwrap_or_default(), "every order has its event");
    assert!(ids.values().all(|ids| ids.iter().all(|id| *id == ids[0])), "a repeated event has the id of the first");
    let logged = || async { space.count("select count(*) from orders_log where order_id like 'k-%'").await };
    let events = i64::try_from(ids.values().map(Vec::len).sum::<usize>()).unwrap_or_default();
    grows("every event is logged", events, &logged).await;
    assert!(process.stop().await.success(), "{}", process.log());

    assert_eq!((orders().await, paid().await, logged().await), (i64::from(count), i64::from(count), events));
    for table in ["orders_log", "payments_log"] {
        let twice = format!("select count(*) - count(distinct (hw_topic, hw_partition, hw_offset)) from {table}");
        assert_eq!(space.count(&twice).await, 0, "{table} holds no place twice");
    }
    println!("{count} payments, {kills} kills, {} events of orders repeated", events - i64::from(count));
}
