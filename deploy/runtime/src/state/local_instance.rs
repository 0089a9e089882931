//! What this process has itself: the open stores of its groups.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use headwater::spi::{Metric, ProcessMetrics, Stores as _};
use headwater_connectors::{
    kafka::{GroupMember, Membership},
    store::local::{LocalStore, StoreStats},
};

use super::{
    address,
    answer::{Entry, GroupStats, InstanceStats, PartitionStats, RefusalKind, StateError, StoreUsage},
    stores::{Store, StoreCatalogue},
};

/// Bytes of keys and values in one list at most.
const LIST_BYTES: usize = 8 << 20;
/// How often the metrics are told how large the state is.
const EVERY: Duration = Duration::from_secs(5);

/// This instance as others see it, and the state of its groups for as long as they run.
pub(crate) struct LocalInstance {
    instance: String,
    client_id: String,
    kept: Mutex<BTreeMap<String, LocalGroup>>,
}

/// The state of one group here.
#[derive(Clone)]
pub(super) struct LocalGroup {
    instance: String,
    /// The group's member here.
    pub(super) member: LocalMember,
    local: LocalStore,
}

/// By what a group's member here is known among all of them.
#[derive(Clone)]
pub(crate) enum LocalMember {
    /// Its static name.
    Static(String),
    /// The id that its coordinator gives it, another one each time it joins.
    Dynamic(Membership),
}

impl LocalMember {
    /// Of a member with this static name, if it has one.
    pub(crate) fn of(name: Option<String>, membership: Membership) -> Self {
        name.map_or(Self::Dynamic(membership), Self::Static)
    }

    /// Whether a member that Kafka tells of is this one.
    pub(super) fn is(&self, member: &GroupMember) -> bool {
        match self {
            Self::Static(name) => member.instance.as_ref() == Some(name),
            Self::Dynamic(membership) => membership.id().as_ref() == Some(&member.id),
        }
    }
}

/// A key, its partition, and what is saved.
type RawEntry = (Vec<u8>, i32, Vec<u8>);

impl LocalInstance {
    pub(crate) fn new(instance: &str, advertise: &str, bound: SocketAddr) -> Arc<Self> {
        let client_id = address::client_id(advertise, bound);
        Arc::new(Self { instance: instance.to_owned(), client_id, kept: Mutex::default() })
    }

    /// The instance's name.
    pub(crate) fn instance(&self) -> &str {
        &self.instance
    }

    /// What its consumers call themselves.
    pub(crate) fn client_id(&self) -> &str {
        &self.client_id
    }

    /// The state of a group can be read from now on, where this member has the partition.
    pub(crate) fn open(&self, group: &str, member: LocalMember, local: LocalStore) {
        let kept = LocalGroup { instance: self.instance.clone(), member, local };
        self.all().insert(group.to_owned(), kept);
    }

    /// Lets go of a group's state, which has failed: nothing of it can be read until it is open again.
    pub(crate) fn release(&self, group: &str) -> Option<impl Send + use<>> {
        self.all().remove(group)
    }

    /// Lets go of every store: the last one to do so writes what waits.
    pub(crate) fn close(&self) {
        self.all().clear();
    }

