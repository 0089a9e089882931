//! A zombie, a broker that freezes, and kills while state is restored.

use std::{fs::DirEntry, path::Path, time::Duration};

use headwater::spi::partition_for;
use headwater_connectors::store::local::{LocalStore, StateConfig};
use headwater_dev::PostgresChoice;
use headwater_tests::{Process, RawRecord, SharedStack, Space, eventually, full};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{sleep, timeout};

use super::{SOON, STATEFUL, Shop};
use crate::{PROGRAM, faults::outage::own_stack, shared};

impl Shop {
    fn outputs(&self) -> usize {
        self.totals().values().map(Vec::len).sum()
    }

    /// So many more payments, and waits until one is announced: looked at before they are sent, or all might be already.
    pub(super) async fn goes_on(&mut self, count: i64) {
        let before = self.distinct();
        self.pay(count, 40);
        eventually("outputs come", SOON, async || self.distinct() > before).await;
    }
}

/// One of two instances is frozen amid its transactions for longer than its session, the
/// other takes all partitions, and the first thaws. Every output is there once, in order, and what is kept is a fold of the
/// input.
/// Red when offsets are not part of the transaction. No other single break is: the zombie's generation, its epoch and what its
/// successor waits for each keep it out.
#[tokio::test(flavor = "multi_thread")]
async fn a_zombie_adds_nothing_to_outputs_or_state() {
    let rounds = if full() { 8 } else { 2 };
    let mut shop = Shop::new("state_zombie").await;
    let (mut zombie, mut other) = (shop.start("one"), shop.start("two"));
    shop.pay(100, 40);
    eventually("all have been totalled", SOON, async || shop.is_through()).await;
    for round in 0..rounds {
        shop.goes_on(2_000).await;
        sleep(Duration::from_millis(round * 41 % 97)).await;
        zombie.signal(Signal::STOP);
        shop.pay(500, 40);
        eventually("the other has taken over", SOON, async || shop.is_through()).await;
        zombie.signal(Signal::CONT);
        shop.pay(500, 40);
        eventually("all have been totalled", SOON, async || shop.is_through()).await;
        shop.check();
    }
    for process in [&mut zombie, &mut other] {
        assert!(process.stop().await.success(), "{}", process.log());
    }
    shop.check();
}

/// The broker, and with it the coordinator, freezes at any moment of a transaction, once for longer than
/// the transaction may take, and once for longer than anybody waits for it. How the transaction ended nobody knows then;
/// whatever it was, outputs are there once, and what is kept is a fold of the input.
/// Red when a commit that is not confirmed counts as done.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_freezes_amid_transactions_costs_nothing() {
    let frozen: &[u64] = if full() { &[4, 11, 5, 12, 4, 11, 6, 10] } else { &[4, 10] };
    let mut stack = own_stack("state_frozen", |config| {
        config.postgres = PostgresChoice::At(shared().endpoints.database_url.clone());
    })
    .await;
    let broker = stack.kafka().and_then(|kafka| kafka.pid()).and_then(|pid| Pid::from_raw(pid.cast_signed()));
    let broker = broker.expect("it runs");
    let at = SharedStack::at(stack.endpoints().clone(), shared().data.clone());
    let mut shop = Shop::of(Space::new(&at, "state_frozen").await).await;
    // It stays a member all the while: what is looked at are its transactions.
    let mut process = shop.start_with("one", &[("HEADWATER__KAFKA__CONSUMER__SESSION_TIMEOUT", "45s")]);
    for (round, seconds) in (0..).zip(frozen) {
        shop.goes_on(3_000).await;
        sleep(Duration::from_millis(round * 53 % 97)).await;
        kill_process(broker, Signal::STOP).expect("frozen");
        sleep(Duration::from_secs(*seconds)).await;
        kill_process(broker, Signal::CONT).expect("thawed");
    }
    shop.pay(100, 40);
    eventually("all have been totalled", SOON, async || shop.is_through()).await;
    shop.check();
    assert!(process.stop().await.success(), "{}", process.log());
    shop.check();
    shop.space.pool.close().await;
    stack.stop().await.expect("stopped");
}

