//! The committer of groups whose effects are records: publishes a unit and waits for every acknowledgement.
//!
//! Delivery is at least once: offsets follow in the source, once the unit is acknowledged. A unit that failed is
//! published anew as a whole and in order, so that of each key a suffix may appear again but nothing is reordered.

use headwater::{
    TopicPartition,
    spi::{BoxFuture, CommitError, CommitOutcome, Committer, Outgoing, StartFrom, Unit},
};

use crate::kafka::{BatchErrors, Lease, Producer, PublishPermit};

/// Publishes units of work to Kafka.
pub struct AtLeastOnceCommitter {
    producer: Producer,
    lease: Option<Lease>,
}

impl AtLeastOnceCommitter {
    /// Publishes with this producer, which other groups may share.
    pub fn new(producer: Producer) -> Self {
        Self { producer, lease: None }
    }

    /// Publishes nothing of what this member has read before it is known that its partitions are still its own.
    #[must_use]
    pub fn under(self, lease: Lease) -> Self {
        Self { lease: Some(lease), ..self }
    }

    /// What a unit that is begun now is published under.
    ///
    /// # Errors
    /// When it may be of partitions that are lost.
    pub(crate) fn permit(&self) -> Result<PublishPermit, CommitError> {
        self.lease.as_ref().map_or(Ok(PublishPermit::unconditional()), |lease| lease.permit().map_err(withheld))
    }

    /// Publishes these records in this order, and waits for every acknowledgement.
    pub(crate) async fn send(&self, records: &[Outgoing], permit: &PublishPermit) -> Result<(), CommitError> {
        self.producer.send_under(records, permit).await.map_err(|errors| verdict(&errors))
    }

    async fn publish(&self, unit: &Unit) -> Result<CommitOutcome, CommitError> {
        if !unit.rows.is_empty() {
            let text = "a unit with rows for a table reached the kafka publisher: its group needs a sink";
            return Err(CommitError::Fatal(text.to_owned()));
        }
        if !unit.changes.is_empty() {
            let text = "a unit with changes of state reached the kafka publisher: its group needs a store";
            return Err(CommitError::Fatal(text.to_owned()));
        }
        let permit = self.permit()?;
        self.send(&unit.outgoing, &permit).await?;
        let markers: Vec<Outgoing> = unit.markers.iter().map(|marker| marker.record.clone()).collect();
        self.send(&markers, &permit).await?;
        Ok(CommitOutcome::Done)
    }
}

/// What may not be published now is kept, as long as its partitions are.
pub(crate) fn withheld(why: String) -> CommitError {
    CommitError::Outage(why)
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

impl Committer for AtLeastOnceCommitter {
    fn atomic(&self) -> bool {
        false
    }

    fn start<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<StartFrom>, CommitError>> {
        Box::pin(async move { Ok(vec![StartFrom::Committed; partitions.len()]) })
    }

    fn commit<'a>(&'a mut self, unit: &'a Unit) -> BoxFuture<'a, Result<CommitOutcome, CommitError>> {
        Box::pin(self.publish(unit))
    }

    fn forget(&mut self, _partitions: &[TopicPartition]) {}
}
