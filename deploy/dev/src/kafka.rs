//! One Apache Kafka node, broker and controller in one JVM, in KRaft mode.
//!
//! What is in `<data>/kafka` stays from start to start: the cluster id, the topics, and the ports while they are free.
//! Ready means that the broker answers a request on its port and has said that it started.

mod config;
mod jars;
mod security;

pub(crate) use jars::java;

use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::ports::{self, Ports};
use crate::process::{Process, Program, StopSignal, read_from, tail};
use crate::security::ServerSecurity;

use security::SecuredListeners;

const START_LIMIT: Duration = Duration::from_secs(120);
/// A clean shutdown of one node takes a second or two; past this it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(20);
/// How long the folder may still be locked by the broker of an owner that was killed.
const LOCK_LIMIT: Duration = Duration::from_secs(20);

/// The stack's broker.
#[derive(Debug)]
pub struct Kafka {
    home: PathBuf,
    java: PathBuf,
    jars: PathBuf,
    for_tests: bool,
    port: u16,
    secured: Option<SecuredListeners>,
    process: Option<Process>,
}

/// Why one attempt to start came to nothing.
enum KafkaStartError {
    /// Somebody took a port between our look and the bind.
    PortTaken,
    /// The broker of an earlier, killed owner still holds the folder.
    FolderLocked,
    Other(anyhow::Error),
}

/// What an own broker needs on this machine.
///
/// # Errors
/// When Java, or Maven where the jars are not in the cache, is missing; with the command that installs it.
pub(crate) async fn check(cache: &Path) -> Result<()> {
    java().await?;
    jars::check(cache)
}

impl Kafka {
    /// Resolves the jars, formats the storage where that was not done, and starts the broker.
    pub(crate) async fn launch(
        data: &Path,
        cache: &Path,
        for_tests: bool,
        security: Option<&ServerSecurity>,
        ports: &mut Ports,
    ) -> Result<Self> {
        let home = data.join("kafka");
        std::fs::create_dir_all(&home).with_context(|| format!("cannot create {}", home.display()))?;
        let java = java().await?;
        let jars = jars::resolve(cache).await?;
        let secured = security.cloned().map(SecuredListeners::new);
        let mut kafka = Self { home, java, jars, for_tests, port: 0, secured, process: None };
        for _ in 0..3 {
            kafka.port = ports.choose("kafka")?;
            let controller = ports.choose("kafka-controller")?;
            if let Some(secured) = &mut kafka.secured {
                secured.choose(ports)?;
            }
            config::write(&kafka.home, kafka.port, controller, kafka.secured.as_ref(), for_tests)?;
            kafka.format().await?;
            match kafka.start_process().await {
                Err(KafkaStartError::PortTaken) => {
                    ["kafka", "kafka-controller"].iter().chain(&security::SERVICES).for_each(|name| ports.forget(name))
                }
                outcome => return outcome.map(|()| kafka).map_err(KafkaStartError::into_error),
            }
        }
        bail!("kafka found its ports taken three times: is something else opening many ports on 127.0.0.1?")
    }

    /// `host:port` for `bootstrap.servers`; the same for the life of the stack.
    #[must_use]
    pub fn bootstrap(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `host:port` of the listener that takes logins over TLS (SASL_SSL), where the stack was started with
    /// [`ServerSecurity`].
    #[must_use]
    pub fn sasl_bootstrap(&self) -> Option<String> {
        self.secured.as_ref().map(|secured| format!("localhost:{}", secured.sasl))
    }

    /// The same of the listener that takes no other mechanism than SCRAM-SHA-512.
    #[must_use]
    pub fn scram_bootstrap(&self) -> Option<String> {
        self.secured.as_ref().map(|secured| format!("localhost:{}", secured.scram))
    }

    /// `host:port` of the listener that wants a client certificate (SSL), where the stack was started with
    /// [`ServerSecurity`].
    #[must_use]
    pub fn tls_bootstrap(&self) -> Option<String> {
        self.secured.as_ref().map(|secured| format!("localhost:{}", secured.tls))
    }

    /// The JVM's pid, for tests that stop or kill it; `None` when it is not running.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Process::pid)
    }

