//! Units of work: gathered from finished records, cut by count, bytes and time, committed one after another.
//! See [`super::commit_queues`] for several of them.

use std::{
    collections::{BTreeMap, VecDeque},
    task::{Context, Poll},
    time::Duration,
};

use super::{
    accumulator::Accumulator,
    batch::UnitBatch,
    committer_task::{CommitterReply, CommitterTask},
    finished_record::{CoveredRecord, FinishedRecord},
    outage::StoreOutage,
};
use crate::{
    failure::backoff::Backoff,
    pipeline::settings::GroupSettings,
    ports::Committer,
    wire::{
        group_topics::TopicRole,
        record::{Record, TopicPartition},
    },
    worker::partition::Partition,
};

/// Gathers finished records and commits them, one unit at a time, so that what is published keeps its order.
pub(crate) struct CommitQueue {
    /// Which of the group's it is: its partitions bear this number.
    number: usize,
    atomic: bool,
    committer: CommitterTask,
    ready: Accumulator,
    /// Batches to be tried before anything new.
    again: VecDeque<UnitBatch>,
    outage: StoreOutage,
    /// Whether nothing more is committed.
    closed: bool,
}

impl CommitQueue {
    pub(crate) fn new(number: usize, committer: Box<dyn Committer>, settings: &GroupSettings) -> Self {
        Self {
            number,
            atomic: committer.atomic(),
            committer: CommitterTask::new(committer),
            ready: Accumulator::new(settings),
            again: VecDeque::new(),
            outage: StoreOutage::default(),
            closed: false,
        }
    }

    /// Takes a finished record in. Where effects and offsets are one transaction it waits for those before it.
    pub(crate) fn finish(&mut self, finished: FinishedRecord, partition: &mut Partition) {
        if !self.atomic || finished.covered.role == TopicRole::Waiting {
            partition.unsaved += 1;
            self.ready.push(finished);
            return;
        }
        partition.watermark.finish(finished.covered.offset, Some(finished));
        self.pass(partition);
    }

    /// Takes in what waits for nothing before it any more. Where positions follow effects those are durable: gives the offset
    /// behind the last.
    pub(crate) fn pass(&mut self, partition: &mut Partition) -> Option<i64> {
        let mut durable = None;
        while let Some((offset, finished)) = partition.watermark.pass() {
            match finished {
                Some(finished) => {
                    partition.unsaved += 1;
                    self.ready.push(finished);
                }
                None => durable = Some(offset + 1),
            }
        }
        durable
    }

    /// Whether effects and offsets are one transaction.
    pub(crate) fn is_atomic(&self) -> bool {
        self.atomic
    }

    /// Records that are finished, may be committed, and are not durable.
    pub(crate) fn waiting(&self) -> usize {
        self.ready.len() + self.committer.records() + self.again.iter().map(|batch| batch.records.len()).sum::<usize>()
    }

    /// Bytes of those, and of what they publish.
    pub(crate) fn bytes(&self) -> usize {
        self.ready.bytes() + self.committer.bytes() + self.again.iter().map(|batch| batch.bytes()).sum::<usize>()
    }

    /// Begins the next thing to be done with the store, if it is idle and something is due.
    pub(crate) fn advance(&mut self, now: Duration, flush: bool, partitions: &BTreeMap<TopicPartition, Partition>) {
        if !self.committer.is_idle() {
            return;
        }
        self.committer.pass_on_forgotten();
        if now < self.outage.paused_until() {
            return;
        }
        let starts = self.starting(partitions, now);
        if !starts.is_empty() {
            self.committer.start(starts);
        } else if let Some(batch) = self.next_batch(now, flush, partitions) {
            self.committer.commit(batch, now);
        }
    }

    /// The store's answer; never comes while nothing is asked of it.
    pub(crate) fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<CommitterReply> {
        self.committer.poll_done(cx)
    }

    fn next_batch(
        &mut self,
        now: Duration,
        flush: bool,
        partitions: &BTreeMap<TopicPartition, Partition>,
    ) -> Option<UnitBatch> {
        if self.closed {
            return None;
        }
        while let Some(batch) = self.again.pop_front() {
            let batch = batch.of_ours(partitions, self.atomic);
            if !batch.records.is_empty() {
                return Some(batch);
            }
        }
        if !(flush || self.ready.is_due(now)) {
            return None;
        }
        let batch = self.ready.next_batch(partitions);
        (!batch.records.is_empty()).then(|| batch.with_positions(self.atomic))
    }

    /// When the last commit was begun.
    pub(crate) fn began(&self) -> Duration {
        self.committer.began()
    }

    /// Keeps a batch that was not committed, to try it again first.
    pub(crate) fn keep(&mut self, batch: UnitBatch) {
        self.again.push_front(batch);
    }

    /// The store refuses something in a batch: it is tried in halves, until the record stands alone that is refused. Gives
    /// that record, and where its partition stands before it.
    pub(crate) fn refused(&mut self, batch: UnitBatch) -> Option<(CoveredRecord, Record, i64)> {
        let count = batch.records.len();
        if count == 1 {
            return batch.into_only();
        }
        let (first, second) = batch.split_at(count / 2, self.atomic);
        self.again.push_front(second);
        self.again.push_front(first);
        None
    }

    /// Tries a record again with other effects, before anything else.
    pub(crate) fn instead(&mut self, finished: FinishedRecord, from: i64) {
        let mut batch = UnitBatch::default();
        batch.begin(&finished.covered.partition, from);
        batch.push(finished);
        self.again.push_front(batch.with_positions(self.atomic));
    }

    /// The store does not answer: nothing is asked of it for this long.
    pub(crate) fn outage(&mut self, now: Duration, backoff: &Backoff) -> Duration {
        self.outage.goes_on(now, backoff)
    }

    /// The store answers; whether it did not before.
    pub(crate) fn recovered(&mut self) -> bool {
        self.outage.ends()
    }

    /// Whether the store did not answer when it was asked last, and has something of these partitions to do.
    pub(crate) fn is_out(&self, partitions: &BTreeMap<TopicPartition, Partition>) -> bool {
        self.outage.is_on() && partitions.values().any(|p| p.commit_queue == self.number)
    }

    /// Whether nothing can be committed now: the store did not answer when it was asked last, and is not being asked again.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.outage.is_on() && self.committer.is_idle()
    }

    /// Drops what belongs to a partition that is no longer ours.
    pub(crate) fn forget(&mut self, partition: &TopicPartition) {
        self.committer.forget(partition);
    }

    /// Commits nothing more: the group gives its partitions up.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.committer.cancel(|_| true);
    }

    /// When something is due that no event announces.
    pub(crate) fn next_wake(&self, partitions: &BTreeMap<TopicPartition, Partition>) -> Option<Duration> {
        if self.closed || !self.committer.is_idle() {
            return None;
        }
        let paused_until = self.outage.paused_until();
        let again = (!self.again.is_empty()).then_some(paused_until);
        let starts = partitions.values().filter(|p| p.commit_queue == self.number).filter_map(Partition::starts_at);
        again.into_iter().chain(self.ready.ages()).chain(starts).min().map(|at| at.max(paused_until))
    }

    fn starting(&self, partitions: &BTreeMap<TopicPartition, Partition>, now: Duration) -> Vec<(TopicPartition, u64)> {
        let due = |p: &Partition| p.commit_queue == self.number && p.starts_at().is_some_and(|at| at <= now);
        partitions.iter().filter(|(_, p)| due(p)).map(|(id, p)| (id.clone(), p.start)).collect()
    }
}
