//! Where the cluster lies, and who may still be holding it.
//!
//! `<data>/postgres`, unless we are root and the user that the server runs as cannot reach that folder. Then it is a
//! folder under `/var/tmp` (which a reboot leaves alone), remembered in `<data>/postgres.path`.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, chown};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::ports::random;
use crate::process::User;

const AWAY: &str = "/var/tmp";
const PREFIX: &str = "headwater-postgres-";
/// In a folder under [`AWAY`]: the data folder that it belongs to.
const OWNER: &str = "data-folder";

/// The folder for the cluster and its log, made where it is not there, private to `user`. `data` must exist.
///
/// # Errors
/// When it can be neither read nor made.
pub(crate) async fn choose(data: &Path, user: Option<User>) -> Result<PathBuf> {
    let near = data.join("postgres");
    let Some(user) = user else { return make(near, None) };
    if let Some(away) = remembered(data) {
        return make_away(data, away, user);
    }
    let near = make(near, Some(user))?;
    if user.passes(r#"cd "$1" && test -w ."#, &near).await {
        return Ok(near);
    }
    // Only an empty folder goes: what is in it was made when it could be reached, and is to be reached again.
    fs::remove_dir(&near).with_context(|| {
        format!(
            "{} holds a cluster that its user cannot reach any more: let others enter the folders above it",
            near.display()
        )
    })?;
    remove_orphans();
    let away = Path::new(AWAY).join(format!("{PREFIX}{:016x}", u64::from_le_bytes(random()?)));
    let note = away.display().to_string();
    crate::endpoints::replace(&data.join("postgres.path"), note.as_bytes()).context("cannot write postgres.path")?;
    tracing::info!(cluster = %away.display(), "the data folder is closed to postgres' user: its cluster lies elsewhere");
    make_away(data, away, user)
}

/// Anybody may write to [`AWAY`]: a folder that is there must belong to the user.
fn make_away(data: &Path, away: PathBuf, user: User) -> Result<PathBuf> {
    let away = make(away, Some(user))?;
    let owner = fs::metadata(&away).with_context(|| format!("cannot look at {}", away.display()))?.uid();
    ensure!(owner == user.uid, "{} belongs to uid {owner}, not to postgres' user: remove it", away.display());
    let data = fs::canonicalize(data).with_context(|| format!("cannot resolve {}", data.display()))?;
    fs::write(away.join(OWNER), data.display().to_string())
        .with_context(|| format!("cannot write into {}", away.display()))?;
    Ok(away)
}

/// Removes what lies outside of `data` for it. Nothing may be running.
///
/// # Errors
/// When it is there and cannot be removed.
pub(crate) fn remove(data: &Path) -> Result<()> {
    match remembered(data).map(fs::remove_dir_all) {
        Some(Err(error)) if error.kind() != ErrorKind::NotFound => {
            Err(error).context("cannot remove the postgres cluster")
        }
        _ => Ok(()),
    }
}

/// Takes away a `postmaster.pid` whose server is gone. PostgreSQL does so itself, but gives up when the number was
/// given to another process of the same user since.
///
/// # Errors
/// When the file is there and cannot be removed.
pub(crate) fn release(cluster: &Path) -> Result<()> {
    let file = cluster.join("postmaster.pid");
    let Ok(text) = fs::read_to_string(&file) else { return Ok(()) };
    let pid = text.lines().next().unwrap_or_default();
    // A server works in its cluster's folder. Without /proc we leave it to PostgreSQL.
    let works_here = match fs::read_link(format!("/proc/{pid}/cwd")) {
        Ok(folder) => fs::canonicalize(cluster).is_ok_and(|cluster| cluster == folder),
        Err(_) => !Path::new("/proc/self/cwd").exists(),
    };
    if works_here {
        return Ok(());
    }
    fs::remove_file(&file).with_context(|| format!("cannot remove the stale {}", file.display()))
}

fn remembered(data: &Path) -> Option<PathBuf> {
    let text = fs::read_to_string(data.join("postgres.path")).ok()?;
    let path = PathBuf::from(text.trim());
    let ours = path.parent() == Some(Path::new(AWAY)) && path.file_name()?.to_str()?.starts_with(PREFIX);
    ours.then_some(path)
}

fn make(folder: PathBuf, user: Option<User>) -> Result<PathBuf> {
    let shown = folder.display();
    match fs::DirBuilder::new().mode(0o700).create(&folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            return Err(error).with_context(|| format!("cannot create {shown}"));
        }
        Err(_) => {}
        Ok(()) => {
            if let Some(user) = user {
                chown(&folder, Some(user.uid), Some(user.gid))
                    .with_context(|| format!("cannot give {shown} to postgres' user"))?;
            }
        }
    }
    Ok(folder)
}

/// Removes clusters whose data folder lay under the system's temporary folder and does not name them any more, as
/// interrupted tests leave them.
fn remove_orphans() {
    let temporary = std::env::temp_dir();
    for entry in fs::read_dir(AWAY).into_iter().flatten().flatten() {
        let folder = entry.path();
        let Ok(data) = fs::read_to_string(folder.join(OWNER)) else { continue };
        let data = PathBuf::from(data);
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX) && data.starts_with(&temporary);
        if ours && remembered(&data).as_ref() != Some(&folder) && release(&folder.join("cluster")).is_ok() {
            // Still held after `release`: its server runs.
            if !folder.join("cluster/postmaster.pid").exists() {
                let _ = fs::remove_dir_all(&folder);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a live process elsewhere counts as the server.
    #[test]
    fn a_pid_file_that_names_another_program_is_removed() {
        let cluster = tempfile::tempdir().unwrap();
        let file = cluster.path().join("postmaster.pid");
        fs::write(&file, format!("{}\n/some/where\n", std::process::id())).unwrap();
        release(cluster.path()).unwrap();
        assert!(!file.exists());
    }

    /// Red when any path in `postgres.path` is believed: the folder it names is removed with the data.
    #[test]
    fn only_a_folder_of_our_own_is_remembered() {
        let data = tempfile::tempdir().unwrap();
        let note = data.path().join("postgres.path");
        fs::write(&note, "/var/tmp/headwater-postgres-00ff").unwrap();
        assert_eq!(remembered(data.path()), Some("/var/tmp/headwater-postgres-00ff".into()));
        for other in ["/etc", "/var/tmp/else", "/var/tmp/headwater-postgres-1/../../etc"] {
            fs::write(&note, other).unwrap();
            assert_eq!(remembered(data.path()), None, "{other}");
        }
    }
}
