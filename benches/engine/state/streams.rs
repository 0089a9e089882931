//! Kafka Streams: the program in `benches/peers/kafka-streams`, built by Maven, in a process of its own.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io::ErrorKind,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use headwater_dev::StackConfig;
use tokio::{process::Command, time::timeout};

use crate::{contender, meter::Measurement, place::Place, rounds::say};

/// Where it writes.
pub(super) const OUTPUT: &str = "streams.count";
const PROJECT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/peers/kafka-streams");
/// 100 MB come from Maven the first time.
const BUILD_LIMIT: Duration = Duration::from_mins(10);
/// Its heap. Without a word it is a quarter of the machine's memory, and resident before it is needed: this is the least
/// that costs it nothing.
const HEAP: &str = "-Xmx512m";
/// The record cache's default.
const CACHE: usize = 10 << 20;

/// The program, built.
pub(super) struct Streams(PathBuf);

impl Streams {
    /// Builds it into the user's cache, where it is found again until something of it changes.
    pub(super) async fn build() -> Result<Self> {
        let mut hasher = DefaultHasher::new();
        for file in ["pom.xml", "src/main/java/Count.java"] {
            let path = Path::new(PROJECT).join(file);
            std::fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?.hash(&mut hasher);
        }
        let cache = StackConfig::new("").cache;
        std::fs::create_dir_all(&cache)?;
        let built = cache.join(format!("bench-kafka-streams-{:016x}", hasher.finish()));
        if built.is_dir() {
            return Ok(Self(built));
        }
        say("maven builds kafka streams' side, once");
        // Under the name by which the stack knows left-overs of killed downloads, and takes them away.
        let folder = cache.join(format!(".fetching-streams-{}", std::process::id()));
        let mut maven = Command::new("mvn");
        maven.args(["-q", "-B", "-Dstyle.color=never", "-f"]).arg(Path::new(PROJECT).join("pom.xml"));
        maven.arg(format!("-Doutput={}", folder.display())).arg("compile").stdin(Stdio::null()).kill_on_drop(true);
        // What it says belongs to the log: the output is the table.
        maven.stdout(std::io::stderr());
        let status = timeout(BUILD_LIMIT, maven.status()).await.context("maven did not end")?;
        let status = status.context("cannot run mvn: apt-get install maven openjdk-17-jdk-headless")?;
        ensure!(status.success(), "maven could not build {PROJECT}; it needs a JDK: openjdk-17-jdk-headless");
        match std::fs::rename(&folder, &built) {
            // Another run was faster.
            Err(error) if !matches!(error.kind(), ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists) => {
                bail!("cannot rename what was built to {}: {error}", built.display())
            }
            _ => Ok(Self(built)),
        }
    }

    /// Counts the place's payments.
    pub(super) async fn measure(&self, place: &Place, cached: bool, limit: Duration) -> Result<Measurement> {
        let (classes, jars) = (self.0.join("classes"), self.0.join("jars/*"));
        let cache = if cached { CACHE } else { 0 };
        let mut java = Command::new("java");
        java.args([HEAP, "-Dorg.slf4j.simpleLogger.defaultLogLevel=error"])
            .arg("-cp")
            .arg(format!("{}:{}", classes.display(), jars.display()))
            .args(["Count", &place.kafka, &place.topic, OUTPUT, &place.group])
            .arg(&place.state)
            .args([place.records.to_string(), cache.to_string()])
            // RocksDB beside glibc's default arenas, eight a core, fragments: the documentation advises another allocator,
            // and this is the part of it that needs none.
            .env("MALLOC_ARENA_MAX", "2")
            // It ends when nobody holds the other end any more.
            .stdin(Stdio::piped());
        contender::result("kafka streams", &mut java, limit).await
    }
}

/// Reads the count from a record's value.
pub(super) fn read(value: &[u8]) -> Result<i64> {
    Ok(i64::from_be_bytes(value.try_into().context("a count that is no long")?))
}
