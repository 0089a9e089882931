//! A private PostgreSQL cluster from the server binaries that are installed, else from fetched ones.
//!
//! It listens on the loopback interface alone, has one superuser `headwater` who needs no password there, and a
//! database `headwater`. The cluster stays from start to start; where it lies is decided in `place.rs`.

mod data_directory;
mod download;
mod installation;
mod pooler;
mod security;
mod wire;

use std::ffi::OsString;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::ports::{self, Ports};
use crate::process::User;
use crate::process::{Process, Program, StopSignal, read_from, tail};
use crate::security::ServerSecurity;

pub(crate) use data_directory::remove;
pub use pooler::PgBouncer;
pub(crate) use pooler::executable as pooler_executable;

use security::SecurityFiles;

const USER: &str = "headwater";
const DATABASE: &str = "headwater";
const START_LIMIT: Duration = Duration::from_secs(60);
const STOP_LIMIT: Duration = Duration::from_secs(10);
/// How long the processes of a killed owner may still hold the cluster.
const HELD_LIMIT: Duration = Duration::from_secs(20);

/// Why the binaries are to be fetched, and what to do when that does not work.
const NONE_INSTALLED: &str = "no fitting PostgreSQL server is installed (apt-get install postgresql, or name a running one with --postgres URL), and fetching one does not work";

/// The stack's database server.
#[derive(Debug)]
pub struct Postgres {
    binaries: PathBuf,
    user: Option<User>,
    /// The folder of the cluster and its log, owned by `user`.
    home: PathBuf,
    for_tests: bool,
    port: u16,
    /// The user of the stack needs to show nothing either way.
    security: Option<ServerSecurity>,
    process: Option<Process>,
}

/// Why one attempt to start came to nothing.
enum PostgresStartError {
    /// Somebody took the port between our look and the bind.
    PortTaken,
    /// Processes of an earlier, killed server still hold the cluster.
    Held,
    Other(anyhow::Error),
}

/// What an own server needs on this machine.
///
/// # Errors
/// When server binaries are neither installed nor to be had, or we are root and there is no user to run them; with what
/// to do.
pub(crate) async fn check(cache: &Path) -> Result<()> {
    let user = User::unprivileged()?;
    if installation::find(None).await.is_some() || download::find(cache, user).await.is_some() {
        return Ok(());
    }
    download::check().context(NONE_INSTALLED)
}

impl Postgres {
    /// Makes the cluster where there is none, starts the server and makes the database.
    pub(crate) async fn launch(
        data: &Path,
        cache: &Path,
        for_tests: bool,
        security: Option<&ServerSecurity>,
        ports: &mut Ports,
    ) -> Result<Self> {
        let user = User::unprivileged()?;
        let home = data_directory::choose(data, user).await?;
        let binaries = binaries(&home, cache, user).await?;
        Self::launch_from(binaries, user, home, for_tests, security, ports).await
    }

    async fn launch_from(
        binaries: PathBuf,
        user: Option<User>,
        home: PathBuf,
        for_tests: bool,
        security: Option<&ServerSecurity>,
        ports: &mut Ports,
    ) -> Result<Self> {
        let security = security.cloned();
        let mut postgres = Self { binaries, user, home, for_tests, port: 0, security, process: None };
        postgres.init().await?;
        for _ in 0..3 {
            postgres.port = ports.choose("postgres")?;
            match postgres.start_process().await {
                Err(PostgresStartError::PortTaken) => ports.forget("postgres"),
                outcome => return outcome.map(|()| postgres).map_err(PostgresStartError::into_error),
            }
        }
        bail!("postgres found its port taken three times: is something else opening many ports on 127.0.0.1?")
    }

    /// `postgres://…` of the database `headwater`; the same for the life of the stack. Its user is a superuser, so a
    /// test can make databases of its own.
    #[must_use]
    pub fn url(&self) -> String {
        format!("postgres://{USER}@127.0.0.1:{}/{DATABASE}", self.port)
    }

