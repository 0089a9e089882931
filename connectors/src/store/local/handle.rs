//! One open store: what all its clones share, and the thread that writes behind them.

use std::{
    collections::HashMap,
    path::Path,
    sync::{
        Arc, Mutex, RwLock,
        atomic::AtomicUsize,
        mpsc::{SyncSender, sync_channel},
    },
    thread::JoinHandle,
};

use super::{
    cache::Cache,
    checkpoint::Checkpoint,
    config::StateConfig,
    disk::{self, Disk},
    error::LocalError,
    flush::{self, Shared},
    locks::lock,
};

/// The one that is dropped last writes what waits.
pub(crate) struct Handle {
    pub(crate) shared: Arc<Shared>,
    /// The ids of topics whose records come.
    pub(crate) topics: RwLock<HashMap<String, Arc<str>>>,
    /// The thread ends when this is gone.
    stop: Option<SyncSender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Handle {
    /// Opens the folder and starts the thread.
    pub(crate) fn start(dir: &Path, config: &StateConfig) -> Result<Self, LocalError> {
        let shared = Arc::new(Shared {
            disk: Disk::open(dir, config)?,
            cache: Mutex::new(Cache::new(config.entry_bytes())),
            config: config.clone(),
            turn: Mutex::default(),
            failure: Mutex::default(),
            restores: AtomicUsize::new(0),
        });
        let (stop, stopped) = sync_channel(0);
        let flushed = shared.clone();
        let thread = std::thread::Builder::new()
            .name("state-flush".to_owned())
            .spawn(move || flush::run(&flushed, &stopped))
            .map_err(|error| LocalError::disk("open", dir, format!("no thread can be started: {error}")))?;
        Ok(Self { shared, topics: RwLock::default(), stop: Some(stop), thread: Some(thread) })
    }

    /// How far a partition is complete, open or not; `None` where there is nothing of it.
    pub(crate) fn checkpoint(&self, store: &str, partition: i32) -> Result<Option<Checkpoint>, LocalError> {
        let open = {
            let cache = lock(&self.shared.cache);
            cache.id(store, partition).and_then(|id| cache.partition(id)).map(|part| part.checkpoint.clone())
        };
        match open {
            Some(checkpoint) => Ok(Some(checkpoint)),
            None => self.shared.disk.checkpoint(&disk::name(store, partition)?),
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // It only panics when the store is broken anyway.
            let _ = thread.join();
        }
        // A failure is noted where it happens, and harms nothing.
        let _ = self.shared.flush();
    }
}
