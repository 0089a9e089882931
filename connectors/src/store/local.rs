//! Keyed state of one consumer group on the disk of one instance: a cache that is written to disk behind the engine.
//!
//! The truth is the changelog in Kafka. The engine commits there and only then tells the store with
//! [`LocalStore::apply`], which keeps the change in memory; a thread writes it to disk a little later, in one batch with the
//! [`Checkpoint`] that says how far in the changelog the disk is complete. So a crash takes only what the changelog has
//! behind the checkpoint: [`LocalStore::restore`] reads it again. The checkpoint on disk is never ahead of the entries, and
//! no crash makes it necessary to delete anything. What is on disk may be ahead of the checkpoint; a partition is therefore
//! read only once a restore has finished.
//!
//! Memory is bounded by [`StateConfig`]. While the disk is full the changes that wait take what memory there is; then
//! `apply` answers with an error and takes the same changes later.

mod config;
mod error;

mod checkpoint;
mod restore;
mod source_offsets;

mod cache;

mod flush;
mod handle;

mod disk;
mod folder;
mod locks;

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
};

use headwater::spi::{Entry, StateChange, StoreError, Stores};

pub use self::{
    checkpoint::Checkpoint,
    config::StateConfig,
    disk::MAX_KEY,
    error::{Damage, LocalError},
    restore::Restore,
    source_offsets::{ParseSourceOffsetsError, SourceOffsets},
};
use self::{
    disk::ReadLimit,
    flush::Shared,
    handle::Handle,
    locks::{lock, read, write},
};

/// The keyed state of one consumer group. Clones share it; the last one that is dropped writes what waits.
#[derive(Clone)]
pub struct LocalStore(Arc<Handle>);

/// How far the changelog of one partition of one store has come: its next offset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct End {
    /// The store.
    pub store: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset in its changelog that comes next.
    pub next: i64,
    /// How far the inputs have come with that; `None` where it is as before.
    pub inputs: Option<SourceOffsets>,
}

/// What one open partition of one store takes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreStats {
    /// The store.
    pub store: String,
    /// The partition.
    pub partition: i32,
    /// About how many keys are on disk; a key that was written again counts more than once until files are merged.
    pub keys_approx: usize,
    /// Entries in memory.
    pub cached: usize,
    /// Bytes of memory that they take.
    pub cached_bytes: usize,
    /// Those of them that wait to be written.
    pub dirty: usize,
    /// Bytes of files.
    pub disk_bytes: u64,
    /// How far it is complete, memory and disk together.
    pub checkpoint: Checkpoint,
}

impl LocalStore {
    /// Opens the state under `dir`, or creates it. No partition is open yet.
    ///
    /// # Errors
    /// When another process holds the folder, a newer version wrote it, its files are damaged, or the disk fails. Nothing is
    /// deleted then.
    pub fn open(dir: &Path, config: &StateConfig) -> Result<Self, LocalError> {
        let problems = config.problems();
        if !problems.is_empty() {
            return Err(LocalError::Config(problems.join("; ")));
        }
        Self::start(dir, config)
    }

