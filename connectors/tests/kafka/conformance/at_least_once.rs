//! At least once, without state.

use std::time::Duration;

use headwater::spi::{
    Committer, Outgoing, Unit,
    conformance::{self, Capability, Contents, Effect, Fixture, Part},
};
use headwater_connectors::{
    AtLeastOnceCommitter,
    kafka::{Producer, ProducerConfig},
};

use super::{LARGEST, Topics};
use crate::harness::{Broker, broker};

struct AtLeastOnce {
    broker: Broker,
    topics: Topics,
    producer: Producer,
}

impl AtLeastOnce {
    fn new() -> Self {
        let topics = Topics::of("group");
        let mut broker = broker(&[(&topics.input, 2), (&topics.output, 2), (&topics.markers, 1)]);
        broker.config.max_record_bytes = LARGEST;
        let config = ProducerConfig { delivery_timeout: Duration::from_secs(2), ..ProducerConfig::default() };
        Self { producer: broker.producer_with(config), broker, topics }
    }
}

impl Fixture for AtLeastOnce {
    const CAPABILITIES: &'static [Capability] =
        &[Capability::Markers, Capability::Refusals, Capability::Outages, Capability::Closing];
    const MISPLACED: &'static [Part] = &[Part::Rows, Part::Changes];

    fn topic(&self) -> &str {
        &self.topics.input
    }

    async fn committer(&mut self) -> Box<dyn Committer> {
        Box::new(AtLeastOnceCommitter::new(self.producer.clone()))
    }

    fn effect(&self, effect: &Effect, unit: &mut Unit) {
        unit.outgoing.push(self.topics.effect(effect));
    }

    async fn contents(&mut self) -> Contents {
        self.topics.contents(&self.broker.config).await
    }

    fn marker(&self, text: &str) -> Outgoing {
        self.topics.marker(text)
    }

    fn poison(&self, effect: &Effect, unit: &mut Unit) {
        unit.outgoing.push(self.topics.poison(effect));
    }

    async fn cut(&mut self) {
        self.broker.mock.broker_down(-1).unwrap();
    }

    async fn mend(&mut self) {
        self.broker.mock.broker_up(-1).unwrap();
    }

    async fn close(&mut self) {
        self.producer.close(Duration::from_secs(5)).await.unwrap();
    }
}

/// Red when markers are sent with the records that they tell of, changes of state are dropped unsaid, or a record that is too large
/// is taken for an outage.
#[tokio::test]
async fn what_publishes_at_least_once_keeps_the_promises_of_a_committer() {
    conformance::run(async |_| AtLeastOnce::new()).await;
}
