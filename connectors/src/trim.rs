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
    /// Gives what is still to be trimmed.
    under_way: JoinSet<Places>,
}

/// Partitions, and how far.
type Places = Vec<(TopicPartition, i64)>;

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
        while let Some(ended) = self.under_way.try_join_next() {
            self.put_back(ended.unwrap_or_default());
        }
        if now < self.due || self.passed.is_empty() || !self.under_way.is_empty() {
            return;
        }
        self.due = now + EVERY;
        let (cluster, behind) = (self.cluster.clone(), self.behind.clone());
        let places: Places = self.passed.drain().collect();
        self.under_way.spawn(async move {
            let trimmed = async {
                let now = match behind {
                    Some((kafka, group)) => committed(&kafka, &group, &places).await?,
                    None => places.clone(),
                };
                cluster.delete_records_before(&now).await?;
                Ok::<_, KafkaError>(left(&places, &now))
            };
            trimmed.await.unwrap_or_else(|error| {
                tracing::warn!(%error, "records that were keyed anew and processed are not deleted; they are tried again");
                places
            })
        });
    }

    /// What was not trimmed is still to be, unless its partition has come further since.
    fn put_back(&mut self, places: Places) {
        for (id, next) in places {
            self.passed.entry(id).or_insert(next);
        }
    }

    pub(crate) fn forget(&mut self, partitions: &[TopicPartition]) {
        partitions.iter().for_each(|id| _ = self.passed.remove(id));
    }
}

/// These places as far as the group has committed them.
async fn committed(kafka: &KafkaConfig, group: &str, places: &[(TopicPartition, i64)]) -> Result<Places, KafkaError> {
    let ids: Vec<_> = places.iter().map(|(id, _)| id.clone()).collect();
    let offsets = stable_offsets(kafka, group, &ids).await?;
    let known = places.iter().zip(offsets);
    Ok(known.filter_map(|((id, next), offset)| Some((id.clone(), *next.min(&offset?)))).collect())
}

/// The places that these do not reach.
fn left(places: &[(TopicPartition, i64)], reached: &[(TopicPartition, i64)]) -> Places {
    let is_left = |place: &&(TopicPartition, i64)| !reached.contains(place);
    places.iter().filter(is_left).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(partition: i32, next: i64) -> (TopicPartition, i64) {
        (TopicPartition::new("g.s.repartition", partition), next)
    }

    /// Issue 11, 23. Red when what could not be trimmed, or only as far as offsets were committed, is forgotten until its
    /// partition moves again; or when it takes the place of what has passed since.
    #[test]
    fn what_was_not_trimmed_is_tried_again() {
        let places = [at(0, 10), at(1, 5), at(2, 3)];
        let left = left(&places, &[at(0, 7), at(1, 5)]);
        assert_eq!(left, [at(0, 10), at(2, 3)]);
        let cluster = Cluster::new(&KafkaConfig::default()).expect("a client that does not connect yet");
        let mut trim = Trim::new(cluster);
        trim.passed(&Owned::of("g"), &[Position { partition: at(2, 0).0, next: 8 }], Duration::ZERO);
        trim.put_back(left);
        assert_eq!(trim.passed, [at(0, 10), at(2, 8)].into());
    }
}
