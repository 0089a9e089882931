//! Kafka's jars, resolved once with Maven into the cache and then shared by every stack of the user.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use tokio::process::Command;

use crate::ports::random;
use crate::process::{Farewell, Program, find_in_path};

const KAFKA: &str = "4.3.1";
const LOG4J: &str = "2.25.1";
const JAVA: u32 = 17;
/// The download is 55 MB.
const RESOLVE_LIMIT: Duration = Duration::from_secs(900);

/// Java's executable, from `JAVA_HOME` or `PATH`, checked to be new enough.
///
/// # Errors
/// When there is none, or it is older than Java 17; with the command that installs it.
pub(crate) async fn java() -> Result<PathBuf> {
    const INSTALL: &str = "install Java 17 or later: apt-get install openjdk-17-jre-headless";
    let home = std::env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/java"));
    let java = home.filter(|java| java.is_file()).or_else(|| find_in_path("java"));
    let java = java.with_context(|| format!("kafka needs java, which is not in PATH: {INSTALL}"))?;
    let output = Command::new(&java).arg("-version").stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("cannot run {}", java.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let major = major_version(&said).with_context(|| format!("java -version said no version: {said}"))?;
    ensure!(major >= JAVA, "kafka needs Java {JAVA}, and {} is Java {major}: {INSTALL}", java.display());
    Ok(java)
}

/// The folder of the jars, resolved first when it is not there.
///
/// # Errors
/// When Maven is missing or fails; the end of its output is in the message.
pub(crate) async fn resolve(cache: &Path) -> Result<PathBuf> {
    let jars = place(cache);
    if jars.is_dir() {
        return Ok(jars);
    }
    let maven = maven()?;
    std::fs::create_dir_all(cache).with_context(|| format!("cannot create {}", cache.display()))?;
    remove_left_overs(cache);
    // A folder of our own and one rename: a killed download leaves no half folder, and two at once do not meet.
    let work = Scratch(cache.join(format!(".kafka-{:016x}", u64::from_le_bytes(random()?))));
    std::fs::create_dir(&work.0).with_context(|| format!("cannot create {}", work.0.display()))?;
    std::fs::write(work.0.join("pom.xml"), pom()).context("cannot write the pom")?;
    tracing::info!(version = KAFKA, into = %jars.display(), "resolving kafka's jars with maven, once (about 55 MB)");
    let begin = Instant::now();
    let resolved = tokio::time::timeout(RESOLVE_LIMIT, program(maven, &work.0).run()).await;
    resolved
        .with_context(|| format!("maven did not end within {RESOLVE_LIMIT:?}"))?
        .context("cannot resolve kafka's jars")?;
    match std::fs::rename(work.0.join("jars"), &jars) {
        Ok(()) => tracing::info!(took = ?begin.elapsed(), "kafka's jars are there"),
        // Another stack was faster: what it resolved is the same.
        Err(error) if matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {}
        Err(error) => bail!("cannot rename the resolved jars to {}: {error}", jars.display()),
    }
    Ok(jars)
}

/// Whether [`resolve`] can do its work.
///
/// # Errors
/// When the jars are not there and Maven is missing.
pub(crate) fn check(cache: &Path) -> Result<()> {
    if place(cache).is_dir() { Ok(()) } else { maven().map(drop) }
}

fn place(cache: &Path) -> PathBuf {
    cache.join(format!("kafka-{KAFKA}"))
}

fn maven() -> Result<PathBuf> {
    find_in_path("mvn").context("kafka's jars are resolved with maven, which is not in PATH: apt-get install maven")
}

/// A folder that goes with its owner.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn program(maven: PathBuf, work: &Path) -> Program {
    Program {
        name: "maven",
        executable: maven,
        args: ["-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=jars"].map(Into::into).into(),
        folder: work.to_owned(),
        log: work.join("maven.log"),
        user: None,
        farewell: Farewell::Term,
    }
}

/// What killed downloads left more than an hour ago; a younger one may be at work.
fn remove_left_overs(cache: &Path) {
    let Ok(entries) = std::fs::read_dir(cache) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(".kafka-")) {
        let changed = entry.metadata().and_then(|found| found.modified());
        let age = changed.ok().and_then(|changed| SystemTime::now().duration_since(changed).ok());
        if age.is_some_and(|age| age > Duration::from_secs(3_600)) {
            drop(Scratch(entry.path()));
        }
    }
}

/// `17` of `openjdk version "17.0.15" 2025-04-15`, `8` of `java version "1.8.0_402"`.
fn major_version(said: &str) -> Option<u32> {
    let version = said.split_once("version \"")?.1;
    let mut numbers = version.split(|c: char| !c.is_ascii_digit());
    match numbers.next()?.parse().ok()? {
        1 => numbers.next()?.parse().ok(),
        major => Some(major),
    }
}

fn pom() -> String {
    let dependencies: String = [
        ("org.apache.kafka", "kafka_2.13", KAFKA),
        ("org.apache.kafka", "kafka-tools", KAFKA),
        ("org.apache.logging.log4j", "log4j-slf4j-impl", LOG4J),
        ("org.apache.logging.log4j", "log4j-core", LOG4J),
        ("org.apache.logging.log4j", "log4j-1.2-api", LOG4J),
    ]
    .iter()
    .map(|(group, artifact, version)| {
        format!("<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version></dependency>\n")
    })
    .collect();
    format!(
        "<project xmlns=\"http://maven.apache.org/POM/4.0.0\">\n<modelVersion>4.0.0</modelVersion>\n\
         <groupId>headwater</groupId><artifactId>kafka-jars</artifactId><version>1</version><packaging>pom</packaging>\n\
         <dependencies>\n{dependencies}</dependencies>\n</project>\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when the `1.` of old versions is not skipped.
    #[test]
    fn reads_old_and_new_java_versions() {
        assert_eq!(major_version("openjdk version \"17.0.15\" 2025-04-15"), Some(17));
        assert_eq!(major_version("java version \"1.8.0_402\""), Some(8));
        assert_eq!(major_version("openjdk version \"21\" 2023-09-19"), Some(21));
        assert_eq!(major_version("no such thing"), None);
    }
}
