//! An Apicurio Registry in a JVM of its own, which speaks Confluent's API too: for tests against a registry that others
//! have written. It keeps nothing: what is registered is gone with it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::kafka::java;
use crate::maven::Scratch;
use crate::ports::Ports;
use crate::process::{Process, Program, StopSignal};

const VERSION: &str = "3.0.9";
const START_LIMIT: Duration = Duration::from_secs(120);
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// A running Apicurio Registry. Dropping it ends it.
#[derive(Debug)]
pub struct Apicurio {
    port: u16,
    process: Process,
}

impl Apicurio {
    /// Starts it in the folder `data` (for its log and its port), with its program fetched into `cache` (110 MB) where it is
    /// not there yet. Returns when it is ready, after 4 to 15 s.
    ///
    /// # Errors
    /// When Java 17 or Maven is missing (with the command that installs it), or it does not start (with the end of its log).
    pub async fn start(data: &Path, cache: &Path) -> Result<Self> {
        std::fs::create_dir_all(data).with_context(|| format!("cannot create {}", data.display()))?;
        let (java, place) = (java().await?, resolve(cache).await?);
        let port = Ports::load(data).choose("apicurio")?;
        tracing::info!(port, "starting apicurio (4 to 15 seconds)");
        let begin = Instant::now();
        let host = ["-Dquarkus.http.host=127.0.0.1".to_owned(), format!("-Dquarkus.http.port={port}")];
        let args = ["-Xmx256m", "-XX:TieredStopAtLevel=1"].map(str::to_owned).into_iter().chain(host);
        let program = Program {
            name: "apicurio",
            executable: java,
            args: args.chain(["-jar".to_owned()]).map(Into::into).chain([jar(&place).into()]).collect(),
            folder: data.to_owned(),
            log: data.join("apicurio.log"),
            user: None,
            stop_signal: StopSignal::Term,
        };
        let mut process = program.spawn()?;
        while !is_ready(port).await {
            tokio::select! {
                status = process.wait() => bail!(process.failure(status?)),
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
            ensure!(begin.elapsed() < START_LIMIT, "apicurio was not ready after {START_LIMIT:?}");
        }
        tracing::info!(port, pid = process.pid(), took = ?begin.elapsed(), "apicurio is ready");
        Ok(Self { port, process })
    }

    /// The base address of Confluent's API, without a trailing slash.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}/apis/ccompat/v7", self.port)
    }

    /// Stops it in order, or kills it when it has not ended within 10 s.
    ///
    /// # Errors
    /// When the operating system refuses to say how it ended.
    pub async fn stop(self) -> Result<()> {
        self.process.stop(STOP_LIMIT).await
    }
}

/// The folder of the program, fetched first when it is not there.
async fn resolve(cache: &Path) -> Result<PathBuf> {
    let place = cache.join(format!("apicurio-{VERSION}"));
    if jar(&place).is_file() {
        return Ok(place);
    }
    tracing::info!(version = VERSION, into = %place.display(), "fetching apicurio with maven, once (about 110 MB)");
    let begin = Instant::now();
    let scratch = Scratch::new(cache)?;
    let archive = format!("io.apicurio:apicurio-registry-app:{VERSION}:tar.gz:all");
    let fetched = scratch.unpack(&archive).await.context("cannot fetch apicurio")?;
    ensure!(jar(&fetched).is_file(), "what was fetched as apicurio {VERSION} has no {}", jar(Path::new("")).display());
    scratch.publish(&fetched, &place)?;
    tracing::info!(took = ?begin.elapsed(), "apicurio is there");
    Ok(place)
}

fn jar(place: &Path) -> PathBuf {
    place.join(format!("apicurio-registry-app-{VERSION}-runner.jar"))
}

/// Whether the registry on this port says within two seconds that it is ready.
async fn is_ready(port: u16) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
        stream.write_all(b"GET /health/ready HTTP/1.0\r\n\r\n").await?;
        let mut head = [0; 12];
        stream.read_exact(&mut head).await?;
        Ok::<_, std::io::Error>(head.ends_with(b" 200"))
    };
    matches!(tokio::time::timeout(Duration::from_secs(2), ask).await, Ok(Ok(true)))
}