    /// Starts the broker again after [`stop`](Self::stop), [`kill`](Self::kill) or a kill from outside, on the same
    /// port and data. Returns when it answers.
    ///
    /// # Errors
    /// When its port was taken meanwhile, or it does not come up within 120 s; the end of its log is in the message.
    pub async fn start(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.kill().await?;
        }
        self.start_process().await.map_err(KafkaStartError::into_error)
    }

    /// Stops the broker in order (`SIGTERM`), or kills it when it has not ended within 20 s.
    ///
    /// # Errors
    /// When the operating system refuses to say how it ended.
    pub async fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.stop(STOP_LIMIT).await,
            None => Ok(()),
        }
    }

    /// Kills the broker (`SIGKILL`) and waits for its end.
    ///
    /// # Errors
    /// When the operating system refuses to say how it ended.
    pub async fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    async fn format(&self) -> Result<()> {
        let marker = self.home.join("formatted");
        if marker.exists() {
            return Ok(());
        }
        let id = config::cluster_id(&self.home)?;
        let mut args = vec!["-Xmx128m".into(), "-XX:TieredStopAtLevel=1".into()];
        args.extend(self.class_path());
        args.extend(["kafka.tools.StorageTool", "format", "--ignore-formatted", "-t", &id, "-c"].map(Into::into));
        args.push(self.home.join("server.properties").into());
        args.extend(self.secured.iter().flat_map(SecuredListeners::format_arguments));
        self.program("the kafka storage tool", args, "format.log")
            .run()
            .await
            .context("cannot format kafka's storage")?;
        std::fs::write(&marker, id).with_context(|| format!("cannot write {}", marker.display()))
    }

    /// Starts the JVM and waits until it is ready, waiting first for a folder that is still locked.
    async fn start_process(&mut self) -> Result<(), KafkaStartError> {
        let begin = Instant::now();
        loop {
            match self.try_start().await {
                Err(KafkaStartError::FolderLocked) if begin.elapsed() < LOCK_LIMIT => {
                    tracing::info!("kafka's folder is still locked by an earlier broker: waiting");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_start(&mut self) -> Result<(), KafkaStartError> {
        if !ports::is_free(self.port) {
            return Err(KafkaStartError::PortTaken);
        }
        tracing::info!(port = self.port, "starting kafka (5 to 15 seconds)");
        let begin = Instant::now();
        let log = self.home.join("server.log");
        let offset = std::fs::metadata(&log).map_or(0, |found| found.len());
        let mut args = self.jvm_options();
        args.extend(self.class_path());
        args.push("kafka.Kafka".into());
        args.push(self.home.join("server.properties").into());
        let mut process = self.program("kafka", args, "console.log").spawn()?;
        let ready = async {
            let deadline = begin + START_LIMIT;
            while !(answers(self.port).await && read_from(&log, Some(offset)).contains("Kafka Server started")) {
                ensure!(Instant::now() < deadline, "kafka was not ready after {START_LIMIT:?}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        };
        let failure = tokio::select! {
            outcome = ready => outcome.err(),
            status = process.wait() => Some(process.failure(status?)),
        };
        let Some(failure) = failure else {
            tracing::info!(port = self.port, pid = process.pid(), took = ?begin.elapsed(), "kafka is ready");
            self.process = Some(process);
            return Ok(());
        };
        let said = read_from(&log, Some(offset));
        if said.contains("Failed to acquire lock on file") {
            Err(KafkaStartError::FolderLocked)
        } else if said.contains("Address already in use") {
            Err(KafkaStartError::PortTaken)
        } else {
            Err(failure
                .context(format!("kafka did not start; the end of {}:\n{}", log.display(), tail(&log, 30)))
                .into())
        }
    }

    fn jvm_options(&self) -> Vec<std::ffi::OsString> {
        let mut options = vec!["-server".to_owned(), "-XX:+UseG1GC".to_owned(), "-Djava.awt.headless=true".to_owned()];
        if self.for_tests {
            options.extend(["-Xms256m", "-Xmx512m", "-XX:TieredStopAtLevel=1"].map(str::to_owned));
        } else {
            options.extend(["-Xms512m", "-Xmx1g", "-XX:MaxGCPauseMillis=20"].map(str::to_owned));
        }
        options.extend(self.secured.iter().flat_map(SecuredListeners::jvm_options));
        options.push(format!("-Dlog4j2.configurationFile={}", self.home.join("log4j2.properties").display()));
        options.into_iter().map(Into::into).collect()
    }

    fn class_path(&self) -> [std::ffi::OsString; 2] {
        ["-cp".into(), self.jars.join("*").into()]
    }

    fn program(&self, name: &'static str, args: Vec<std::ffi::OsString>, log: &str) -> Program {
        Program {
            name,
            executable: self.java.clone(),
            args,
            folder: self.home.clone(),
            log: self.home.join(log),
            user: None,
            stop_signal: StopSignal::Term,
        }
    }
}

impl KafkaStartError {
    fn into_error(self) -> anyhow::Error {
        match self {
            Self::PortTaken => {
                anyhow::anyhow!("kafka's port was taken by another program: stop that, or start the stack anew")
            }
            Self::FolderLocked => {
                anyhow::anyhow!("another kafka still runs on this data folder: stop it, or use another folder")
            }
            Self::Other(error) => error,
        }
    }
}

impl From<anyhow::Error> for KafkaStartError {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Whether a broker on this port answers `ApiVersions` (version 0, which every broker knows) within two seconds.
async fn answers(port: u16) -> bool {
    // Length 10; key 18, version 0, correlation id 7, no client id.
    const REQUEST: [u8; 14] = [0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff];
    let ask = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        stream.write_all(&REQUEST).await?;
        let mut head = [0; 10];
        stream.read_exact(&mut head).await?;
        // After the length: the correlation id, then the error code.
        if head[4..] == [0, 0, 0, 7, 0, 0] { Ok(()) } else { Err(std::io::Error::from(ErrorKind::InvalidData)) }
    };
    matches!(tokio::time::timeout(Duration::from_secs(2), ask).await, Ok(Ok(())))
}
