//! Records that were keyed anew and processed are deleted: their topics keep everything, for a group that stands still must
//! lose nothing.

use std::{collections::HashMap, time::Duration};

use headwater::{Owned, Position, TopicPartition};
use tokio::task::JoinSet;

use crate::kafka::Cluster;

/// How often they are deleted.
const EVERY: Duration = Duration::from_secs(30);

pub(super) struct Trim {
    cluster: Cluster,
    /// How far each partition may be trimmed.
    passed: HashMap<TopicPartition, i64>,
    due: Duration,
    under_way: JoinSet<()>,
}

impl Trim {
    pub(super) fn new(cluster: Cluster) -> Self {
        Self { cluster, passed: HashMap::new(), due: EVERY, under_way: JoinSet::new() }
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// These positions are committed.
    pub(super) fn passed(&mut self, owned: &Owned, positions: &[Position], now: Duration) {
        let trimmed = positions.iter().filter(|position| owned.is_repartition(&position.partition.topic));
        self.passed.extend(trimmed.map(|position| (position.partition.clone(), position.next)));
        while self.under_way.try_join_next().is_some() {}
        if now < self.due || self.passed.is_empty() || !self.under_way.is_empty() {
            return;
        }
        self.due = now + EVERY;
        let (cluster, places) = (self.cluster.clone(), self.passed.drain().collect::<Vec<_>>());
        self.under_way.spawn(async move {
            if let Err(error) = cluster.delete_records_before(&places).await {
                tracing::warn!(%error, "records that were keyed anew and processed are not deleted; they are tried again");
            }
        });
    }

    pub(super) fn forget(&mut self, partitions: &[TopicPartition]) {
        partitions.iter().for_each(|id| _ = self.passed.remove(id));
    }
}
