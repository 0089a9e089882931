//! The process's name. Membership in consumer groups is static by it, so a restart within the session time-out needs
//! no rebalance, and two processes of one name would fence each other.
//!
//! By default it is `<host name>-<slot>`: the lowest slot whose lock file in the state directory nobody holds. The
//! operating system frees the lock with the process, however that ends, so a restart gets its slot back, and several
//! processes of one host live side by side.

use std::{
    fs::{File, OpenOptions, TryLockError},
    path::Path,
};

use anyhow::{Context, Result, bail};

/// More processes of one host than anybody runs: beyond it something is wrong with the locks.
const SLOTS: u32 = 1_000;

/// The process's name, its own as long as this lives.
#[derive(Debug)]
pub(crate) struct Instance {
    name: String,
    /// Held for our life.
    _lock: File,
}

impl Instance {
    /// Takes the configured name, or else the lowest free slot of this host.
    ///
    /// # Errors
    /// When another process has the configured name, or the state directory cannot be written.
    pub(crate) fn claim(dir: &Path, configured: Option<&str>) -> Result<Self> {
        let shown = dir.display();
        std::fs::create_dir_all(dir).with_context(|| format!("cannot create the state directory {shown} (`dir`)"))?;
        if let Some(name) = configured {
            return Self::lock(dir, name)?
                .with_context(|| format!("another process runs as instance {name} with the state directory {shown}"));
        }
        let host = host_name();
        for slot in 0..SLOTS {
            if let Some(instance) = Self::lock(dir, &format!("{host}-{slot}"))? {
                return Ok(instance);
            }
        }
        bail!(
            "all {SLOTS} instances of this host are taken in {shown}: give this process an `instance` or `dir` of its own"
        )
    }

    /// The name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// `None` when another process holds it.
    fn lock(dir: &Path, name: &str) -> Result<Option<Self>> {
        let path = dir.join(format!("{name}.lock"));
        let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
        let file = file.with_context(|| format!("cannot open the lock file {}", path.display()))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { name: name.to_owned(), _lock: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
        }
    }
}

/// The host's name, as far as a group instance id and a file name may hold it.
fn host_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '-' | '.') { c } else { '-' };
    let name: String = name.trim_start_matches('.').chars().map(plain).take(80).collect();
    if name.is_empty() { "localhost".to_owned() } else { name }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when the lock is not taken, or outlives its instance.
    #[test]
    fn two_processes_have_names_of_their_own_and_a_restart_gets_its_own_back() {
        let dir = tempfile::tempdir().unwrap();
        let claim = || Instance::claim(dir.path(), None).unwrap();
        let (first, second) = (claim(), claim());
        assert_eq!(first.name(), format!("{}-0", host_name()));
        assert_eq!(second.name(), format!("{}-1", host_name()));
        drop(first);
        assert_eq!(claim().name(), format!("{}-0", host_name()), "the lowest free slot");
        drop(second);
        assert_eq!([claim(), claim()].map(|i| i.name).len(), 2);
    }

    /// Red when a configured name is taken without its lock.
    #[test]
    fn a_configured_name_belongs_to_one_process() {
        let dir = tempfile::tempdir().unwrap();
        let first = Instance::claim(dir.path(), Some("till-7")).unwrap();
        let error = Instance::claim(dir.path(), Some("till-7")).unwrap_err().to_string();
        assert!(error.contains("another process runs as instance till-7"), "{error}");
        drop(first);
        assert_eq!(Instance::claim(dir.path(), Some("till-7")).unwrap().name(), "till-7");
    }
}
