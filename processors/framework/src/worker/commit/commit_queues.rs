//! The commit queues of a group, one for each committer: units of different partitions go side by side, and those of one
//! partition in order, since each partition belongs to one commit queue as long as it is ours.

use std::{collections::BTreeMap, future::poll_fn, task::Poll, time::Duration};

use super::{commit_queue::CommitQueue, committer_task::CommitterReply, finished_record::FinishedRecord};
use crate::{
    pipeline::settings::GroupSettings, ports::Committer, wire::record::TopicPartition, worker::partition::Partition,
};

/// All commit queues of a group; there is at least one.
pub(crate) struct CommitQueues(Vec<CommitQueue>);

impl CommitQueues {
    /// The units of several commit queues are smaller: each has to gather one while it commits another, and all share the
    /// group's bound on records in flight.
    pub(crate) fn new(committers: Vec<Box<dyn Committer>>, settings: &GroupSettings) -> Self {
        let mut settings = settings.clone();
        if committers.len() > 1 {
            settings.batch_records = settings.batch_records.min(settings.in_flight / (2 * committers.len())).max(1);
        }
        let number = |(number, committer)| CommitQueue::new(number, committer, &settings);
        Self(committers.into_iter().enumerate().map(number).collect())
    }

    /// The commit queue of a partition that is new here: the one with the fewest of its topic.
    pub(crate) fn assign(&self, id: &TopicPartition, partitions: &BTreeMap<TopicPartition, Partition>) -> usize {
        let load = |number: &usize| {
            partitions.iter().filter(|(other, p)| other.topic == id.topic && p.commit_queue == *number).count()
        };
        (0..self.0.len()).min_by_key(load).unwrap_or(0)
    }

    pub(crate) fn at(&self, number: usize) -> &CommitQueue {
        &self.0[number]
    }

    pub(crate) fn of(&mut self, number: usize) -> &mut CommitQueue {
        &mut self.0[number]
    }

    /// Commits nothing more.
    pub(crate) fn close(&mut self) {
        self.0.iter_mut().for_each(CommitQueue::close);
    }

    /// Takes a finished record in.
    pub(crate) fn finish(&mut self, finished: FinishedRecord, partition: &mut Partition) {
        self.of(partition.commit_queue).finish(finished, partition);
    }

    /// Takes in what waits for nothing before it any more.
    pub(crate) fn pass(&mut self, partition: &mut Partition) -> Option<i64> {
        self.of(partition.commit_queue).pass(partition)
    }

    /// Whether effects and offsets are one transaction.
    pub(crate) fn is_atomic(&self) -> bool {
        self.0.iter().all(CommitQueue::is_atomic)
    }

    /// Records that are finished, may be committed, and are not durable.
    pub(crate) fn waiting(&self) -> usize {
        self.0.iter().map(CommitQueue::waiting).sum()
    }

    /// Bytes of those, and of what they publish.
    pub(crate) fn bytes(&self) -> usize {
        self.0.iter().map(CommitQueue::bytes).sum()
    }

    /// Begins the next thing to be done with each store that is idle.
    pub(crate) fn advance(&mut self, now: Duration, flush: bool, partitions: &BTreeMap<TopicPartition, Partition>) {
        self.0.iter_mut().for_each(|commit_queue| commit_queue.advance(now, flush, partitions));
    }

    /// The next answer and whose it is; never resolves while nothing is asked. Safe to cancel.
    pub(crate) async fn done(&mut self) -> (usize, CommitterReply) {
        // One that has answered asks for nothing before it is told to, so none keeps another from being heard.
        poll_fn(|cx| {
            let mut answers = self.0.iter_mut().map(|commit_queue| commit_queue.poll_done(cx)).enumerate();
            let found = answers.find_map(|(number, answer)| match answer {
                Poll::Ready(answer) => Some((number, answer)),
                Poll::Pending => None,
            });
            found.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    /// Whether any store that has something to do did not answer when it was asked last.
    pub(crate) fn any_out(&self, partitions: &BTreeMap<TopicPartition, Partition>) -> bool {
        self.0.iter().any(|commit_queue| commit_queue.is_out(partitions))
    }

    /// When something is due that no event announces.
    pub(crate) fn next_wake(&self, partitions: &BTreeMap<TopicPartition, Partition>) -> Option<Duration> {
        self.0.iter().filter_map(|commit_queue| commit_queue.next_wake(partitions)).min()
    }
}
