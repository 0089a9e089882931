//! The committers whose effects are records keep what every committer promises: the one that needs no more on the mock cluster,
//! those of transactions and state on a real broker.

#[path = "conformance/at_least_once.rs"]
mod at_least_once;
#[path = "conformance/cluster.rs"]
mod cluster;
#[path = "conformance/exactly_once.rs"]
mod exactly_once;
#[path = "conformance/stateful.rs"]
mod stateful;

use std::sync::atomic::AtomicBool;

use headwater::{
    Headers,
    spi::{
        Outgoing,
        conformance::{Contents, Effect},
    },
};
use headwater_connectors::kafka::{ChangelogReader, KafkaConfig};

use crate::harness::partition;

/// Bytes of a record at most.
const LARGEST: u32 = 1_000_000;

/// The topics of one check: each begins with its group.
struct Topics {
    group: String,
    input: String,
    output: String,
    markers: String,
}

impl Topics {
    fn of(group: &str) -> Self {
        let named = |name: &str| format!("{group}.{name}");
        Self { group: group.to_owned(), input: named("in"), output: named("out"), markers: named("markers") }
    }

    fn effect(&self, effect: &Effect) -> Outgoing {
        record(&self.output, effect.partition, effect.text.as_bytes().to_vec())
    }

    /// A record that is too large for any topic.
    fn poison(&self, effect: &Effect) -> Outgoing {
        record(&self.output, effect.partition, vec![b'x'; 2 * LARGEST as usize])
    }

    fn marker(&self, text: &str) -> Outgoing {
        record(&self.markers, 0, text.as_bytes().to_vec())
    }

    /// What readers of committed records find.
    async fn contents(&self, config: &KafkaConfig) -> Contents {
        let reader = ChangelogReader::new(config, "reader").unwrap();
        let (output, markers) = (self.output.clone(), self.markers.clone());
        let wants = [partition(&output, 0), partition(&output, 1), partition(&markers, 0)].map(|name| (name, None));
        let reading = move || {
            let mut contents = Contents::default();
            let each = |name: &headwater::TopicPartition, _: &[u8], value: Option<&[u8]>, _| {
                let text = String::from_utf8_lossy(value.unwrap_or_default()).into_owned();
                if *name.topic == *markers {
                    contents.markers.push(text);
                } else {
                    contents.effects.entry(name.partition).or_default().push(text);
                }
            };
            reader.read(&wants, &AtomicBool::new(false), each, |_| ()).unwrap();
            contents
        };
        tokio::task::spawn_blocking(reading).await.unwrap()
    }
}

fn record(topic: &str, partition: i32, value: Vec<u8>) -> Outgoing {
    let (partition, key, value) = (Some(partition), Some(b"key".to_vec()), Some(value));
    Outgoing { topic: topic.into(), partition, key, value, headers: Headers::default() }
}
