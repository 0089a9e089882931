//! Entries in memory, within one budget of bytes for all partitions: what was read, and what waits to be written.
//!
//! Entries stand in one slab; each partition has a table of slots by key. A hand goes round the slab and takes out what is
//! on disk and was not asked for since its last visit (second chance). What waits to be written stays.

pub(crate) mod partition;
pub(crate) mod slot;

use std::{collections::HashMap, ops::Bound, sync::Arc};

use foldhash::fast::RandomState;

use self::{
    partition::PartitionCache,
    slot::{Bytes, Pair, SLOT, Slot, State, cost, number},
};
use super::checkpoint::Checkpoint;

/// The entries of all open partitions.
pub(crate) struct Cache {
    budget: usize,
    hasher: RandomState,
    slots: Vec<Slot>,
    free: Vec<u32>,
    hand: usize,
    /// Memory of the entries, without their slots.
    bytes: usize,
    /// Memory of the entries that may not be dropped, with their slots.
    pinned_bytes: usize,
    clean: usize,
    /// Counts whatever may make an answer from disk stale.
    clock: u64,
    ids: HashMap<Arc<str>, HashMap<i32, u32, RandomState>, RandomState>,
    partitions: Vec<Option<PartitionCache>>,
}

impl Cache {
    pub(crate) fn new(budget: usize) -> Self {
        Self {
            budget,
            hasher: RandomState::default(),
            slots: Vec::new(),
            free: Vec::new(),
            hand: 0,
            bytes: 0,
            pinned_bytes: 0,
            clean: 0,
            clock: 0,
            ids: HashMap::default(),
            partitions: Vec::new(),
        }
    }

    /// Memory of everything in here.
    pub(crate) fn used(&self) -> usize {
        self.bytes + self.slots.len() * SLOT
    }

    /// Memory of what waits to be written.
    pub(crate) fn pinned_bytes(&self) -> usize {
        self.pinned_bytes
    }

    pub(crate) fn id(&self, store: &str, partition: i32) -> Option<u32> {
        self.ids.get(store)?.get(&partition).copied()
    }

    /// The numbers of all open partitions.
    pub(crate) fn open_ids(&self) -> Vec<u32> {
        self.ids.values().flat_map(HashMap::values).copied().collect()
    }

    pub(crate) fn partition(&self, id: u32) -> Option<&PartitionCache> {
        self.partitions.get(id as usize)?.as_ref()
    }

    pub(crate) fn partition_mut(&mut self, id: u32) -> Option<&mut PartitionCache> {
        self.partitions.get_mut(id as usize)?.as_mut()
    }

    /// Opens a partition of which the disk has all, up to `checkpoint`. One that is open stays as it is.
    pub(crate) fn open(&mut self, name: &Arc<str>, store: &str, partition: i32, checkpoint: Checkpoint) {
        if self.id(store, partition).is_some() {
            return;
        }
        self.clock += 1;
        let id = self.partitions.iter().position(Option::is_none).unwrap_or(self.partitions.len());
        if id == self.partitions.len() {
            self.partitions.push(None);
        }
        let store: Arc<str> = store.into();
        self.partitions[id] = Some(PartitionCache::new(name.clone(), store.clone(), partition, checkpoint, self.clock));
        self.ids.entry(store).or_default().insert(partition, number(id));
    }

    /// Notes that the disk of an open partition has moved on to `checkpoint`, which it has not got itself: what was read
    /// from it before is stale.
    pub(crate) fn caught_up(&mut self, id: u32, checkpoint: &Checkpoint) {
        self.drop_clean(id);
        self.clock += 1;
        let clock = self.clock;
        if let Some(partition) = self.partition_mut(id) {
            partition.caught_up(checkpoint, clock);
        }
    }

    /// Forgets a partition and all its entries, written or not.
    pub(crate) fn close(&mut self, id: u32) {
        let Some(partition) = self.partitions.get_mut(id as usize).and_then(Option::take) else { return };
        for &slot in &partition.table {
            self.vacate(slot);
        }
        if let Some(partitions) = self.ids.get_mut(&partition.store) {
            partitions.remove(&partition.partition);
        }
        self.shrink();
    }

    /// What is known of a key: `None` where the disk has to be asked, `Some(None)` where it has nothing.
    pub(crate) fn lookup(&mut self, id: u32, key: &[u8]) -> Option<Option<Bytes>> {
        let slot = self.find(id, key)?;
        let slot = &mut self.slots[slot as usize];
        slot.asked = true;
        Some(slot.value.clone())
    }

