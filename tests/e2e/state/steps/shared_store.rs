//! Two steps that share a store, at least once: each reads a repartition topic of its own, in its own time.

use std::{collections::BTreeMap, time::Duration};

use headwater::{Group, KeyedBy, Order, Payload, Pipeline, Policy, Result, spi::codec::Encoder};
use headwater_schemas::CustomerTotalled;
use headwater_tests::{Engine, eventually, full, register};
use serde::{Deserialize, Serialize};

use super::{Ledger, SOON, Sum};
use crate::state::only_rise;

macro_rules! entry {
    ($name:ident, $type:literal) => {
        #[derive(Clone, Debug, Serialize, Deserialize)]
        struct $name {
            customer_id: String,
            amount_cents: i64,
        }

        impl Payload for $name {
            const TYPE: &'static str = $type;
            const SCHEMA: &'static str = concat!(
                r#"{"type":"record","namespace":"headwater.till","name":""#,
                stringify!($name),
                r#"","fields":[{"name":"customer_id","type":"string"},{"name":"amount_cents","type":"long"}]}"#
            );

            fn key(&self) -> &str {
                &self.customer_id
            }
        }
    };
}

entry!(Opened, "till.opened");
entry!(Closed, "till.closed");

fn add(sum: &mut Sum, customer_id: String, cents: i64) -> CustomerTotalled {
    sum.entries += 1;
    sum.cents += cents;
    CustomerTotalled { customer_id, payments: sum.entries, total_cents: sum.cents }
}

fn open(sum: &mut Sum, opened: Opened) -> Result<CustomerTotalled> {
    Ok(add(sum, opened.customer_id, opened.amount_cents))
}

fn close(sum: &mut Sum, closed: Closed) -> Result<CustomerTotalled> {
    Ok(add(sum, closed.customer_id, closed.amount_cents))
}

/// Tills that open and close: events of two types on one topic.
struct Tills {
    ledger: Ledger,
    /// How each type is written.
    writers: Vec<Encoder>,
    sent: i64,
    /// What each till has: number and sum.
    kept: BTreeMap<String, (i64, i64)>,
}

impl Tills {
    /// So many more of each, first of all that opens, then of all that closes.
    fn send(&mut self, count: i64) {
        for (writer, event_type) in self.writers.iter().zip([Opened::TYPE, Closed::TYPE]) {
            for n in self.sent..self.sent + count {
                let (till, cents) = (format!("t{}", n % 17), n % 97 + 1);
                let name = self.ledger.name(&till);
                let entry = Opened { customer_id: name.clone(), amount_cents: cents };
                let value = writer.encode(&entry).expect("it fits");
                self.ledger.foreign.send("events.till", Some(&name), Some(&value), &[("ce_type", event_type)]);
                let kept = self.kept.entry(till).or_default();
                *kept = (kept.0 + 1, kept.1 + cents);
            }
        }
        self.ledger.foreign.flush();
        self.sent += count;
    }

    async fn start(&mut self, pipeline: &Pipeline, instance: &str) -> Engine {
        self.ledger.how.instance = Some(instance.to_owned());
        self.ledger.start(pipeline).await
    }

    fn saved(&self) -> BTreeMap<String, (i64, i64)> {
        let sum = |bytes: &[u8]| {
            let (_, state) = headwater::spi::show(bytes).expect("a state");
            (state["entries"].as_i64().expect("a number"), state["cents"].as_i64().expect("a number"))
        };
        let saved = self.ledger.saved("till").into_iter();
        saved.map(|(till, (_, value))| (till, sum(&value.expect("it is kept")))).collect()
    }
}

/// The steps of a group share a store, and its instances crash, come back and
/// share the work anew amid it. State has each input once.
/// Red when places are kept by topic and not by the way to each step: what closes is read before what opened on an earlier
/// offset, which then counts as replayed. Red as well when what a store has is not skipped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn steps_that_share_a_store_count_each_input_once_through_crashes() {
    let (rounds, each) = if full() { (12, 3_000) } else { (4, 600) };
    let mut ledger = Ledger::new("keyed_sharing", 3).await;
    ledger.space.create_topics(&["events.till"], 3).await;
    ledger.how.at_least_once = true;
    ledger.how.kafka.consumer.session_timeout = Duration::from_secs(6);
    let group = Group::new()
        .on("open", open.keyed_by(|opened: &Opened| opened.customer_id.clone()))
        .on("close", close.keyed_by(|closed: &Closed| closed.customer_id.clone()));
    let pipeline = Pipeline::default().group("till", group).policy("till", Policy::new().order(Order::Partition));
    let pipeline = ledger.open(pipeline).await;
    let mut writers = Vec::new();
    for (name, schema) in [("Opened", Opened::SCHEMA), ("Closed", Closed::SCHEMA)] {
        let id = register(&ledger.space, &format!("events.till-headwater.till.{name}"), schema).await;
        writers.push(Encoder::new(id, schema).expect("a valid schema"));
    }
    let mut tills = Tills { ledger, writers, sent: 0, kept: BTreeMap::new() };
    tills.send(each);
    let mut running = vec![tills.start(&pipeline, "one").await];
    for round in 0..rounds {
        let before = tills.saved();
        tills.send(each);
        eventually("it goes on", SOON, async || tills.saved() != before).await;
        tokio::time::sleep(Duration::from_millis(round * 37 % 211)).await;
        if running.len() == 1 {
            let other = if round % 4 == 0 { "two" } else { "one" };
            running.push(tills.start(&pipeline, other).await);
        } else {
            // A crash: nothing of it is committed any more.
            drop(running.remove(0));
        }
    }
    eventually("everything is kept", SOON * 2, async || tills.saved() == tills.kept).await;
    for engine in running {
        engine.stop().await;
    }
    assert_eq!(tills.saved(), tills.kept);
    only_rise(&tills.ledger.foreign, &tills.ledger.changelog("till"));
}
