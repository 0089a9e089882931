//! What is in memory of one partition of one store.

use std::{collections::BTreeMap, sync::Arc};

use hashbrown::HashTable;

use super::slot::Bytes;
use crate::store::local::{checkpoint::Checkpoint, source_offsets::SourceOffsets};

/// One open partition of one store.
pub(crate) struct PartitionCache {
    /// Its name on disk.
    pub(crate) name: Arc<str>,
    /// The store.
    pub(crate) store: Arc<str>,
    /// The partition.
    pub(crate) partition: i32,
    /// Its slots, by key.
    pub(crate) table: HashTable<u32>,
    /// Slots that wait to be written, each once.
    pub(crate) dirty: Vec<u32>,
    /// The keys that wait to be written or are being written, in their order; kept from the first scan on.
    pub(crate) order: Option<BTreeMap<Bytes, u32>>,
    /// Entries that wait to be written or are being written.
    pub(crate) waiting: usize,
    /// Memory of its entries.
    pub(crate) bytes: usize,
    /// How far it is complete, disk and memory together.
    pub(crate) checkpoint: Checkpoint,
    /// Whether the disk has this checkpoint.
    pub(crate) saved: bool,
    /// When it last changed, in ticks of the cache's clock.
    pub(crate) clock: u64,
}

impl PartitionCache {
    /// An open partition with nothing in memory.
    pub(crate) fn new(name: Arc<str>, store: Arc<str>, partition: i32, checkpoint: Checkpoint, clock: u64) -> Self {
        Self {
            name,
            store,
            partition,
            table: HashTable::new(),
            dirty: Vec::new(),
            order: None,
            waiting: 0,
            bytes: 0,
            checkpoint,
            saved: true,
            clock,
        }
    }

    /// What is to be written: the dirty slots and the checkpoint that stands once they are on disk; `None` where the disk
    /// has all.
    pub(crate) fn take_dirty(&mut self) -> Option<(Vec<u32>, Checkpoint)> {
        if self.saved && self.dirty.is_empty() {
            return None;
        }
        Some((std::mem::take(&mut self.dirty), self.checkpoint.clone()))
    }

    /// Notes a change, and how far the partition is complete with it.
    pub(crate) fn advance(&mut self, checkpoint: Option<(i64, i64)>, clock: u64) {
        self.clock = clock;
        if let Some((next, at_ms)) = checkpoint {
            (self.checkpoint.next, self.checkpoint.at_ms, self.saved) = (next, at_ms, false);
        }
    }

    /// Notes how far inputs have come.
    pub(crate) fn pass(&mut self, inputs: SourceOffsets) {
        (self.checkpoint.inputs, self.saved) = (inputs, false);
    }

    /// Notes that the disk has moved on to `checkpoint`, which is yet to be written.
    pub(crate) fn caught_up(&mut self, checkpoint: &Checkpoint, clock: u64) {
        self.clock = clock;
        if checkpoint.next >= self.checkpoint.next {
            (self.checkpoint, self.saved) = (checkpoint.clone(), false);
        }
    }

    /// Notes that the disk has `checkpoint`.
    pub(crate) fn saved(&mut self, checkpoint: &Checkpoint) {
        self.saved = self.checkpoint == *checkpoint;
    }

    pub(crate) fn pin(&mut self, key: Option<Bytes>, slot: u32) {
        if let (Some(order), Some(key)) = (&mut self.order, key) {
            order.insert(key, slot);
        }
    }

    pub(crate) fn unpin(&mut self, key: Option<Bytes>) {
        if let (Some(order), Some(key)) = (&mut self.order, key) {
            order.remove(&key);
        }
    }
}
