//! Java, and Kafka's jars from Maven.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tokio::process::Command;

use crate::maven::{self, Artifact, Jars, Scratch};
use crate::process::find_in_path;

const KAFKA: &str = "4.3.1";
const LOG4J: &str = "2.25.1";
const JAVA: u32 = 17;
const ARTIFACTS: [Artifact; 5] = [
    Artifact { group: "org.apache.kafka", name: "kafka_2.13", version: KAFKA },
    Artifact { group: "org.apache.kafka", name: "kafka-tools", version: KAFKA },
    Artifact { group: "org.apache.logging.log4j", name: "log4j-slf4j-impl", version: LOG4J },
    Artifact { group: "org.apache.logging.log4j", name: "log4j-core", version: LOG4J },
    Artifact { group: "org.apache.logging.log4j", name: "log4j-1.2-api", version: LOG4J },
];

/// Java's executable, from `JAVA_HOME` or `PATH`, checked to be new enough.
///
/// # Errors
/// When there is none, or it is older than Java 17; with the command that installs it.
pub(crate) async fn java() -> Result<PathBuf> {
    const INSTALL: &str = "install Java 17 or later: apt-get install openjdk-17-jre-headless";
    let home = std::env::var_os("JAVA_HOME").map(|home| Path::new(&home).join("bin/java"));
    let java = home.filter(|java| java.is_file()).or_else(|| find_in_path("java"));
    let java = java.with_context(|| format!("java is not in PATH: {INSTALL}"))?;
    let output = Command::new(&java).arg("-version").stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("cannot run {}", java.display()))?;
    let said = String::from_utf8_lossy(&output.stderr);
    let major = major_version(&said).with_context(|| format!("java -version said no version: {said}"))?;
    ensure!(major >= JAVA, "Java {JAVA} is needed, and {} is Java {major}: {INSTALL}", java.display());
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
    tracing::info!(version = KAFKA, into = %jars.display(), "resolving kafka's jars with maven, once (about 55 MB)");
    let begin = Instant::now();
    let scratch = Scratch::new(cache)?;
    let fetched = scratch.fetch(&ARTIFACTS, Jars::Kept).await.context("cannot resolve kafka's jars")?;
    scratch.publish(&fetched, &jars)?;
    tracing::info!(took = ?begin.elapsed(), "kafka's jars are there");
    Ok(jars)
}

/// Whether [`resolve`] can do its work.
///
/// # Errors
/// When the jars are not there and Maven is missing.
pub(crate) fn check(cache: &Path) -> Result<()> {
    if place(cache).is_dir() {
        return Ok(());
    }
    maven::executable().map(drop).context("kafka's jars cannot be fetched")
}

fn place(cache: &Path) -> PathBuf {
    cache.join(format!("kafka-{KAFKA}"))
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
