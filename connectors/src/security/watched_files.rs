//! Files that a client was made from, and whether they hold something else by now.
//!
//! It never knows what they hold, nor what is to be done about a change.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::PathBuf,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Files are looked at no more often than that.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

type Fingerprint = u64;

/// Files, and what they held when a client was made from them. What replaces them by a link, as Kubernetes does, is seen too.
#[derive(Debug)]
pub(crate) struct WatchedFiles {
    files: Vec<PathBuf>,
    held: Mutex<(Fingerprint, Instant)>,
}

impl WatchedFiles {
    /// What these hold now is what is in use.
    pub(crate) fn new(files: impl IntoIterator<Item = PathBuf>) -> Self {
        let files: Vec<PathBuf> = files.into_iter().collect();
        let held = Mutex::new((fingerprint(&files), Instant::now()));
        Self { files, held }
    }

    /// What they hold, where that is something else than what is in use. To be given to [`take`](Self::take) once it is in
    /// use: a certificate whose key is not written yet makes no client.
    pub(crate) fn changed(&self) -> Option<FileChange> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if self.files.is_empty() || held.1.elapsed() < LOOK {
            return None;
        }
        held.1 = Instant::now();
        let now = fingerprint(&self.files);
        (now != held.0).then_some(FileChange(now))
    }

    /// This is in use now.
    pub(crate) fn take(&self, change: FileChange) {
        self.held.lock().unwrap_or_else(PoisonError::into_inner).0 = change.0;
    }
}

/// What changed files hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileChange(Fingerprint);

/// Of all of them; one that cannot be read counts as one that is not there.
fn fingerprint(files: &[PathBuf]) -> Fingerprint {
    let mut hash = DefaultHasher::new();
    files.iter().for_each(|file| std::fs::read(file).ok().hash(&mut hash));
    hash.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a change is not seen, is seen again once it was taken, or is forgotten before it was.
    #[test]
    fn a_change_is_seen_until_it_is_taken() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("password");
        std::fs::write(&file, "one").unwrap();
        let watched = WatchedFiles::new([file.clone()]);
        let changed = || {
            watched.held.lock().unwrap().1 -= LOOK;
            watched.changed()
        };
        assert_eq!(changed(), None);
        std::fs::write(&file, "two").unwrap();
        let change = changed().expect("it holds something else");
        assert_eq!(changed(), Some(change));
        watched.take(change);
        assert_eq!(changed(), None);
        std::fs::remove_file(&file).unwrap();
        assert!(changed().is_some());
    }
}