    /// Starts a pooler before it, where the stack was started with [`ServerSecurity`].
    pub(crate) async fn launch_pooler(&self, ports: &mut Ports) -> Result<Option<PgBouncer>> {
        let Some(security) = &self.security else { return Ok(None) };
        PgBouncer::launch(security, &self.home, self.user, self.port, ports).await.map(Some)
    }

    /// The server's pid, for tests that stop or kill it; `None` when it is not running.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.process.as_ref().and_then(Process::pid)
    }

    /// Starts the server again after [`stop`](Self::stop), [`kill`](Self::kill) or a kill from outside, on the same
    /// port and data. Returns when it answers queries.
    ///
    /// # Errors
    /// When its port was taken meanwhile, or it does not come up within 60 s; the end of its log is in the message.
    pub async fn start(&mut self) -> Result<()> {
        if let Some(process) = self.process.take() {
            process.kill().await?;
        }
        self.start_process().await.map_err(PostgresStartError::into_error)
    }

    /// Stops the server in order ("fast": clients are disconnected, open transactions rolled back), or kills it when it
    /// has not ended within 10 s.
    ///
    /// # Errors
    /// When the operating system refuses to say how it ended.
    pub async fn stop(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.stop(STOP_LIMIT).await,
            None => Ok(()),
        }
    }

    /// Kills the server (`SIGKILL`) and waits for its end; its backends notice and leave by themselves.
    ///
    /// # Errors
    /// When the operating system refuses to say how it ended.
    pub async fn kill(&mut self) -> Result<()> {
        match self.process.take() {
            Some(process) => process.kill().await,
            None => Ok(()),
        }
    }

    fn cluster(&self) -> PathBuf {
        self.home.join("cluster")
    }

    /// `initdb` into a folder beside the cluster's and one rename, so that a killed one leaves no half cluster.
    async fn init(&self) -> Result<()> {
        if self.cluster().join("PG_VERSION").exists() {
            return Ok(());
        }
        tracing::info!(cluster = %self.cluster().display(), "making a postgres cluster (2 to 5 seconds)");
        let new = self.home.join("cluster.new");
        if new.exists() {
            std::fs::remove_dir_all(&new).with_context(|| format!("cannot remove {}", new.display()))?;
        }
        let mut args: Vec<OsString> = vec!["-D".into(), new.clone().into()];
        args.extend(["-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C", "-N"].map(Into::into));
        self.program("initdb", args, "initdb.log", StopSignal::Term)
            .run()
            .await
            .context("cannot make a postgres cluster")?;
        std::fs::rename(&new, self.cluster()).with_context(|| format!("cannot rename {}", new.display()))
    }

    async fn start_process(&mut self) -> Result<(), PostgresStartError> {
        let begin = Instant::now();
        loop {
            match self.try_start().await {
                Err(PostgresStartError::Held) if begin.elapsed() < HELD_LIMIT => {
                    tokio::time::sleep(Duration::from_millis(500)).await
                }
                outcome => return outcome,
            }
        }
    }

    async fn try_start(&mut self) -> Result<(), PostgresStartError> {
        if !ports::is_free(self.port) {
            return Err(PostgresStartError::PortTaken);
        }
        data_directory::release(&self.cluster())?;
        let begin = Instant::now();
        let settings = self.settings()?;
        let users = self.security.as_ref().map(security::users).unwrap_or_default();
        let mut process = self.program("postgres", settings, "postgres.log", StopSignal::Int).spawn()?;
        let ready = async {
            let deadline = begin + START_LIMIT;
            loop {
                match wire::ensure_database(self.port, USER, DATABASE, &users).await {
                    Err(error) if Instant::now() > deadline => {
                        return Err(error.context(format!("not ready after {START_LIMIT:?}")));
                    }
                    Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
                    Ok(()) => return Ok(()),
                }
            }
        };
        let failure = tokio::select! {
            outcome = ready => outcome.err(),
            status = process.wait() => Some(process.failure(status?)),
        };
        let Some(failure) = failure else {
            tracing::info!(port = self.port, pid = process.pid(), took = ?begin.elapsed(), "postgres is ready");
            self.process = Some(process);
            return Ok(());
        };
        let log = self.home.join("postgres.log");
        let said = read_from(&log, None);
        if said.contains("is still in use") || said.contains("lock file \"postmaster.pid\" already exists") {
            Err(PostgresStartError::Held)
        } else if said.contains("Address already in use") {
            Err(PostgresStartError::PortTaken)
        } else {
            Err(failure
                .context(format!("postgres did not start; the end of {}:\n{}", log.display(), tail(&log, 30)))
                .into())
        }
    }

    fn settings(&self) -> Result<Vec<OsString>> {
        let mut settings = vec![
            "listen_addresses=127.0.0.1".to_owned(),
            format!("port={}", self.port),
            "unix_socket_directories=".to_owned(),
            "max_connections=200".to_owned(),
            "shared_buffers=128MB".to_owned(),
            "timezone=UTC".to_owned(),
            // Refused statements are told to the client; in the log they would grow it without bound.
            "log_min_messages=log".to_owned(),
            "log_checkpoints=off".to_owned(),
        ];
        if self.for_tests {
            settings.extend(["fsync=off", "synchronous_commit=off", "full_page_writes=off"].map(str::to_owned));
        }
        if let Some(security) = &self.security {
            settings.extend(self.secured_settings(security)?);
        }
        let mut args = vec!["-D".into(), self.cluster().into()];
        args.extend(settings.into_iter().flat_map(|setting| [OsString::from("-c"), setting.into()]));
        Ok(args)
    }

    fn secured_settings(&self, security: &ServerSecurity) -> Result<[String; 5]> {
        let files = SecurityFiles::copy(security, &self.home, self.user)?;
        let access = security::host_based_authentication(security);
        let access = security::write(&self.home.join("pg_hba.conf"), access.as_bytes(), self.user)?;
        Ok([
            "ssl=on".to_owned(),
            format!("ssl_ca_file={}", files.ca.display()),
            format!("ssl_cert_file={}", files.cert.display()),
            format!("ssl_key_file={}", files.key.display()),
            format!("hba_file={}", access.display()),
        ])
    }

    fn program(&self, name: &'static str, args: Vec<OsString>, log: &str, stop_signal: StopSignal) -> Program {
        let executable = self.binaries.join(name);
        Program {
            name,
            executable,
            args,
            folder: self.home.clone(),
            log: self.home.join(log),
            user: self.user,
            stop_signal,
        }
    }
}

