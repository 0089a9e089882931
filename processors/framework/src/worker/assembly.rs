//! Units of work: gathered from finished records, cut by count, bytes and time, committed one after another.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{
    Settings,
    partition::{Life, Partition},
    step::{Effects, Job},
};
use crate::{
    backoff::Backoff,
    metrics::{GroupState, Metric},
    ports::{BoxFuture, Committer, From},
    record::{Outgoing, Position, TopicPartition},
    unit::{CommitError, Committed, Progress, Unit},
};

/// What the store has answered.
pub(crate) enum Answer {
    /// Where these starts of partitions begin.
    Started(Vec<(TopicPartition, u64)>, Result<Vec<From>, CommitError>),
    /// What became of a batch.
    Committed(Batch, Result<Committed, CommitError>),
}

/// A unit of work and the records that it covers.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    unit: Unit,
    records: Vec<Covered>,
    bytes: usize,
}

#[derive(Clone, Debug)]
struct Covered {
    partition: TopicPartition,
    start: u64,
    offset: i64,
    /// How many of the unit's outgoing records are its own.
    outgoing: usize,
    /// Bytes of the record and of what it publishes.
    bytes: usize,
}

impl Batch {
    /// The same, a batch per partition.
    fn split(self) -> BTreeMap<TopicPartition, Self> {
        let mut parts: BTreeMap<TopicPartition, Self> = BTreeMap::new();
        let mut outgoing = self.unit.outgoing.into_iter();
        for covered in self.records {
            let part = parts.entry(covered.partition.clone()).or_default();
            part.unit.outgoing.extend(outgoing.by_ref().take(covered.outgoing));
            part.bytes += covered.bytes;
            part.records.push(covered);
        }
        for row in self.unit.rows {
            parts.entry(row.meta.origin.partition.clone()).or_default().unit.rows.push(row);
        }
        for progress in self.unit.positions {
            parts.entry(progress.to.partition.clone()).or_default().unit.positions.push(progress);
        }
        parts
    }

    /// What of it belongs to partitions that are still ours.
    fn of_ours(self, partitions: &BTreeMap<TopicPartition, Partition>) -> Self {
        let ours = |c: &Covered| partitions.get(&c.partition).is_some_and(|p| p.start == c.start);
        if self.records.iter().all(ours) {
            return self;
        }
        let mut rest = Self::default();
        for part in self.split().into_values().filter(|part| part.records.iter().all(ours)) {
            rest.records.extend(part.records);
            rest.bytes += part.bytes;
            rest.unit.outgoing.extend(part.unit.outgoing);
            rest.unit.rows.extend(part.unit.rows);
            rest.unit.positions.extend(part.unit.positions);
        }
        rest
    }
}

/// A record whose processor is done.
#[derive(Debug)]
pub(crate) struct Finished {
    covered: Covered,
    effects: Effects,
    at: Duration,
}

impl Finished {
    pub(crate) fn new(job: Job, effects: Effects, at: Duration) -> Self {
        let bytes = job.record.size() + effects.outgoing.iter().map(Outgoing::size).sum::<usize>();
        let Job { partition, start, record, .. } = job;
        let covered = Covered { partition, start, offset: record.offset, outgoing: effects.outgoing.len(), bytes };
        Self { covered, effects, at }
    }
}

enum Store {
    Idle(Box<dyn Committer>),
    Busy(BoxFuture<'static, (Box<dyn Committer>, Answer)>),
    /// Only while one of the others is being made.
    Changing,
}

/// Gathers finished records and commits them, one unit at a time, so that what is published keeps its order.
pub(crate) struct Assembly {
    store: Store,
    atomic: bool,
    batch_records: usize,
    batch_bytes: usize,
    linger: Duration,
    ready: VecDeque<Finished>,
    ready_bytes: usize,
    /// Batches to be tried before anything new.
    again: VecDeque<Batch>,
    committing: usize,
    committing_bytes: usize,
    forgotten: Vec<TopicPartition>,
    failures: u32,
    paused_until: Duration,
}

impl Assembly {
    pub(crate) fn new(committer: Box<dyn Committer>, settings: &Settings) -> Self {
        Self {
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
            forgotten: Vec::new(),
            failures: 0,
            paused_until: Duration::ZERO,
        }
    }

