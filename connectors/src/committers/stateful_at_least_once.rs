//! The committer of stateful groups at least once: what a unit publishes is acknowledged before its changes are sent to their
//! changelogs, those before its offsets are committed, and each by itself.
//!
//! Delivery: what is published may come twice, and state has each input once. A change travels with the place of its input,
//! so that a changelog says how far the inputs have come with it, on each way by which they reach a step; what is replayed
//! behind a crash is known by that, and skipped. That holds since neither outputs nor changes are sent with gaps: of each partition what stands there is a prefix
//! of what was sent.
//! Where the process dies between the two, outputs are published and their input is processed again: they come again.
//! A commit ends where a partition of it is given up, at the drain deadline too, and what has not left the producer goes with
//! it. No broker shuts out a member that does not know that the group has given it up, as it does in transactions: it asks first
//! ([`Lease`]). What its producer had taken before it was frozen, and not sent yet, is all that still goes out then.

mod cleanup;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use headwater::{
    Headers, TopicPartition,
    spi::{
        BoxFuture, Clock, CommitError, CommitOutcome, Committer, Entry, GroupMetrics, GroupTopics, InputPosition,
        Outgoing, Position, Replays, StartFrom, StoreError, Stores, Unit,
    },
};

use super::{
    at_least_once::{verdict, withheld},
    exactly_once::changes,
};
use crate::{
    kafka::{Cluster, EndOffsets, GaplessProducer, INPUTS, KafkaConfig, KafkaError, Lease, PublishPermit},
    store::{
        group::{GroupStores, StateTopics},
        local::{End, LocalStore, SourceOffsets},
        repartition_purger::RepartitionPurger,
    },
};

/// Commits units of work by one acknowledgement after another.
pub struct StatefulAtLeastOnceCommitter {
    group: String,
    kafka: KafkaConfig,
    owned: GroupTopics,
    producer: GaplessProducer,
    lease: Lease,
    purger: RepartitionPurger,
    stores: GroupStores,
    /// Topics of records that are repartitioned.
    repartition: Vec<String>,
}

/// The state of such a group, as its steps read it.
pub struct ReplayStores(pub LocalStore);

impl Stores for ReplayStores {
    fn get(&self, store: &str, partition: i32, key: &[u8]) -> Result<Option<Arc<[u8]>>, StoreError> {
        self.0.get(store, partition, key)
    }

    fn scan(&self, store: &str, partition: i32, prefix: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.0.scan(store, partition, prefix, limit)
    }

    fn replays(&self) -> Option<&dyn Replays> {
        Some(self)
    }
}

impl Replays for ReplayStores {
    fn inputs(&self, store: &str, partition: i32) -> Vec<InputPosition> {
        self.0.inputs(store, partition).positions().collect()
    }

    fn topic_id(&self, topic: &str) -> Arc<str> {
        self.0.topic_id(topic)
    }
}

/// The changes of a unit as records, and how far the inputs of each store's partition come with them.
struct Changes {
    records: Vec<Outgoing>,
    inputs: HashMap<(Arc<str>, i32), SourceOffsets>,
}

