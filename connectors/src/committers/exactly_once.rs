//! The committer of groups whose effects are one Kafka transaction: what they publish, changes of their state, and offsets.
//!
//! Delivery: exactly once, for who reads committed records. State on the local disk follows the transaction, and its
//! changelog is the truth: a store that lags behind is caught up when its partition is taken.
//! An abort leaves nothing, and the unit is committed again. Where nobody knows how a transaction ended, the engine starts
//! its partitions anew, and [`ExactlyOnceCommitter::start`] settles the transaction before it reads anything.
//! Shutdown: state that waits in memory is written when its partition is forgotten, or the store is dropped.

pub(crate) mod changes;
pub(crate) mod fencing;

use std::sync::Arc;

use self::{
    changes::Changes,
    fencing::{Arrival, Fencing},
};
use crate::{
    kafka::{Cluster, KafkaConfig, KafkaError, Membership, TransactionError, TransactionalProducer, stable_offsets},
    store::{
        group::{GroupStores, StateTopics},
        local::LocalStore,
        repartition_purger::RepartitionPurger,
    },
};
use headwater::{
    TopicPartition,
    spi::{
        BoxFuture, Clock, CommitError, CommitOutcome, Committer, GroupMetrics, GroupTopics, Outgoing, Position,
        StartFrom, Unit,
    },
};

/// Commits units of work as Kafka transactions.
pub struct ExactlyOnceCommitter {
    kafka: KafkaConfig,
    group: String,
    owned: GroupTopics,
    transactions: TransactionalProducer,
    membership: Membership,
    fencing: Fencing,
    state: Arc<GroupMetrics>,
    clock: Arc<dyn Clock>,
    /// Whether how the last transaction ended has to be found out.
    outcome_unknown: bool,
    purger: RepartitionPurger,
    stores: Option<GroupStores>,
    /// Topics of records that are repartitioned.
    repartition: Vec<String>,
}

impl ExactlyOnceCommitter {
    /// Commits for this member of `group`, under the id `<group>.<instance>`, which has to be the same after a restart.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(
        (kafka, cluster): (&KafkaConfig, Cluster),
        (group, instance): (&str, &str),
        membership: Membership,
        (state, clock): (Arc<GroupMetrics>, Arc<dyn Clock>),
    ) -> Result<Self, KafkaError> {
        let fencing = Fencing {
            cluster: cluster.clone(),
            group: group.to_owned(),
            instance: instance.to_owned(),
            membership: membership.clone(),
            state: Arc::clone(&state),
            session: kafka.consumer.session_timeout,
            arrival: Arrival::default(),
        };
        Ok(Self {
            kafka: kafka.clone(),
            group: group.to_owned(),
            owned: GroupTopics::of(group),
            transactions: TransactionalProducer::new(kafka, &format!("{group}.{instance}.0"))?,
            membership,
            fencing,
            state,
            outcome_unknown: false,
            purger: RepartitionPurger::new(cluster, Arc::clone(&clock)),
            clock,
            stores: None,
            repartition: Vec::new(),
        })
    }

    /// The same for a process that may have had members of this group before, which this tells of.
    #[must_use]
    pub fn with_arrival(mut self, arrival: Arrival) -> Self {
        self.fencing.arrival = arrival;
        self
    }

    /// The same for a group that keeps state, on these topics.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn with_stores(mut self, local: LocalStore, topics: StateTopics) -> Result<Self, KafkaError> {
        let seen = (Arc::clone(&self.state), Arc::clone(&self.clock));
        self.repartition = topics.repartition(&self.owned).collect();
        self.stores = Some(GroupStores::new((&self.kafka, self.purger.cluster()), &self.group, (local, topics), seen)?);
        Ok(self)
    }

    async fn take(&mut self, partitions: &[TopicPartition]) -> Result<Vec<StartFrom>, CommitError> {
        // The group's own servers are asked by joining it.
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let Self { transactions, fencing, outcome_unknown, .. } = &mut *self;
        let begun = async { if *outcome_unknown { transactions.settle().await } else { transactions.begin().await } };
        let (settled, ()) = tokio::join!(begun, fencing.arrive());
        match settled {
            Ok(()) => {}
            Err(TransactionError::Fatal(why)) => return Err(CommitError::Fatal(why)),
            Err(TransactionError::Taken(why)) => return Err(self.fencing.verdict(why).await),
            Err(other) => return Err(CommitError::Outage(other.to_string())),
        }
        self.outcome_unknown = false;
        // Before the ends of the changelogs: what these offsets cover stands before those.
        let offsets = stable_offsets(&self.kafka, &self.group, partitions).await.map_err(CommitError::from)?;
        if let Some(stores) = &mut self.stores {
            let there = |(id, offset): (&TopicPartition, &Option<i64>)| offset.map(|_| id.clone());
            let known: Vec<TopicPartition> = partitions.iter().zip(&offsets).filter_map(there).collect();
            let count = stores.restore(partitions, &known).await?;
            self.transactions.fix_counts(self.repartition.iter().cloned(), count);
        }
        Ok(offsets.into_iter().map(|next| next.map_or(StartFrom::Committed, StartFrom::Offset)).collect())
    }

    async fn commit_all(&mut self, unit: &Unit) -> Result<CommitOutcome, CommitError> {
        if !unit.rows.is_empty() {
            let text = "a unit with rows for a table reached a kafka transaction: its group needs a sink";
            return Err(CommitError::Fatal(text.to_owned()));
        }
        let changes = Changes::of(unit, &self.owned);
        let markers = unit.markers.iter().map(|marker| &marker.record);
        let records: Vec<&Outgoing> = unit.outgoing.iter().chain(markers).chain(&changes.records).collect();
        let offsets: Vec<Position> = unit.positions.iter().map(|progress| progress.to.clone()).collect();
        match self.transactions.commit(&records, &offsets, &self.membership).await {
            Ok(end_offsets) => {
                if let Some(stores) = &mut self.stores {
                    stores.apply(changes.last, changes::ends(&end_offsets, &self.owned)).await?;
                }
                self.purger.passed(&self.owned, &offsets);
                Ok(CommitOutcome::Done)
            }
            Err(TransactionError::Fenced(why)) => {
                tracing::info!(group = self.group, reason = why, "a transaction was refused and aborted");
                Ok(CommitOutcome::Fenced(offsets.into_iter().map(|position| position.partition).collect()))
            }
            Err(TransactionError::Aborted(why)) => Err(CommitError::Outage(why)),
            Err(TransactionError::Refused { why, .. }) => Err(CommitError::Refused(why)),
            Err(TransactionError::OutcomeUnknown(why)) => {
                self.outcome_unknown = true;
                Err(CommitError::OutcomeUnknown(why))
            }
            Err(TransactionError::Taken(why)) => Err(self.fencing.verdict(why).await),
            Err(TransactionError::Fatal(why)) => Err(CommitError::Fatal(why)),
        }
    }
}

impl Committer for ExactlyOnceCommitter {
    fn atomic(&self) -> bool {
        true
    }

    fn start<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<StartFrom>, CommitError>> {
        Box::pin(self.take(partitions))
    }

    fn commit<'a>(&'a mut self, unit: &'a Unit) -> BoxFuture<'a, Result<CommitOutcome, CommitError>> {
        Box::pin(self.commit_all(unit))
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        self.purger.forget(partitions);
        if let Some(stores) = &mut self.stores {
            stores.forget(partitions);
        }
    }
}
