//! Keyed state on real servers: exactly once through kills, or at least once, restored anywhere, and readable.

mod crash_points;
mod dynamic_membership;
mod faults;
mod offsets;
mod reading;
mod rebalance;
mod replays;
mod steps;

pub(crate) use {reading::all_of, replays::only_rise};

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use headwater::{
    Payload,
    spi::codec::{self, WriterSchema},
};
use headwater_schemas::{CustomerFlagged, CustomerTotalled};
use headwater_tests::{ConsumedRecord, ForeignClient, Payments, Process, Space, eventually, full};
use serde_json::Value as Json;

use crate::{PROGRAM, failure::retry::applied};

pub(crate) const SOON: Duration = Duration::from_mins(2);
pub(crate) const STATEFUL: [&str; 2] = ["flag-big-spender", "customer-totals"];
/// A dead process's transaction is over soon.
const CONFIG: &str = "[kafka.producer]\ntransaction_timeout = \"3s\"\n";

/// A shop whose payments stand on a topic of their own.
pub(crate) struct Shop {
    pub(crate) space: Space,
    pub(crate) foreign: ForeignClient,
    payments: Payments,
    topic: String,
    /// Where `events.customer` began.
    since: Vec<i64>,
    /// What each customer has paid: number and sum.
    pub(crate) paid: BTreeMap<String, (i64, i64)>,
    sent: i64,
    /// Whether outputs may come again.
    at_least_once: bool,
}

impl Shop {
    pub(crate) async fn new(name: &str) -> Self {
        Self::of(crate::space(name).await).await
    }

    pub(crate) async fn of(space: Space) -> Self {
        Self::with(space, "").await
    }

    /// With more of a configuration.
    pub(crate) async fn with(space: Space, config: &str) -> Self {
        let (topic, foreign, payments) = applied(&space, 6, &format!("{CONFIG}{config}")).await;
        let since = foreign.watermarks("events.customer").into_iter().map(|(_, end)| end).collect();
        Self { space, foreign, payments, topic, since, paid: BTreeMap::new(), sent: 0, at_least_once: false }
    }

    /// So many more payments, of `customers` customers in turn; every order is another one.
    pub(crate) fn pay(&mut self, count: i64, customers: i64) {
        for n in self.sent..self.sent + count {
            self.pay_one(&format!("{}-{}", self.space.name, n % customers), n % 97 + 1);
        }
        self.foreign.flush();
    }

    /// One more payment of this customer.
    pub(crate) fn pay_one(&mut self, customer: &str, cents: i64) {
        let order = format!("{}-order-{}", self.space.name, self.sent);
        let value = self.payments.value_of(customer, &order, cents, None);
        self.foreign.send(&self.topic, Some(&order), Some(&value), &[]);
        let paid = self.paid.entry(customer.to_owned()).or_default();
        *paid = (paid.0 + 1, paid.1 + cents);
        self.sent += 1;
    }

    fn start(&self, instance: &str) -> Process {
        self.start_with(instance, &[])
    }

    pub(crate) fn start_with(&self, instance: &str, more: &[(&str, &str)]) -> Process {
        let args: Vec<&str> = ["run"].into_iter().chain(STATEFUL.into_iter().flat_map(|g| ["--group", g])).collect();
        Process::start(PROGRAM, &self.space, instance, &args, &[&[("HEADWATER__INSTANCE", instance)], more].concat())
    }

    pub(crate) fn group(&self, name: &str) -> String {
        format!("{}.{name}", self.space.name)
    }

    /// The totals that committed transactions have announced, by customer, in their order.
    fn totals(&self) -> HashMap<String, Vec<(i64, i64)>> {
        let mut totals: HashMap<String, Vec<(i64, i64)>> = HashMap::new();
        for total in self.announced::<CustomerTotalled>() {
            totals.entry(total.customer_id).or_default().push((total.payments, total.total_cents));
        }
        totals
    }

    /// What committed transactions have announced of our customers.
    fn announced<T: Payload>(&self) -> Vec<T> {
        let schema = WriterSchema::parse(0, T::SCHEMA, &[]).expect("a schema");
        let ours = |seen: &ConsumedRecord| {
            let customer = String::from_utf8_lossy(seen.key.as_deref().unwrap_or_default()).into_owned();
            seen.headers.get("ce_type").is_some_and(|name| name == T::TYPE) && self.paid.contains_key(&customer)
        };
        let read = |seen: ConsumedRecord| {
            let (_, datum) = codec::split(seen.value.as_deref().expect("a value")).expect("confluent's wire format");
            schema.decode(datum).expect("an event of its type")
        };
        self.foreign.read_since("events.customer", &self.since).into_iter().filter(ours).map(read).collect()
    }

    /// How many outputs there are, each of those that came more often once.
    fn distinct(&self) -> usize {
        self.totals().into_values().map(|seen| seen.into_iter().collect::<BTreeSet<_>>().len()).sum()
    }

    /// Whether every payment has been announced; at least once, and is kept.
    pub(crate) fn is_through(&self) -> bool {
        let sent = usize::try_from(self.sent).unwrap();
        if self.at_least_once {
            return self.distinct() >= sent && self.kept() == self.paid;
        }
        self.totals().values().map(Vec::len).sum::<usize>() >= sent
    }

    /// What must hold once everything has gone through: the outputs, and the changelog, are a fold of the payments.
    pub(crate) fn check(&self) {
        if self.at_least_once {
            return self.check_repeated();
        }
        self.check_once();
    }

