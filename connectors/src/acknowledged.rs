//! The committer of stateful groups at least once: what a unit publishes is acknowledged before its changes are sent to their
//! changelogs, those before its offsets are committed, and each by itself.
//!
//! Delivery: what is published may come twice, and state has each input once. A change travels with the place of its input,
//! so that a changelog says how far the inputs have come with it; what is replayed behind a crash is known by that, and
//! skipped. That holds since neither outputs nor changes are sent with gaps: of each partition what stands there is a prefix
//! of what was sent.
//! Where the process dies between the two, outputs are published and their input is processed again: they come again.
//! Nothing shuts out a member that the group has given up and that still sends: what it changes then overwrites what its
//! successor has. Transactions do.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    ffi::CStr,
    sync::Arc,
};

use headwater::{
    CommitError, Committed, GroupState, Headers, Outgoing, Owned, Position, TopicPartition, Unit,
    ports::{BoxFuture, Clock, Committer, Entry, From, StoreError, Stores},
};

use crate::{
    kafka::{Cluster, InOrder, KafkaConfig, KafkaError, Sent, verdict},
    kept::{Kept, StateTopics, failed},
    state::{End, Inputs, LocalStore},
    transactional::changes,
    trim::Trim,
};

/// The header of a changelog's record that says how far all inputs have come with it: any other may be compacted away.
pub(crate) const INPUTS: &CStr = c"hw_inputs";

/// Commits units of work by one acknowledgement after another.
pub struct Acknowledged {
    owned: Owned,
    producer: InOrder,
    clock: Arc<dyn Clock>,
    trim: Trim,
    kept: Kept,
    /// Topics of records that are keyed anew.
    repartition: Vec<String>,
    /// The ids of the inputs' topics.
    ids: BTreeMap<String, String>,
}

/// The state of such a group, as its steps read it.
pub struct Replayed(pub LocalStore);

impl Stores for Replayed {
    fn get(&self, store: &str, partition: i32, key: &[u8]) -> Result<Option<Arc<[u8]>>, StoreError> {
        self.0.get(store, partition, key)
    }

    fn scan(&self, store: &str, partition: i32, prefix: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        self.0.scan(store, partition, prefix, limit)
    }

    fn replays(&self) -> bool {
        true
    }

    fn inputs(&self, store: &str, partition: i32) -> Vec<Position> {
        self.0.inputs(store, partition).positions().collect()
    }
}

/// The changes of a unit as records, and how far the inputs of each store's partition come with them.
struct Changes {
    records: Vec<Outgoing>,
    inputs: HashMap<(Arc<str>, i32), Inputs>,
}

