//! Stateful steps and Kafka transactions in the test's own process: what a key is, what a restore believes, and what a
//! crash leaves.

mod failure;
mod out_of_order;
mod restore;
mod shared_store;

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use headwater::{
    Binding, KeyFormat, KeyedBy, Payload, Pipeline, Result, State,
    spi::{
        Topology,
        codec::{self, WriterSchema},
    },
};
use headwater_schemas::CustomerTotalled;
use headwater_tests::{ConsumedRecord, Engine, ForeignClient, Group, Payments, Space, eventually, register};
use serde::{Deserialize, Serialize};

use crate::space;

const SOON: Duration = Duration::from_mins(1);
/// Partitions of the topics that the groups own.
const PARTITIONS: i32 = 3;

/// A payment by another name, so that no other test's come in.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    order_id: String,
    customer_id: String,
    amount_cents: i64,
}

impl Payload for Entry {
    const TYPE: &'static str = "ledger.entered";
    const SCHEMA: &'static str = include_str!("../../../schemas/avro/payment.completed/v1.avsc");

    fn key(&self) -> &str {
        &self.order_id
    }
}

/// What is kept of a key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct Sum {
    entries: i64,
    cents: i64,
}

impl State for Sum {
    const NAME: &'static str = "sums";
}

fn sum(sum: &mut Sum, entry: Entry) -> Result<CustomerTotalled> {
    sum.entries += 1;
    sum.cents += entry.amount_cents;
    Ok(CustomerTotalled { customer_id: entry.customer_id, payments: sum.entries, total_cents: sum.cents })
}

/// Entries on a topic of their own, and what comes of them.
struct Ledger {
    space: Space,
    topic: String,
    foreign: ForeignClient,
    payments: Payments,
    how: Group,
    /// Where `events.customer` began.
    since: Vec<i64>,
}

impl Ledger {
    async fn new(name: &str, partitions: i32) -> Self {
        let space = space(name).await;
        let topic = space.topic("entries");
        space.create_topics(&[&topic], partitions).await;
        space.create_topics(&["events.ledger", "events.customer", "events.receipt"], 6).await;
        let (foreign, payments) = (ForeignClient::new(&space), Payments::register(&space, &topic).await);
        let since = foreign.watermarks("events.customer").into_iter().map(|(_, end)| end).collect();
        let how = Group::of(&space);
        Self { space, topic, foreign, payments, how, since }
    }

    /// Reads our entries in this pipeline, and makes what it needs.
    async fn open(&self, pipeline: Pipeline) -> Pipeline {
        let binding = Binding { event_type: Entry::TYPE.to_owned(), key: KeyFormat::Text };
        let pipeline = pipeline.bind(&self.topic, binding);
        self.how.make_topics(&self.space, &pipeline, PARTITIONS, 1_048_588).await;
        for subject in Topology::of(&pipeline).subjects {
            register(&self.space, &subject.name, subject.schema).await;
        }
        self.space.migrate().await;
        pipeline
    }

    async fn start(&self, pipeline: &Pipeline) -> Engine {
        Engine::start(&self.space, &self.space.migrate().await, pipeline, &self.how)
    }

    /// A customer's name.
    fn name(&self, customer: &str) -> String {
        format!("{}-{customer}", self.space.name)
    }

    fn group(&self, name: &str) -> String {
        format!("{}.{name}", self.space.name)
    }

    fn value(&self, customer: &str, cents: i64) -> Vec<u8> {
        self.payments.value_of(&self.name(customer), &format!("order-{cents}"), cents, None)
    }

    /// An entry of a customer, by whose name it is keyed.
    fn enter(&self, customer: &str, cents: i64) {
        let key = self.name(customer);
        self.foreign.send(&self.topic, Some(&key), Some(&self.value(customer, cents)), &[]);
    }

    /// What a step has announced of each customer of ours, in order: number and sum.
    fn sums(&self, step: &str) -> HashMap<String, Vec<(i64, i64)>> {
        let schema = WriterSchema::parse(0, CustomerTotalled::SCHEMA, &[]).expect("a schema");
        let prefix = self.name("");
        let mut sums: HashMap<String, Vec<(i64, i64)>> = HashMap::new();
        for ConsumedRecord { key, value, headers, .. } in self.foreign.read_since("events.customer", &self.since) {
            let key = String::from_utf8_lossy(key.as_deref().unwrap_or_default()).into_owned();
            let source = headers.get("ce_source").map_or("", String::as_str);
            let Some(customer) = key.strip_prefix(&prefix).filter(|_| source == format!("headwater/{step}")) else {
                continue;
            };
            let (_, datum) = codec::split(value.as_deref().expect("a value")).expect("confluent's wire format");
            let total: CustomerTotalled = schema.decode(datum).expect("an event of its type");
            sums.entry(customer.to_owned()).or_default().push((total.payments, total.total_cents));
        }
        sums
    }

