//! The folder of a database: who holds it, and what a crash left of making it.

use std::{
    fs::{self, File, TryLockError},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
};

use super::error::LocalError;

/// Our own lock. fjall's comes too late for what is done before it opens.
const LOCK: &str = "owner.lock";
/// What fjall makes, in this order, in a folder whose [`KEYSPACES`] it has made and not filled yet.
const MADE_FIRST: [&str; 2] = ["0.jnl", "version"];
const KEYSPACES: &str = "keyspaces";

/// Creates a folder, or takes it as it is, for one process alone: as long as the file is open.
pub(crate) fn take(dir: &Path) -> Result<File, LocalError> {
    let failed =
        |error: io::Error| LocalError::disk("open", dir, format!("{error}: give a folder that can be written"));
    fs::create_dir_all(dir).map_err(failed)?;
    let lock = File::options().create(true).truncate(false).write(true).open(dir.join(LOCK)).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(LocalError::Locked(dir.to_owned())),
        Err(TryLockError::Error(error)) => return Err(failed(error)),
    }
    clear_unfinished(dir).map_err(failed)?;
    Ok(lock)
}

/// Removes the first files of a database in which nothing was ever stored, for fjall would not make them again.
fn clear_unfinished(dir: &Path) -> io::Result<()> {
    let empty = match fs::read_dir(dir.join(KEYSPACES)) {
        Ok(mut entries) => entries.next().is_none(),
        // fjall makes it ahead of all others.
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    };
    for name in MADE_FIRST.iter().filter(|_| empty) {
        match fs::remove_file(dir.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// Puts a folder aside, in the place of one that was put aside before.
pub(crate) fn set_aside(dir: &Path) -> Result<PathBuf, LocalError> {
    let failed = |error: io::Error| LocalError::disk("put aside", dir, format!("{error}: delete the folder by hand"));
    let name = dir.file_name().unwrap_or_default().to_string_lossy();
    let aside = dir.with_file_name(format!(".damaged-{name}"));
    match fs::remove_dir_all(&aside) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    fs::rename(dir, &aside).map_err(failed)?;
    Ok(aside)
}
