//! Which event goes to which file.

use std::path::{PathBuf, is_separator};

use headwater::{
    EventType, Payload,
    spi::{BoxFuture, Committer, SinkConfig, codec::WriterSchema},
};
use serde::{Deserialize, Serialize};

use super::sink::FileCommitter;
use crate::{
    postgres::Database,
    sinks::connector::{SinkClients, SinkConnector},
};

/// A sink into a file: one JSON line for each event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSink {
    /// The event type whose records become lines.
    pub event: String,
    /// The file; a path that is not absolute begins at the working folder.
    pub file: PathBuf,
}

impl FileSink {
    /// Events of type `T` into `file`.
    pub fn of<T: Payload>(file: impl Into<PathBuf>) -> Self {
        Self { event: T::TYPE.to_owned(), file: file.into() }
    }
}

impl SinkConfig for FileSink {
    fn event(&self) -> &str {
        &self.event
    }

    fn problem(&self) -> Option<String> {
        let file = self.file.to_string_lossy();
        if self.event.is_empty() || file.is_empty() {
            return Some("a sink needs `event` and `file`".to_owned());
        }
        let names_folder = file.ends_with(is_separator) || self.file.file_name().is_none();
        names_folder.then(|| format!("`file` is `{file}`, a folder: write the name of a file in it"))
    }

    /// A tombstone is a line like any other.
    fn refuses_tombstone(&self, _keyed: bool) -> Option<&'static str> {
        None
    }
}

impl SinkConnector for FileSink {
    fn place(&self) -> (&'static str, String) {
        ("file", self.file.display().to_string())
    }

    fn keeps_offsets(&self) -> bool {
        false
    }

    fn problem_of(&self, _event: Option<&EventType>) -> Option<String> {
        None
    }

    fn prepare<'a>(
        &'a self,
        _database: &'a Database,
        _schema: &'a WriterSchema,
        _dry_run: bool,
    ) -> BoxFuture<'a, Result<Vec<String>, String>> {
        // The file is made on the machine that writes it, when the group starts.
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    fn committers(&self, _group: &str, _clients: &SinkClients) -> Result<Vec<Box<dyn Committer>>, String> {
        Ok(vec![Box::new(FileCommitter::new(&self.file))])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a folder passes for a file, or a file that is below one does not.
    #[test]
    fn what_names_no_file_is_refused() {
        let problem = |file: &str| FileSink { event: "a.b".to_owned(), file: file.into() }.problem();
        for wrong in ["", "lines/", "/", "..", "lines/.."] {
            assert!(problem(wrong).is_some(), "{wrong}");
        }
        assert_eq!(problem("lines/b.jsonl"), None);
        assert_eq!(problem("b"), None);
    }
}
