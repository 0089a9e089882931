//! The committer of groups whose effects are one Kafka transaction: what they publish, changes of their state, and offsets.
//!
//! Delivery: exactly once, for who reads committed records. State on the local disk follows the transaction, and its
//! changelog is the truth: a store that lags behind is caught up when its partition is taken.
//! An abort leaves nothing, and the unit is committed again. Where nobody knows how a transaction ended, the engine starts
//! its partitions anew, and [`Transactional::start`] settles the transaction before it reads anything.
//! Shutdown: state that waits in memory is written when its partition is forgotten, or the store is dropped.

pub(crate) mod changes;

use std::{collections::BTreeSet, sync::Arc};

use self::changes::Changes;
use crate::{
    kafka::{Cluster, KafkaConfig, KafkaError, Membership, TransactionError, Transactions, stable_offsets},
    kept::{Kept, failed},
    state::LocalStore,
    trim::Trim,
};
use headwater::{
    CommitError, Committed, GroupState, Outgoing, Owned, Position, TopicPartition, Unit,
    ports::{BoxFuture, Clock, Committer, From},
};

/// Commits units of work as Kafka transactions.
pub struct Transactional {
    kafka: KafkaConfig,
    group: String,
    owned: Owned,
    transactions: Transactions,
    membership: Membership,
    state: Arc<GroupState>,
    clock: Arc<dyn Clock>,
    /// Whether how the last transaction ended has to be found out.
    unsettled: bool,
    trim: Trim,
    kept: Option<Kept>,
}

impl Transactional {
    /// Commits for this member of `group`, under the id `<group>.<instance>`, which has to be the same after a restart.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(
        (kafka, cluster): (&KafkaConfig, Cluster),
        (group, instance): (&str, &str),
        membership: Membership,
        (state, clock): (Arc<GroupState>, Arc<dyn Clock>),
    ) -> Result<Self, KafkaError> {
        Ok(Self {
            kafka: kafka.clone(),
            group: group.to_owned(),
            owned: Owned::of(group),
            transactions: Transactions::new(kafka, &format!("{group}.{instance}.0"))?,
            membership,
            state,
            clock,
            unsettled: false,
            trim: Trim::new(cluster),
            kept: None,
        })
    }

    /// The same for a stateful group with these stores.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn keeping(mut self, local: LocalStore, stores: BTreeSet<&'static str>) -> Result<Self, KafkaError> {
        let seen = (Arc::clone(&self.state), Arc::clone(&self.clock));
        self.kept = Some(Kept::new((&self.kafka, self.trim.cluster()), &self.group, (local, stores), seen)?);
        Ok(self)
    }

    async fn take(&mut self, partitions: &[TopicPartition]) -> Result<Vec<From>, CommitError> {
        let settled = if self.unsettled { self.transactions.settle().await } else { self.transactions.begin().await };
        settled.map_err(|error| match error {
            TransactionError::Fatal(why) => CommitError::Fatal(why),
            TransactionError::Taken(why) => CommitError::Failed(why),
            other => CommitError::Outage(other.to_string()),
        })?;
        self.unsettled = false;
        // Before the ends of the changelogs: what these offsets cover stands before those.
        let offsets = stable_offsets(&self.kafka, &self.group, partitions).await.map_err(failed)?;
        if let Some(kept) = &mut self.kept {
            kept.restore(partitions).await?;
        }
        Ok(offsets.into_iter().map(|next| next.map_or(From::Committed, From::Offset)).collect())
    }

    async fn commit_all(&mut self, unit: &Unit) -> Result<Committed, CommitError> {
        if !unit.rows.is_empty() {
            let text = "a unit with rows for a table reached a kafka transaction: its group needs a sink";
            return Err(CommitError::Fatal(text.to_owned()));
        }
        let changes = Changes::of(unit, &self.owned);
        let markers = unit.markers.iter().map(|marker| &marker.record);
        let records: Vec<&Outgoing> = unit.outgoing.iter().chain(markers).chain(&changes.records).collect();
        let offsets: Vec<Position> = unit.positions.iter().map(|progress| progress.to.clone()).collect();
        match self.transactions.commit(&records, &offsets, &self.membership).await {
            Ok(sent) => {
                if let Some(kept) = &mut self.kept {
                    kept.apply(changes.last, changes::ends(&sent, &self.owned)).await?;
                }
                self.trim.passed(&self.owned, &offsets, self.clock.elapsed());
                Ok(Committed::Done)
            }
            Err(TransactionError::Fenced(why)) => {
                tracing::info!(group = self.group, reason = why, "a transaction was refused and aborted");
                Ok(Committed::Fenced(offsets.into_iter().map(|position| position.partition).collect()))
            }
            Err(TransactionError::Aborted(why)) => Err(CommitError::Outage(why)),
            Err(TransactionError::Refused { why, .. }) => Err(CommitError::Refused(why)),
            Err(TransactionError::Unsettled(why)) => {
                self.unsettled = true;
                Err(CommitError::Unsettled(why))
            }
            // Of two processes with one name the group itself finds out which came later.
            Err(TransactionError::Taken(why)) => Err(CommitError::Failed(why)),
            Err(TransactionError::Fatal(why)) => Err(CommitError::Fatal(why)),
        }
    }
}

impl Committer for Transactional {
    fn atomic(&self) -> bool {
        true
    }

    fn start<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<From>, CommitError>> {
        Box::pin(self.take(partitions))
    }

    fn commit<'a>(&'a mut self, unit: &'a Unit) -> BoxFuture<'a, Result<Committed, CommitError>> {
        Box::pin(self.commit_all(unit))
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        self.trim.forget(partitions);
        if let Some(kept) = &mut self.kept {
            kept.forget(partitions);
        }
    }
}
