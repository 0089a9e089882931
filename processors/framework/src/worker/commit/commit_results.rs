//! What the store answers: committed, fenced, refused, or nothing at all.

use std::{collections::BTreeSet, time::Duration};

use super::{
    batch::UnitBatch,
    committer_task::CommitterReply,
    finished_record::{CoveredRecord, FinishedRecord},
};
use crate::{
    failure::{DeadLetterKind, failure_report::FailureReport},
    ports::{
        Control,
        unit::{CommitError, CommitOutcome, RefusedRow},
    },
    telemetry::metrics::Metric,
    wire::{
        group_topics::TopicRole,
        record::{Record, TopicPartition},
    },
    worker::{
        Worker,
        attempt::in_flight::{Disposition, Effects, InFlightRecord, Outcome},
        error::WorkerError,
        partition::{Partition, PartitionState},
    },
};

impl Worker {
    /// Books what the store has answered to the commit queue of this number.
    pub(crate) fn on_commit_result(&mut self, at: usize, done: CommitterReply) -> Result<(), WorkerError> {
        let error = match done {
            CommitterReply::Started(starts, Ok(froms)) => {
                self.recovered(at);
                starts.into_iter().zip(froms).for_each(|((id, start), from)| self.begin_partition(id, start, from));
                return Ok(());
            }
            CommitterReply::Committed(batch, Ok(committed)) => {
                self.committed(at, batch, committed);
                return Ok(());
            }
            CommitterReply::Committed(batch, Err(CommitError::Refused(why))) => {
                self.refused_batch(at, batch, &why);
                return Ok(());
            }
            CommitterReply::Committed(batch, Err(CommitError::RefusedRows(rows))) => {
                self.recovered(at);
                self.refused_rows(at, batch, rows);
                return Ok(());
            }
            CommitterReply::Committed(_, Err(CommitError::OutcomeUnknown(why))) => {
                self.outcome_unknown(at, &why);
                return Ok(());
            }
            CommitterReply::Committed(batch, Err(error)) => {
                self.commit_queues.of(at).keep(batch);
                error
            }
            CommitterReply::Cancelled(batch) => {
                self.commit_queues.of(at).keep(batch);
                return Ok(());
            }
            CommitterReply::Started(_, Err(error)) => error,
        };
        self.no_answer(at, error)
    }

    /// The store of this number has taken nothing.
    fn no_answer(&mut self, at: usize, error: CommitError) -> Result<(), WorkerError> {
        let now = self.clock.elapsed();
        match error {
            CommitError::Outage(why) | CommitError::OutcomeUnknown(why) => {
                let pause = self.commit_queues.of(at).outage(now, &self.settings.backoff);
                self.metrics.add(Metric::CommitFailures, 1);
                if self.metrics.trouble("store", Some(&why)) {
                    self.note_all(at, Some(&why));
                    tracing::warn!(group = %self.processor.group.id, error = %why, retry_in = ?pause, "nothing can be committed; the group waits");
                }
                Ok(())
            }
            CommitError::Failed(why) => Err(self.failed(why)),
            CommitError::Fatal(why) | CommitError::Refused(why) => Err(self.halted(why)),
            error @ CommitError::RefusedRows(_) => Err(self.halted(error.to_string())),
        }
    }

    /// Something in a batch is refused: a letter is cut where that helps, else the batch is tried in halves.
    fn refused_batch(&mut self, at: usize, mut batch: UnitBatch, why: &str) {
        self.recovered(at);
        // A letter always gets through: its topic may take less than it should.
        if batch.cut() {
            tracing::warn!(group = %self.processor.group.id, error = %why, "a dead letter is cut to its first 64 KiB: its topic takes less than kafka.max_record_bytes and 64 KiB");
            self.commit_queues.of(at).keep(batch);
        } else if let Some((covered, record, from)) = self.commit_queues.of(at).refused(batch) {
            self.refused(at, &covered, record, from, why);
        }
    }

    /// The store has taken a batch, but for what is another owner's.
    fn committed(&mut self, at: usize, batch: UnitBatch, committed: CommitOutcome) {
        self.recovered(at);
        let mut fenced = match committed {
            CommitOutcome::Done => Vec::new(),
            CommitOutcome::Fenced(partitions) => partitions,
        };
        let numbers: BTreeSet<i32> = fenced.iter().map(|id| id.partition).collect();
        // One that has been taken anew since, perhaps by another commit queue, is not fenced.
        fenced.retain(|id| {
            let start = self.partitions.get(id).map(|p| p.start);
            batch.records.iter().any(|c| c.partition == *id && start.is_none_or(|start| start == c.start))
        });
        let waited: Vec<_> = batch.records.iter().filter(|c| c.role == TopicRole::Waiting).collect();
        // Those are fenced with their number, since they have no position of their own.
        let theirs = waited.iter().filter(|c| numbers.contains(&c.partition.partition));
        fenced.extend(theirs.map(|c| c.partition.clone()).collect::<BTreeSet<_>>());
        waited.iter().for_each(|c| _ = self.refusals.remove(&(c.partition.clone(), c.offset)));
        let (partitions, moved) = (&mut self.partitions, &mut self.moved);
        self.commit_queues.of(at).book(batch, &fenced, partitions, moved, &self.processor);
        self.progress_changed = true;
        self.refusals.retain(|(id, offset), _| self.moved.get(id).is_none_or(|next| offset >= next));
        self.fenced(fenced);
    }