/// Killed while state is restored, more than once, and each time there is the beginning of a partition on the
/// disk. The next start goes on from there, and every key has its state.
/// Red when what was restored half counts as whole.
#[tokio::test(flavor = "multi_thread")]
async fn killed_in_the_middle_of_a_restore_nothing_is_missing() {
    let (keys, strikes) = if full() { (1_500_000, 5) } else { (200_000, 2) };
    let mut shop = Shop::new("state_middle").await;
    let mut process = shop.start("one");
    shop.pay(3, 1);
    eventually("all have been totalled", SOON, async || shop.is_through()).await;
    assert!(process.stop().await.success());
    std::fs::remove_dir_all(shop.space.dir.join("one")).expect("the disk is lost");

    let (group, customer) = (shop.group("customer-totals"), |n: usize| format!("{}-much-{n}", shop.space.name));
    let changelog = format!("{group}.totals.changelog");
    let value = shop.foreign.read(&changelog).pop().and_then(|seen| seen.value);
    let (_, cents) = shop.paid.values().next().copied().expect("one customer");
    let partitions = i32::try_from(shop.foreign.watermarks(&changelog).len()).expect("few");
    for n in 0..keys {
        let key = customer(n).into_bytes();
        let partition = Some(partition_for(&key, partitions));
        shop.foreign.send_raw(
            &changelog,
            &RawRecord { partition, key: Some(key), value: value.clone(), ..RawRecord::default() },
        );
    }
    shop.foreign.flush();
    // It has no offset of most numbers, and would not go on with state of theirs.
    shop.reset(&["--to", "latest", "--keep-state"]).await;

    let ends: Vec<i64> = shop.foreign.watermarks(&changelog).into_iter().map(|(_, end)| end).collect();
    let dir = shop.space.dir.join("one").join(&group);
    // Chunks so small that a restore takes a while, and writes often how far it is.
    let slow = [("HEADWATER__INSTANCE", "one"), ("HEADWATER__STATE__RESTORE_BYTES", "65536")];
    let args: Vec<&str> = ["run"].into_iter().chain(STATEFUL.into_iter().flat_map(|g| ["--group", g])).collect();
    let (mut struck, mut patience) = (0, 0..40);
    while struck < strikes {
        let attempt = patience.next().expect("some kills strike in the middle");
        // A log of its own, so that neither its address nor what it says is another's.
        let mut process = Process::start(PROGRAM, &shop.space, &format!("restore-{attempt}"), &args, &slow);
        let before = size(&dir);
        let written = || size(&dir) > before + 500_000 || process.log().contains("restoring state: ");
        let writes = async {
            while !written() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        // Where little is left it never writes so much, and files that are put together let the folder shrink.
        let _ = timeout(Duration::from_secs(10), writes).await;
        process.kill().await;
        let disk = LocalStore::open(&dir, &StateConfig::default()).expect("a disk that opens");
        let reached = |partition| disk.checkpoint("totals", partition).expect("it reads").map_or(0, |at| at.next);
        let half = (0..).zip(&ends).filter(|(partition, end)| (1..**end).contains(&reached(*partition))).count();
        struck += u64::from(half > 0);
        let whole = (0..).zip(&ends).all(|(partition, end)| reached(partition) >= *end);
        drop(disk);
        if whole && struck < strikes {
            std::fs::remove_dir_all(shop.space.dir.join("one")).expect("it begins again");
        }
    }
    let mut process = Process::start(PROGRAM, &shop.space, "one", &args, &slow);
    let sample: Vec<String> = (0..keys).step_by(keys / 200).map(customer).collect();
    for (n, customer) in sample.iter().enumerate() {
        let order = format!("{customer}-order-{n}");
        let value = shop.payments.value_of(customer, &order, 7, None);
        shop.foreign.send(&shop.topic, Some(&order), Some(&value), &[]);
    }
    shop.foreign.flush();
    shop.paid.extend(sample.iter().map(|customer| (customer.clone(), (4, cents + 7))));
    eventually("all have been totalled", SOON, async || shop.outputs() >= 3 + sample.len()).await;
    let totals = shop.totals();
    for customer in &sample {
        assert_eq!(totals[customer], [(4, cents + 7)], "{customer}");
    }
    assert!(process.stop().await.success(), "{}", process.log());
}

/// Bytes of the files in a folder and those in it.
fn size(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    // One that is gone meanwhile has none.
    let of = |entry: DirEntry| match entry.metadata() {
        Ok(file) if file.is_dir() => size(&entry.path()),
        Ok(file) => file.len(),
        Err(_) => 0,
    };
    entries.map(of).sum()
}