    /// Waits until a step has announced so many sums.
    async fn announced(&self, step: &str, count: usize) -> HashMap<String, Vec<(i64, i64)>> {
        let all = || self.sums(step).values().map(Vec::len).sum::<usize>();
        eventually(&format!("{step} has announced {count} sums"), SOON, async || all() >= count).await;
        self.sums(step)
    }

    /// The name of the changelog of sums.
    fn changelog(&self, group: &str) -> String {
        format!("{}.sums.changelog", self.group(group))
    }

    /// What the changelog of sums has of each customer last, as it is saved, and where.
    fn saved(&self, group: &str) -> BTreeMap<String, (i32, Option<Vec<u8>>)> {
        let mut saved = BTreeMap::new();
        for ConsumedRecord { key, value, place, .. } in self.foreign.read(&self.changelog(group)) {
            let key = String::from_utf8(key.expect("a key")).expect("text");
            let customer = key.strip_prefix(&self.name("")).expect("a customer of ours").to_owned();
            saved.insert(customer, (place.0, value));
        }
        saved
    }
}

/// Sums, by the customer that an entry names.
fn sums() -> Pipeline {
    Pipeline::default().on("sum", sum.keyed_by(|entry| entry.customer_id.clone()))
}

/// Numbers and sums of entries of these cents, in order.
fn fold(cents: impl IntoIterator<Item = i64>) -> Vec<(i64, i64)> {
    let add = |state: &mut (i64, i64), cents| {
        *state = (state.0 + 1, state.1 + cents);
        Some(*state)
    };
    cents.into_iter().scan((0, 0), add).collect()
}

/// Two clients hash the same keys with CRC32 and with murmur2, which puts them on different partitions. A step
/// by the record's key and one by a key that it says itself count each key once, whoever wrote it, and keep it in one place.
/// Red when a record that is not repartitioned yet is counted where it stands.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_clients_that_hash_differently_is_one_key() {
    let ledger = Ledger::new("keyed_hashes", 6).await;
    let pipeline = Pipeline::default().on("own", sum).on("said", sum.keyed_by(|entry| entry.customer_id.clone()));
    let pipeline = ledger.open(pipeline).await;
    let java = ForeignClient::hashing(&ledger.space, "murmur2_random");
    let customers: Vec<String> = (0..12).map(|n| format!("c{n}")).collect();
    for cents in 1..=10 {
        for customer in &customers {
            let client = if cents % 2 == 0 { &java } else { &ledger.foreign };
            let value = ledger.value(customer, cents);
            client.send(&ledger.topic, Some(&ledger.name(customer)), Some(&value), &[]);
        }
    }
    java.flush();
    ledger.foreign.flush();
    let mut places: HashMap<Vec<u8>, Vec<i32>> = HashMap::new();
    for seen in ledger.foreign.read(&ledger.topic) {
        places.entry(seen.key.expect("a key")).or_default().push(seen.place.0);
    }
    let apart = places.values().filter(|places| places.iter().any(|place| place != &places[0])).count();
    assert!(apart >= 6, "clients put most keys on two partitions: {apart} of 12");
    let engine = ledger.start(&pipeline).await;
    for step in ["own", "said"] {
        let sums = ledger.announced(step, 120).await;
        assert_eq!(sums.len(), 12);
        for (customer, sums) in sums {
            let numbers: Vec<i64> = sums.iter().map(|(number, _)| *number).collect();
            assert_eq!(numbers, (1..=10).collect::<Vec<_>>(), "{step}: {customer} is one key");
            assert_eq!(sums.last(), Some(&(10, 55)), "{step}: {customer}");
        }
        let changelog = ledger.foreign.read(&ledger.changelog(step));
        let mut kept: HashMap<Vec<u8>, i32> = HashMap::new();
        for seen in changelog {
            let key = seen.key.expect("a key");
            assert_eq!(*kept.entry(key).or_insert(seen.place.0), seen.place.0, "{step}: a key is kept in one place");
        }
    }
    engine.stop().await;
}
