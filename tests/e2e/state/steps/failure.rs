//! Stateful steps that fail: what waits keeps its order, and what is sent back finds its key.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use headwater::{
    KeyedBy, Ladder, OrReject as _, OrRetry as _, Order, Pipeline, Policy, Result,
    spi::{DeadLetter, DeadLetterKind, partition_for},
    with,
};
use headwater_schemas::CustomerTotalled;
use headwater_tests::{RawRecord, eventually};

use super::{Entry, Ledger, PARTITIONS, SOON, Sum, fold, sum};

/// Fails the second entry of everybody twice, as no pure function does.
#[derive(Clone, Default)]
struct FlakyStep(Arc<Mutex<HashMap<String, Vec<Instant>>>>);

fn shaky(shaky: &FlakyStep, state: &mut Sum, entry: Entry) -> Result<CustomerTotalled> {
    let done = sum(state, entry.clone())?;
    if entry.amount_cents == 2 && entry.customer_id.ends_with("slow") {
        let mut all = shaky.0.lock().unwrap();
        let tries = all.entry(entry.customer_id).or_default();
        tries.push(Instant::now());
        // The state is changed already: what fails must leave nothing of that.
        (tries.len() > 2).then_some(()).or_retry("not yet")?;
    }
    Ok(done)
}

/// A step asks for another attempt after it has changed its state. Its key's later entries wait
/// behind it and follow in order, nothing of the failed attempts is kept, and nothing is a letter. Under the order `key`, which
/// is the standard, everybody else goes on; under `partition` those of other partitions do.
/// Red when what a stateful step fails leaves its place for a retry topic, when a failed attempt leaves its change, or when the
/// standard is another order.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_that_a_step_asks_for_keeps_the_order_of_its_key() {
    let ledger = Ledger::new("keyed_retry", 3).await;
    let policy = Policy::new().ladder(Ladder::try_new([2, 3].map(Duration::from_secs)).expect("a ladder"));
    let (queued, held) = (FlakyStep::default(), FlakyStep::default());
    let step = |tries: &FlakyStep| with(tries.clone(), shaky).keyed_by(|entry: &Entry| entry.customer_id.clone());
    let pipeline = Pipeline::default()
        .on("queued", step(&queued))
        .policy("queued", policy.clone())
        .on("held", step(&held))
        .policy("held", policy.order(Order::Partition));
    let pipeline = ledger.open(pipeline).await;
    let engine = ledger.start(&pipeline).await;
    let partition = |customer: &str| partition_for(ledger.name(customer).as_bytes(), PARTITIONS);
    let quick: Vec<String> = (0..12).map(|n| format!("q{n}")).collect();
    let (beside, elsewhere): (Vec<_>, Vec<_>) =
        quick.iter().cloned().partition(|name| partition(name) == partition("slow"));
    assert!(!beside.is_empty() && !elsewhere.is_empty(), "customers lie on its partition and on others");
    for cents in 1..=5 {
        ledger.enter("slow", cents);
        quick.iter().for_each(|customer| ledger.enter(customer, cents));
    }
    ledger.foreign.flush();
    for (group, tries, go_on) in [("queued", &queued, &quick), ("held", &held, &elsewhere)] {
        let early = |sums: &HashMap<String, Vec<(i64, i64)>>| {
            go_on.iter().all(|name| sums.get(name).is_some_and(|s| s.len() == 5))
        };
        eventually("what need not wait goes on", SOON, async || early(&ledger.sums(group))).await;
        assert!(tries.0.lock().unwrap()[&ledger.name("slow")].len() < 3, "{group}: it was early");
        assert_eq!(ledger.sums(group)["slow"].len(), 1, "{group}: what follows waits");
    }
    for (group, tries) in [("queued", &queued), ("held", &held)] {
        let sums = ledger.announced(group, 65).await;
        let tried = tries.0.lock().unwrap()[&ledger.name("slow")].clone();
        assert_eq!(tried.len(), 3, "{group}");
        assert!(tried[1] - tried[0] >= Duration::from_secs(2) && tried[2] - tried[1] >= Duration::from_secs(3));
        for customer in quick.iter().map(String::as_str).chain(["slow"]) {
            assert_eq!(sums[customer], fold(1..=5), "{group}: {customer}");
        }
        assert_eq!(ledger.foreign.read(&format!("{}.dlq", ledger.group(group))).len(), 0);
    }
    engine.stop().await;
}

/// Whether entries of 13 cents are refused.
#[derive(Clone, Default)]
struct RejectionSwitch(Arc<AtomicBool>);

fn strict(taboo: &RejectionSwitch, state: &mut Sum, entry: Entry) -> Result<CustomerTotalled> {
    let refused = entry.amount_cents == 13 && taboo.0.load(Ordering::Relaxed);
    let done = sum(state, entry)?;
    (!refused).then_some(done).or_reject("thirteen cents")
}

/// An entry that a step rejects leaves no change, and is a letter as it stood: with its
/// own key, which is not the state's. Sent back it changes the state of the right key, once, where that is kept.
/// Red when a letter that is sent back is not told to be resolved.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_is_sent_back_changes_the_state_of_its_key() {
    let ledger = Ledger::new("keyed_letter", 3).await;
    let taboo = RejectionSwitch(Arc::new(AtomicBool::new(true)));
    let step = with(taboo.clone(), strict).keyed_by(|entry: &Entry| entry.customer_id.clone());
    let pipeline = ledger.open(Pipeline::default().on("strict", step)).await;
    let engine = ledger.start(&pipeline).await;
    let customers: Vec<String> = (0..8).map(|n| format!("c{n}")).collect();
    let enter = |customer: &str, cents: i64| {
        // By orders, as the product's payments are.
        let order = format!("order-{customer}-{cents}");
        ledger.foreign.send(&ledger.topic, Some(&order), Some(&ledger.value(customer, cents)), &[]);
    };
    customers.iter().for_each(|customer| enter(customer, 1));
    ledger.foreign.flush();
    ledger.announced("strict", 8).await;
    customers.iter().for_each(|customer| enter(customer, 13));
    ledger.foreign.flush();
    let state = engine.state("strict");
    eventually("all of them are letters", SOON, async || state.letters(DeadLetterKind::Rejected) == 8).await;
    customers.iter().for_each(|customer| enter(customer, 20));
    ledger.foreign.flush();
    ledger.announced("strict", 16).await;

    taboo.0.store(false, Ordering::Relaxed);
    let dlq = format!("{}.dlq", ledger.group("strict"));
    for seen in ledger.foreign.read(&dlq) {
        let back = DeadLetter::read(&seen.record(&dlq), pipeline.catalogue()).redriven();
        let headers = back.headers.iter().map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect();
        let (partition, key, value) = (back.partition, back.key, back.value);
        ledger.foreign.send_raw(&back.topic, &RawRecord { partition, key, value, headers, ..RawRecord::default() });
    }
    ledger.foreign.flush();
    let sums = ledger.announced("strict", 24).await;
    engine.stop().await;
    for customer in &customers {
        assert_eq!(sums[customer], fold([1, 20, 13]), "{customer}");
    }
    let markers = ledger.foreign.read(&dlq).into_iter().filter(|seen| seen.headers.contains_key("hw_resolved"));
    assert_eq!(markers.count(), 8, "each is told to be resolved, once");
    for (customer, (partition, _)) in ledger.saved("strict") {
        assert_eq!(partition, partition_for(ledger.name(&customer).as_bytes(), PARTITIONS), "{customer}");
    }
}