    /// Remembers what the disk answered, unless the partition has changed since its clock was read.
    pub(crate) fn fill(&mut self, id: u32, clock: u64, key: &[u8], value: Option<&Bytes>) {
        let fits = cost(key, value.map(AsRef::as_ref)) <= self.budget / 4;
        if !fits || self.partition(id).is_none_or(|partition| partition.clock != clock) || self.find(id, key).is_some()
        {
            return;
        }
        self.insert(id, key.into(), value.cloned(), State::Clean);
        self.evict();
    }

    /// Takes a change, which waits from now on to be written.
    pub(crate) fn put(&mut self, id: u32, key: &Bytes, value: Option<&Bytes>) {
        match self.find(id, key) {
            None => {
                self.insert(id, key.clone(), value.cloned(), State::Dirty);
            }
            Some(slot) => self.replace(id, slot, value),
        }
    }

    fn replace(&mut self, id: u32, slot: u32, value: Option<&Bytes>) {
        let entry = &mut self.slots[slot as usize];
        let (before, was_pinned, was_dirty) = (entry.size(), entry.pinned(), entry.state == State::Dirty);
        entry.value = value.cloned();
        (entry.state, entry.asked) = (State::Dirty, true);
        let after = entry.size();
        self.bytes = self.bytes + after - before;
        if was_pinned {
            self.pinned_bytes = self.pinned_bytes + after - before;
        } else {
            self.pinned_bytes += after + SLOT;
            self.clean -= 1;
        }
        let key = entry.key.clone();
        if let Some(partition) = self.partitions[id as usize].as_mut() {
            partition.bytes = partition.bytes + after - before;
            partition.waiting += usize::from(!was_pinned);
            if !was_dirty {
                partition.dirty.push(slot);
            }
            partition.pin(key, slot);
        }
    }

    /// Notes that a partition has changed, and how far its state is complete now.
    pub(crate) fn advance(&mut self, id: u32, checkpoint: Option<(i64, i64)>) {
        self.clock += 1;
        let clock = self.clock;
        if let Some(partition) = self.partition_mut(id) {
            partition.advance(checkpoint, clock);
        }
    }

    fn find(&self, id: u32, key: &[u8]) -> Option<u32> {
        let hash = self.hash(key);
        let slots = &self.slots;
        self.partition(id)?.table.find(hash, |&slot| slots[slot as usize].key.as_deref() == Some(key)).copied()
    }

    fn hash(&self, key: &[u8]) -> u64 {
        std::hash::BuildHasher::hash_one(&self.hasher, key)
    }

    fn insert(&mut self, id: u32, key: Bytes, value: Option<Bytes>, state: State) {
        let hash = self.hash(&key);
        let entry = Slot { key: Some(key.clone()), value, partition: id, state, asked: false, writing: false };
        let size = entry.size();
        let slot = self.place(entry);
        self.bytes += size;
        if state == State::Dirty {
            self.pinned_bytes += size + SLOT;
        } else {
            self.clean += 1;
        }
        let (slots, hasher) = (&self.slots, &self.hasher);
        let Some(partition) = self.partitions[id as usize].as_mut() else { return };
        partition.bytes += size + SLOT;
        partition.table.insert_unique(hash, slot, |&slot| {
            let key = slots[slot as usize].key.as_deref().unwrap_or_default();
            std::hash::BuildHasher::hash_one(hasher, key)
        });
        if state == State::Dirty {
            partition.waiting += 1;
            partition.dirty.push(slot);
            partition.pin(Some(key), slot);
        }
    }

