//! A sink group's committer: dead letters before its transaction, and after it the news of those that have succeeded.
//!
//! Delivery: a letter is acknowledged before the transaction that passes its record commits, so none is lost; after a
//! crash in between it is there twice, and its table keeps one. While the transaction cannot commit, however often it is
//! tried, the letter is sent once. The news follows the commit: it is tried again until it is
//! acknowledged, and a crash in between leaves the letter marked as sent back.

use std::collections::HashSet;

use headwater::{
    TopicPartition,
    spi::{BoxFuture, CommitError, CommitOutcome, Committer, OffsetRange, Outgoing, StartFrom, Unit},
};

use super::at_least_once::{AtLeastOnceCommitter, withheld};
use crate::kafka::PublishPermit;

/// A committer of rows that can also publish.
pub struct DeadLetteringCommitter<C> {
    rows: C,
    publisher: AtLeastOnceCommitter,
    /// Letters that are acknowledged, and whose transaction is not committed: those of the units under way at most.
    sent: HashSet<Outgoing>,
    /// The unit whose rows are durable, and whose markers are not acknowledged.
    stored: Option<Vec<OffsetRange>>,
}

impl<C: Committer> DeadLetteringCommitter<C> {
    /// Commits rows with `rows` and publishes with `publisher`.
    pub fn new(rows: C, publisher: AtLeastOnceCommitter) -> Self {
        Self { rows, publisher, sent: HashSet::new(), stored: None }
    }

    /// Sends the letters that are not acknowledged yet: a database that is down must not fill their topic.
    async fn send_letters(&mut self, letters: &[Outgoing], permit: &PublishPermit) -> Result<(), CommitError> {
        let new: Vec<Outgoing> = letters.iter().filter(|letter| !self.sent.contains(letter)).cloned().collect();
        self.publisher.send(&new, permit).await?;
        self.sent.extend(new);
        Ok(())
    }

    async fn commit_all(&mut self, unit: &Unit) -> Result<CommitOutcome, CommitError> {
        let permit = self.publisher.permit()?;
        self.send_letters(&unit.outgoing, &permit).await?;
        let committed = self.store(unit, &permit).await?;
        unit.outgoing.iter().for_each(|letter| _ = self.sent.remove(letter));
        let durable = |place: &TopicPartition| match &committed {
            CommitOutcome::Done => true,
            CommitOutcome::Fenced(fenced) => !fenced.contains(place),
        };
        let news = unit.markers.iter().filter(|marker| durable(&marker.place)).map(|marker| marker.record.clone());
        let news: Vec<Outgoing> = news.collect();
        // The rows are durable: the same unit again writes none of them twice, and must not be refused any more.
        self.publisher.send(&news, &permit).await.map_err(|error| CommitError::Outage(error.to_string()))?;
        self.stored = None;
        Ok(committed)
    }

    /// Stores the rows. Who has no transaction would write those of a unit again that comes again for its markers alone, and
    /// would write behind whoever owns the partitions now.
    async fn store(&mut self, unit: &Unit, permit: &PublishPermit) -> Result<CommitOutcome, CommitError> {
        if self.rows.atomic() {
            return self.rows.commit(unit).await;
        }
        if self.stored.as_ref() == Some(&unit.positions) {
            return Ok(CommitOutcome::Done);
        }
        permit.check().await.map_err(withheld)?;
        let committed = self.rows.commit(unit).await?;
        if committed == CommitOutcome::Done {
            self.stored = Some(unit.positions.clone());
        }
        Ok(committed)
    }
}

impl<C: Committer> Committer for DeadLetteringCommitter<C> {
    fn atomic(&self) -> bool {
        self.rows.atomic()
    }

    fn start<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<StartFrom>, CommitError>> {
        self.rows.start(partitions)
    }

    fn commit<'a>(&'a mut self, unit: &'a Unit) -> BoxFuture<'a, Result<CommitOutcome, CommitError>> {
        Box::pin(self.commit_all(unit))
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        // Perhaps nobody asks for them again: one that is sent twice is kept once.
        self.sent.clear();
        self.stored = None;
        self.rows.forget(partitions);
    }

    fn cancels(&self) -> bool {
        self.rows.cancels()
    }
}
