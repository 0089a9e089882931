//! At least once, with state.

use std::sync::Arc;

use headwater::{
    TopicPartition,
    spi::{
        Committer, InputPartition, InputPosition, InputRoute, Outgoing, StateChange, SystemClock, Unit,
        conformance::{self, Capability, Contents, Effect, Fixture, Part},
    },
};
use headwater_connectors::StatefulAtLeastOnceCommitter;

use super::cluster::{BrokerFreeze, Member, STORE, alone};

struct Stateful(Member);

impl Fixture for Stateful {
    const CAPABILITIES: &'static [Capability] = &[
        Capability::Atomic,
        Capability::Cancels,
        Capability::State,
        Capability::Markers,
        Capability::Refusals,
        Capability::Outages,
    ];
    const MISPLACED: &'static [Part] = &[Part::Rows];

    fn topic(&self) -> &str {
        &self.0.topics.input
    }

    async fn committer(&mut self) -> Box<dyn Committer> {
        let state = self.0.state();
        let Member { config, topics, .. } = &self.0;
        let group = (topics.group.as_str(), self.0.source().lease());
        let seen = (Arc::default(), Arc::new(SystemClock::default()) as Arc<_>);
        Box::new(StatefulAtLeastOnceCommitter::new((config, self.0.cluster()), group, state, seen).unwrap())
    }

    fn effect(&self, effect: &Effect, unit: &mut Unit) {
        unit.outgoing.push(self.0.topics.effect(effect));
        let partition = TopicPartition::new(self.topic(), effect.partition);
        let topic_id = self.0.local.as_ref().expect("a committer").topic_id(self.topic());
        let of = InputPartition { partition, topic_id, route: InputRoute::Direct };
        let input = Some(InputPosition { of, next: effect.offset + 1 });
        let (key, value) = (b"key"[..].into(), Some(effect.text.as_bytes().into()));
        unit.changes.push(StateChange { store: STORE.into(), partition: effect.partition, key, value, input });
    }

    async fn contents(&mut self) -> Contents {
        Contents { state: self.0.kept(), ..self.0.topics.contents(&self.0.config).await }
    }

    fn marker(&self, text: &str) -> Outgoing {
        self.0.topics.marker(text)
    }

    fn poison(&self, effect: &Effect, unit: &mut Unit) {
        unit.outgoing.push(self.0.topics.poison(effect));
    }

    async fn cut(&mut self) {
        self.0.frozen = Some(BrokerFreeze::new());
    }

    async fn mend(&mut self) {
        self.0.frozen = None;
    }
}

/// Red when what was given up is lost, a change is not sent to its changelog, or the engine is not told to cancel what outlives its
/// partitions.
#[tokio::test]
async fn state_at_least_once_keeps_the_promises_of_a_committer() {
    let _alone = alone().await;
    conformance::run(async |check| Stateful(Member::new(&format!("stateful-{check}"), true).await)).await;
}
