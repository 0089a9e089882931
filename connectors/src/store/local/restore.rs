//! Restoring a partition's state from its changelog: sorted chunks go straight into files.

use std::sync::{Arc, atomic::Ordering};

use super::{
    cache::slot::{Bytes, Pair},
    checkpoint::Checkpoint,
    disk::{self, DATA},
    error::LocalError,
    flush::Shared,
    handle::Handle,
    locks::lock,
    source_offsets::SourceOffsets,
};

/// So many entries or fewer are written like changes; more are worth files of their own.
const TAIL: u64 = 10_000;
/// Memory of an entry beside its bytes.
const ENTRY: usize = size_of::<Read>();

/// The state of one partition while it is read from its changelog. Drop it to give up; what was written stays, and the
/// next restore goes on from [`checkpoint`](Self::checkpoint).
pub struct Restore {
    store: Arc<Handle>,
    target: Target,
    /// Keys and values, one behind the other; keys as on disk.
    bytes: Vec<u8>,
    entries: Vec<Read>,
    /// Entries that were read so far.
    count: u64,
    /// Whether a chunk was written.
    begun: bool,
    /// The offset behind the last entry.
    next: i64,
    /// How far the inputs have come.
    inputs: SourceOffsets,
}

struct Target {
    name: Arc<str>,
    store: String,
    partition: i32,
    topic_id: String,
    /// When the restore began.
    at_ms: i64,
}

/// Where an entry stands in [`Restore::bytes`].
struct Read {
    /// Eight bytes of the key from where the keys of the chunk begin to differ: most comparisons need no more, and stay
    /// clear of memory that is far away. Set while sorting.
    head: u64,
    /// Less than the limit of a chunk, 1 GiB.
    start: u32,
    key: u16,
    /// `None` for a tombstone.
    value: Option<u32>,
}

impl Restore {
    pub(crate) fn new(
        store: Arc<Handle>,
        (name, partition): (&str, i32),
        topic_id: &str,
        at_ms: i64,
    ) -> Result<Self, LocalError> {
        let target = Target {
            name: disk::name(name, partition)?,
            store: name.to_owned(),
            partition,
            topic_id: topic_id.to_owned(),
            at_ms,
        };
        let Checkpoint { next, inputs, .. } = store.checkpoint(name, partition)?.unwrap_or_default();
        store.shared.restores.fetch_add(1, Ordering::Relaxed);
        Ok(Self { store, target, bytes: Vec::new(), entries: Vec::new(), count: 0, begun: false, next, inputs })
    }

    /// How far the partition was complete when this was written to disk last: read the changelog from there.
    ///
    /// # Errors
    /// When the disk cannot be read.
    pub fn checkpoint(&self) -> Result<Option<Checkpoint>, LocalError> {
        self.store.checkpoint(&self.target.store, self.target.partition)
    }