    /// Puts a folder whose files are damaged aside, where it can be looked at, so that a new one can be restored from the
    /// changelog: as `.damaged-NAME` beside it, in the place of one that was put there before.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn set_aside(dir: &Path) -> Result<PathBuf, LocalError> {
        folder::set_aside(dir)
    }

    /// Tells whether files turn out to be damaged while the store is open: what they hold cannot be read any more then, nor
    /// be restored beside them.
    pub fn damage(&self) -> Damage {
        self.shared().disk.damage().clone()
    }

    fn start(dir: &Path, config: &StateConfig) -> Result<Self, LocalError> {
        Ok(Self(Arc::new(Handle::start(dir, config)?)))
    }

    fn shared(&self) -> &Shared {
        &self.0.shared
    }

    /// How far a partition is complete, open or not; `None` where there is nothing of it.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn checkpoint(&self, store: &str, partition: i32) -> Result<Option<Checkpoint>, LocalError> {
        self.0.checkpoint(store, partition)
    }

    /// Takes changes that the changelog has, all or none, and how far it has come with them. What concerns a partition that
    /// is not open is left out: its checkpoint stays, and it is read from the changelog again.
    ///
    /// Stays in memory, unless half of that waits to be written already: then it is written first.
    ///
    /// # Errors
    /// When the disk fails and the memory for what waits is used up. Nothing was taken then; repeat the same call later.
    pub fn apply(&self, changes: &[StateChange], ends: &[End], now_ms: i64) -> Result<(), LocalError> {
        changes.iter().try_for_each(|change| disk::check(&change.key, change.value.as_deref()))?;
        let shared = self.shared();
        shared.make_room(changes)?;
        let mut cache = lock(&shared.cache);
        for change in changes {
            if let Some(id) = cache.id(&change.store, change.partition) {
                cache.put(id, &change.key, change.value.as_ref());
                cache.advance(id, None);
            }
        }
        for end in ends {
            if let Some(id) = cache.id(&end.store, end.partition) {
                cache.advance(id, Some((end.next, now_ms)));
                if let (Some(part), Some(inputs)) = (cache.partition_mut(id), &end.inputs) {
                    part.pass(inputs.clone());
                }
            }
        }
        cache.evict();
        Ok(())
    }

    /// How far the inputs have come whose changes an open partition has; nowhere where it is not open.
    pub fn inputs(&self, store: &str, partition: i32) -> SourceOffsets {
        let cache = lock(&self.shared().cache);
        let part = cache.id(store, partition).and_then(|id| cache.partition(id));
        part.map_or_else(SourceOffsets::default, |part| part.checkpoint.inputs.clone())
    }

    /// The same of every open partition, by store and number.
    pub fn all_inputs(&self) -> Vec<(Arc<str>, i32, SourceOffsets)> {
        let cache = lock(&self.shared().cache);
        let of = |id| cache.partition(id).map(|p| (Arc::clone(&p.store), p.partition, p.checkpoint.inputs.clone()));
        cache.open_ids().into_iter().filter_map(of).collect()
    }

    /// Notes how far inputs have come, where the changelog says so in other words.
    pub fn note_inputs(&self, store: &str, partition: i32, inputs: SourceOffsets) {
        let mut cache = lock(&self.shared().cache);
        let id = cache.id(store, partition);
        if let Some(part) = id.and_then(|id| cache.partition_mut(id)).filter(|part| part.checkpoint.inputs != inputs) {
            part.pass(inputs);
        }
    }

    /// Notes the ids of topics whose partitions are taken.
    pub fn note_topics(&self, ids: &BTreeMap<String, String>) {
        write(&self.0.topics).extend(ids.iter().map(|(topic, id)| (topic.clone(), Arc::from(id.as_str()))));
    }

    /// The id of a topic, as it was noted last; empty where it was not.
    pub fn topic_id(&self, topic: &str) -> Arc<str> {
        read(&self.0.topics).get(topic).cloned().unwrap_or_default()
    }

    /// Begins to restore a partition from its changelog, or to catch up with it: read that from
    /// [`Restore::checkpoint`] on. A partition that is open stays so.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn restore(&self, store: &str, partition: i32, topic_id: &str, now_ms: i64) -> Result<Restore, LocalError> {
        Restore::new(Arc::clone(&self.0), (store, partition), topic_id, now_ms)
    }

    /// Deletes everything of a partition and closes it: what is there cannot be brought up to date any more.
    ///
    /// # Errors
    /// When the disk fails; repeat the call.
    pub fn wipe(&self, store: &str, partition: i32) -> Result<(), LocalError> {
        let shared = self.shared();
        let name = disk::name(store, partition)?;
        let _turn = lock(&shared.turn);
        {
            let mut cache = lock(&shared.cache);
            if let Some(id) = cache.id(store, partition) {
                cache.close(id);
            }
        }
        shared.disk.delete(&name)
    }

    /// Closes these partitions of every store; what is on disk stays for when they come back. What cannot be written now
    /// will be read from the changelog again.
    pub fn forget(&self, partitions: &[i32]) {
        let shared = self.shared();
        let turn = lock(&shared.turn);
        let ids = lock(&shared.cache).open_ids();
        for id in ids {
            let Some((name, partition)) =
                lock(&shared.cache).partition(id).map(|part| (part.name.clone(), part.partition))
            else {
                continue;
            };
            if partitions.contains(&partition) {
                // A failure is noted where it happens, and harms nothing.
                let _ = shared.flush_part(&turn, id);
                lock(&shared.cache).close(id);
                shared.disk.release(&name);
            }
        }
    }

    /// Writes everything that waits.
    ///
    /// # Errors
    /// When the disk fails; what was not written still waits.
    pub fn flush(&self) -> Result<(), LocalError> {
        self.shared().flush()
    }

    /// What the open partitions take, by store and partition.
    pub fn stats(&self) -> Vec<StoreStats> {
        let mut stats = Vec::new();
        let ids = lock(&self.shared().cache).open_ids();
        for id in ids {
            let cache = lock(&self.shared().cache);
            let Some(part) = cache.partition(id) else { continue };
            let (cached, dirty) = (part.table.len(), part.waiting);
            let (name, store, partition) = (part.name.clone(), part.store.to_string(), part.partition);
            let (cached_bytes, checkpoint) = (part.bytes, part.checkpoint.clone());
            drop(cache);
            let (keys_approx, disk_bytes) = self.shared().disk.sizes(&name);
            stats.push(StoreStats {
                store,
                partition,
                keys_approx,
                cached,
                cached_bytes,
                dirty,
                disk_bytes,
                checkpoint,
            });
        }
        stats.sort_by(|a, b| (&a.store, a.partition).cmp(&(&b.store, b.partition)));
        stats
    }

    /// Whether a partition's state can be read now: it has been restored, and was not forgotten since.
    pub fn is_open(&self, store: &str, partition: i32) -> bool {
        lock(&self.shared().cache).id(store, partition).is_some()
    }

    /// Whether an open partition has no key.
    ///
    /// # Errors
    /// When it is not open, or the disk cannot be read.
    pub fn is_empty(&self, store: &str, partition: i32) -> Result<bool, LocalError> {
        Ok(self.list(store, partition, b"", ReadLimit { entries: 1, bytes: usize::MAX })?.is_empty())
    }

    /// Why changes do not reach the disk now, if they do not.
    pub fn failure(&self) -> Option<LocalError> {
        lock(&self.shared().failure).as_ref().map(|(error, _)| error.clone())
    }

    fn read(&self, store: &str, partition: i32, key: &[u8]) -> Result<Option<Arc<[u8]>>, LocalError> {
        let shared = self.shared();
        let (id, name, clock) = {
            let mut cache = lock(&shared.cache);
            let id = cache.id(store, partition).ok_or_else(|| not_open(store, partition))?;
            if let Some(known) = cache.lookup(id, key) {
                drop(cache);
                return Ok(known);
            }
            let part = cache.partition(id).ok_or_else(|| not_open(store, partition))?;
            (id, part.name.clone(), part.clock)
        };
        if key.len() > disk::MAX_KEY {
            return Ok(None);
        }
        let found = shared.disk.get(&name, key)?;
        lock(&shared.cache).fill(id, clock, key, found.as_ref());
        Ok(found.map(|value| Arc::from(&*value)))
    }

    /// As [`Stores::scan`], and no more than this many bytes of keys and values: reading ends with the entry that brings it to
    /// as many.
    ///
    /// # Errors
    /// When the partition is not open, or the disk cannot be read.
    pub fn scan_within(
        &self,
        store: &str,
        partition: i32,
        prefix: &[u8],
        limit: usize,
        bytes: usize,
    ) -> Result<Vec<Entry>, StoreError> {
        Ok(self.list(store, partition, prefix, ReadLimit { entries: limit, bytes })?)
    }

    fn list(&self, store: &str, partition: i32, prefix: &[u8], limit: ReadLimit) -> Result<Vec<Entry>, LocalError> {
        let shared = self.shared();
        let (name, overlay) = {
            let mut cache = lock(&shared.cache);
            let id = cache.id(store, partition).ok_or_else(|| not_open(store, partition))?;
            let overlay = cache.overlay(id, prefix, limit.entries);
            (cache.partition(id).ok_or_else(|| not_open(store, partition))?.name.clone(), overlay)
        };
        if limit.entries == 0 || prefix.len() > disk::MAX_KEY {
            return Ok(Vec::new());
        }
        shared.disk.scan(&name, prefix, overlay, limit)
    }
}

impl Stores for LocalStore {
    fn get(&self, store: &str, partition: i32, key: &[u8]) -> Result<Option<Arc<[u8]>>, StoreError> {
        Ok(self.read(store, partition, key)?)
    }

    fn scan(&self, store: &str, partition: i32, prefix: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        Ok(self.list(store, partition, prefix, ReadLimit { entries: limit, bytes: usize::MAX })?)
    }
}

fn not_open(store: &str, partition: i32) -> LocalError {
    LocalError::NotOpen { store: store.to_owned(), partition }
}
