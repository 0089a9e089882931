//! The committer of groups whose effects are records: publishes a unit and waits for every acknowledgement.
//!
//! Delivery is at least once: offsets follow in the source, once the unit is acknowledged. A unit that failed is
//! published anew as a whole and in order, so that of each key a suffix may appear again but nothing is reordered.

use headwater::{
    CommitError, Committed, Outgoing, TopicPartition, Unit,
    ports::{BoxFuture, Committer, From},
};

use super::{batch::BatchErrors, producer::Producer};

/// Publishes units of work to Kafka.
pub struct KafkaPublisher {
    producer: Producer,
}

impl KafkaPublisher {
    /// Publishes with this producer, which other groups may share.
    pub fn new(producer: Producer) -> Self {
        Self { producer }
    }

    /// Publishes these records in this order, and waits for every acknowledgement.
    pub(crate) async fn send(&self, records: &[Outgoing]) -> Result<(), CommitError> {
        self.producer.send(records).await.map_err(|errors| verdict(&errors))
    }

    async fn publish(&self, unit: &Unit) -> Result<Committed, CommitError> {
        if !unit.rows.is_empty() {
            let text = "a unit with rows for a table reached the kafka publisher: its group needs a sink";
            return Err(CommitError::Fatal(text.to_owned()));
        }
        self.send(&unit.outgoing).await?;
        let markers: Vec<Outgoing> = unit.markers.iter().map(|marker| marker.record.clone()).collect();
        self.send(&markers).await?;
        Ok(Committed::Done)
    }
}

/// A record that can never be published is the news; an outage passes.
pub(crate) fn verdict(errors: &BatchErrors) -> CommitError {
    let refused: Vec<_> = errors.0.iter().filter(|error| error.permanent).cloned().collect();
    if refused.is_empty() {
        CommitError::Outage(errors.to_string())
    } else {
        CommitError::Refused(BatchErrors(refused).to_string())
    }
}

impl Committer for KafkaPublisher {
    fn atomic(&self) -> bool {
        false
    }

    fn start<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<From>, CommitError>> {
        Box::pin(async move { Ok(vec![From::Committed; partitions.len()]) })
    }

    fn commit<'a>(&'a mut self, unit: &'a Unit) -> BoxFuture<'a, Result<Committed, CommitError>> {
        Box::pin(self.publish(unit))
    }

    fn forget(&mut self, _partitions: &[TopicPartition]) {}
}
