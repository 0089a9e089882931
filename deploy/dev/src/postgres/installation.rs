//! The server binaries that are installed on this machine.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::process::Command;

use crate::process::find_in_path;

/// The folder that holds both `initdb` and `postgres`, of the given major version, or of whichever comes first: Debian's
/// highest version, what `pg_config` names, the folders of `PATH`.
pub(crate) async fn find(major: Option<u32>) -> Option<PathBuf> {
    for folder in folders().await {
        if major.is_none() || version(&folder).await == major {
            return Some(folder);
        }
    }
    None
}

/// Whether everything that we run is in this folder.
pub(crate) fn complete(folder: &Path) -> bool {
    folder.join("initdb").exists() && folder.join("postgres").exists()
}

async fn folders() -> Vec<PathBuf> {
    let mut debian: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    debian.sort();
    let mut folders: Vec<PathBuf> = debian.into_iter().rev().map(|(_, folder)| folder).collect();
    folders.extend(said_by("pg_config".as_ref(), "--bindir").await.map(|said| PathBuf::from(said.trim())));
    folders.extend(find_in_path("postgres").and_then(|file| file.parent().map(Path::to_owned)));
    folders.retain(|folder| complete(folder));
    folders
}

async fn version(folder: &Path) -> Option<u32> {
    major(&said_by(&folder.join("postgres"), "--version").await?)
}

async fn said_by(program: &Path, question: &str) -> Option<String> {
    let output = Command::new(program).arg(question).stdin(Stdio::null()).kill_on_drop(true).output().await.ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

/// `15` of `postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)`, `19` of `postgres (PostgreSQL) 19beta1`.
fn major(said: &str) -> Option<u32> {
    let version = said.split_once("(PostgreSQL) ")?.1;
    version.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::major;

    /// Red when the version is parsed up to the next blank.
    #[test]
    fn reads_the_major_version_that_a_server_says() {
        assert_eq!(major("postgres (PostgreSQL) 15.13 (Debian 15.13-0+deb12u1)\n"), Some(15));
        assert_eq!(major("postgres (PostgreSQL) 19beta1\n"), Some(19));
        assert_eq!(major("postgres: no such thing"), None);
    }
}