    /// Takes a finished record in. Where effects and offsets are one transaction it waits for those before it.
    pub(crate) fn finish(&mut self, finished: Finished, partition: &mut Partition) {
        if !self.atomic {
            partition.unsaved += 1;
            self.push(finished);
            return;
        }
        partition.watermark.finish(finished.covered.offset, Some(finished));
        while let Some((_, finished)) = partition.watermark.pass() {
            partition.unsaved += 1;
            finished.into_iter().for_each(|finished| self.push(finished));
        }
    }

    fn push(&mut self, finished: Finished) {
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
        self.ready_bytes + self.committing_bytes + self.again.iter().map(|batch| batch.bytes).sum::<usize>()
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
        let starts = starting(partitions, now);
        self.store = if now < self.paused_until {
            Store::Idle(committer)
        } else if !starts.is_empty() {
            Store::Busy(Box::pin(start(committer, starts)))
        } else if let Some(batch) = self.next_batch(now, flush, partitions) {
            (self.committing, self.committing_bytes) = (batch.records.len(), batch.bytes);
            Store::Busy(Box::pin(commit(committer, batch)))
        } else {
            Store::Idle(committer)
        };
    }

    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.store, Store::Idle(_))
    }

    /// The store's answer; never resolves while nothing is asked of it. Safe to cancel.
    pub(crate) async fn done(&mut self) -> Answer {
        let Store::Busy(asked) = &mut self.store else { return std::future::pending().await };
        let (committer, answer) = asked.await;
        self.store = Store::Idle(committer);
        (self.committing, self.committing_bytes) = (0, 0);
        answer
    }

    fn next_batch(
        &mut self,
        now: Duration,
        flush: bool,
        partitions: &BTreeMap<TopicPartition, Partition>,
    ) -> Option<Batch> {
        while let Some(batch) = self.again.pop_front() {
            let batch = batch.of_ours(partitions);
            if !batch.records.is_empty() {
                return Some(batch);
            }
        }
        let full = self.ready.len() >= self.batch_records || self.ready_bytes >= self.batch_bytes;
        let aged = self.ready.front().is_some_and(|first| now >= first.at + self.linger);
        if !(full || aged || flush) {
            return None;
        }
        let mut batch = Batch::default();
        let mut progress: BTreeMap<TopicPartition, Progress> = BTreeMap::new();
        while batch.records.len() < self.batch_records && batch.bytes < self.batch_bytes {
            let Some(Finished { covered, effects, .. }) = self.ready.pop_front() else { break };
            self.ready_bytes -= covered.bytes;
            // What belongs to a partition that has left since is not ours to commit.
            let Some(partition) = partitions.get(&covered.partition).filter(|p| p.start == covered.start) else {
                continue;
            };
            batch.bytes += covered.bytes;
            let next = covered.offset + 1;
            let to = Position { partition: covered.partition.clone(), next };
            let from = partition.durable;
            progress.entry(covered.partition.clone()).or_insert(Progress { from, to }).to.next = next;
            batch.unit.outgoing.extend(effects.outgoing);
            batch.unit.rows.extend(effects.row);
            batch.records.push(covered);
        }
        if self.atomic {
            batch.unit.positions = progress.into_values().collect();
        }
        (!batch.records.is_empty()).then_some(batch)
    }

    /// Books a batch that the store has taken: its records are done, and their partitions move on.
    pub(crate) fn book(
        &self,
        batch: Batch,
        fenced: &[TopicPartition],
        partitions: &mut BTreeMap<TopicPartition, Partition>,
        moved: &mut BTreeMap<TopicPartition, i64>,
        state: &GroupState,
    ) {
        state.add(Metric::Commits, 1);
        state.add(Metric::Emitted, batch.unit.outgoing.len() as u64);
        let taken = |id: &TopicPartition| !fenced.contains(id);
        state.add(Metric::Rows, batch.unit.rows.iter().filter(|r| taken(&r.meta.origin.partition)).count() as u64);
        for Covered { partition: id, start, offset, .. } in batch.records {
            let ours = partitions.get_mut(&id).filter(|p| p.start == start && taken(&id));
            let Some(partition) = ours else { continue };
            partition.unsaved -= 1;
            state.add(Metric::Records, 1);
            let durable = if self.atomic {
                Some(offset)
            } else {
                partition.watermark.finish(offset, None);
                std::iter::from_fn(|| partition.watermark.pass()).last().map(|(offset, _)| offset)
            };
            if let Some(offset) = durable {
                partition.durable = offset + 1;
                moved.insert(id, offset + 1);
            }
        }
    }

    /// Keeps a batch that was not committed, to try it again first.
    pub(crate) fn keep(&mut self, batch: Batch) {
        self.again.push_front(batch);
    }

    /// The store refuses something in a batch: each partition is tried on its own, and one that is refused alone is given
    /// back with its start, to be stopped.
    pub(crate) fn refused(&mut self, batch: Batch) -> Option<(TopicPartition, u64)> {
        let first = batch.records.first().map(|c| (c.partition.clone(), c.start))?;
        let parts = batch.split();
        if parts.len() == 1 {
            return Some(first);
        }
        self.again.extend(parts.into_values());
        None
    }

    /// The store does not answer: nothing is asked of it for this long.
    pub(crate) fn outage(&mut self, now: Duration, backoff: &Backoff) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let pause = backoff.after(self.failures);
        self.paused_until = now + pause;
        pause
    }

    /// The store answers again.
    pub(crate) fn recovered(&mut self) {
        self.failures = 0;
    }

    /// Drops what belongs to partitions that are no longer ours.
    pub(crate) fn forget(&mut self, partitions: &[TopicPartition]) {
        self.forgotten.extend_from_slice(partitions);
    }

    /// When something is due that no event announces.
    pub(crate) fn next_wake(&self, partitions: &BTreeMap<TopicPartition, Partition>) -> Option<Duration> {
        if !self.is_idle() {
            return None;
        }
        let again = (!self.again.is_empty()).then_some(self.paused_until);
        let aged = self.ready.front().map(|first| first.at + self.linger);
        let starts = partitions.values().filter_map(|p| match p.life {
            Life::Starting(at) => Some(at),
            _ => None,
        });
        again.into_iter().chain(aged).chain(starts).min().map(|at| at.max(self.paused_until))
    }
}

fn starting(partitions: &BTreeMap<TopicPartition, Partition>, now: Duration) -> Vec<(TopicPartition, u64)> {
    let due = |p: &Partition| matches!(p.life, Life::Starting(at) if at <= now);
    partitions.iter().filter(|(_, p)| due(p)).map(|(id, p)| (id.clone(), p.start)).collect()
}

async fn start(mut committer: Box<dyn Committer>, starts: Vec<(TopicPartition, u64)>) -> (Box<dyn Committer>, Answer) {
    let ids: Vec<TopicPartition> = starts.iter().map(|(id, _)| id.clone()).collect();
    let froms = committer.start(&ids).await;
    (committer, Answer::Started(starts, froms))
}

async fn commit(mut committer: Box<dyn Committer>, batch: Batch) -> (Box<dyn Committer>, Answer) {
    let committed = if batch.unit.is_empty() { Ok(Committed::Done) } else { committer.commit(&batch.unit).await };
    (committer, Answer::Committed(batch, committed))
}
