//! What is on disk: a fjall database per group, in it a keyspace per partition of a store.
//!
//! A keyspace holds its entries and its own checkpoint, so that the two reach the disk's files together: whatever part of
//! the newest writes a crash takes, the checkpoint is never ahead of the entries.
//!
//! After a write has failed fjall refuses all others until it is opened anew, and so it is, once the disk has room again.
//! Until then what is there can be read.

use std::{
    collections::HashMap,
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, RwLock},
    time::{Duration, Instant},
};

use fjall::{AbstractTree, Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use headwater::spi::Entry;

use super::{
    cache::slot::{Bytes, Pair},
    checkpoint::Checkpoint,
    config::StateConfig,
    error::{Damage, LocalError},
    folder,
    locks::{lock, read, write},
};

/// The newest format that this version reads, and the one it writes.
pub(crate) const FORMAT: u32 = 1;
/// The keyspace of what concerns the whole folder. No other name is without a slash.
const META: &str = "meta";
const FORMAT_KEY: &[u8] = b"format";
/// The key of a keyspace's checkpoint; those of entries begin with [`DATA`].
const CHECKPOINT: &[u8] = &[0];
/// The first byte of the keys of entries.
pub(crate) const DATA: u8 = 1;
/// Bytes of the longest key of state.
pub const MAX_KEY: usize = u16::MAX as usize - 1;
/// Bytes of the longest name of a store.
const MAX_STORE: usize = 200;
/// Bytes that must be free before the database is opened anew.
const PROBE: usize = 4 << 20;
/// How long a write waits for fjall's own threads to catch up.
const PATIENCE: Duration = Duration::from_secs(60);
/// Memory tables and files that may wait for fjall's threads before a write waits too. Beyond its own limits, 4 and 30,
/// fjall waits without an end, even for threads that have failed.
const MAX_SEALED: usize = 2;
const MAX_RUNS: usize = 20;

/// A database that can be opened anew.
pub(crate) struct Disk {
    dir: PathBuf,
    config: StateConfig,
    open: RwLock<Option<OpenDatabase>>,
    damage: Damage,
    /// Given back last.
    _lock: fs::File,
}

struct OpenDatabase {
    db: Database,
    /// Keyspaces in use, by name.
    keyspaces: Mutex<HashMap<Arc<str>, Keyspace>>,
}

/// The name on disk of one partition of a store.
pub(crate) fn name(store: &str, partition: i32) -> Result<Arc<str>, LocalError> {
    if store.is_empty() || store.len() > MAX_STORE {
        return Err(LocalError::TooLarge(format!(
            "the name of a store has {} bytes: give it from 1 to {MAX_STORE}",
            store.len()
        )));
    }
    Ok(format!("{store}/{partition}").into())
}

/// Whether a key and a value can be stored.
pub(crate) fn check(key: &[u8], value: Option<&[u8]>) -> Result<(), LocalError> {
    if key.len() > MAX_KEY {
        let text = format!("a key of state has {} bytes: use keys of at limit {MAX_KEY}", key.len());
        return Err(LocalError::TooLarge(text));
    }
    match value {
        Some(value) if u32::try_from(value.len()).is_err() => {
            Err(LocalError::TooLarge(format!("a value of state has {} bytes: keep it under 4 GiB", value.len())))
        }
        _ => Ok(()),
    }
}

fn stored(key: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(key.len() + 1);
    bytes.push(DATA);
    bytes.extend_from_slice(key);
    bytes
}

impl Disk {
    pub(crate) fn open(dir: &Path, config: &StateConfig) -> Result<Self, LocalError> {
        let lock = folder::take(dir)?;
        let (dir, config) = (dir.to_owned(), config.clone());
        let disk = Self { dir, config, open: RwLock::new(None), damage: Damage::default(), _lock: lock };
        *write(&disk.open) = Some(disk.start()?);
        Ok(disk)
    }

    fn start(&self) -> Result<OpenDatabase, LocalError> {
        // Each file descriptor and worker is one of many: a process holds a database per group.
        let builder = Database::builder(&self.dir)
            .cache_size(self.config.block_bytes() as u64)
            .max_journaling_size(64 << 20)
            .max_cached_files(Some(64))
            .worker_threads(1);
        // Damaged files can make fjall panic.
        let db = catch_unwind(AssertUnwindSafe(|| builder.open()))
            .map_err(|_| LocalError::corrupt(&self.dir, &"it cannot be read"))?
            .map_err(|error| LocalError::fjall("open", &self.dir, &error))?;
        self.check_format(&db)?;
        Ok(OpenDatabase { db, keyspaces: Mutex::default() })
    }

    /// Refuses what a newer version wrote, and stamps what is new.
    fn check_format(&self, db: &Database) -> Result<(), LocalError> {
        let failed = |error: fjall::Error| LocalError::fjall("open", &self.dir, &error);
        let fresh = db.list_keyspace_names().iter().all(|name| **name == *META);
        let stamp = match db.keyspace_exists(META) {
            true => db.keyspace(META, KeyspaceCreateOptions::default).and_then(|meta| meta.get(FORMAT_KEY)),
            false => Ok(None),
        }
        .map_err(failed)?;
        match stamp.map(|bytes| <[u8; 4]>::try_from(&*bytes).map(u32::from_be_bytes)) {
            Some(Ok(found)) if found > FORMAT => Err(LocalError::Newer { dir: self.dir.clone(), found, known: FORMAT }),
            Some(Ok(_)) => Ok(()),
            None if fresh => stamp_format(db, FORMAT).map_err(failed),
            None | Some(Err(_)) => Err(LocalError::corrupt(&self.dir, &"its format is not noted")),
        }
    }

    fn with<T>(
        &self,
        action: &'static str,
        run: impl FnOnce(&OpenDatabase) -> Result<T, fjall::Error>,
    ) -> Result<T, LocalError> {
        let open = read(&self.open);
        let Some(open) = &*open else {
            let reason = "the disk failed and its files are closed: mend it, it goes on by itself".to_owned();
            return Err(LocalError::disk(action, &self.dir, reason));
        };
        run(open).map_err(|error| self.noted(LocalError::fjall(action, &self.dir, &error)))
    }

    /// Whether files turned out to be damaged.
    pub(crate) fn damage(&self) -> &Damage {
        &self.damage
    }

    fn noted(&self, error: LocalError) -> LocalError {
        self.damage.note(&error);
        error
    }

    /// What the disk has of a key.
    pub(crate) fn get(&self, name: &Arc<str>, key: &[u8]) -> Result<Option<Bytes>, LocalError> {
        self.with("read", |open| match open.existing(name)? {
            Some(keyspace) => Ok(keyspace.get(stored(key))?.map(|value| Bytes::from(&*value))),
            None => Ok(None),
        })
    }

    /// Keys that begin with `prefix`, in their order, where `overlay`, in order too, wins; no more than `limit`.
    pub(crate) fn scan(
        &self,
        name: &Arc<str>,
        prefix: &[u8],
        overlay: Vec<Pair>,
        limit: ReadLimit,
    ) -> Result<Vec<Entry>, LocalError> {
        self.with("read", |open| {
            let Some(keyspace) = open.existing(name)? else { return merge(std::iter::empty(), overlay, limit) };
            let found = keyspace.prefix(stored(prefix)).map(fjall::Guard::into_inner);
            merge(found, overlay, limit)
        })
    }

    pub(crate) fn checkpoint(&self, name: &Arc<str>) -> Result<Option<Checkpoint>, LocalError> {
        let bytes = self.with("read", |open| match open.existing(name)? {
            Some(keyspace) => keyspace.get(CHECKPOINT),
            None => Ok(None),
        })?;
        let Some(bytes) = bytes else { return Ok(None) };
        let checkpoint = Checkpoint::decode(&bytes);
        let unreadable = || self.noted(LocalError::corrupt(&self.dir, &"a checkpoint cannot be read"));
        checkpoint.map(Some).ok_or_else(unreadable)
    }

    /// Writes pairs and, in the same batch, the checkpoint that stands with them.
    pub(crate) fn write(
        &self,
        name: &Arc<str>,
        pairs: &[Pair],
        checkpoint: Option<&Checkpoint>,
    ) -> Result<(), LocalError> {
        self.mend()?;
        self.wait_for_room(name)?;
        self.with("write", |open| {
            let keyspace = open.keyspace(name)?;
            let mut batch = open.db.batch();
            for (key, value) in pairs {
                match value {
                    Some(value) => batch.insert(&keyspace, stored(key), &**value),
                    None => batch.remove(&keyspace, stored(key)),
                }
            }
            if let Some(checkpoint) = checkpoint {
                batch.insert(&keyspace, CHECKPOINT, checkpoint.encode());
            }
            batch.commit()?;
            open.limit_buffers(self.config.write_bytes())
        })
    }

    /// Writes many entries at once, in ascending order of their keys, each once, and with them the checkpoint that stands
    /// then: all or nothing. Keys begin with [`DATA`].
    pub(crate) fn ingest<'a>(
        &self,
        name: &Arc<str>,
        checkpoint: Option<&Checkpoint>,
        entries: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)>,
    ) -> Result<(), LocalError> {
        self.mend()?;
        self.wait_for_room(name)?;
        self.with("write", |open| {
            let keyspace = open.keyspace(name)?;
            let mut ingestion = keyspace.start_ingestion()?;
            // Its key is the first in order.
            if let Some(checkpoint) = checkpoint {
                ingestion.write(CHECKPOINT, checkpoint.encode())?;
            }
            for (key, value) in entries {
                match value {
                    Some(value) => ingestion.write(key, value)?,
                    None => ingestion.write_tombstone(key)?,
                }
            }
            ingestion.finish()
        })
    }

    /// Deletes everything of a name.
    pub(crate) fn delete(&self, name: &Arc<str>) -> Result<(), LocalError> {
        self.mend()?;
        self.with("write", |open| {
            let keyspace = open.existing(name)?;
            lock(&open.keyspaces).remove(name);
            keyspace.map_or(Ok(()), |keyspace| open.db.delete_keyspace(keyspace))
        })
    }

    /// Lets go of a name that is not in use any more.
    pub(crate) fn release(&self, name: &Arc<str>) {
        if let Some(open) = &*read(&self.open) {
            lock(&open.keyspaces).remove(name);
        }
    }

    /// About how many keys a name has, and bytes of its files; both 0 where it cannot be read.
    pub(crate) fn sizes(&self, name: &Arc<str>) -> (usize, u64) {
        let sizes = self.with("read", |open| {
            Ok(open.existing(name)?.map(|keyspace| (keyspace.approximate_len(), keyspace.disk_space())))
        });
        sizes.ok().flatten().unwrap_or_default()
    }

    /// Opens the database anew where an earlier failure made it refuse writes.
    fn mend(&self) -> Result<(), LocalError> {
        if read(&self.open).as_ref().is_some_and(OpenDatabase::is_healthy) {
            return Ok(());
        }
        self.probe().map_err(|error| LocalError::io("write", &self.dir, &error))?;
        let mut open = write(&self.open);
        if open.as_ref().is_some_and(OpenDatabase::is_healthy) {
            return Ok(());
        }
        // The old one holds the lock on the folder.
        *open = None;
        *open = Some(self.start()?);
        Ok(())
    }

    /// Whether the disk takes anything: as long as it does not, the old database is kept, which can be read.
    fn probe(&self) -> std::io::Result<()> {
        let path = self.dir.join("room.tmp");
        let written = fs::write(&path, vec![0; PROBE]).and_then(|()| fs::File::open(&path)?.sync_all());
        let removed = fs::remove_file(&path);
        written.and(removed)
    }

    fn wait_for_room(&self, name: &Arc<str>) -> Result<(), LocalError> {
        let until = Instant::now() + PATIENCE;
        while !self.with("write", |open| open.has_room(name))? {
            if Instant::now() > until {
                let reason = format!("the disk has not caught up for {PATIENCE:?}: use a faster one");
                return Err(LocalError::disk("write", &self.dir, reason));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }
}

impl OpenDatabase {
    fn is_healthy(&self) -> bool {
        // Fails where an earlier write has failed, and else hands what is buffered to the operating system.
        self.db.persist(PersistMode::Buffer).is_ok()
    }

    fn existing(&self, name: &Arc<str>) -> Result<Option<Keyspace>, fjall::Error> {
        if let Some(keyspace) = lock(&self.keyspaces).get(name) {
            return Ok(Some(keyspace.clone()));
        }
        if self.db.keyspace_exists(name) { self.keyspace(name).map(Some) } else { Ok(None) }
    }

    fn keyspace(&self, name: &Arc<str>) -> Result<Keyspace, fjall::Error> {
        let mut keyspaces = lock(&self.keyspaces);
        if let Some(keyspace) = keyspaces.get(name) {
            return Ok(keyspace.clone());
        }
        let keyspace = self.db.keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(16 << 20))?;
        keyspaces.insert(name.clone(), keyspace.clone());
        Ok(keyspace)
    }

    fn has_room(&self, name: &Arc<str>) -> Result<bool, fjall::Error> {
        if !self.is_healthy() {
            return Err(fjall::Error::Poisoned);
        }
        let Some(keyspace) = self.existing(name)? else { return Ok(true) };
        Ok(keyspace.tree.sealed_memtable_count() < MAX_SEALED && keyspace.tree.l0_run_count() < MAX_RUNS)
    }

    /// Sends the largest memory tables to files once all together are larger than `bytes`: fjall bounds only each.
    fn limit_buffers(&self, bytes: u64) -> Result<(), fjall::Error> {
        let keyspaces: Vec<Keyspace> = lock(&self.keyspaces).values().cloned().collect();
        let sizes: Vec<u64> = keyspaces.iter().map(|keyspace| keyspace.tree.active_memtable().size()).collect();
        if sizes.iter().sum::<u64>() <= bytes {
            return Ok(());
        }
        let large = bytes / (2 * keyspaces.len() as u64);
        for (keyspace, _) in keyspaces.iter().zip(&sizes).filter(|(_, size)| **size > large) {
            if keyspace.tree.sealed_memtable_count() < MAX_SEALED {
                keyspace.rotate_memtable()?;
            }
        }
        Ok(())
    }
}

