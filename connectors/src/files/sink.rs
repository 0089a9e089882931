//! A file sink's committer: a unit's rows are appended as lines, all of them before it is committed.

use std::{path::Path, sync::Arc};

use headwater::{
    TopicPartition,
    spi::{BoxFuture, CommitError, CommitOutcome, Committer, StartFrom, Unit},
};
use tracing::{Instrument as _, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use super::{append::append, line};

/// Appends rows to one file.
#[derive(Debug)]
pub(super) struct FileCommitter {
    path: Arc<Path>,
}

impl FileCommitter {
    pub(super) fn new(path: &Path) -> Self {
        Self { path: path.into() }
    }

    /// Appends on a thread that may wait for the disk. One that is given up goes on there, under the file's lock.
    async fn append(&self, lines: Vec<u8>) -> Result<(), CommitError> {
        let path = Arc::clone(&self.path);
        let done = tokio::task::spawn_blocking(move || append(&path, &lines)).await;
        done.map_err(|error| CommitError::Failed(error.to_string()))?.map_err(CommitError::Outage)
    }

    async fn commit_unit(&self, unit: &Unit) -> Result<CommitOutcome, CommitError> {
        if !unit.changes.is_empty() {
            let text = "a unit with changes of state reached a file: its group needs a store";
            return Err(CommitError::Fatal(text.to_owned()));
        }
        let mut lines = Vec::new();
        for row in &unit.rows {
            line::write(row, &mut lines).map_err(|error| CommitError::Failed(error.to_string()))?;
        }
        self.append(lines).await?;
        Ok(CommitOutcome::Done)
    }

    /// The span of a unit's commit, which links to those of its records; none where none of them is recorded.
    fn span(&self, unit: &Unit) -> Span {
        let mut recorded = unit.rows.iter().map(|row| &row.meta.trace).filter(|trace| trace.is_sampled()).peekable();
        if recorded.peek().is_none() {
            return Span::none();
        }
        let path = self.path.display().to_string();
        let span = tracing::info_span!(parent: None, "write", otel.name = format!("write {path}"), file.path = path);
        recorded.for_each(|trace| span.add_link(trace.span_context()));
        span
    }
}

impl Committer for FileCommitter {
    fn atomic(&self) -> bool {
        false
    }

    fn start<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<StartFrom>, CommitError>> {
        Box::pin(async move {
            // Shows whether the file can be written, and mends what a crash has left.
            self.append(Vec::new()).await?;
            Ok(vec![StartFrom::Committed; partitions.len()])
        })
    }

    fn commit<'a>(&'a mut self, unit: &'a Unit) -> BoxFuture<'a, Result<CommitOutcome, CommitError>> {
        let span = self.span(unit);
        Box::pin(self.commit_unit(unit).instrument(span))
    }

    fn forget(&mut self, _partitions: &[TopicPartition]) {}
}
