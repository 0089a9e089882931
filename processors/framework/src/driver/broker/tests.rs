//! The committers in memory keep what they promise.

use super::*;
use crate::{
    bench::metadata,
    ports::conformance::{self, Capability, Contents, Effect, Fixture, Part},
    wire::record::Headers,
};

fn broker() -> Arc<Broker> {
    Arc::new(Broker::new(["in".to_owned()].into_iter(), Arc::default()))
}

fn outgoing(topic: &str, partition: i32, text: &str) -> Outgoing {
    let value = Some(text.as_bytes().to_vec());
    Outgoing { topic: topic.into(), partition: Some(partition), key: None, value, headers: Headers::default() }
}

fn text(bytes: Option<&[u8]>) -> String {
    String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned()
}

/// What stands on the topics `out` and `markers`.
fn published(broker: &Broker) -> Contents {
    let mut contents = Contents::default();
    for record in broker.records("out") {
        contents.effects.entry(record.partition).or_default().push(text(record.value.as_deref()));
    }
    contents.markers = broker.records("markers").iter().map(|record| text(record.value.as_deref())).collect();
    contents
}

struct Published(Arc<Broker>);

impl Fixture for Published {
    const CAPABILITIES: &'static [Capability] = &[Capability::Markers];
    const MISPLACED: &'static [Part] = &[Part::Rows, Part::Changes];

    fn topic(&self) -> &str {
        "in"
    }

    async fn committer(&mut self) -> Box<dyn Committer> {
        Box::new(MemoryCommitter::new(self.0.clone()))
    }

    fn effect(&self, effect: &Effect, unit: &mut Unit) {
        unit.outgoing.push(outgoing("out", effect.partition, &effect.text));
    }

    async fn contents(&mut self) -> Contents {
        published(&self.0)
    }

    fn marker(&self, text: &str) -> Outgoing {
        outgoing("markers", 0, text)
    }
}

struct Kept(Arc<Broker>);

const KEEPER: &[Capability] =
    &[Capability::Atomic, Capability::Transactions, Capability::Positions, Capability::State, Capability::Markers];

impl Fixture for Kept {
    const CAPABILITIES: &'static [Capability] = KEEPER;
    const MISPLACED: &'static [Part] = &[Part::Rows];

    fn topic(&self) -> &str {
        "in"
    }

    async fn committer(&mut self) -> Box<dyn Committer> {
        Box::new(MemoryStatefulCommitter::new("group", self.0.clone()))
    }

    fn effect(&self, effect: &Effect, unit: &mut Unit) {
        unit.outgoing.push(outgoing("out", effect.partition, &effect.text));
        let (key, value) = (b"key"[..].into(), Some(effect.text.as_bytes().into()));
        unit.changes.push(StateChange { store: "store".into(), partition: effect.partition, key, value, input: None });
    }

    async fn contents(&mut self) -> Contents {
        let committer = MemoryStatefulCommitter::new("group", self.0.clone());
        let kept = |partition| Some((partition, text(Some(&*committer.get("store", partition, b"key").ok()??))));
        Contents { state: (0..2).filter_map(kept).collect(), ..published(&self.0) }
    }

    fn marker(&self, text: &str) -> Outgoing {
        outgoing("markers", 0, text)
    }
}

struct Rows(Arc<Broker>);

const TABLE: &[Capability] =
    &[Capability::Atomic, Capability::Transactions, Capability::Positions, Capability::Markers];

impl Fixture for Rows {
    const CAPABILITIES: &'static [Capability] = TABLE;
    const MISPLACED: &'static [Part] = &[Part::Changes];

    fn topic(&self) -> &str {
        "in"
    }

    async fn committer(&mut self) -> Box<dyn Committer> {
        Box::new(MemorySinkCommitter::new("sink", self.0.clone()))
    }

    fn effect(&self, effect: &Effect, unit: &mut Unit) {
        let Outgoing { key, value, headers, .. } = outgoing("", 0, &effect.text);
        let (topic, partition, offset) = ("in".into(), effect.partition, effect.offset);
        let record = Record { topic, partition, offset, timestamp_ms: 0, key, value, headers };
        unit.rows.push(Row { meta: Arc::new(metadata(&record)), record, data: None });
    }

    async fn contents(&mut self) -> Contents {
        let mut contents = published(&self.0);
        for Row { record, .. } in self.0.rows("sink") {
            contents.effects.entry(record.partition).or_default().push(text(record.value.as_deref()));
        }
        contents
    }

    fn marker(&self, text: &str) -> Outgoing {
        outgoing("markers", 0, text)
    }
}

/// Red when a commit is done before it is awaited: one that is dropped would be there, and twice with the next try.
#[tokio::test]
async fn what_publishes_in_memory_keeps_the_promises_of_a_committer() {
    conformance::run(async |_| Published(broker())).await;
}

/// Red when positions are left to the source, though effects and positions are said to be one.
#[tokio::test]
async fn what_keeps_state_in_memory_keeps_the_promises_of_a_committer() {
    conformance::run(async |_| Kept(broker())).await;
}

/// Red when a start knows nothing of what was committed, so that everything is read again.
#[tokio::test]
async fn the_table_in_memory_keeps_the_promises_of_a_committer() {
    conformance::run(async |_| Rows(broker())).await;
}
