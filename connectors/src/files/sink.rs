//! A file sink's committer: a unit's rows are appended as lines, all of them before it is committed.

use std::{path::Path, sync::Arc, time::Instant};

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
    async fn append(&self, lines: Vec<u8>, asked: Instant) -> Result<(), CommitError> {
        let path = Arc::clone(&self.path);
        let done = tokio::task::spawn_blocking(move || append(&path, &lines, asked)).await;
        done.map_err(|error| CommitError::Failed(error.to_string()))?.map_err(CommitError::Outage)
    }

    async fn commit_unit(&self, unit: &Unit) -> Result<CommitOutcome, CommitError> {
        // Before the lines are made: whoever asks has looked just now whether the partitions are still ours.
        let asked = Instant::now();
        if !unit.changes.is_empty() {
            let text = "a unit with changes of state reached a file: its group needs a store";
            return Err(CommitError::Fatal(text.to_owned()));
        }
        let mut lines = Vec::new();
        for row in &unit.rows {
            line::write(row, &mut lines).map_err(|error| CommitError::Failed(error.to_string()))?;
        }
        self.append(lines, asked).await?;
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
            self.append(Vec::new(), Instant::now()).await?;
            Ok(vec![StartFrom::Committed; partitions.len()])
        })
    }

    fn commit<'a>(&'a mut self, unit: &'a Unit) -> BoxFuture<'a, Result<CommitOutcome, CommitError>> {
        let span = self.span(unit);
        Box::pin(self.commit_unit(unit).instrument(span))
    }

    fn forget(&mut self, _partitions: &[TopicPartition]) {}
}

#[cfg(test)]
mod tests {
    use std::{fs, time::Duration};

    use headwater::{
        Category, Headers, Meta, Origin, Priority, Time, TraceContext,
        spi::{Record, Row},
    };
    use serde_json::Value as Json;
    use tempfile::TempDir;

    use super::*;
    use crate::{
        AtLeastOnceCommitter, DeadLetteringCommitter,
        kafka::{KafkaConfig, Lease, Producer},
    };

    const SESSION: Duration = Duration::from_secs(8);

    /// A sink's committer as a group has it, under this lease; its unit has nothing for a broker, and none is there.
    fn member(path: &Path, lease: &Lease) -> DeadLetteringCommitter<FileCommitter> {
        let nobody = KafkaConfig { bootstrap: "127.0.0.1:1".to_owned(), ..KafkaConfig::default() };
        let publisher = AtLeastOnceCommitter::new(Producer::new(&nobody).unwrap()).under(lease.lend());
        DeadLetteringCommitter::new(FileCommitter::new(path), publisher)
    }

    /// A unit of one tombstone.
    fn unit(offset: i64) -> Unit {
        let partition = TopicPartition::new("events.thing", 0);
        let meta = Meta {
            id: format!("event-{offset}"),
            source: "test".to_owned(),
            event_type: "thing.changed".to_owned(),
            time: Time::from_millis(0),
            subject: None,
            aggregate_type: None,
            aggregate_version: None,
            category: Category::Domain,
            priority: Priority::Normal,
            data_version: None,
            correlation_id: "conversation".to_owned(),
            causation_id: None,
            user_id: None,
            trace: TraceContext::derived("test", "x"),
            attempt: 0,
            origin: Origin { partition, offset, timestamp_ms: 0 },
            extra: Headers::default(),
        };
        let record = Record {
            topic: "events.thing".into(),
            partition: 0,
            offset,
            timestamp_ms: 0,
            key: None,
            value: None,
            headers: Headers::default(),
        };
        Unit { rows: vec![Row { meta: Arc::new(meta), record, data: None }], ..Unit::default() }
    }

    fn offsets(path: &Path) -> Vec<i64> {
        let text = fs::read_to_string(path).unwrap_or_default();
        let offset = |line| serde_json::from_str::<Json>(line).unwrap()["offset"].as_i64().unwrap();
        text.lines().map(offset).collect()
    }

    /// Resolves once somebody waits for a proof, or it has taken too long.
    async fn proof_is_wanted(lease: &Lease) -> bool {
        let wanted = async {
            while !lease.is_wanted() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(SESSION / 2, wanted).await.is_ok()
    }

    /// A member's process is frozen for longer than its session, and another has taken over when it goes on. Red when rows are
    /// stored without a look whether the lease stands (`permit.check()` in the committer with dead letters): a line of before
    /// stands behind those of the other then.
    #[tokio::test]
    async fn a_member_that_was_frozen_appends_nothing_behind_its_successor() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("things.jsonl");
        let (old, new) = (Lease::of(SESSION), Lease::of(SESSION));
        let (mut frozen, mut successor) = (member(&path, &old), member(&path, &new));
        old.prove(Instant::now().checked_sub(SESSION).unwrap());
        new.prove(Instant::now());
        for offset in [1, 2] {
            assert_eq!(successor.commit(&unit(offset)).await.unwrap(), CommitOutcome::Done);
        }
        let first = unit(1);
        let (committed, wanted) = tokio::join!(frozen.commit(&first), async {
            let wanted = proof_is_wanted(&old).await;
            // The member hears of its loss, and is in the group again.
            old.lost();
            old.prove(Instant::now());
            wanted
        });
        assert!(
            matches!(&committed, Err(CommitError::Outage(why)) if why.contains("to other members")),
            "{committed:?}"
        );
        assert!(wanted && offsets(&path) == [1, 2], "{:?}", offsets(&path));
    }

    /// Red when lines are appended before the group has confirmed the partitions (`permit.check()` left out).
    #[tokio::test]
    async fn a_line_waits_until_the_group_confirms_its_partition() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("things.jsonl");
        let lease = Lease::of(SESSION);
        let (mut member, first) = (member(&path, &lease), unit(1));
        let (committed, (wanted, before)) = tokio::join!(member.commit(&first), async {
            let wanted = proof_is_wanted(&lease).await;
            let before = offsets(&path);
            lease.prove(Instant::now());
            (wanted, before)
        });
        assert_eq!((committed.unwrap(), wanted, before), (CommitOutcome::Done, true, vec![]));
        assert_eq!(offsets(&path), [1]);
    }
}
