//! A client that is made from files, certificates and secrets, and made anew when they change.
//!
//! It never knows which protocol the client speaks.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use crate::watched_files::{FileChange, WatchedFiles};

/// The client in use, which holds what its files held when it was made. What is under way goes on with the one it began with.
pub(crate) struct ReloadingClient<C> {
    /// Whose client it is, for people.
    name: &'static str,
    current: RwLock<Arc<C>>,
    files: WatchedFiles,
    make: Box<dyn Fn() -> Result<C, String> + Send + Sync>,
    /// What could not be used: said once.
    unusable: Mutex<Option<FileChange>>,
}

impl<C> ReloadingClient<C> {
    /// A client from what the files hold now.
    ///
    /// # Errors
    /// What `make` says.
    pub(crate) fn new(
        name: &'static str,
        files: impl IntoIterator<Item = PathBuf>,
        make: impl Fn() -> Result<C, String> + Send + Sync + 'static,
    ) -> Result<Self, String> {
        // Before they are read: what is written in between counts as a change.
        let files = WatchedFiles::new(files);
        let current = RwLock::new(Arc::new(make()?));
        Ok(Self { name, current, files, make: Box::new(make), unusable: Mutex::default() })
    }

    /// The client to use now. Files that make none, such as a certificate whose key is not written yet, leave the old one in use.
    pub(crate) fn current(&self) -> Arc<C> {
        if let Some(change) = self.files.changed() {
            self.reload(change);
        }
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn reload(&self, change: FileChange) {
        let client = self.name;
        match (self.make)() {
            Ok(made) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(made);
                self.files.take(change);
                tracing::info!(client, "certificates or secrets have changed: new requests use them");
            }
            Err(why) => {
                let said = self.unusable.lock().unwrap_or_else(PoisonError::into_inner).replace(change);
                if said != Some(change) {
                    tracing::warn!(client, why, "certificates or secrets have changed and are of no use: the old ones stay");
                }
            }
        }
    }
}

impl<C> fmt::Debug for ReloadingClient<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReloadingClient").field("name", &self.name).finish_non_exhaustive()
    }
}