    /// Takes the entry at `offset`, `None` where its key is forgotten. Entries come in the order of their offsets.
    ///
    /// # Errors
    /// When the disk does not take what has gathered; then the entry was not taken, and the same call may be repeated.
    pub fn push(&mut self, offset: i64, key: &[u8], value: Option<&[u8]>) -> Result<(), LocalError> {
        disk::check(key, value)?;
        let size = 1 + key.len() + value.map_or(0, <[u8]>::len);
        if !self.entries.is_empty() && self.memory() + size + ENTRY > self.limit() {
            let checkpoint = self.reached(self.next, self.target.at_ms);
            self.write(&checkpoint, false)?;
        }
        let start = length(&self.bytes);
        self.bytes.push(DATA);
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value.unwrap_or_default());
        let key = u16::try_from(key.len() + 1).unwrap_or(u16::MAX);
        self.entries.push(Read { head: 0, start, key, value: value.map(length) });
        (self.count, self.next) = (self.count + 1, offset + 1);
        Ok(())
    }

    /// With its entries the inputs have come so far.
    pub fn pass(&mut self, inputs: SourceOffsets) {
        self.inputs = inputs;
    }

    /// Writes the rest; the partition is complete up to `next_offset`, and open.
    ///
    /// # Errors
    /// When the disk does not take it; the same call may be repeated.
    pub fn finish(&mut self, next_offset: i64, now_ms: i64) -> Result<(), LocalError> {
        let checkpoint = self.reached(next_offset, now_ms);
        self.write(&checkpoint, true)?;
        let Target { name, store, partition, .. } = &self.target;
        lock(&self.store.shared.cache).open(name, store, *partition, checkpoint);
        Ok(())
    }

    /// Bytes that may gather: its part of the memory for all restores.
    fn limit(&self) -> usize {
        let shared = &self.store.shared;
        shared.config.restore_bytes / shared.restores.load(Ordering::Relaxed).max(1)
    }

    /// Bytes of what has gathered.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.len() + self.entries.len() * ENTRY
    }

    fn reached(&self, next: i64, at_ms: i64) -> Checkpoint {
        Checkpoint { next, at_ms, topic_id: self.target.topic_id.clone(), inputs: self.inputs.clone() }
    }

    fn write(&mut self, checkpoint: &Checkpoint, last: bool) -> Result<(), LocalError> {
        sort(&self.bytes, &mut self.entries);
        let small = last && !self.begun && self.count <= TAIL;
        let result = self.write_sorted(checkpoint, small);
        self.store.shared.note(&result);
        result?;
        self.begun = true;
        let limit = self.limit();
        self.bytes.clear();
        self.bytes.shrink_to(limit);
        self.entries.clear();
        self.entries.shrink_to(limit / ENTRY);
        Ok(())
    }

    fn write_sorted(&self, checkpoint: &Checkpoint, small: bool) -> Result<(), LocalError> {
        let (shared, target) = (&self.store.shared, &self.target);
        let turn = lock(&shared.turn);
        let open = lock(&shared.cache).id(&target.store, target.partition);
        let Some(id) = open else {
            // Nothing reads or writes it: others need not wait.
            drop(turn);
            return self.write_chunk(shared, Some(checkpoint), small);
        };
        // What waits is older than the chunk, what comes meanwhile is newer: the chunk must come between. Its checkpoint
        // must not be on disk before what comes meanwhile.
        shared.flush_part(&turn, id)?;
        self.write_chunk(shared, None, small)?;
        lock(&shared.cache).caught_up(id, checkpoint);
        shared.flush_part(&turn, id)
    }

    fn write_chunk(&self, shared: &Shared, checkpoint: Option<&Checkpoint>, small: bool) -> Result<(), LocalError> {
        let name = &self.target.name;
        let last_of_each = self.entries.chunk_by(|a, b| key(&self.bytes, a) == key(&self.bytes, b));
        let entries = last_of_each.filter_map(<[Read]>::last).map(|read| (key(&self.bytes, read), self.value(read)));
        if !small {
            return shared.disk.ingest(name, checkpoint, entries);
        }
        let pairs: Vec<Pair> = entries.map(|(key, value)| (Bytes::from(&key[1..]), value.map(Bytes::from))).collect();
        if pairs.is_empty() && checkpoint.is_none() {
            return Ok(());
        }
        shared.disk.write(name, &pairs, checkpoint)
    }

    fn value(&self, read: &Read) -> Option<&[u8]> {
        let start = read.start as usize + usize::from(read.key);
        read.value.map(|length| &self.bytes[start..start + length as usize])
    }
}

impl Drop for Restore {
    fn drop(&mut self) {
        self.store.shared.restores.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Sorts by key, and entries of one key as they were read.
fn sort(bytes: &[u8], entries: &mut [Read]) {
    let Some(first) = entries.first().map(|read| key(bytes, read)) else { return };
    let same = entries.iter().fold(first.len(), |same, read| {
        let pairs = first[..same].iter().zip(key(bytes, read));
        pairs.take_while(|(a, b)| a == b).count()
    });
    for read in &mut *entries {
        let mut head = [0; 8];
        let differs = &key(bytes, read)[same..];
        let length = differs.len().min(8);
        head[..length].copy_from_slice(&differs[..length]);
        read.head = u64::from_be_bytes(head);
    }
    entries.sort_unstable_by(|a, b| {
        let keys = a.head.cmp(&b.head).then_with(|| key(bytes, a).cmp(key(bytes, b)));
        keys.then(a.start.cmp(&b.start))
    });
}

fn key<'a>(bytes: &'a [u8], read: &Read) -> &'a [u8] {
    let start = read.start as usize;
    &bytes[start..start + usize::from(read.key)]
}

/// A length that [`disk::check`] has let pass.
fn length(bytes: &[u8]) -> u32 {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX)
}
