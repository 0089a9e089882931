//! Loopback ports that stay the same from start to start on one data folder, so that clients keep working.

use std::collections::BTreeMap;
use std::io::Read;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// Below the range that the kernel takes the local ports of outgoing connections from: a client that keeps trying to
/// reach a stopped server on a port of that range can in the end connect to itself, and then holds the port.
const RANGE: std::ops::Range<u16> = 15_000..32_000;

/// The ports by service, as remembered in `ports.json`.
#[derive(Debug)]
pub(crate) struct Ports {
    file: PathBuf,
    by_service: BTreeMap<String, u16>,
}

impl Ports {
    /// The ports of an earlier start on this folder, if there was one.
    pub(crate) fn load(data: &Path) -> Self {
        let file = data.join("ports.json");
        let by_service = std::fs::read(&file).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        Self { file, by_service: by_service.unwrap_or_default() }
    }

    /// The service's port of the last start if it is free now, else another free one, which is remembered.
    ///
    /// # Errors
    /// When no port is free or the file cannot be written.
    pub(crate) fn choose(&mut self, service: &str) -> Result<u16> {
        if let Some(port) = self.by_service.get(service).copied().filter(|port| is_free(*port)) {
            return Ok(port);
        }
        for _ in 0..1_000 {
            let [a, b] = random::<2>()?;
            let port = RANGE.start + u16::from_le_bytes([a, b]) % (RANGE.end - RANGE.start);
            if !self.by_service.values().any(|taken| *taken == port) && is_free(port) {
                self.by_service.insert(service.to_owned(), port);
                crate::endpoints::replace(&self.file, &serde_json::to_vec(&self.by_service)?)
                    .with_context(|| format!("cannot write {}", self.file.display()))?;
                return Ok(port);
            }
        }
        bail!("no free port on 127.0.0.1 from {} to {}: stop something that listens there", RANGE.start, RANGE.end)
    }

    /// Forgets a port that turned out to be taken, so that [`choose`](Self::choose) gives another.
    pub(crate) fn forget(&mut self, service: &str) {
        self.by_service.remove(service);
    }
}

/// Whether nobody listens on this loopback port now.
pub(crate) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// `N` random bytes from the operating system.
///
/// # Errors
/// When `/dev/urandom` cannot be read.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    let mut source = std::fs::File::open("/dev/urandom").context("cannot open /dev/urandom")?;
    source.read_exact(&mut bytes).context("cannot read /dev/urandom")?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when `choose` ignores what it remembered, or does not look whether it is free.
    #[test]
    fn keeps_a_port_while_it_is_free_and_takes_another_when_it_is_not() {
        let data = tempfile::tempdir().unwrap();
        let first = Ports::load(data.path()).choose("kafka").unwrap();
        assert_eq!(Ports::load(data.path()).choose("kafka").unwrap(), first);
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, first)).unwrap();
        assert_ne!(Ports::load(data.path()).choose("kafka").unwrap(), first);
    }
}
