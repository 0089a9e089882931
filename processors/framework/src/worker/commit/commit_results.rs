//! What the store answers: committed, fenced, refused, or nothing at all.

use std::{collections::BTreeSet, time::Duration};

use super::{
    batch::UnitBatch,
    commit_queue::CommitQueue,
    committer_task::CommitterReply,
    finished_record::{CoveredRecord, FinishedRecord},
    unit_share::UnitShare,
};
use crate::{
    event::time::Time,
    failure::{DeadLetterKind, failure_report::FailureReport},
    ports::{
        Control,
        unit::{CommitError, CommitOutcome, RefusedRow, StateChange},
    },
    telemetry::metrics::{GroupMetrics, Metric},
    wire::{
        group_topics::TopicRole,
        record::{Record, TopicPartition},
    },
    worker::{
        attempt::{
            in_flight::{Disposition, Effects, InFlightRecord, Outcome},
            outcomes::Outcomes,
        },
        error::WorkerError,
        membership::Membership,
        partition::{Partition, PartitionState},
    },
};

/// Books what the store of one commit queue answers.
pub(crate) struct CommitResults<'a> {
    /// The number of the commit queue.
    at: usize,
    member: &'a mut Membership,
    outcomes: &'a Outcomes,
}

impl<'a> CommitResults<'a> {
    /// Of the commit queue of this number.
    pub(crate) fn of(at: usize, member: &'a mut Membership, outcomes: &'a Outcomes) -> Self {
        Self { at, member, outcomes }
    }

    fn queue(&mut self) -> &mut CommitQueue {
        self.member.commit_queues.of(self.at)
    }

    /// Books an answer.
    pub(crate) fn book(&mut self, reply: CommitterReply) -> Result<(), WorkerError> {
        let error = match reply {
            CommitterReply::Started(starts, Ok(froms)) => {
                self.recovered();
                starts
                    .into_iter()
                    .zip(froms)
                    .for_each(|((id, start), from)| self.member.begin_partition(id, start, from));
                return Ok(());
            }
            CommitterReply::Committed(batch, Ok(committed)) => {
                self.committed(batch, committed);
                return Ok(());
            }
            CommitterReply::Committed(batch, Err(CommitError::Refused(why))) => {
                self.refused_batch(batch, &why);
                return Ok(());
            }
            CommitterReply::Committed(batch, Err(CommitError::RefusedRows(rows))) => {
                self.recovered();
                self.refused_rows(batch, rows);
                return Ok(());
            }
            CommitterReply::Committed(_, Err(CommitError::OutcomeUnknown(why))) => {
                self.outcome_unknown(&why);
                return Ok(());
            }
            CommitterReply::Committed(batch, Err(error)) => {
                self.queue().keep(batch);
                error
            }
            CommitterReply::Cancelled(batch) => {
                self.queue().keep(batch);
                return Ok(());
            }
            CommitterReply::Started(_, Err(error)) => error,
        };
        self.no_answer(error)
    }

    /// The store of this number has taken nothing.
    fn no_answer(&mut self, error: CommitError) -> Result<(), WorkerError> {
        let now = self.member.clock.elapsed();
        match error {
            CommitError::Outage(why) | CommitError::OutcomeUnknown(why) => {
                let pause = self.member.commit_queues.of(self.at).outage(now, &self.member.backoff);
                self.member.metrics.add(Metric::CommitFailures, 1);
                if self.member.metrics.trouble("store", Some(&why)) {
                    self.note_all(Some(&why));
                    tracing::warn!(group = %self.member.group.id, error = %why, retry_in = ?pause, "nothing can be committed; the group waits");
                }
                Ok(())
            }
            CommitError::Failed(why) => Err(self.member.failed(why)),
            CommitError::Fatal(why) | CommitError::Refused(why) => Err(self.member.halted(why)),
            error @ CommitError::RefusedRows(_) => Err(self.member.halted(error.to_string())),
        }
    }

    /// Something in a batch is refused: a letter is cut where that helps, else the batch is tried in halves.
    fn refused_batch(&mut self, mut batch: UnitBatch, why: &str) {
        self.recovered();
        // A letter always gets through: its topic may take less than it should.
        if batch.cut() {
            tracing::warn!(group = %self.member.group.id, error = %why, "a dead letter is cut to its first 64 KiB: its topic takes less than kafka.max_record_bytes and 64 KiB");
            self.queue().keep(batch);
        } else if let Some((covered, record, from)) = self.queue().refused(batch) {
            self.refused(&covered, record, from, why);
        }
    }

