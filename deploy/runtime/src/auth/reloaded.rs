//! What is made of files, and made anew when they change.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use headwater_connectors::security::watched_files::{FileChange, WatchedFiles};

type Load<T> = Box<dyn Fn() -> Result<T, Vec<String>> + Send + Sync>;

/// What files say, as they are now; where they say nothing of use any more, as they were last.
pub(crate) struct Reloaded<T> {
    /// The setting that names them.
    setting: &'static str,
    load: Load<T>,
    watched: WatchedFiles,
    current: Mutex<Arc<T>>,
    /// What was of no use, so that it is said once.
    refused: Mutex<Option<FileChange>>,
}

impl<T> Reloaded<T> {
    /// What `load` makes of these files, which a setting names.
    ///
    /// # Errors
    /// What is wrong with them.
    pub(crate) fn open(
        setting: &'static str,
        files: impl IntoIterator<Item = PathBuf>,
        load: impl Fn() -> Result<T, Vec<String>> + Send + Sync + 'static,
    ) -> Result<Self, Vec<String>> {
        // Watched first: what changes while they are read is seen.
        let watched = WatchedFiles::new(files);
        let current = Mutex::new(Arc::new(load()?));
        Ok(Self { setting, load: Box::new(load), watched, current, refused: Mutex::default() })
    }

    /// What they say.
    pub(crate) fn current(&self) -> Arc<T> {
        if let Some(change) = self.watched.changed() {
            self.reload(change);
        }
        locked(&self.current).clone()
    }

    fn reload(&self, change: FileChange) {
        match (self.load)() {
            Ok(fresh) => {
                *locked(&self.current) = Arc::new(fresh);
                *locked(&self.refused) = None;
                self.watched.take(change);
                tracing::info!(setting = self.setting, "files have changed and are in use");
            }
            Err(problems) if locked(&self.refused).replace(change) != Some(change) => tracing::warn!(
                setting = self.setting,
                problems = problems.join("; "),
                "files have changed and are of no use: what they held before stays in use"
            ),
            Err(_) => {}
        }
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    /// Red when a change is not seen, when what is of no use takes the place of what was in use, or when good files behind it
    /// are not read any more.
    #[test]
    fn a_change_is_in_use_and_a_broken_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("number");
        let write = |text: &str| std::fs::write(&file, text).unwrap();
        write("1");
        let of = file.clone();
        let load = move || {
            let text = std::fs::read_to_string(&of).map_err(|error| vec![error.to_string()])?;
            text.parse::<u32>().map_err(|error| vec![error.to_string()])
        };
        let reloaded = Reloaded::open("number_file", [file.clone()], load).unwrap();
        let becomes = |wanted: u32| {
            let since = Instant::now();
            while *reloaded.current() != wanted {
                assert!(since.elapsed() < Duration::from_secs(20), "it stays {}", reloaded.current());
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        write("2");
        becomes(2);
        write("none");
        let since = Instant::now();
        // Until it is known to have been looked at.
        while locked(&reloaded.refused).is_none() {
            assert_eq!(*reloaded.current(), 2);
            assert!(since.elapsed() < Duration::from_secs(20), "nobody looks at it");
            std::thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(*reloaded.current(), 2);
        write("3");
        becomes(3);
    }
}
