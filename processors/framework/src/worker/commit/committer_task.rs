//! A committer and the one thing that is asked of it at a time.

use std::{
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::{Either, select};
use tokio::sync::oneshot;

use super::batch::UnitBatch;
use crate::{
    ports::{
        BoxFuture, Committer, StartFrom,
        unit::{CommitError, CommitOutcome},
    },
    wire::record::TopicPartition,
};

/// What the store has answered.
pub(crate) enum CommitterReply {
    /// Where these starts of partitions begin.
    Started(Vec<(TopicPartition, u64)>, Result<Vec<StartFrom>, CommitError>),
    /// What became of a batch.
    Committed(UnitBatch, Result<CommitOutcome, CommitError>),
    /// It was not waited for what becomes of it.
    Cancelled(UnitBatch),
}

type Asked = BoxFuture<'static, (Box<dyn Committer>, CommitterReply)>;

/// A committer: idle, or asked for something.
pub(crate) struct CommitterTask {
    /// The committer while nothing is asked of it.
    idle: Option<Box<dyn Committer>>,
    /// Otherwise what is.
    asked: Option<Asked>,
    /// Partitions that are no longer ours, of which it has not been told.
    forgotten: Vec<TopicPartition>,
    /// Records of the batch that is being committed, and their bytes.
    records: usize,
    bytes: usize,
    /// When the last commit was begun.
    began: Duration,
    /// Set while a commit is under way that is cancelled where a partition of it is given up.
    cancels: Option<(oneshot::Sender<()>, Vec<TopicPartition>)>,
}

impl CommitterTask {
    pub(crate) fn new(committer: Box<dyn Committer>) -> Self {
        Self {
            idle: Some(committer),
            asked: None,
            forgotten: Vec::new(),
            records: 0,
            bytes: 0,
            began: Duration::ZERO,
            cancels: None,
        }
    }

    /// Whether nothing is asked of it. Only then it can be asked for something.
    pub(crate) fn is_idle(&self) -> bool {
        self.idle.is_some()
    }

    /// Records that are being committed.
    pub(crate) fn records(&self) -> usize {
        self.records
    }

    /// Bytes of those, and of what they publish.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// When the last commit was begun.
    pub(crate) fn began(&self) -> Duration {
        self.began
    }

    /// Tells an idle committer which partitions are no longer ours.
    pub(crate) fn pass_on_forgotten(&mut self) {
        if let Some(committer) = self.idle.as_mut().filter(|_| !self.forgotten.is_empty()) {
            committer.forget(&std::mem::take(&mut self.forgotten));
        }
    }

    /// Asks where these starts of partitions begin.
    pub(crate) fn start(&mut self, starts: Vec<(TopicPartition, u64)>) {
        self.asked = self.idle.take().map(|committer| -> Asked { Box::pin(start(committer, starts)) });
    }

    /// Commits a batch.
    pub(crate) fn commit(&mut self, batch: UnitBatch, now: Duration) {
        (self.records, self.bytes, self.began) = (batch.records.len(), batch.bytes(), now);
        self.asked = self.idle.take().map(|committer| -> Asked {
            let cancelled = committer.cancels().then(|| {
                let (cancel, cancelled) = oneshot::channel();
                self.cancels = Some((cancel, batch.partitions()));
                cancelled
            });
            Box::pin(commit(committer, batch, cancelled))
        });
    }

    /// The store's answer; never comes while nothing is asked of it.
    pub(crate) fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<CommitterReply> {
        let Some(asked) = &mut self.asked else { return Poll::Pending };
        let (committer, answer) = ready!(asked.as_mut().poll(cx));
        (self.idle, self.asked) = (Some(committer), None);
        (self.records, self.bytes, self.cancels) = (0, 0, None);
        Poll::Ready(answer)
    }

    /// A partition is no longer ours.
    pub(crate) fn forget(&mut self, partition: &TopicPartition) {
        self.forgotten.push(partition.clone());
        self.cancel(|partitions| partitions.contains(partition));
    }

    /// Waits no more for what is being committed, where that may be.
    pub(crate) fn cancel(&mut self, is_of: impl FnOnce(&[TopicPartition]) -> bool) {
        if let Some((cancel, _)) = self.cancels.take_if(|(_, partitions)| is_of(partitions)) {
            // Who does not listen any more has answered.
            let _ = cancel.send(());
        }
    }
}

async fn start(
    mut committer: Box<dyn Committer>,
    starts: Vec<(TopicPartition, u64)>,
) -> (Box<dyn Committer>, CommitterReply) {
    let ids: Vec<TopicPartition> = starts.iter().map(|(id, _)| id.clone()).collect();
    let froms = committer.start(&ids).await;
    (committer, CommitterReply::Started(starts, froms))
}

async fn commit(
    mut committer: Box<dyn Committer>,
    batch: UnitBatch,
    cancelled: Option<oneshot::Receiver<()>>,
) -> (Box<dyn Committer>, CommitterReply) {
    if batch.unit.is_empty() {
        return (committer, CommitterReply::Committed(batch, Ok(CommitOutcome::Done)));
    }
    let committing = committer.commit(&batch.unit);
    let committed = match cancelled {
        None => Some(committing.await),
        // What is committed counts, whatever comes with it.
        Some(cancelled) => match select(committing, cancelled).await {
            Either::Left((committed, _)) => Some(committed),
            Either::Right(_) => None,
        },
    };
    match committed {
        Some(committed) => (committer, CommitterReply::Committed(batch, committed)),
        None => (committer, CommitterReply::Cancelled(batch)),
    }
}