    /// The store has taken a batch, but for what is another owner's.
    fn committed(&mut self, batch: UnitBatch, committed: CommitOutcome) {
        self.recovered();
        let mut fenced = match committed {
            CommitOutcome::Done => Vec::new(),
            CommitOutcome::Fenced(partitions) => partitions,
        };
        let numbers: BTreeSet<i32> = fenced.iter().map(|id| id.partition).collect();
        // One that has been taken anew since, perhaps by another commit queue, is not fenced.
        fenced.retain(|id| {
            let start = self.member.assignment.partitions.get(id).map(|p| p.start);
            batch.records.iter().any(|c| c.partition == *id && start.is_none_or(|start| start == c.start))
        });
        let waited: Vec<_> = batch.records.iter().filter(|c| c.role == TopicRole::Waiting).collect();
        // Those are fenced with their number, since they have no position of their own.
        let theirs = waited.iter().filter(|c| numbers.contains(&c.partition.partition));
        fenced.extend(theirs.map(|c| c.partition.clone()).collect::<BTreeSet<_>>());
        waited.iter().for_each(|c| self.member.refusals.remove(&c.partition, c.offset));
        self.durable(batch, &fenced);
        self.member.progress.change();
        self.member.refusals.pass(&self.member.moved);
        self.member.fenced(fenced);
    }

    /// Books a batch that is durable: its records are done, and their partitions move on.
    fn durable(&mut self, batch: UnitBatch, fenced: &[TopicPartition]) {
        let Membership { assignment, commit_queues, moved, state, metrics, clock, .. } = &mut *self.member;
        let queue = commit_queues.at(self.at);
        metrics.add(Metric::Commits, 1);
        metrics.observe(Metric::CommitTime, clock.elapsed().saturating_sub(queue.began()));
        metrics.observe_size(Metric::BatchRecords, batch.records.len());
        let now = clock.now();
        let one = |a: &CoveredRecord, b: &CoveredRecord| a.start == b.start && a.partition == b.partition;
        let mut changes = batch.unit.changes.iter();
        for run in batch.records.chunk_by(one) {
            let changes = changes.by_ref().take(run.iter().map(|covered| covered.share.changes).sum());
            let changes: Vec<&StateChange> = changes.collect();
            let id = &run[0].partition;
            let known = assignment.partitions.get_mut(id);
            let ours = known.filter(|p| p.start == run[0].start && !fenced.contains(id));
            let Some(partition) = ours else { continue };
            count(run, now, metrics);
            state.committed(&changes);
            partition.unsaved -= run.len();
            if partition.role == TopicRole::Waiting {
                continue;
            }
            let durable = if queue.is_atomic() {
                run.last().map(|covered| covered.offset)
            } else {
                run.iter().for_each(|covered| partition.watermark.finish(covered.offset, None));
                std::iter::from_fn(|| partition.watermark.pass()).last().map(|(offset, _)| offset)
            };
            if let Some(offset) = durable {
                partition.offsets.advance(offset + 1);
                moved.insert(id.clone(), offset + 1);
            }
        }
    }

    fn recovered(&mut self) {
        if self.queue().recovered() {
            self.note_all(None);
        }
        if !self.member.commit_queues.any_out(&self.member.assignment.partitions)
            && self.member.metrics.trouble("store", None)
        {
            tracing::info!(group = %self.member.group.id, "the store answers again");
        }
    }

    /// Has the source tell outside why the partitions of a store stand still; those that are held say so themselves.
    fn note_all(&mut self, why: Option<&str>) {
        let stands =
            |p: &Partition| p.commit_queue == self.at && p.held.is_empty() && p.state != PartitionState::Stopped;
        let theirs =
            self.member.assignment.partitions.iter().filter(|(_, p)| stands(p) && p.role != TopicRole::Waiting);
        let notes: Vec<_> = theirs.map(|(id, _)| (id.clone(), why.map(str::to_owned))).collect();
        self.member.source.control(Control::Note(notes));
    }

