//! The way of changes from memory to disk, and the thread that sends them there.

use std::{
    sync::{
        Arc, Mutex, MutexGuard,
        mpsc::{Receiver, RecvTimeoutError},
    },
    time::{Duration, Instant},
};

use headwater::spi::StateChange;

use super::{
    cache::{Cache, slot::cost},
    config::StateConfig,
    disk::Disk,
    error::LocalError,
    locks::lock,
};

/// Entries, and bytes of them, that are written at a time: it bounds what is held twice.
const CHUNK_ENTRIES: usize = 4096;
const CHUNK_BYTES: usize = 4 << 20;
/// How long a failed write is not tried again while there is room in memory.
const PAUSE: Duration = Duration::from_millis(500);

/// What all handles of one store share.
pub(crate) struct Shared {
    pub(crate) config: StateConfig,
    pub(crate) disk: Disk,
    /// Held for moments only, never while the disk is used.
    pub(crate) cache: Mutex<Cache>,
    /// Held by who moves changes to disk, or takes partitions away; taken before `cache`.
    pub(crate) turn: Mutex<()>,
    /// The last failure to write, until a write succeeds.
    pub(crate) failure: Mutex<Option<(LocalError, Instant)>>,
    /// How many restores share the memory for it.
    pub(crate) restores: std::sync::atomic::AtomicUsize,
}

/// Holds [`Shared::turn`].
pub(crate) type Turn<'a> = MutexGuard<'a, ()>;

impl Shared {
    /// Writes everything that waits.
    pub(crate) fn flush(&self) -> Result<(), LocalError> {
        let turn = lock(&self.turn);
        self.flush_all(&turn)
    }

    fn flush_all(&self, turn: &Turn<'_>) -> Result<(), LocalError> {
        let open = lock(&self.cache).open_ids();
        open.into_iter().try_for_each(|id| self.flush_part(turn, id))
    }

    /// Writes what waits of one partition. The checkpoint goes last: what is on disk is complete up to it, or ahead of it.
    pub(crate) fn flush_part(&self, _turn: &Turn<'_>, id: u32) -> Result<(), LocalError> {
        let result = self.write_part(id);
        self.note(&result);
        result
    }

    fn write_part(&self, id: u32) -> Result<(), LocalError> {
        let (name, slots, checkpoint) = {
            let mut cache = lock(&self.cache);
            let Some(partition) = cache.partition_mut(id) else { return Ok(()) };
            let Some((slots, checkpoint)) = partition.take_dirty() else { return Ok(()) };
            (partition.name.clone(), slots, checkpoint)
        };
        let mut done = 0;
        loop {
            let pairs = lock(&self.cache).begin(&slots[done..], CHUNK_ENTRIES, CHUNK_BYTES);
            let end = done + pairs.len();
            let last = (end == slots.len()).then_some(&checkpoint);
            let result = self.disk.write(&name, &pairs, last);
            let mut cache = lock(&self.cache);
            if let Err(error) = result {
                cache.unwritten(id, &slots[done..], pairs.len());
                return Err(error);
            }
            cache.written(id, &slots[done..end]);
            done = end;
            if last.is_some() {
                if let Some(partition) = cache.partition_mut(id) {
                    partition.saved(&checkpoint);
                }
                return Ok(());
            }
        }
    }

    /// Remembers a failure to write, or that it is over; says so once.
    pub(crate) fn note(&self, result: &Result<(), LocalError>) {
        let mut failure = lock(&self.failure);
        match result {
            Ok(()) => {
                if failure.take().is_some() {
                    tracing::info!("state is written to disk again");
                }
            }
            Err(error) => {
                if failure.as_ref().is_none_or(|(known, _)| known != error) {
                    tracing::warn!(%error, "state stays in memory");
                }
                *failure = Some((error.clone(), Instant::now()));
            }
        }
    }

    /// Makes room for changes: writes what waits once it takes half of the memory. While writing fails the rest is used up;
    /// then the failure is the answer.
    pub(crate) fn make_room(&self, changes: &[StateChange]) -> Result<(), LocalError> {
        let (full, mut tried) = (self.config.entry_bytes(), false);
        let coming: usize = changes.iter().map(|change| cost(&change.key, change.value.as_deref())).sum();
        loop {
            let waiting = lock(&self.cache).pinned_bytes();
            if waiting == 0 || waiting + coming <= full / 2 {
                return Ok(());
            }
            let fits = waiting + coming <= full;
            if fits && (tried || self.failed_lately()) {
                return Ok(());
            }
            let turn = lock(&self.turn);
            if lock(&self.cache).pinned_bytes() < waiting {
                continue;
            }
            tried = true;
            if let Err(error) = self.flush_all(&turn)
                && !fits
            {
                return Err(error);
            }
        }
    }

    fn failed_lately(&self) -> bool {
        lock(&self.failure).as_ref().is_some_and(|(_, at)| at.elapsed() < PAUSE)
    }
}

/// Flushes at every interval until the other end of `stop` is gone.
pub(crate) fn run(shared: &Arc<Shared>, stop: &Receiver<()>) {
    while stop.recv_timeout(shared.config.flush_interval) == Err(RecvTimeoutError::Timeout) {
        // A failure is noted where it happens; the next round tries again.
        let _ = shared.flush();
    }
}