impl PostgresStartError {
    fn into_error(self) -> anyhow::Error {
        match self {
            Self::PortTaken => {
                anyhow::anyhow!("postgres' port was taken by another program: stop that, or start the stack anew")
            }
            Self::Held => {
                anyhow::anyhow!("another postgres still runs on this data folder: stop it, or use another folder")
            }
            Self::Other(error) => error,
        }
    }
}

impl From<anyhow::Error> for PostgresStartError {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// The folder of the server's binaries. A cluster belongs to one major version: where there is one, it decides.
async fn binaries(home: &Path, cache: &Path, user: Option<User>) -> Result<PathBuf> {
    let file = home.join("cluster/PG_VERSION");
    let made = match std::fs::read_to_string(&file) {
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        read => Some(read.with_context(|| format!("cannot read {}", file.display()))?),
    };
    let major = made.as_deref().and_then(|made| made.trim().parse().ok());
    if let Some(folder) = installation::find(major).await {
        return Ok(folder);
    }
    if let Some(made) = made.filter(|made| !download::run(made.trim())) {
        bail!(
            "this data folder was made by PostgreSQL {0}, which is not installed: apt-get install postgresql-{0}, or use another folder",
            made.trim()
        );
    }
    download::resolve(cache, user).await.context(NONE_INSTALLED)
}

#[cfg(test)]
mod tests;