    fn place(&mut self, entry: Slot) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.slots[slot as usize] = entry;
            return slot;
        }
        if self.slots.len() == self.slots.capacity() {
            // Doubling would leave half of a large slab unused.
            self.slots.reserve_exact((self.slots.len() / 8).max(64));
        }
        self.slots.push(entry);
        number(self.slots.len() - 1)
    }

    /// Frees a slot whose table has already let go of it.
    fn vacate(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        let (size, pinned) = (entry.size(), entry.pinned());
        (entry.key, entry.value, entry.state, entry.writing) = (None, None, State::Clean, false);
        self.bytes -= size;
        if pinned {
            self.pinned_bytes -= size + SLOT;
        } else {
            self.clean -= 1;
        }
        self.free.push(slot);
    }

    fn shrink(&mut self) {
        if self.free.len() == self.slots.len() {
            (self.slots, self.free, self.hand) = (Vec::new(), Vec::new(), 0);
        }
    }

    /// Drops clean entries until the budget is kept, or none is left.
    pub(crate) fn evict(&mut self) {
        // Twice round: on the first the hand may only take marks away.
        let mut steps = 2 * self.slots.len();
        while self.used() > self.budget && self.clean > 0 && steps > 0 {
            steps -= 1;
            self.hand = if self.hand + 1 < self.slots.len() { self.hand + 1 } else { 0 };
            let slot = &mut self.slots[self.hand];
            if slot.key.is_none() || slot.pinned() {
                continue;
            }
            if std::mem::take(&mut slot.asked) {
                continue;
            }
            self.remove(number(self.hand));
        }
    }

    fn remove(&mut self, slot: u32) {
        let entry = &self.slots[slot as usize];
        let (hash, size) = (self.hash(entry.key.as_deref().unwrap_or_default()), entry.size());
        if let Some(partition) = self.partitions[entry.partition as usize].as_mut() {
            partition.bytes -= size + SLOT;
            if let Ok(found) = partition.table.find_entry(hash, |&other| other == slot) {
                found.remove();
            }
        }
        self.vacate(slot);
    }

    fn drop_clean(&mut self, id: u32) {
        let Some(partition) = self.partition(id) else { return };
        let clean: Vec<u32> =
            partition.table.iter().copied().filter(|&slot| !self.slots[slot as usize].pinned()).collect();
        for slot in clean {
            self.remove(slot);
        }
    }

    /// Marks the first of `slots` as being written, within `bytes`, at least one, and says what they hold, by key.
    pub(crate) fn begin(&mut self, slots: &[u32], entries: usize, bytes: usize) -> Vec<Pair> {
        let (mut pairs, mut taken) = (Vec::with_capacity(slots.len().min(entries)), 0);
        for &slot in slots.iter().take(entries) {
            let entry = &mut self.slots[slot as usize];
            let Some(key) = entry.key.clone() else { continue };
            if taken > 0 && taken + entry.size() > bytes {
                break;
            }
            taken += entry.size();
            (entry.state, entry.writing) = (State::Clean, true);
            pairs.push((key, entry.value.clone()));
        }
        pairs.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        pairs
    }

    /// Ends the writing of `slots`: they are clean, unless they have changed meanwhile.
    pub(crate) fn written(&mut self, id: u32, slots: &[u32]) {
        for &slot in slots {
            let entry = &mut self.slots[slot as usize];
            entry.writing = false;
            if entry.state == State::Clean {
                self.pinned_bytes -= entry.size() + SLOT;
                self.clean += 1;
                let key = entry.key.clone();
                if let Some(partition) = self.partitions[id as usize].as_mut() {
                    partition.waiting -= 1;
                    partition.unpin(key);
                }
            }
        }
        self.evict();
    }

    /// Takes `slots` back, which could not be written; those from `begun` on were not begun.
    pub(crate) fn unwritten(&mut self, id: u32, slots: &[u32], begun: usize) {
        for (index, &slot) in slots.iter().enumerate() {
            let entry = &mut self.slots[slot as usize];
            let relisted = index < begun && entry.state == State::Dirty;
            (entry.state, entry.writing) = (State::Dirty, false);
            if let Some(partition) = self.partitions[id as usize].as_mut().filter(|_| !relisted) {
                partition.dirty.push(slot);
            }
        }
    }

    /// What waits to be written and begins with `prefix`, by key: as much as a scan for `limit` can need. From now on the
    /// partition keeps its keys that wait in order.
    pub(crate) fn overlay(&mut self, id: u32, prefix: &[u8], limit: usize) -> Vec<Pair> {
        let slots = &self.slots;
        let Some(partition) = self.partitions.get_mut(id as usize).and_then(Option::as_mut) else { return Vec::new() };
        let pinned = partition.table.iter().filter(|&&slot| slots[slot as usize].pinned());
        let order = partition.order.get_or_insert_with(|| {
            pinned.filter_map(|&slot| Some((slots[slot as usize].key.clone()?, slot))).collect()
        });
        let (mut pairs, mut live) = (Vec::new(), 0);
        for (key, &slot) in order.range::<[u8], _>((Bound::Included(prefix), Bound::Unbounded)) {
            if live == limit || !key.starts_with(prefix) {
                break;
            }
            let value = slots[slot as usize].value.clone();
            live += usize::from(value.is_some());
            pairs.push((key.clone(), value));
        }
        pairs
    }
}
