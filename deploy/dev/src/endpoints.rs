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

/// Writes `endpoints.env` into `data`, one plain `KEY=value` line a pair, by rename: a reader sees all of it or nothing. Only
/// a value that a shell would take apart stands in single quotes.
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
        text.push_str(&format!("{key}={}\n", quoted(value)));
    }
    replace(&data.join(FILE), text.as_bytes())
}

/// A word as a shell reads it: plain where that is the same.
#[must_use]
pub fn quoted(word: &str) -> std::borrow::Cow<'_, str> {
    let plain = |c: char| c.is_alphanumeric() || "_-./:@%+=,?".contains(c);
    if word.chars().all(plain) { word.into() } else { format!("'{}'", word.replace('\'', "'\\''")).into() }
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

    /// Red when a plain value is quoted, a shell reads another value than was written, or a line break is let through.
    #[test]
    fn writes_lines_that_a_shell_reads_and_refuses_what_would_break_one() {
        let data = tempfile::tempdir().unwrap();
        let odd = "/tmp/my data/it's $HOME & `x`; (y) ~ #";
        let url = "postgres://u:p%20w@127.0.0.1:5432/db?sslmode=disable,x";
        write_endpoints(data.path(), &[pair("A_B", url), pair("C", ""), pair("D", odd), pair("E", "/tmp/Größe")])
            .unwrap();
        let file = data.path().join("endpoints.env");
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with(&format!("A_B={url}\nC=\nD='")) && text.ends_with("\nE=/tmp/Größe\n"), "{text}");
        let print = "set -a; . \"$0\"; printf '%s|' \"$A_B\" \"$C\" \"$D\" \"$E\"";
        let read = std::process::Command::new("sh").args(["-c", print]).arg(&file).output().unwrap();
        assert_eq!(String::from_utf8_lossy(&read.stdout), format!("{url}||{odd}|/tmp/Größe|"));
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
