//! PgBouncer before the stack's server, in transaction mode: a connection to the server is a client's for one transaction.
//!
//! Its clients come over TLS with a user's password, and so does it to the server.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tokio::net::TcpStream;

use crate::ports::Ports;
use crate::process::{Process, Program, StopSignal, User, find_in_path};
use crate::security::ServerSecurity;

use super::security::{SecurityFiles, write};

const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(5);
const SERVICE: &str = "pgbouncer";

/// A running pooler. Dropping it ends it.
#[derive(Debug)]
pub struct PgBouncer {
    port: u16,
    process: Process,
}

/// Its executable, which Debian keeps where only root looks.
///
/// # Errors
/// When it is not installed, with the command that installs it.
pub(crate) fn executable() -> Result<PathBuf> {
    let debian = Path::new("/usr/sbin/pgbouncer");
    let found = find_in_path("pgbouncer").or_else(|| debian.is_file().then(|| debian.to_owned()));
    found.context("pgbouncer is not installed: apt-get install pgbouncer")
}

impl PgBouncer {
    /// Starts it before the server on this port, with its files in `home`, which `user` can enter.
    pub(super) async fn launch(
        security: &ServerSecurity,
        home: &Path,
        user: Option<User>,
        server: u16,
        ports: &mut Ports,
    ) -> Result<Self> {
        let files = SecurityFiles::copy(security, home, user)?;
        let passwords: String =
            security.users.iter().map(|user| format!("\"{}\" \"{}\"\n", user.name, user.password)).collect();
        let passwords = write(&home.join("pgbouncer.users"), passwords.as_bytes(), user)?;
        let port = ports.choose(SERVICE)?;
        let settings = settings(&files, &passwords, port, server);
        let settings = write(&home.join("pgbouncer.ini"), settings.as_bytes(), user)?;
        let process = Program {
            name: SERVICE,
            executable: executable()?,
            args: vec![settings.into()],
            folder: home.to_owned(),
            log: home.join("pgbouncer.log"),
            user,
            stop_signal: StopSignal::Term,
        };
        let mut pooler = Self { port, process: process.spawn()? };
        let deadline = Instant::now() + START_LIMIT;
        while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
            ensure!(Instant::now() < deadline, "pgbouncer was not ready after {START_LIMIT:?}");
            let ended = tokio::time::timeout(Duration::from_millis(50), pooler.process.wait()).await;
            if let Ok(status) = ended {
                return Err(pooler.process.failure(status?));
            }
        }
        Ok(pooler)
    }

    /// Its port on `localhost`, for TLS alone. Every database of the server is there under its name.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Stops it; clients are disconnected.
    pub(crate) async fn stop(self) -> Result<()> {
        self.process.stop(STOP_LIMIT).await
    }
}

fn settings(files: &SecurityFiles, passwords: &Path, port: u16, server: u16) -> String {
    format!(
        "[databases]\n\
         * = host=127.0.0.1 port={server}\n\
         [pgbouncer]\n\
         listen_addr = 127.0.0.1\n\
         listen_port = {port}\n\
         unix_socket_dir =\n\
         auth_type = scram-sha-256\n\
         auth_file = {passwords}\n\
         pool_mode = transaction\n\
         default_pool_size = 20\n\
         max_client_conn = 500\n\
         ignore_startup_parameters = extra_float_digits\n\
         client_tls_sslmode = require\n\
         client_tls_ca_file = {ca}\n\
         client_tls_cert_file = {cert}\n\
         client_tls_key_file = {key}\n\
         server_tls_sslmode = verify-full\n\
         server_tls_ca_file = {ca}\n",
        passwords = passwords.display(),
        ca = files.ca.display(),
        cert = files.cert.display(),
        key = files.key.display(),
    )
}