    /// The same, and no output has come again.
    fn check_once(&self) {
        let totals = self.totals();
        for (customer, (payments, cents)) in &self.paid {
            let seen = &totals[customer];
            let numbers: Vec<i64> = seen.iter().map(|(number, _)| *number).collect();
            assert_eq!(numbers, (1..=*payments).collect::<Vec<_>>(), "{customer}: each once, in order");
            assert_eq!(seen.last().map(|(_, sum)| *sum), Some(*cents), "{customer}");
        }
        let flagged: HashMap<String, usize> =
            self.announced::<CustomerFlagged>().into_iter().fold(HashMap::new(), |mut all, flagged| {
                *all.entry(flagged.customer_id).or_default() += 1;
                all
            });
        let spenders = self.paid.iter().filter(|(_, (_, cents))| *cents >= 100_000);
        assert_eq!(flagged, spenders.map(|(customer, _)| (customer.clone(), 1)).collect());
        assert_eq!(self.kept(), self.paid, "the changelog");
    }

    /// What the changelog of totals keeps of each customer.
    fn kept(&self) -> BTreeMap<String, (i64, i64)> {
        let records = self.foreign.read(&format!("{}.totals.changelog", self.group("customer-totals")));
        let mut kept = BTreeMap::new();
        for ConsumedRecord { key, value, .. } in records {
            let key = String::from_utf8(key.expect("a key")).expect("text");
            let Some(value) = value else {
                kept.remove(&key);
                continue;
            };
            let (_, state) = headwater::spi::show(&value).expect("a state");
            kept.insert(key, (number(&state, "payments"), number(&state, "cents")));
        }
        // Payments of other tests come in over `events.payment`.
        kept.retain(|customer, _| self.paid.contains_key(customer));
        kept
    }
}

fn number(json: &Json, field: &str) -> i64 {
    json[field].as_i64().unwrap_or_else(|| panic!("{field} in {json}"))
}

/// Two instances are killed in turn at any moment of a transaction; who reads committed records sees every output
/// once, and what is kept is a fold of the input.
/// Red when the offsets travel outside of the transaction, when an output is published before it, or when the local store
/// is written before it.
#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_outputs_and_state_are_exact() {
    let kills = if full() { 20 } else { 5 };
    killed_at_any_moment(Shop::new("state_kills").await, kills).await;
}

/// Two instances are killed in turn, so often.
async fn killed_at_any_moment(mut shop: Shop, kills: u64) {
    let each = if full() { 3_000 } else { 1_000 };
    let mut running = [shop.start("one"), shop.start("two")];
    for kill in 0..kills {
        shop.pay(each, 40);
        let before = shop.distinct();
        // Not before something is under way, and then after a time that is another one each time.
        eventually("outputs come", SOON, async || shop.distinct() > before).await;
        tokio::time::sleep(Duration::from_millis(kill * 37 % 211)).await;
        let (at, name) = if kill % 2 == 0 { (0, "one") } else { (1, "two") };
        running[at].kill().await;
        running[at] = shop.start(name);
    }
    shop.pay(100, 40);
    eventually("everything has gone through", SOON * 2, async || shop.is_through()).await;
    shop.check();
    for mut process in running {
        assert!(process.stop().await.success(), "{}", process.log());
    }
    shop.check();
}

/// The owner is killed and its disk with it; another instance restores its state from the changelog and goes on.
/// Red when a store is not restored before its partition is processed: totals would begin anew.
#[tokio::test(flavor = "multi_thread")]
async fn another_instance_goes_on_with_the_state_of_a_lost_disk() {
    let mut shop = Shop::new("state_disk").await;
    let mut first = shop.start("one");
    shop.pay(600, 25);
    eventually("all have been totalled", SOON, async || shop.is_through()).await;
    first.kill().await;
    std::fs::remove_dir_all(shop.space.dir.join("one")).expect("the state of the first");
    shop.pay(600, 25);
    let mut second = shop.start("two");
    eventually("all have been totalled", SOON, async || shop.is_through()).await;
    shop.check();
    assert!(second.stop().await.success());
}

/// A restart reads only what has come since: the local disk is kept, and nothing is restored from the beginning.
/// Red when a stop does not write what waits, or a start wipes what is there.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_from_the_local_disk() {
    let mut shop = Shop::new("state_restart").await;
    let mut process = shop.start("one");
    shop.pay(500, 20);
    eventually("all have been totalled", SOON, async || shop.is_through()).await;
    assert!(process.stop().await.success());
    shop.pay(100, 20);
    let since = Instant::now();
    let mut process = shop.start("one");
    eventually("all have been totalled", SOON, async || shop.is_through()).await;
    shop.check();
    assert!(!process.log().contains("from the beginning"), "after {:?}: {}", since.elapsed(), process.log());
    assert!(process.stop().await.success());
}

/// The files of one group's state are damaged: they are put aside, its state is restored from the changelog, and the other group
/// never noticed. Red when damage refuses the group or the process, or the folder is not begun anew.
#[tokio::test(flavor = "multi_thread")]
async fn damaged_state_is_restored_and_takes_no_other_group_with_it() {
    let mut shop = Shop::new("state_damaged").await;
    let mut process = shop.start("one");
    shop.pay(300, 20);
    eventually("all have been totalled", SOON, async || shop.is_through()).await;
    assert!(process.stop().await.success());
    let folder = shop.space.dir.join("one").join(shop.group("customer-totals"));
    std::fs::write(folder.join("version"), "scribble").expect("damaged");
    let mut process = shop.start("one");
    shop.pay(300, 20);
    eventually("all have been totalled", SOON, async || shop.is_through()).await;
    shop.check();
    let aside = folder.with_file_name(format!(".damaged-{}", shop.group("customer-totals")));
    assert_eq!(std::fs::read(aside.join("version")).expect("put aside"), b"scribble");
    assert!(process.log().contains("damaged state was put aside"), "{}", process.log());
    assert!(process.stop().await.success());
}
