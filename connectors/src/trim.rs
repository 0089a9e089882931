//! Records that were keyed anew and processed are deleted: their topics keep everything, for a group that stands still must
//! lose nothing.

use std::{collections::HashMap, time::Duration};

use headwater::{Owned, Position, TopicPartition};
use tokio::task::JoinSet;

use crate::kafka::{Cluster, KafkaConfig, KafkaError, stable_offsets};

/// How often they are deleted.
const EVERY: Duration = Duration::from_secs(30);

pub(crate) struct Trim {
    cluster: Cluster,
    /// Whose offsets are committed later than what has passed.
    behind: Option<(KafkaConfig, String)>,
    /// How far each partition may be trimmed.
    passed: HashMap<TopicPartition, i64>,
    due: Duration,
    under_way: JoinSet<()>,
}

impl Trim {
    pub(crate) fn new(cluster: Cluster) -> Self {
        Self { cluster, behind: None, passed: HashMap::new(), due: EVERY, under_way: JoinSet::new() }
    }

    /// The same for a group whose offsets follow what has passed: it goes on from them after a crash.
    pub(crate) fn behind_offsets(cluster: Cluster, kafka: &KafkaConfig, group: &str) -> Self {
        Self { behind: Some((kafka.clone(), group.to_owned())), ..Self::new(cluster) }
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// These positions are passed.
    pub(crate) fn passed(&mut self, owned: &Owned, positions: &[Position], now: Duration) {
        let trimmed = positions.iter().filter(|position| owned.is_repartition(&position.partition.topic));
        self.passed.extend(trimmed.map(|position| (position.partition.clone(), position.next)));
        while self.under_way.try_join_next().is_some() {}
        if now < self.due || self.passed.is_empty() || !self.under_way.is_empty() {
            return;
        }
        self.due = now + EVERY;
        let (cluster, behind) = (self.cluster.clone(), self.behind.clone());
        let places: Vec<_> = self.passed.drain().collect();
        self.under_way.spawn(async move {
            let trimmed = async {
                let places = match behind {
                    Some((kafka, group)) => committed(&kafka, &group, places).await?,
                    None => places,
                };
                cluster.delete_records_before(&places).await
            };
            if let Err(error) = trimmed.await {
                tracing::warn!(%error, "records that were keyed anew and processed are not deleted; they are tried again");
            }
        });
    }

    pub(crate) fn forget(&mut self, partitions: &[TopicPartition]) {
        partitions.iter().for_each(|id| _ = self.passed.remove(id));
    }
}

/// These places as far as the group has committed them.
async fn committed(
    kafka: &KafkaConfig,
    group: &str,
    places: Vec<(TopicPartition, i64)>,
) -> Result<Vec<(TopicPartition, i64)>, KafkaError> {
    let ids: Vec<_> = places.iter().map(|(id, _)| id.clone()).collect();
    let offsets = stable_offsets(kafka, group, &ids).await?;
    let known = places.into_iter().zip(offsets).filter_map(|((id, next), offset)| Some((id, next.min(offset?))));
    Ok(known.collect())
}
