//! The store that does as it is told keeps the promises of a committer while it is told nothing: else the worker's tests would
//! stand on what no store does.

use std::sync::Arc;

use crate::{
    ports::{
        Committer, Stores,
        conformance::{self, Capability, Contents, Effect, Fixture, Part},
        unit::{StateChange, Unit},
    },
    wire::record::{Headers, Outgoing},
    worker::tests::scripted::{ScriptedStores, Shared, Store},
};

struct Scripted(Shared);

fn named(key: String) -> Outgoing {
    let (topic, key) = ("answers".into(), Some(key.into_bytes()));
    Outgoing { topic, partition: None, key, value: None, headers: Headers::default() }
}

impl Fixture for Scripted {
    const CAPABILITIES: &'static [Capability] =
        &[Capability::Atomic, Capability::Transactions, Capability::State, Capability::Markers, Capability::Refusals];
    const MISPLACED: &'static [Part] = &[];

    fn topic(&self) -> &str {
        "in"
    }

    async fn committer(&mut self) -> Box<dyn Committer> {
        Box::new(Store { shared: self.0.clone(), number: 0, atomic: true })
    }

    fn effect(&self, effect: &Effect, unit: &mut Unit) {
        unit.outgoing.push(named(format!("{}/{}", effect.partition, effect.text)));
        let (key, value) = (b"key"[..].into(), Some(effect.text.as_bytes().into()));
        unit.changes.push(StateChange { store: "store".into(), partition: effect.partition, key, value, input: None });
    }

    async fn contents(&mut self) -> Contents {
        let mut contents = Contents::default();
        for taken in &self.0.lock().unwrap().taken {
            match (taken.strip_suffix('!'), taken.split_once('/')) {
                (Some(marker), _) => contents.markers.push(marker.to_owned()),
                (None, Some((partition, text))) => {
                    contents.effects.entry(partition.parse().unwrap()).or_default().push(text.to_owned());
                }
                (None, None) => panic!("{taken} is no effect"),
            }
        }
        let kept = ScriptedStores(self.0.clone());
        for partition in 0..2 {
            let value: Option<Arc<[u8]>> = kept.get("store", partition, b"key").unwrap();
            let text = value.map(|value| String::from_utf8_lossy(&value).into_owned());
            contents.state.extend(text.map(|text| (partition, text)));
        }
        contents
    }

    fn marker(&self, text: &str) -> Outgoing {
        named(text.to_owned())
    }

    fn poison(&self, _: &Effect, unit: &mut Unit) {
        self.0.lock().unwrap().poison.push("bad".to_owned());
        unit.outgoing.push(named("bad".to_owned()));
    }
}

/// Red when the store takes a part of what it refuses, or the state of a key is not that of its last change.
#[tokio::test]
async fn the_scripted_store_keeps_the_promises_of_a_committer() {
    conformance::run(async |_| Scripted(Shared::default())).await;
}
