//! The table of dead letters, which refuses nothing.

use std::sync::Arc;

use headwater::{
    Headers, TopicPartition,
    spi::{
        Catalogue, Committer, Record, Row, Unit,
        conformance::{self, Capability, Contents, Effect, Fixture, Part},
    },
};
use headwater_connectors::postgres::PostgresSink;

use super::TestDatabase;
use crate::harness::{as_is, plain, thing};

const LETTERS: &str =
    "select origin_partition, message from headwater.dead_letters order by origin_partition, origin_offset";

struct DeadLetters(TestDatabase);

impl DeadLetters {
    fn sink(&self) -> Box<dyn Committer> {
        Box::new(PostgresSink::of_dead_letters(&self.0.database, "dead-letters", Arc::new(Catalogue::default())))
    }
}

impl Fixture for DeadLetters {
    const CAPABILITIES: &'static [Capability] = &[
        Capability::Atomic,
        Capability::Transactions,
        Capability::Positions,
        Capability::PositionChecks,
        Capability::Fencing,
        Capability::Outages,
        Capability::Closing,
    ];
    const MISPLACED: &'static [Part] = &[Part::Changes];

    fn topic(&self) -> &str {
        "fulfil.dlq"
    }

    async fn committer(&mut self) -> Box<dyn Committer> {
        self.sink()
    }

    fn effect(&self, Effect { partition, offset, text }: &Effect, unit: &mut Unit) {
        let mut headers = Headers::default();
        headers.push_text("hw_error_message", text);
        let (topic, key, value) = (self.topic().into(), None, Some(b"v".to_vec()));
        let (partition, offset, timestamp_ms) = (*partition, *offset, 5_000);
        let record = Record { topic, partition, offset, timestamp_ms, key, value, headers };
        unit.rows.push(Row { record, data: None, ..as_is(&plain(), thing("", "")) });
    }

    async fn contents(&mut self) -> Contents {
        self.0.contents(LETTERS).await
    }

    async fn take_over(&mut self, partition: &TopicPartition) {
        self.sink().start(std::slice::from_ref(partition)).await.unwrap();
    }

    async fn cut(&mut self) {
        self.0.link.cut().await;
    }

    async fn mend(&mut self) {
        self.0.link.mend().await;
    }

    async fn close(&mut self) {
        self.0.database.close().await;
    }
}

/// Red when letters and offsets are not one transaction, or an offset is moved by who does not own it.
#[tokio::test]
async fn the_table_of_dead_letters_keeps_the_promises_of_a_committer() {
    conformance::run(async |check| DeadLetters(TestDatabase::new(&format!("dead_letters_{check}")).await)).await;
}