    fn recovered(&mut self, at: usize) {
        if self.commit_queues.of(at).recovered() {
            self.note_all(at, None);
        }
        if !self.commit_queues.any_out(&self.partitions) && self.metrics.trouble("store", None) {
            tracing::info!(group = %self.processor.group.id, "the store answers again");
        }
    }

    /// Has the source tell outside why the partitions of a store stand still; those that are held say so themselves.
    fn note_all(&mut self, at: usize, why: Option<&str>) {
        let stands = |p: &Partition| p.commit_queue == at && p.held.is_empty() && p.state != PartitionState::Stopped;
        let theirs = self.partitions.iter().filter(|(_, p)| stands(p) && p.role != TopicRole::Waiting);
        let notes: Vec<_> = theirs.map(|(id, _)| (id.clone(), why.map(str::to_owned))).collect();
        self.source.control(Control::Note(notes));
    }

    /// What this record asks for is refused: it becomes a dead letter instead. Where that is refused too, a person must act.
    fn refused(&mut self, at: usize, covered: &CoveredRecord, record: Record, from: i64, why: &str) {
        // What keeps the dead letters has nowhere else to put one.
        if matches!(covered.disposition, Disposition::Dead(_)) || self.processor.group.group_topics().is_none() {
            return self.stop_refused(&covered.partition, covered.start, why);
        }
        if self.processor.states.is_some() {
            let id = covered.partition.clone();
            if matches!(self.partitions.get(&id).map(|p| p.state), None | Some(PartitionState::Leaving(_))) {
                // Its next owner meets the record again.
                return self.release(&id);
            }
            // Later records have seen what it changed: they are processed again, without it.
            self.refusals.insert((id.clone(), covered.offset), why.to_owned());
            return self.restart(id, Duration::ZERO);
        }
        let kind =
            if self.processor.group.work.is_processor() { DeadLetterKind::Rejected } else { DeadLetterKind::Row };
        let letter = self.letter(covered, record, &FailureReport::new(kind, why));
        self.commit_queues.of(at).instead(letter, from);
    }

    /// These rows of a batch are refused: their records become dead letters, and the batch is tried again with those.
    fn refused_rows(&mut self, at: usize, batch: UnitBatch, rows: Vec<RefusedRow>) {
        let atomic = self.commit_queues.of(at).is_atomic();
        let letter = |covered: CoveredRecord, record: Record, refused: RefusedRow| {
            self.letter(&covered, record, &FailureReport::new(refused.kind, refused.why))
        };
        let batch = batch.without_rows(rows, atomic, letter);
        self.commit_queues.of(at).keep(batch);
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
        let effects = match self.processor.dead(&in_flight, fault, None) {
            Outcome::Done(effects) => effects,
            _ => Effects::default(),
        };
        FinishedRecord::new(in_flight, effects, self.clock.elapsed())
    }

    /// Whether a unit is durable is not known: every partition of its store is started anew, from what is.
    fn outcome_unknown(&mut self, at: usize, why: &str) {
        self.metrics.add(Metric::CommitFailures, 1);
        tracing::warn!(group = %self.processor.group.id, reason = why, "whether a transaction was committed is not known; its partitions start anew from what was");
        let theirs: Vec<_> =
            self.partitions.iter().filter(|(_, p)| p.commit_queue == at).map(|(id, p)| (id.clone(), p.state)).collect();
        for (id, state) in theirs {
            match state {
                // One that stands still has nothing under way, and what stopped it has not changed.
                PartitionState::Starting(_) | PartitionState::Stopped => {}
                PartitionState::Leaving(_) => self.release(&id),
                PartitionState::Running => {
                    self.source.control(Control::Pause(vec![id.clone()]));
                    self.restart(id, Duration::ZERO);
                }
            }
        }
    }

    /// What becomes of a record whose effects were refused when it was processed before.
    pub(crate) fn refused_before(&mut self, in_flight: &InFlightRecord) -> Option<Outcome> {
        if self.refusals.is_empty() {
            return None;
        }
        let why = self.refusals.get(&(in_flight.partition.clone(), in_flight.record.offset))?;
        Some(self.processor.dead(in_flight, &FailureReport::new(DeadLetterKind::Rejected, why), None))
    }

    fn stop_refused(&mut self, id: &TopicPartition, start: u64, why: &str) {
        let ours = self.partitions.get(id).filter(|p| p.start == start);
        let Some(state) = ours.map(|p| p.state) else { return };
        tracing::error!(group = %self.processor.group.id, partition = %id, error = %why,
            "a record can neither be processed nor put aside, and its partition stops before it: mend what the error names, and restart");
        if matches!(state, PartitionState::Leaving(_)) {
            // Its next owner meets the record again.
            self.release(id);
            return;
        }
        // Whatever else of it is under way lies behind the refused record: a new start makes it stale.
        self.restart(id.clone(), Duration::ZERO);
        if let Some(partition) = self.partitions.get_mut(id) {
            partition.state = PartitionState::Stopped;
        }
        let reason = format!("stopped: {why}");
        self.metrics.trouble(&id.to_string(), Some(&reason));
        self.note(id, Some(reason));
        self.source.control(Control::Pause(vec![id.clone()]));
        self.count_partitions();
    }
}
