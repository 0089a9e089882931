//! `endpoints.env`: how another program finds a running stack.

use std::fs::File;
use std::io::{Error, ErrorKind, Result, Write};
use std::path::Path;

const FILE: &str = "endpoints.env";

/// Where a running stack listens. Everything is on the loopback interface unless it was given from outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoints {
    /// `host:port` of the Kafka broker.
    pub kafka_bootstrap: String,
    /// Base address of the schema registry, without a trailing slash.
    pub schema_registry_url: String,
    /// `postgres://…` with user and database.
    pub database_url: String,
    /// Base address of the stand-in warehouse, without a trailing slash.
    pub warehouse_url: String,
}

impl Endpoints {
    /// The stack's own lines of `endpoints.env`, for [`write_endpoints`].
    #[must_use]
    pub fn pairs(&self) -> Vec<(String, String)> {
        [
            ("KAFKA_BOOTSTRAP", &self.kafka_bootstrap),
            ("SCHEMA_REGISTRY_URL", &self.schema_registry_url),
            ("DATABASE_URL", &self.database_url),
            ("WAREHOUSE_URL", &self.warehouse_url),
        ]
        .map(|(key, value)| (key.to_owned(), value.clone()))
        .into()
    }
}

/// Writes `endpoints.env` into `data`, one plain `KEY=value` line a pair, by rename: a reader sees all of it or nothing.
///
/// # Errors
/// When a key is not `[A-Za-z0-9_]+` or a value holds a line break (`InvalidInput`), or the file cannot be written.
pub fn write_endpoints(data: &Path, pairs: &[(String, String)]) -> Result<()> {
    let mut text = String::new();
    for (key, value) in pairs {
        let plain = !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !plain || value.contains(['\n', '\r']) {
            return Err(Error::new(ErrorKind::InvalidInput, format!("{key} cannot stand on one line of {FILE}")));
        }
        text.push_str(&format!("{key}={value}\n"));
    }
    replace(&data.join(FILE), text.as_bytes())
}

/// Removes an `endpoints.env` that an earlier stack left in `data`, so that nobody reads addresses that are gone.
/// [`Stack::start`](crate::Stack::start) does it first of all, [`Stack::stop`](crate::Stack::stop) once more.
///
/// # Errors
/// When there is one and it cannot be removed.
pub fn remove_endpoints(data: &Path) -> Result<()> {
    match std::fs::remove_file(data.join(FILE)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Replaces a file as a whole: written beside it, forced to disk, renamed, and the rename forced to disk.
///
/// # Errors
/// When one of the four fails; the old file is then still there.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<()> {
    let beside = path.with_extension("tmp");
    let mut file = File::create(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&beside, path)?;
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(key: &str, value: &str) -> (String, String) {
        (key.to_owned(), value.to_owned())
    }

    /// Red when the values are quoted, or a line break is let through.
    #[test]
    fn writes_plain_lines_and_refuses_what_would_break_one() {
        let data = tempfile::tempdir().unwrap();
        write_endpoints(data.path(), &[pair("A_B", "x=1 y"), pair("C", "")]).unwrap();
        let text = std::fs::read_to_string(data.path().join("endpoints.env")).unwrap();
        assert_eq!(text, "A_B=x=1 y\nC=\n");
        assert!(write_endpoints(data.path(), &[pair("A", "x\nB=y")]).is_err());
        assert!(write_endpoints(data.path(), &[pair("A B", "x")]).is_err());
    }

    /// Red when a missing file is an error, or the file is only emptied.
    #[test]
    fn removing_is_quiet_when_there_is_nothing() {
        let data = tempfile::tempdir().unwrap();
        remove_endpoints(data.path()).unwrap();
        write_endpoints(data.path(), &[pair("A", "1")]).unwrap();
        remove_endpoints(data.path()).unwrap();
        assert!(!data.path().join("endpoints.env").exists());
    }
}
