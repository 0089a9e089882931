//! Exactly once: transactions, with state.

use std::sync::Arc;

use headwater::{
    TopicPartition,
    spi::{
        Committer, Outgoing, StateChange, SystemClock, Unit,
        conformance::{self, Capability, Contents, Effect, Fixture, Part},
    },
};
use headwater_connectors::ExactlyOnceCommitter;

use super::cluster::{BrokerFreeze, Member, STORE, alone};

struct ExactlyOnce(Member);

impl Fixture for ExactlyOnce {
    const CAPABILITIES: &'static [Capability] = &[
        Capability::Atomic,
        Capability::Transactions,
        Capability::Positions,
        Capability::Fencing,
        Capability::State,
        Capability::Markers,
        Capability::Refusals,
        Capability::Outages,
        Capability::Closing,
    ];
    const MISPLACED: &'static [Part] = &[Part::Rows];

    fn topic(&self) -> &str {
        &self.0.topics.input
    }

    async fn committer(&mut self) -> Box<dyn Committer> {
        let (local, topics) = self.0.state();
        let Member { config, topics: names, .. } = &self.0;
        let member = (names.group.as_str(), "one");
        let seen = (Arc::default(), Arc::new(SystemClock::default()) as Arc<_>);
        let committer =
            ExactlyOnceCommitter::new((config, self.0.cluster()), member, self.0.source().membership(), seen);
        Box::new(committer.unwrap().with_stores(local, topics).unwrap())
    }

    fn effect(&self, effect: &Effect, unit: &mut Unit) {
        unit.outgoing.push(self.0.topics.effect(effect));
        let (key, value) = (b"key"[..].into(), Some(effect.text.as_bytes().into()));
        unit.changes.push(StateChange { store: STORE.into(), partition: effect.partition, key, value, input: None });
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

    /// The member leaves: whoever comes next has all that was its own.
    async fn take_over(&mut self, _: &TopicPartition) {
        self.0.leave().await;
    }

    async fn cut(&mut self) {
        self.0.frozen = Some(BrokerFreeze::new());
    }

    async fn mend(&mut self) {
        self.0.frozen = None;
    }

    async fn close(&mut self) {
        self.0.leave().await;
    }
}

/// Red when offsets or markers are left out of the transaction, an outcome that is not known is taken for an outage, or a member
/// that has left goes on.
#[tokio::test]
async fn transactions_keep_the_promises_of_a_committer() {
    let _alone = alone().await;
    conformance::run(async |check| ExactlyOnce(Member::new(&format!("exactly-once-{check}"), false).await)).await;
}
