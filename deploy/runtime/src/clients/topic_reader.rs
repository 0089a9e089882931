//! Reads topics for who only looks: nothing is committed, and nobody else's group is disturbed.
//!
//! The connector reads as a member of a group, so this joins one of its own with a fresh name, says for each partition
//! where to begin, and never commits: the broker forgets the group when it is left.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use anyhow::{Result, bail};
use headwater::{
    Meta, TopicPartition,
    spi::{
        Catalogue, Control, Record, Schemas as _, Source as _, SourceEvent, StartFrom,
        codec::{WriterSchema, split},
    },
};
use headwater_connectors::{
    kafka::{Cluster, KafkaSource, SourceConfig, Start, Subscription},
    registry::Registry,
};
use serde_json::Value as Json;
use uuid::Uuid;

use super::Clients;

/// What the groups of those begin with who only look.
pub(crate) const READERS: &str = "headwater-reader-";
/// How long leaving may take.
const LEAVE: Duration = Duration::from_secs(3);

/// Records of some topics, by partition in order.
pub struct TopicReader {
    source: KafkaSource,
    /// Where partitions begin that existed at the start; later ones are read from their beginning.
    begin: BTreeMap<TopicPartition, i64>,
    starts: u64,
}

impl TopicReader {
    /// Reads what comes from now on, or everything there is.
    ///
    /// # Errors
    /// When the cluster does not answer.
    pub async fn open(clients: &Clients, subscription: Subscription, from_beginning: bool) -> Result<Self> {
        // Noted before joining, which takes a while: "now" is when the command was given.
        let begin = if from_beginning { BTreeMap::new() } else { ends(&clients.cluster, &subscription).await? };
        let config = SourceConfig {
            group: format!("{READERS}{}", Uuid::new_v4()),
            instance: None,
            subscription,
            start: Start::Earliest,
            commits: true,
            assignor: None,
            client_id: None,
        };
        Ok(Self { source: KafkaSource::join(&clients.kafka, config)?, begin, starts: 0 })
    }

    /// Waits until it has partitions to read.
    ///
    /// # Errors
    /// When reading cannot go on.
    pub async fn joined(&mut self) -> Result<()> {
        while self.starts == 0 {
            self.step(false).await?;
        }
        Ok(())
    }

    /// The next records of one partition.
    ///
    /// # Errors
    /// When reading cannot go on.
    pub async fn next(&mut self) -> Result<Vec<Record>> {
        loop {
            if let Some(records) = self.step(true).await? {
                return Ok(records);
            }
        }
    }

    /// Takes what comes next, records among it or not.
    async fn step(&mut self, records: bool) -> Result<Option<Vec<Record>>> {
        match self.source.next(records).await {
            SourceEvent::Records(batch) => return Ok(Some(batch.records)),
            SourceEvent::Assigned(partitions) => partitions.into_iter().for_each(|partition| self.begin(partition)),
            SourceEvent::Revoked(partitions) => self.source.control(Control::Released(partitions)),
            SourceEvent::Lost(_) | SourceEvent::Displaced(_) | SourceEvent::Connected(Ok(())) => {}
            SourceEvent::Connected(Err(why)) => {
                tracing::warn!(error = %why, "the kafka cluster does not answer; waiting for it")
            }
            SourceEvent::Failed(why) | SourceEvent::Halted(why) => bail!("{why}"),
            SourceEvent::Closed => bail!("reading ended unexpectedly"),
        }
        Ok(None)
    }

    /// Leaves, so that the broker need not wait for a member that has gone.
    pub async fn close(mut self) {
        self.source.control(Control::Close);
        let closed = async {
            while !matches!(
                self.source.next(true).await,
                SourceEvent::Closed | SourceEvent::Failed(_) | SourceEvent::Halted(_)
            ) {}
        };
        if tokio::time::timeout(LEAVE, closed).await.is_err() {
            tracing::debug!("the reader's group was not left in time; the broker forgets it soon");
        }
    }

    fn begin(&mut self, partition: TopicPartition) {
        self.starts += 1;
        let from = self.begin.get(&partition).map_or(StartFrom::Policy, |next| StartFrom::Offset(*next));
        self.source.control(Control::Begin { partition: partition.clone(), from, start: self.starts });
        self.source.control(Control::Resume(vec![partition]));
    }
}

/// Where every partition of a subscription ends now.
async fn ends(cluster: &Cluster, subscription: &Subscription) -> Result<BTreeMap<TopicPartition, i64>> {
    let mut ends = BTreeMap::new();
    for topic in cluster.topics().await?.into_iter().filter(|topic| subscription.may_read(&topic.name)) {
        for partition in 0..topic.partitions {
            let (_, end) = cluster.watermarks(&topic.name, partition).await?;
            ends.insert(TopicPartition::new(topic.name.as_str(), partition), end);
        }
    }
    Ok(ends)
}

/// A record as far as it can be understood.
pub struct DecodedRecord {
    /// The metadata, or why there is none.
    pub meta: Result<Meta, String>,
    /// The id of its writer's schema.
    pub schema_id: Option<u32>,
    /// The data as JSON, null for a tombstone; or why it cannot be read.
    pub data: Result<Json, String>,
}

/// Understands records by their writers' schemas, each fetched once.
pub struct RecordDecoder {
    registry: Arc<Registry>,
    catalogue: Catalogue,
    schemas: HashMap<u32, Arc<WriterSchema>>,
}

impl RecordDecoder {
    /// Knows no schema yet.
    pub fn new(clients: &Clients, catalogue: &Catalogue) -> Self {
        Self { registry: clients.registry.clone(), catalogue: catalogue.clone(), schemas: HashMap::new() }
    }

    /// What a record says.
    pub async fn decode(&mut self, record: &Record) -> DecodedRecord {
        let Some(value) = &record.value else {
            return DecodedRecord {
                meta: self.catalogue.describe(record, None),
                schema_id: None,
                data: Ok(Json::Null),
            };
        };
        let (id, datum) = match split(value) {
            Ok(split) => split,
            Err(error) => {
                let meta = self.catalogue.describe(record, None);
                return DecodedRecord { meta, schema_id: None, data: Err(error.to_string()) };
            }
        };
        let schema = self.schema(id).await;
        let meta = self.catalogue.describe(record, schema.as_ref().ok());
        let data = schema
            .and_then(|schema| schema.value(datum).map(|value| schema.json(&value)).map_err(|error| error.to_string()));
        DecodedRecord { meta, schema_id: Some(id), data }
    }

    async fn schema(&mut self, id: u32) -> Result<Arc<WriterSchema>, String> {
        if let Some(schema) = self.schemas.get(&id) {
            return Ok(schema.clone());
        }
        let text = self.registry.by_id(id).await.map_err(|error| error.to_string())?;
        let schema = WriterSchema::parse(id, &text.schema, &text.references).map_err(|error| error.to_string())?;
        self.schemas.insert(id, schema.clone());
        Ok(schema)
    }
}