impl StatefulAtLeastOnceCommitter {
    /// Commits for a group that keeps state, on these topics.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(
        (kafka, cluster): (&KafkaConfig, Cluster),
        (group, lease): (&str, Lease),
        (local, topics): (LocalStore, StateTopics),
        (state, clock): (Arc<GroupMetrics>, Arc<dyn Clock>),
    ) -> Result<Self, KafkaError> {
        let owned = GroupTopics::of(group);
        Ok(Self {
            group: group.to_owned(),
            kafka: kafka.clone(),
            repartition: topics.repartition(&owned).collect(),
            owned,
            producer: GaplessProducer::new(kafka)?,
            lease,
            stores: GroupStores::new((kafka, &cluster), group, (local, topics), (state, Arc::clone(&clock)))?,
            purger: RepartitionPurger::behind_offsets(cluster, clock, kafka, group),
        })
    }

    async fn take(&mut self, partitions: &[TopicPartition]) -> Result<Vec<StartFrom>, CommitError> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        // What is still to come would stand behind what is read.
        self.producer.settle().await.map_err(|errors| verdict(&errors))?;
        let count = self.stores.restore(partitions, &[]).await?;
        self.producer.fix_counts(self.repartition.iter().cloned(), count);
        let (local, cluster) = (self.stores.local(), self.purger.cluster());
        let known = local.all_inputs();
        let noted = known.iter().flat_map(|(_, _, inputs)| inputs.topics().map(|topic| &**topic));
        let topics: BTreeSet<&str> = partitions.iter().map(|id| &*id.topic).chain(noted).collect();
        let ids = cluster.topic_ids(&topics.into_iter().collect::<Vec<_>>()).await.map_err(CommitError::from)?;
        // From now on: what is repartitioned says which topic it stood on, whatever comes of that before it is processed.
        local.note_topics(&ids);
        cleanup::forget(local, (&self.kafka, cluster, &self.group), partitions, ids)
            .await
            .map_err(CommitError::from)?;
        Ok(vec![StartFrom::Committed; partitions.len()])
    }

    async fn commit_all(&mut self, unit: &Unit) -> Result<CommitOutcome, CommitError> {
        if !unit.rows.is_empty() {
            let text = "a unit with rows for a table reached a stateful group: its group needs a sink";
            return Err(CommitError::Fatal(text.to_owned()));
        }
        let permit = self.lease.permit().map_err(withheld)?;
        self.send(&unit.outgoing.iter().collect::<Vec<_>>(), &permit).await?;
        let Changes { records, inputs } = self.changes(unit);
        let end_offsets = self.send(&records.iter().collect::<Vec<_>>(), &permit).await?;
        let ends = self.ends(&end_offsets, inputs);
        self.stores.apply(changes::last(unit), ends).await?;
        let markers: Vec<&Outgoing> = unit.markers.iter().map(|marker| &marker.record).collect();
        // The changes are there: the same unit again counts nothing twice, and must not be refused any more.
        self.send(&markers, &permit).await.map_err(|error| CommitError::Outage(error.to_string()))?;
        let positions: Vec<Position> = unit.positions.iter().map(|progress| progress.to.clone()).collect();
        self.purger.passed(&self.owned, &positions);
        Ok(CommitOutcome::Done)
    }

    async fn send(&mut self, records: &[&Outgoing], permit: &PublishPermit) -> Result<EndOffsets, CommitError> {
        self.producer.send(records, permit).await.map_err(|errors| verdict(&errors))
    }

    /// All of them, in their order: were one left out for a later one of its key, those in between would say that its input
    /// has passed.
    fn changes(&self, unit: &Unit) -> Changes {
        let mut inputs: HashMap<(Arc<str>, i32), SourceOffsets> = HashMap::new();
        let mut topics: HashMap<&str, Arc<str>> = HashMap::new();
        let mut records = Vec::with_capacity(unit.changes.len());
        for change in &unit.changes {
            let place = (Arc::clone(&change.store), change.partition);
            let known =
                inputs.entry(place).or_insert_with(|| self.stores.local().inputs(&change.store, change.partition));
            change.input.iter().for_each(|input| known.pass(input));
            let mut headers = Headers::default();
            headers.push_text(&INPUTS.to_string_lossy(), &known.to_string());
            let topic = topics.entry(&change.store).or_insert_with(|| self.owned.changelog(&change.store).into());
            records.push(changes::record(change, topic, headers));
        }
        Changes { records, inputs }
    }

    /// How far each changelog, and the inputs with it, have come.
    fn ends(&self, end_offsets: &EndOffsets, mut inputs: HashMap<(Arc<str>, i32), SourceOffsets>) -> Vec<End> {
        let mut ends = changes::ends(end_offsets, &self.owned);
        for end in &mut ends {
            end.inputs = inputs.remove(&(Arc::clone(&end.store), end.partition));
        }
        ends
    }
}

impl Committer for StatefulAtLeastOnceCommitter {
    /// A unit holds only what its offsets cover, so that what is replayed is a suffix.
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
        // Another member may go on with their state any moment. What is sent for those that stay must not be sent anew
        // beside what is on its way.
        if self.stores.forget(partitions) {
            self.producer.abandon();
        }
    }

    fn cancels(&self) -> bool {
        true
    }
}
