//! A client that is made from files, certificates and secrets, and made anew when they change.
//!
//! It never knows which protocol the client speaks.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError, RwLock},
};

use crate::security::watched_files::{FileChange, WatchedFiles};

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
                    tracing::warn!(
                        client,
                        why,
                        "certificates or secrets have changed and are of no use: the old ones stay"
                    );
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

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        thread,
        time::{Duration, Instant},
    };

    use super::*;

    /// Red when files that make no client take the old one away (the error unwrapped), or a change is not seen.
    #[test]
    fn files_that_make_no_client_leave_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("token");
        std::fs::write(&file, "one").unwrap();
        let (read, made) = (file.clone(), Arc::new(AtomicUsize::new(0)));
        let count = made.clone();
        let make = move || {
            count.fetch_add(1, Ordering::Relaxed);
            let text = std::fs::read_to_string(&read).map_err(|error| error.to_string())?;
            if text == "half" { Err("half a token".to_owned()) } else { Ok(text) }
        };
        let client = ReloadingClient::new("test", [file.clone()], make).unwrap();
        let until = |what: &str, holds: &dyn Fn() -> bool| {
            let begin = Instant::now();
            while !holds() {
                assert!(begin.elapsed() < Duration::from_secs(60), "this never holds: {what}");
                thread::sleep(Duration::from_millis(20));
            }
        };
        std::fs::write(&file, "half").unwrap();
        until("the change is tried", &|| {
            assert_eq!(*client.current(), "one");
            made.load(Ordering::Relaxed) > 1
        });
        assert_eq!(*client.current(), "one");
        std::fs::write(&file, "two").unwrap();
        until("the next one is used", &|| *client.current() == "two");
    }
}
