//! A sink's table.

use headwater::{
    TopicPartition,
    spi::{
        Committer, Unit,
        conformance::{self, Capability, Contents, Effect, Fixture, Part},
    },
};
use headwater_connectors::postgres::PostgresSink;

use super::TestDatabase;
use crate::harness::{TOPIC, plain, row, thing, things};

/// Rows of the table whose name is not `poison`.
pub(super) const TABLE: &str = "create table things (id text primary key, name text check (name <> 'poison'))";
/// What is there.
pub(super) const ROWS: &str = "select hw_partition, name from things order by hw_partition, hw_offset";

struct Table(TestDatabase);

impl Table {
    async fn new(check: &str) -> Self {
        let mut place = TestDatabase::new(&format!("table_{check}")).await;
        place.db.sql(TABLE).await;
        PostgresSink::apply_table(&place.database, &things().insert(), &plain()).await.unwrap();
        Self(place)
    }
}

impl Fixture for Table {
    const CAPABILITIES: &'static [Capability] = &[
        Capability::Atomic,
        Capability::Transactions,
        Capability::Positions,
        Capability::PositionChecks,
        Capability::Fencing,
        Capability::Refusals,
        Capability::Outages,
        Capability::Closing,
    ];
    const MISPLACED: &'static [Part] = &[Part::Changes];

    fn topic(&self) -> &str {
        TOPIC
    }

    async fn committer(&mut self) -> Box<dyn Committer> {
        Box::new(PostgresSink::new(&self.0.database, "things", things().insert()).unwrap())
    }

    fn effect(&self, Effect { partition, offset, text }: &Effect, unit: &mut Unit) {
        unit.rows.push(row(&plain(), *partition, *offset, thing(text, text)));
    }

    async fn contents(&mut self) -> Contents {
        self.0.contents(ROWS).await
    }

    fn poison(&self, Effect { partition, offset, text }: &Effect, unit: &mut Unit) {
        unit.rows.push(row(&plain(), *partition, *offset, thing(text, "poison")));
    }

    async fn take_over(&mut self, partition: &TopicPartition) {
        let mut heir = PostgresSink::new(&self.0.db.database, "things", things().insert()).unwrap();
        heir.start(std::slice::from_ref(partition)).await.unwrap();
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

/// Red when rows and offsets are not one transaction, an offset is moved by who does not own it or does not know it, or what the
/// table cannot take is an outage.
#[tokio::test]
async fn a_table_keeps_the_promises_of_a_committer() {
    conformance::run(async |check| Table::new(check).await).await;
}
