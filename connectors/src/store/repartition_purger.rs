//! Records that were repartitioned and processed are deleted: their topics keep everything, for a group that stands still must
//! lose nothing.
//!
//! Every half a minute, by a task of its own: what is not deleted then, since the broker is away or the offsets have not come
//! so far, is tried again, also where the group has nothing to do meanwhile.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use headwater::{
    TopicPartition,
    spi::{BoxFuture, Clock, GroupTopics, Position},
};
use tokio::task::JoinSet;

use crate::kafka::{Cluster, KafkaConfig, KafkaError, delete_records_before, stable_offsets};

/// How often they are deleted.
const EVERY: Duration = Duration::from_secs(30);

/// Partitions, and up to where each may be deleted.
type PartitionOffsets = Vec<(TopicPartition, i64)>;

pub(crate) struct RepartitionPurger {
    cluster: Cluster,
    /// Whose offsets are committed later than what has passed.
    behind: Option<(KafkaConfig, String)>,
    clock: Arc<dyn Clock>,
    pending: Arc<PurgeOffsets>,
    /// Ends with this.
    rounds: JoinSet<()>,
}

/// How far each partition may be purged and is not.
#[derive(Default)]
struct PurgeOffsets(Mutex<HashMap<TopicPartition, i64>>);

impl RepartitionPurger {
    pub(crate) fn new(cluster: Cluster, clock: Arc<dyn Clock>) -> Self {
        Self { cluster, behind: None, clock, pending: Arc::default(), rounds: JoinSet::new() }
    }

    /// The same for a group whose offsets follow what has passed: it goes on from them after a crash.
    pub(crate) fn behind_offsets(cluster: Cluster, clock: Arc<dyn Clock>, kafka: &KafkaConfig, group: &str) -> Self {
        Self { behind: Some((kafka.clone(), group.to_owned())), ..Self::new(cluster, clock) }
    }

    pub(crate) fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// These positions are passed.
    pub(crate) fn passed(&mut self, owned: &GroupTopics, positions: &[Position]) {
        let purged = positions.iter().filter(|position| owned.is_repartition(&position.partition.topic));
        let any = self.pending.note(purged.map(|position| (position.partition.clone(), position.next)));
        if any && self.rounds.is_empty() {
            let (cluster, behind) = (self.cluster.clone(), self.behind.clone());
            let delete =
                move |places| -> BoxFuture<'static, _> { Box::pin(delete(cluster.clone(), behind.clone(), places)) };
            self.rounds.spawn(rounds(Arc::clone(&self.clock), Arc::clone(&self.pending), delete));
        }
    }

    pub(crate) fn forget(&mut self, partitions: &[TopicPartition]) {
        partitions.iter().for_each(|id| _ = self.pending.all().remove(id));
    }
}

impl PurgeOffsets {
    fn all(&self) -> MutexGuard<'_, HashMap<TopicPartition, i64>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether there is anything.
    fn note(&self, places: impl Iterator<Item = (TopicPartition, i64)>) -> bool {
        let mut all = self.all();
        all.extend(places);
        !all.is_empty()
    }

    /// These are deleted up to there; what has passed since is still to be.
    fn deleted(&self, places: PartitionOffsets) {
        let mut all = self.all();
        for (id, before) in places {
            if all.get(&id).is_some_and(|passed| *passed <= before) {
                all.remove(&id);
            }
        }
    }
}

/// Deletes what has passed, again and again.
async fn rounds(
    clock: Arc<dyn Clock>,
    pending: Arc<PurgeOffsets>,
    delete: impl Fn(PartitionOffsets) -> BoxFuture<'static, Result<PartitionOffsets, KafkaError>> + Send,
) {
    loop {
        clock.sleep(EVERY).await;
        let places: PartitionOffsets = pending.all().iter().map(|(id, next)| (id.clone(), *next)).collect();
        if places.is_empty() {
            continue;
        }
        match delete(places).await {
            Ok(places) => pending.deleted(places),
            Err(error) => {
                tracing::warn!(%error, "records that were repartitioned and processed are not deleted; they are tried again");
            }
        }
    }
}

/// Deletes these, as far as the group's offsets have come; gives how far that is.
async fn delete(
    cluster: Cluster,
    behind: Option<(KafkaConfig, String)>,
    places: PartitionOffsets,
) -> Result<PartitionOffsets, KafkaError> {
    let places = match behind {
        Some((kafka, group)) => committed(&kafka, &group, places).await?,
        None => places,
    };
    delete_records_before(&cluster, &places).await?;
    Ok(places)
}

/// These places as far as the group has committed them.
async fn committed(kafka: &KafkaConfig, group: &str, places: PartitionOffsets) -> Result<PartitionOffsets, KafkaError> {
    let ids: Vec<_> = places.iter().map(|(id, _)| id.clone()).collect();
    let offsets = stable_offsets(kafka, group, &ids).await?;
    let known = places.into_iter().zip(offsets).filter_map(|((id, next), offset)| Some((id, next.min(offset?))));
    Ok(known.collect())
}

#[cfg(test)]
mod tests {
    use headwater::{Time, spi::SystemClock};
    use tokio::sync::mpsc;

    use super::*;

    /// A clock by which every pause is over at once.
    struct Hasty;

    impl Clock for Hasty {
        fn now(&self) -> Time {
            SystemClock::default().now()
        }

        fn elapsed(&self) -> Duration {
            Duration::ZERO
        }

        fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
            Box::pin(tokio::task::yield_now())
        }
    }

    /// Red when what could not be deleted is forgotten, when so is what the offsets have not come to yet, or when
    /// what is deleted is deleted again.
    #[tokio::test]
    async fn what_is_not_deleted_is_tried_again_while_the_group_rests() {
        let at = |number| TopicPartition::new("g.s.repartition", number);
        let (ask, mut asked) = mpsc::channel::<PartitionOffsets>(1);
        let (answer, answers) = mpsc::channel::<Result<PartitionOffsets, KafkaError>>(1);
        let answers = Arc::new(tokio::sync::Mutex::new(answers));
        let delete = move |mut places: PartitionOffsets| -> BoxFuture<'static, Result<PartitionOffsets, KafkaError>> {
            let (ask, answers) = (ask.clone(), Arc::clone(&answers));
            places.sort_by_key(|(id, _)| id.partition);
            Box::pin(async move {
                ask.send(places).await.unwrap();
                answers.lock().await.recv().await.unwrap()
            })
        };
        let pending = Arc::new(PurgeOffsets::default());
        pending.note([(at(0), 10), (at(1), 20)].into_iter());
        let mut running = JoinSet::new();
        running.spawn(rounds(Arc::new(Hasty), Arc::clone(&pending), delete));
        let mut asked = async || {
            let next = tokio::time::timeout(Duration::from_secs(10), asked.recv()).await;
            next.expect("they are tried again").unwrap()
        };
        assert_eq!(asked().await, [(at(0), 10), (at(1), 20)]);
        answer.send(Err(KafkaError::Outage("away".to_owned()))).await.unwrap();
        assert_eq!(asked().await, [(at(0), 10), (at(1), 20)]);
        pending.note([(at(0), 12)].into_iter());
        answer.send(Ok(vec![(at(0), 10), (at(1), 15)])).await.unwrap();
        assert_eq!(asked().await, [(at(0), 12), (at(1), 20)]);
        answer.send(Ok(vec![(at(0), 12), (at(1), 20)])).await.unwrap();
        pending.note([(at(2), 1)].into_iter());
        assert_eq!(asked().await, [(at(2), 1)]);
    }
}
