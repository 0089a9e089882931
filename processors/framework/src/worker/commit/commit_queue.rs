//! Units of work: gathered from finished records, cut by count, bytes and time, committed one after another.
//! See [`super::commit_queues`] for several of them.

use std::{
    collections::{BTreeMap, VecDeque},
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::{Either, select};
use tokio::sync::oneshot;

use super::{
    batch::UnitBatch,
    finished_record::{CoveredRecord, FinishedRecord},
    unit_share::UnitShare,
};
use crate::{
    event::time::Time,
    failure::backoff::Backoff,
    pipeline::settings::GroupSettings,
    ports::{
        BoxFuture, Committer, StartFrom,
        unit::{CommitError, CommitOutcome, StateChange},
    },
    telemetry::metrics::{GroupMetrics, Metric},
    wire::{
        group_topics::TopicRole,
        record::{Record, TopicPartition},
    },
    worker::{
        attempt::{in_flight::Disposition, record_processor::RecordProcessor},
        partition::{Partition, PartitionState},
    },
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

enum Store {
    Idle(Box<dyn Committer>),
    Busy(BoxFuture<'static, (Box<dyn Committer>, CommitterReply)>),
    /// Only while one of the others is being made.
    Changing,
}

/// Gathers finished records and commits them, one unit at a time, so that what is published keeps its order.
pub(crate) struct CommitQueue {
    /// Which of the group's it is: its partitions bear this number.
    number: usize,
    store: Store,
    atomic: bool,
    batch_records: usize,
    batch_bytes: usize,
    linger: Duration,
    ready: VecDeque<FinishedRecord>,
    ready_bytes: usize,
    /// Batches to be tried before anything new.
    again: VecDeque<UnitBatch>,
    committing: usize,
    committing_bytes: usize,
    committing_since: Duration,
    /// Set while a commit is under way that is cancelled where a partition of it is given up.
    cancels: Option<(oneshot::Sender<()>, Vec<TopicPartition>)>,
    /// Whether nothing more is committed.
    closed: bool,
    forgotten: Vec<TopicPartition>,
    failures: u32,
    paused_until: Duration,
}

impl CommitQueue {
    pub(crate) fn new(number: usize, committer: Box<dyn Committer>, settings: &GroupSettings) -> Self {
        Self {
            number,
            atomic: committer.atomic(),
            store: Store::Idle(committer),
            batch_records: settings.batch_records,
            batch_bytes: settings.batch_bytes,
            linger: settings.linger,
            ready: VecDeque::new(),
            ready_bytes: 0,
            again: VecDeque::new(),
            committing: 0,
            committing_bytes: 0,
            committing_since: Duration::ZERO,
            cancels: None,
            closed: false,
            forgotten: Vec::new(),
            failures: 0,
            paused_until: Duration::ZERO,
        }
    }

    /// Takes a finished record in. Where effects and offsets are one transaction it waits for those before it.
    pub(crate) fn finish(&mut self, finished: FinishedRecord, partition: &mut Partition) {
        if !self.atomic || finished.covered.role == TopicRole::Waiting {
            partition.unsaved += 1;
            self.push(finished);
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
                    self.push(finished);
                }
                None => durable = Some(offset + 1),
            }
        }
        durable
    }

    fn push(&mut self, finished: FinishedRecord) {
        self.ready_bytes += finished.covered.bytes;
        self.ready.push_back(finished);
    }

    /// Whether effects and offsets are one transaction.
    pub(crate) fn is_atomic(&self) -> bool {
        self.atomic
    }

    /// Records that are finished, may be committed, and are not durable.
    pub(crate) fn waiting(&self) -> usize {
        self.ready.len() + self.committing + self.again.iter().map(|batch| batch.records.len()).sum::<usize>()
    }

    /// Bytes of those, and of what they publish.
    pub(crate) fn bytes(&self) -> usize {
        self.ready_bytes + self.committing_bytes + self.again.iter().map(|batch| batch.bytes()).sum::<usize>()
    }

    /// Begins the next thing to be done with the store, if it is idle and something is due.
    pub(crate) fn advance(&mut self, now: Duration, flush: bool, partitions: &BTreeMap<TopicPartition, Partition>) {
        let mut committer = match std::mem::replace(&mut self.store, Store::Changing) {
            Store::Idle(committer) => committer,
            busy => {
                self.store = busy;
                return;
            }
        };
        if !self.forgotten.is_empty() {
            committer.forget(&std::mem::take(&mut self.forgotten));
        }
        let starts = self.starting(partitions, now);
        self.store = if now < self.paused_until {
            Store::Idle(committer)
        } else if !starts.is_empty() {
            Store::Busy(Box::pin(start(committer, starts)))
        } else if let Some(batch) = self.next_batch(now, flush, partitions) {
            (self.committing, self.committing_bytes) = (batch.records.len(), batch.bytes());
            self.committing_since = now;
            let cancelled = committer.cancels().then(|| {
                let (cancel, cancelled) = oneshot::channel();
                self.cancels = Some((cancel, batch.partitions()));
                cancelled
            });
            Store::Busy(Box::pin(commit(committer, batch, cancelled)))
        } else {
            Store::Idle(committer)
        };
    }

    /// The store's answer; never comes while nothing is asked of it.
    pub(crate) fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<CommitterReply> {
        let Store::Busy(asked) = &mut self.store else { return Poll::Pending };
        let (committer, answer) = ready!(asked.as_mut().poll(cx));
        self.store = Store::Idle(committer);
        (self.committing, self.committing_bytes, self.cancels) = (0, 0, None);
        Poll::Ready(answer)
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
        let full = self.ready.len() >= self.batch_records || self.ready_bytes >= self.batch_bytes;
        let aged = self.ready.front().is_some_and(|first| now >= first.at + self.linger);
        if !(full || aged || flush) {
            return None;
        }
        let (mut batch, mut bytes) = (UnitBatch::with_room(self.ready.len().min(self.batch_records)), 0);
        // Records of one partition mostly follow each other.
        let mut last: Option<(TopicPartition, u64, Option<i64>)> = None;
        while batch.records.len() < self.batch_records && bytes < self.batch_bytes {
            let Some(finished) = self.ready.pop_front() else { break };
            let covered = &finished.covered;
            self.ready_bytes -= covered.bytes;
            // What belongs to a partition that has left since is not ours to commit.
            let known = last.as_ref().filter(|(id, start, _)| *start == covered.start && *id == covered.partition);
            let from = match known {
                Some((.., from)) => *from,
                None => {
                    let ours = partitions.get(&covered.partition).filter(|p| p.start == covered.start);
                    let from = ours.map(|partition| partition.durable);
                    last = Some((covered.partition.clone(), covered.start, from));
                    if covered.role == TopicRole::Waiting {
                        let anchor = anchor(partitions, covered.partition.partition);
                        anchor.iter().for_each(|(id, at)| batch.anchor(id, *at));
                        from
                    } else {
                        from.inspect(|from| batch.begin(&covered.partition, *from))
                    }
                }
            };
            if from.is_some() {
                bytes += covered.bytes;
                batch.push(finished);
            }
        }
        (!batch.records.is_empty()).then(|| batch.with_positions(self.atomic))
    }

    /// Books a batch that the store has taken: its records are done, and their partitions move on.
    pub(crate) fn book(
        &self,
        batch: UnitBatch,
        fenced: &[TopicPartition],
        partitions: &mut BTreeMap<TopicPartition, Partition>,
        moved: &mut BTreeMap<TopicPartition, i64>,
        processor: &RecordProcessor,
    ) {
        let (metrics, clock) = (&processor.metrics, &processor.clock);
        metrics.add(Metric::Commits, 1);
        metrics.observe(Metric::CommitTime, clock.elapsed().saturating_sub(self.committing_since));
        metrics.observe_size(Metric::BatchRecords, batch.records.len());
        let now = clock.now();
        let one = |a: &CoveredRecord, b: &CoveredRecord| a.start == b.start && a.partition == b.partition;
        let mut changes = batch.unit.changes.iter();
        for run in batch.records.chunk_by(one) {
            let changes = changes.by_ref().take(run.iter().map(|covered| covered.share.changes).sum());
            let changes: Vec<&StateChange> = changes.collect();
            let id = &run[0].partition;
            let ours = partitions.get_mut(id).filter(|p| p.start == run[0].start && !fenced.contains(id));
            let Some(partition) = ours else { continue };
            count(run, now, metrics);
            processor.states.iter().for_each(|states| changes.iter().for_each(|change| states.committed(change)));
            let waiting = processor.failures.waiting();
            waiting.iter().for_each(|waiting| changes.iter().for_each(|change| waiting.committed(change)));
            partition.unsaved -= run.len();
            if partition.role == TopicRole::Waiting {
                continue;
            }
            let durable = if self.atomic {
                run.last().map(|covered| covered.offset)
            } else {
                run.iter().for_each(|covered| partition.watermark.finish(covered.offset, None));
                std::iter::from_fn(|| partition.watermark.pass()).last().map(|(offset, _)| offset)
            };
            if let Some(offset) = durable {
                partition.advance(offset + 1);
                moved.insert(id.clone(), offset + 1);
            }
        }
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
        self.failures = self.failures.saturating_add(1);
        let pause = backoff.after(self.failures);
        self.paused_until = now + pause;
        pause
    }

    /// The store answers; whether it did not before.
    pub(crate) fn recovered(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }

    /// Whether the store did not answer when it was asked last, and has something of these partitions to do.
    pub(crate) fn is_out(&self, partitions: &BTreeMap<TopicPartition, Partition>) -> bool {
        self.failures > 0 && partitions.values().any(|p| p.commit_queue == self.number)
    }

    /// Whether nothing can be committed now: the store did not answer when it was asked last, and is not being asked again.
    pub(crate) fn is_at_rest(&self) -> bool {
        self.failures > 0 && matches!(self.store, Store::Idle(_))
    }

    /// Drops what belongs to a partition that is no longer ours.
    pub(crate) fn forget(&mut self, partition: &TopicPartition) {
        self.forgotten.push(partition.clone());
        self.cancel(|partitions| partitions.contains(partition));
    }

    /// Commits nothing more: the group gives its partitions up.
    pub(crate) fn close(&mut self) {
        self.closed = true;
        self.cancel(|_| true);
    }

    fn cancel(&mut self, is_of: impl FnOnce(&[TopicPartition]) -> bool) {
        if let Some((cancel, _)) = self.cancels.take_if(|(_, partitions)| is_of(partitions)) {
            // Who does not listen any more has answered.
            let _ = cancel.send(());
        }
    }

    /// When something is due that no event announces.
    pub(crate) fn next_wake(&self, partitions: &BTreeMap<TopicPartition, Partition>) -> Option<Duration> {
        if self.closed || !matches!(self.store, Store::Idle(_)) {
            return None;
        }
        let again = (!self.again.is_empty()).then_some(self.paused_until);
        let aged = self.ready.front().map(|first| first.at + self.linger);
        let starts = partitions.values().filter(|p| p.commit_queue == self.number).filter_map(Partition::starts_at);
        again.into_iter().chain(aged).chain(starts).min().map(|at| at.max(self.paused_until))
    }

    fn starting(&self, partitions: &BTreeMap<TopicPartition, Partition>, now: Duration) -> Vec<(TopicPartition, u64)> {
        let due = |p: &Partition| p.commit_queue == self.number && p.starts_at().is_some_and(|at| at <= now);
        partitions.iter().filter(|(_, p)| due(p)).map(|(id, p)| (id.clone(), p.start)).collect()
    }
}

/// A partition of this number of which the store knows where it stands, and where.
pub(crate) fn anchor(partitions: &BTreeMap<TopicPartition, Partition>, number: i32) -> Option<(&TopicPartition, i64)> {
    let known = |(id, p): &(&TopicPartition, &Partition)| {
        id.partition == number && p.role != TopicRole::Waiting && p.state != PartitionState::Stopped && p.durable >= 0
    };
    partitions.iter().find(known).map(|(id, p)| (id, p.durable))
}

/// Counts what became of records that are durable.
fn count(run: &[CoveredRecord], now: Time, metrics: &GroupMetrics) {
    let share: UnitShare = run.iter().map(|covered| covered.share).sum();
    metrics.add(Metric::Records, run.len() as u64);
    metrics.add(Metric::Rows, share.rows as u64);
    metrics.add(Metric::Changes, share.changes as u64);
    metrics.add(Metric::Resolved, share.markers as u64);
    let mut emitted = 0;
    for CoveredRecord { disposition, share, event_time, .. } in run {
        match disposition {
            Disposition::Processed => {
                emitted += share.outgoing as u64;
                event_time.iter().for_each(|time| metrics.observe(Metric::EventAge, now.since(*time)));
            }
            Disposition::Repartitioned | Disposition::Queued => {}
            Disposition::Replayed => metrics.add(Metric::Replayed, 1),
            Disposition::Retried => metrics.add(Metric::Retries, 1),
            Disposition::Dead(kind) => metrics.letter(*kind),
        }
    }
    metrics.add(Metric::Emitted, emitted);
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
