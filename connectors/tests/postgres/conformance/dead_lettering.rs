//! A sink's table whose group publishes as well.

use headwater::{
    TopicPartition,
    spi::{
        Committer, Outgoing, Unit,
        conformance::{self, Capability, Contents, Effect, Fixture, Part},
    },
};
use headwater_connectors::{DeadLetteringCommitter, postgres::PostgresSink};

use super::{
    TestDatabase,
    table::{ROWS, TABLE},
};
use crate::{
    dead_lettering::{DeadLetterTopic, marker},
    harness::{TOPIC, plain, row, thing, things},
};

struct DeadLettering {
    place: TestDatabase,
    letters: DeadLetterTopic,
}

impl DeadLettering {
    async fn new(check: &str) -> Self {
        let mut place = TestDatabase::new(&format!("dead_lettering_{check}")).await;
        place.db.sql(TABLE).await;
        PostgresSink::apply_table(&place.database, &things().insert(), &plain()).await.unwrap();
        Self { place, letters: DeadLetterTopic::new() }
    }
}

impl Fixture for DeadLettering {
    const CAPABILITIES: &'static [Capability] = &[
        Capability::Atomic,
        Capability::Transactions,
        Capability::Positions,
        Capability::PositionChecks,
        Capability::Fencing,
        Capability::Markers,
        Capability::Refusals,
        Capability::Outages,
        Capability::Closing,
    ];
    const MISPLACED: &'static [Part] = &[Part::Changes];

    fn topic(&self) -> &str {
        TOPIC
    }

    async fn committer(&mut self) -> Box<dyn Committer> {
        let sink = PostgresSink::new(&self.place.database, "things", things().insert()).unwrap();
        Box::new(DeadLetteringCommitter::new(sink, self.letters.publisher()))
    }

    fn effect(&self, Effect { partition, offset, text }: &Effect, unit: &mut Unit) {
        unit.rows.push(row(&plain(), *partition, *offset, thing(text, text)));
    }

    async fn contents(&mut self) -> Contents {
        Contents { markers: self.letters.published(), ..self.place.contents(ROWS).await }
    }

    fn marker(&self, text: &str) -> Outgoing {
        marker(0, text).record
    }

    fn poison(&self, Effect { partition, offset, text }: &Effect, unit: &mut Unit) {
        unit.rows.push(row(&plain(), *partition, *offset, thing(text, "poison")));
    }

    async fn take_over(&mut self, partition: &TopicPartition) {
        let mut heir = PostgresSink::new(&self.place.db.database, "things", things().insert()).unwrap();
        heir.start(std::slice::from_ref(partition)).await.unwrap();
    }

    async fn cut(&mut self) {
        self.place.link.cut().await;
    }

    async fn mend(&mut self) {
        self.place.link.mend().await;
    }

    async fn close(&mut self) {
        self.place.database.close().await;
    }
}

/// Red when a marker is sent before its rows are there, or for a partition that is another's.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_with_dead_letters_keeps_the_promises_of_a_committer() {
    conformance::run(async |check| DeadLettering::new(check).await).await;
}
