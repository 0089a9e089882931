//! One entry in memory, and what it costs.

use std::sync::Arc;

/// Bytes of a key or a value, shared with the engine.
pub(crate) type Bytes = Arc<[u8]>;
/// A key, and what it has.
pub(crate) type Pair = (Bytes, Option<Bytes>);

/// Memory of a slot, used or free: itself, and its place in the list of free ones.
pub(crate) const SLOT: usize = size_of::<Slot>() + 4;
/// Memory of an entry beside its slot and its bytes: its place in the table, the counts of two `Arc`s, and what the
/// allocator rounds up.
const ENTRY: usize = 10 + 2 * 16 + 16;

/// An entry in memory, or room for one.
pub(crate) struct Slot {
    /// `None` where the slot is free.
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) partition: u32,
    pub(crate) state: State,
    /// Asked for since the hand came by.
    pub(crate) asked: bool,
    /// Is being written; then its partition's writer holds its number.
    pub(crate) writing: bool,
}

/// Whether the disk has an entry.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    /// The disk has the same.
    Clean,
    /// Waits to be written; its partition's list of the dirty holds its number.
    Dirty,
}

impl Slot {
    /// Whether it must not be dropped: the disk does not have it yet, or not for sure.
    pub(crate) fn pinned(&self) -> bool {
        self.writing || self.state == State::Dirty
    }

    /// Memory beside the slot itself.
    pub(crate) fn size(&self) -> usize {
        size(self.key.as_deref().unwrap_or_default(), self.value.as_deref())
    }
}

fn size(key: &[u8], value: Option<&[u8]>) -> usize {
    ENTRY + key.len() + value.map_or(0, <[u8]>::len)
}

/// Memory that an entry takes, its slot included.
pub(crate) fn cost(key: &[u8], value: Option<&[u8]>) -> usize {
    SLOT + size(key, value)
}

/// The number of a slot or a partition: there are fewer than 2³² of them, each takes more than 4 bytes.
pub(crate) fn number(index: usize) -> u32 {
    u32::try_from(index).unwrap_or(u32::MAX)
}