    /// What this record asks for is refused: it becomes a dead letter instead. Where that is refused too, a person must act.
    fn refused(&mut self, covered: &CoveredRecord, record: Record, from: i64, why: &str) {
        // What keeps the dead letters has nowhere else to put one.
        if matches!(covered.disposition, Disposition::Dead(_)) || self.member.group.group_topics().is_none() {
            return self.stop_refused(&covered.partition, covered.start, why);
        }
        if self.member.state.is_kept() {
            let id = covered.partition.clone();
            if matches!(
                self.member.assignment.partitions.get(&id).map(|p| p.state),
                None | Some(PartitionState::Leaving(_))
            ) {
                // Its next owner meets the record again.
                return self.member.release(&id);
            }
            // Later records have seen what it changed: they are processed again, without it.
            self.member.refusals.insert(id.clone(), covered.offset, why);
            return self.member.restart(id, Duration::ZERO);
        }
        let kind = if self.member.group.work.is_processor() { DeadLetterKind::Rejected } else { DeadLetterKind::Row };
        let letter = self.letter(covered, record, &FailureReport::new(kind, why));
        self.queue().instead(letter, from);
    }

    /// These rows of a batch are refused: their records become dead letters, and the batch is tried again with those.
    fn refused_rows(&mut self, batch: UnitBatch, rows: Vec<RefusedRow>) {
        let atomic = self.queue().is_atomic();
        let letter = |covered: CoveredRecord, record: Record, refused: RefusedRow| {
            self.letter(&covered, record, &FailureReport::new(refused.kind, refused.why))
        };
        let batch = batch.without_rows(rows, atomic, letter);
        self.queue().keep(batch);
    }

    /// The dead letter of a record that was processed before.
    fn letter(&self, covered: &CoveredRecord, record: Record, fault: &FailureReport) -> FinishedRecord {
        let in_flight = InFlightRecord {
            partition: covered.partition.clone(),
            role: covered.role,
            start: covered.start,
            lane: None,
            failed: 0,
            first_failed_ms: None,
            probed: 0,
            begun: true,
            blocks: false,
            record,
        };
        let effects = match self.outcomes.dead(&in_flight, fault, None) {
            Outcome::Done(effects) => effects,
            _ => Effects::default(),
        };
        FinishedRecord::new(in_flight, effects, self.member.clock.elapsed())
    }

    /// Whether a unit is durable is not known: every partition of its store is started anew, from what is.
    fn outcome_unknown(&mut self, why: &str) {
        self.member.metrics.add(Metric::CommitFailures, 1);
        tracing::warn!(group = %self.member.group.id, reason = why, "whether a transaction was committed is not known; its partitions start anew from what was");
        let theirs: Vec<_> = self
            .member
            .assignment
            .partitions
            .iter()
            .filter(|(_, p)| p.commit_queue == self.at)
            .map(|(id, p)| (id.clone(), p.state))
            .collect();
        for (id, state) in theirs {
            match state {
                // One that stands still has nothing under way, and what stopped it has not changed.
                PartitionState::Starting(_) | PartitionState::Stopped => {}
                PartitionState::Leaving(_) => self.member.release(&id),
                PartitionState::Running => {
                    self.member.source.control(Control::Pause(vec![id.clone()]));
                    self.member.restart(id, Duration::ZERO);
                }
            }
        }
    }

    fn stop_refused(&mut self, id: &TopicPartition, start: u64, why: &str) {
        let ours = self.member.assignment.partitions.get(id).filter(|p| p.start == start);
        let Some(state) = ours.map(|p| p.state) else { return };
        tracing::error!(group = %self.member.group.id, partition = %id, error = %why,
            "a record can neither be processed nor put aside, and its partition stops before it: mend what the error names, and restart");
        if matches!(state, PartitionState::Leaving(_)) {
            // Its next owner meets the record again.
            self.member.release(id);
            return;
        }
        // Whatever else of it is under way lies behind the refused record: a new start makes it stale.
        self.member.restart(id.clone(), Duration::ZERO);
        if let Some(partition) = self.member.assignment.partitions.get_mut(id) {
            partition.state = PartitionState::Stopped;
        }
        let reason = format!("stopped: {why}");
        self.member.metrics.trouble(&id.to_string(), Some(&reason));
        self.member.note(id, Some(reason));
        self.member.source.control(Control::Pause(vec![id.clone()]));
        self.member.count_partitions();
    }
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
