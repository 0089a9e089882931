//! Transactions without state: what is finished ahead of a record that is not.

use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use headwater::{Payload, Pipeline, Result, spi::Metric, with};
use headwater_schemas::ReceiptRequested;
use headwater_tests::{RawRecord, eventually};
use tokio::sync::watch;

use super::{Entry, Ledger, SOON};

/// Holds the entry of so many cents, and counts those that it lets through.
#[derive(Clone)]
struct Barrier {
    open: watch::Receiver<bool>,
    passed: Arc<AtomicUsize>,
}

const HELD: i64 = 10;

async fn receipt(barrier: Barrier, entry: Entry) -> Result<ReceiptRequested> {
    let mut open = barrier.open.clone();
    if entry.amount_cents == HELD {
        // A barrier that is gone is open.
        let _ = open.wait_for(|open| *open).await;
    }
    barrier.passed.fetch_add(1, Ordering::Relaxed);
    let (payment_id, email) = (format!("pay-{}", entry.amount_cents), "a@example.org".to_owned());
    Ok(ReceiptRequested { payment_id, order_id: entry.order_id, email })
}

/// Record 10 of a partition is held, 11 to 20 are done, and several transactions commit what other partitions
/// have done; then the process is gone. Who reads committed records sees each output once in the end, and until then
/// nothing of 11 to 20: their offsets are not covered.
/// Red when what is finished ahead of the watermark goes into a transaction whose offsets do not cover it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_done_ahead_of_a_held_record_is_published_once_after_a_crash() {
    let mut ledger = Ledger::new("keyed_ahead", 3).await;
    ledger.how.exactly_once = true;
    let since: Vec<i64> = ledger.foreign.watermarks("events.receipt").into_iter().map(|(_, end)| end).collect();
    let (gate, open) = watch::channel(false);
    let barrier = Barrier { open, passed: Arc::default() };
    let pipeline = ledger.open(Pipeline::default().on("receipt", with(barrier.clone(), receipt))).await;
    let send = |partition: i32, from: i64, to: i64| {
        for cents in from..to {
            let order = ledger.name(&format!("{partition}-{cents}"));
            let value = ledger.payments.value_of("c", &order, cents, None);
            let (key, partition) = (Some(order.into_bytes()), Some(partition));
            ledger
                .foreign
                .send_raw(&ledger.topic, &RawRecord { partition, key, value: Some(value), ..RawRecord::default() });
        }
        ledger.foreign.flush();
    };
    let seen = || {
        let all = ledger.foreign.read_since("events.receipt", &since).into_iter();
        let ours = all.filter(|seen| seen.headers["ce_type"] == ReceiptRequested::TYPE);
        let orders = ours.filter_map(|seen| {
            let key = String::from_utf8(seen.key?).ok()?;
            Some(key.strip_prefix(&ledger.name(""))?.to_owned())
        });
        orders.collect::<Vec<_>>()
    };
    let engine = ledger.start(&pipeline).await;
    send(0, 0, 21);
    eventually("all but the held one are done", SOON, async || barrier.passed.load(Ordering::Relaxed) == 20).await;
    eventually("what is before it is published", SOON, async || seen().len() == 10).await;
    for round in 0..4 {
        let from = 100 + round * 10;
        send(1, from, from + 10);
        send(2, from, from + 10);
        let wanted = 10 + 20 * (usize::try_from(round).expect("small") + 1);
        eventually("other partitions go on", SOON, async || seen().len() >= wanted).await;
    }
    let orders = seen();
    let ahead: Vec<_> = orders.iter().filter(|order| order.starts_with("0-")).collect();
    assert_eq!((orders.len(), ahead.len()), (90, 10), "nothing that offsets do not cover is committed: {ahead:?}");
    let committed = ledger.foreign.committed(&ledger.group("receipt"), &ledger.topic, 3);
    assert_eq!(committed[0], HELD, "the offset stands before the held one");
    assert!(engine.state("receipt").get(Metric::Fenced) == 0);
    drop(engine);

    gate.send_replace(true);
    let engine = ledger.start(&pipeline).await;
    send(1, 200, 210);
    eventually("everything is through", SOON, async || {
        ledger.foreign.passed(&ledger.group("receipt"), &ledger.topic) == 21 + 80 + 10
    })
    .await;
    engine.stop().await;
    let orders = seen();
    let once: BTreeSet<_> = orders.iter().collect();
    assert_eq!((orders.len(), once.len()), (111, 111), "each output once");
}