    pub(super) fn kept(&self, group: &str) -> Option<LocalGroup> {
        self.all().get(group).cloned()
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, LocalGroup>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes on disk of each group.
    pub(super) async fn sizes(&self) -> Vec<(String, u64)> {
        let all = self.all().clone();
        let sizes = move || {
            let size = |kept: &LocalGroup| kept.local.stats().iter().map(|stats| stats.disk_bytes).sum();
            all.iter().map(|(group, kept)| (group.clone(), size(kept))).collect()
        };
        tokio::task::spawn_blocking(sizes).await.unwrap_or_default()
    }

    pub(super) async fn stats(&self, known: &StoreCatalogue) -> Result<InstanceStats, StateError> {
        let mut groups = Vec::new();
        for id in known.ids() {
            let stats = match self.kept(&id) {
                Some(kept) => off_the_runtime(move || Ok(kept.local.stats())).await?,
                None => Vec::new(),
            };
            let of =
                |store: &Store| StoreUsage { store: store.name.to_owned(), partitions: partitions(&stats, store.name) };
            groups.push(GroupStats { stores: known.stores(&id).iter().map(of).collect(), group: id });
        }
        Ok(InstanceStats { instance: self.instance.clone(), groups })
    }
}

fn partitions(stats: &[StoreStats], store: &str) -> Vec<PartitionStats> {
    stats.iter().filter(|stats| stats.store == store).map(Into::into).collect()
}

impl LocalGroup {
    /// What a key has.
    pub(super) async fn get(self, store: &Store, partition: i32, key: &str) -> Result<Entry, StateError> {
        let (store, key) = (store.clone(), key.to_owned());
        off_the_runtime(move || {
            let saved = self.local.get(store.name, partition, key.as_bytes());
            let saved = saved.map_err(|error| self.why(&store, partition, error.0))?.ok_or_else(|| {
                let text = format!("{store} has no state of key `{}` (partition {partition})", key.escape_debug());
                RefusalKind::Unknown.because(text)
            })?;
            self.entry((key.into_bytes(), partition, saved.to_vec()))
        })
        .await
    }

    /// Keys that begin with `prefix` in these partitions, in their order.
    pub(super) async fn list(
        self,
        store: &Store,
        partitions: Vec<i32>,
        prefix: &str,
        limit: usize,
    ) -> Result<Vec<Entry>, StateError> {
        let (store, prefix) = (store.clone(), prefix.to_owned());
        off_the_runtime(move || {
            let mut all: Vec<RawEntry> = Vec::new();
            for partition in partitions {
                // One entry past the bound tells that there is more.
                let found = self.local.scan_within(store.name, partition, prefix.as_bytes(), limit, LIST_BYTES + 1);
                let found = found.map_err(|error| self.why(&store, partition, error.0))?;
                all.extend(found.into_iter().map(|(key, value)| (key, partition, value)));
                all.sort_unstable();
                all.truncate(limit);
                if all.iter().map(|(key, _, value)| key.len() + value.len()).sum::<usize>() > LIST_BYTES {
                    let text = format!("the first {limit} keys have more than {LIST_BYTES} bytes: set a smaller limit");
                    return Err(RefusalKind::Wrong.because(text));
                }
            }
            all.into_iter().map(|raw| self.entry(raw)).collect()
        })
        .await
    }

    fn entry(&self, (key, partition, saved): RawEntry) -> Result<Entry, StateError> {
        let key = String::from_utf8_lossy(&key).into_owned();
        let (version, value) = headwater::spi::show(&saved).map_err(|why| {
            RefusalKind::Broken.because(format!("the state of key `{}` cannot be shown: {why}", key.escape_debug()))
        })?;
        Ok(Entry { key, partition, owner: self.instance.clone(), version, value })
    }

    fn why(&self, store: &Store, partition: i32, error: String) -> StateError {
        if self.local.is_open(store.name, partition) {
            return RefusalKind::Broken.because(error);
        }
        let text = format!("partition {partition} of {store} is being restored or moves: try again shortly");
        RefusalKind::Away.because(text)
    }
}

/// Tells the metrics how large each group's state is on this disk, for as long as it is let.
pub(crate) async fn watch(local_instance: Arc<LocalInstance>, states: ProcessMetrics) {
    let mut every = tokio::time::interval(EVERY);
    every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        for (group, bytes) in local_instance.sizes().await {
            states.of(&group).set(Metric::StateBytes, bytes);
        }
    }
}

/// Reads of a disk take their time elsewhere.
async fn off_the_runtime<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StateError> + Send + 'static,
) -> Result<T, StateError> {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|error| Err(RefusalKind::Broken.because(format!("reading state failed: {error}"))))
}
