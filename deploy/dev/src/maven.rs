//! What is not on this machine and comes from Maven: fetched once into the cache, then shared by every stack of the user.

use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail};

use crate::ports::random;
use crate::process::{Program, StopSignal, find_in_path};

/// The largest download is 55 MB.
const LIMIT: Duration = Duration::from_secs(900);
const PREFIX: &str = ".fetching-";

/// One artifact by its coordinates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Artifact {
    pub(crate) group: &'static str,
    pub(crate) name: &'static str,
    pub(crate) version: &'static str,
}

/// What becomes of the artifacts' jars.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Jars {
    /// They and what they depend on are kept as they are.
    Kept,
    /// What is in them is kept.
    Unpacked,
}

/// Maven's executable.
///
/// # Errors
/// When there is none; with the command that installs it.
pub(crate) fn executable() -> Result<PathBuf> {
    find_in_path("mvn").context("maven is not in PATH: apt-get install maven")
}

/// A folder of our own in the cache, taken away when dropped. A killed download leaves no half folder under the name
/// that others read, and two at once do not meet.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes it, and the cache where there is none.
    ///
    /// # Errors
    /// When either cannot be made.
    pub(crate) fn new(cache: &Path) -> Result<Self> {
        fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
        remove_left_overs(cache);
        let folder = cache.join(format!("{PREFIX}{:016x}", u64::from_le_bytes(random()?)));
        fs::create_dir(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self(folder))
    }

    /// The folder itself.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Lets Maven resolve `artifacts` into the folder `fetched` of this one, and returns that.
    ///
    /// # Errors
    /// When Maven is missing or fails, or takes more than 15 minutes; the end of its output is in the message.
    pub(crate) async fn fetch(&self, artifacts: &[Artifact], jars: Jars) -> Result<PathBuf> {
        fs::write(self.0.join("pom.xml"), pom(artifacts)).context("cannot write the pom")?;
        let goal = match jars {
            Jars::Kept => "dependency:copy-dependencies",
            Jars::Unpacked => "dependency:unpack-dependencies",
        };
        self.run(&[goal]).await
    }

    /// Lets Maven unpack one archive, `group:name:version:type:classifier`, into the folder `fetched` of this one, without
    /// what it depends on, and returns that folder.
    ///
    /// # Errors
    /// As [`fetch`](Self::fetch).
    pub(crate) async fn unpack(&self, archive: &str) -> Result<PathBuf> {
        self.run(&["dependency:unpack", &format!("-Dartifact={archive}")]).await
    }

    async fn run(&self, goal: &[&str]) -> Result<PathBuf> {
        let program = Program {
            name: "maven",
            executable: executable()?,
            args: ["-q", "-B", "-DoutputDirectory=fetched"].iter().chain(goal).map(Into::into).collect(),
            folder: self.0.clone(),
            log: self.0.join("maven.log"),
            user: None,
            stop_signal: StopSignal::Term,
        };
        let ended = tokio::time::timeout(LIMIT, program.run()).await;
        ended.with_context(|| format!("maven did not end within {LIMIT:?}"))??;
        Ok(self.0.join("fetched"))
    }

    /// Gives the finished `folder` of this one the name that others read it under.
    ///
    /// # Errors
    /// When it cannot be renamed. Another stack that was faster is no error: what it fetched is the same.
    pub(crate) fn publish(&self, folder: &Path, place: &Path) -> Result<()> {
        match fs::rename(folder, place) {
            Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => Ok(()),
            Err(error) => bail!("cannot rename what was fetched to {}: {error}", place.display()),
            Ok(()) => Ok(()),
        }
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What killed downloads left more than an hour ago; a younger one may be at work.
fn remove_left_overs(cache: &Path) {
    let Ok(entries) = fs::read_dir(cache) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let changed = entry.metadata().and_then(|found| found.modified());
        let age = changed.ok().and_then(|changed| SystemTime::now().duration_since(changed).ok());
        if age.is_some_and(|age| age > Duration::from_secs(3_600)) {
            drop(Scratch(entry.path()));
        }
    }
}

fn pom(artifacts: &[Artifact]) -> String {
    let dependencies: String = artifacts
        .iter()
        .map(|Artifact { group, name, version }| {
            format!("<dependency><groupId>{group}</groupId><artifactId>{name}</artifactId><version>{version}</version></dependency>\n")
        })
        .collect();
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n<modelVersion>4.0.0</modelVersion>\n\
         <groupId>headwater</groupId><artifactId>fetched</artifactId><version>1</version><packaging>pom</packaging>\n\
         <dependencies>\n{dependencies}</dependencies>\n</project>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when `Drop` does nothing, or a rename onto a folder that is there is an error.
    #[test]
    fn the_slower_of_two_downloads_leaves_the_first_ones_folder_and_nothing_of_its_own() {
        let cache = tempfile::tempdir().unwrap();
        let place = cache.path().join("thing-1");
        for content in ["first", "second"] {
            let scratch = Scratch::new(cache.path()).unwrap();
            let folder = scratch.path().join("fetched");
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("file"), content).unwrap();
            scratch.publish(&folder, &place).unwrap();
        }
        assert_eq!(fs::read_to_string(place.join("file")).unwrap(), "first");
        assert_eq!(fs::read_dir(cache.path()).unwrap().count(), 1);
    }
}