impl Acknowledged {
    /// Commits for a group that keeps state, on these topics.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(
        (kafka, cluster): (&KafkaConfig, Cluster),
        group: &str,
        (local, topics): (LocalStore, StateTopics),
        (state, clock): (Arc<GroupState>, Arc<dyn Clock>),
    ) -> Result<Self, KafkaError> {
        let owned = Owned::of(group);
        Ok(Self {
            repartition: topics.repartition(&owned).collect(),
            owned,
            producer: InOrder::new(kafka)?,
            kept: Kept::new((kafka, &cluster), group, (local, topics), (state, Arc::clone(&clock)))?,
            clock,
            trim: Trim::behind_offsets(cluster, kafka, group),
            ids: BTreeMap::new(),
        })
    }

    async fn take(&mut self, partitions: &[TopicPartition]) -> Result<Vec<From>, CommitError> {
        // What is still to come would stand behind what is read.
        self.producer.settle().await.map_err(|errors| verdict(&errors))?;
        let count = self.kept.restore(partitions, &[]).await?;
        self.producer.fix_counts(self.repartition.iter().cloned(), count);
        let stores = self.kept.local().stats().into_iter();
        let topics: BTreeSet<Arc<str>> =
            stores.flat_map(|open| open.checkpoint.inputs.topics().cloned().collect::<Vec<_>>()).collect();
        self.ids.clear();
        self.learn(topics.iter().map(|topic| &**topic)).await?;
        self.kept.local().retain_inputs(&self.ids);
        Ok(vec![From::Committed; partitions.len()])
    }

    /// Asks for the ids of topics that are not known yet.
    async fn learn(&mut self, topics: impl Iterator<Item = &str>) -> Result<(), CommitError> {
        let new: BTreeSet<&str> = topics.filter(|topic| !self.ids.contains_key(*topic)).collect();
        if new.is_empty() {
            return Ok(());
        }
        let new: Vec<&str> = new.into_iter().collect();
        let mut ids = self.trim.cluster().topic_ids(&new).await.map_err(failed)?;
        // One that is gone is not asked for again.
        self.ids.extend(new.into_iter().map(|topic| (topic.to_owned(), ids.remove(topic).unwrap_or_default())));
        Ok(())
    }

    async fn commit_all(&mut self, unit: &Unit) -> Result<Committed, CommitError> {
        if !unit.rows.is_empty() {
            let text = "a unit with rows for a table reached a stateful group: its group needs a sink";
            return Err(CommitError::Fatal(text.to_owned()));
        }
        self.learn(unit.changes.iter().map(|change| &*change.input.partition.topic)).await?;
        self.send(&unit.outgoing.iter().collect::<Vec<_>>()).await?;
        let Changes { records, inputs } = self.changes(unit);
        let sent = self.send(&records.iter().collect::<Vec<_>>()).await?;
        let ends = self.ends(&sent, inputs);
        self.kept.apply(changes::last(unit), ends).await?;
        let markers: Vec<&Outgoing> = unit.markers.iter().map(|marker| &marker.record).collect();
        // The changes are there: the same unit again counts nothing twice, and must not be refused any more.
        self.send(&markers).await.map_err(|error| CommitError::Outage(error.to_string()))?;
        let positions: Vec<Position> = unit.positions.iter().map(|progress| progress.to.clone()).collect();
        self.trim.passed(&self.owned, &positions, self.clock.elapsed());
        Ok(Committed::Done)
    }

    async fn send(&mut self, records: &[&Outgoing]) -> Result<Sent, CommitError> {
        self.producer.send(records).await.map_err(|errors| verdict(&errors))
    }

    /// All of them, in their order: were one left out for a later one of its key, those in between would say that its input
    /// has passed.
    fn changes(&self, unit: &Unit) -> Changes {
        let mut inputs: HashMap<(Arc<str>, i32), Inputs> = HashMap::new();
        let mut topics: HashMap<&str, Arc<str>> = HashMap::new();
        let mut records = Vec::with_capacity(unit.changes.len());
        for change in &unit.changes {
            let place = (Arc::clone(&change.store), change.partition);
            let known =
                inputs.entry(place).or_insert_with(|| self.kept.local().inputs(&change.store, change.partition));
            let id = self.ids.get(&*change.input.partition.topic);
            known.pass(&change.input, id.map_or("", String::as_str));
            let mut headers = Headers::default();
            headers.push_text(&INPUTS.to_string_lossy(), &known.to_string());
            let topic = topics.entry(&change.store).or_insert_with(|| self.owned.changelog(&change.store).into());
            records.push(changes::record(change, topic, headers));
        }
        Changes { records, inputs }
    }

    /// How far each changelog, and the inputs with it, have come.
    fn ends(&self, sent: &Sent, mut inputs: HashMap<(Arc<str>, i32), Inputs>) -> Vec<End> {
        let mut ends = changes::ends(sent, &self.owned);
        for end in &mut ends {
            end.inputs = inputs.remove(&(Arc::clone(&end.store), end.partition));
        }
        ends
    }
}

impl Committer for Acknowledged {
    /// A unit holds only what its offsets cover, so that what is replayed is a suffix.
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
        // Another member may go on with their state any moment.
        self.producer.abandon();
        self.trim.forget(partitions);
        self.kept.forget(partitions);
    }
}