/// Notes the format in which the folder is written, durably: without it the rest could not be trusted.
pub(crate) fn stamp_format(db: &Database, format: u32) -> Result<(), fjall::Error> {
    db.keyspace(META, KeyspaceCreateOptions::default)?.insert(FORMAT_KEY, format.to_be_bytes())?;
    db.persist(PersistMode::SyncAll)
}

/// How much is read at most: reading ends with the entry that brings it to so many bytes of keys and values.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ReadLimit {
    pub(crate) entries: usize,
    pub(crate) bytes: usize,
}

/// Entries in the order in which they are added, as long as there is room.
struct Read {
    entries: Vec<Entry>,
    bytes: usize,
    limit: ReadLimit,
}

impl Read {
    fn is_full(&self) -> bool {
        self.entries.len() >= self.limit.entries || self.bytes >= self.limit.bytes
    }

    /// Adds an entry that has a value.
    fn add(&mut self, key: &[u8], value: Option<&[u8]>) {
        if let Some(value) = value.filter(|_| !self.is_full()) {
            self.bytes += key.len() + value.len();
            self.entries.push((key.to_vec(), value.to_vec()));
        }
    }
}

fn merge(
    found: impl Iterator<Item = Result<fjall::KvPair, fjall::Error>>,
    overlay: Vec<Pair>,
    limit: ReadLimit,
) -> Result<Vec<Entry>, fjall::Error> {
    let (mut read, mut overlay) = (Read { entries: Vec::new(), bytes: 0, limit }, overlay.into_iter().peekable());
    for pair in found {
        let (key, value) = pair?;
        let key = key.get(1..).unwrap_or_default();
        while let Some((newer, waiting)) = overlay.next_if(|(newer, _)| **newer < *key) {
            read.add(&newer, waiting.as_deref());
        }
        if read.is_full() {
            break;
        }
        match overlay.next_if(|(newer, _)| **newer == *key) {
            Some((_, waiting)) => read.add(key, waiting.as_deref()),
            None => read.add(key, Some(&value)),
        }
    }
    overlay.for_each(|(key, value)| read.add(&key, value.as_deref()));
    Ok(read.entries)
}
