//! What the store answers: committed, fenced, refused, or nothing at all.

use std::time::Duration;

use super::{Worker, WorkerError, assembly::Answer, partition::Life};
use crate::{
    failure::Kind,
    metrics::Metric,
    record::TopicPartition,
    unit::{CommitError, Committed},
};

impl Worker {
    /// Books what the store has answered.
    pub(super) fn stored(&mut self, done: Answer) -> Result<(), WorkerError> {
        let now = self.clock.elapsed();
        let error = match done {
            Answer::Started(starts, Ok(froms)) => {
                self.recovered();
                starts.into_iter().zip(froms).for_each(|((id, start), from)| self.begin_partition(id, start, from));
                return Ok(());
            }
            Answer::Committed(unit, Ok(committed)) => {
                self.recovered();
                let fenced = match committed {
                    Committed::Done => Vec::new(),
                    Committed::Fenced(partitions) => partitions,
                };
                self.assembly.book(unit, &fenced, &mut self.partitions, &mut self.moved, &self.state);
                self.fenced(fenced);
                return Ok(());
            }
            Answer::Committed(unit, Err(CommitError::Refused(why))) => {
                self.recovered();
                if let Some((id, start)) = self.assembly.refused(unit) {
                    self.stop_refused(&id, start, &why);
                }
                return Ok(());
            }
            Answer::Committed(unit, Err(error)) => {
                self.assembly.keep(unit);
                error
            }
            Answer::Started(_, Err(error)) => error,
        };
        match error {
            CommitError::Outage(why) => {
                let pause = self.assembly.outage(now, &self.settings.backoff);
                self.state.add(Metric::CommitFailures, 1);
                if self.state.trouble("store", Some(&why)) {
                    tracing::warn!(group = %self.step.group.id, error = %why, retry_in = ?pause, "nothing can be committed; the group waits");
                }
                Ok(())
            }
            CommitError::Fatal(why) | CommitError::Refused(why) => Err(self.failed(why)),
        }
    }

    fn recovered(&mut self) {
        self.assembly.recovered();
        if self.state.trouble("store", None) {
            tracing::info!(group = %self.step.group.id, "the store answers again");
        }
    }

    fn stop_refused(&mut self, id: &TopicPartition, start: u64, why: &str) {
        let ours = self.partitions.get(id).filter(|p| p.start == start);
        let Some(life) = ours.map(|p| p.life) else { return };
        let kind = if self.assembly.is_atomic() { Kind::Row } else { Kind::Rejected };
        self.state.add(Metric::Poison, 1);
        tracing::error!(group = %self.step.group.id, partition = %id, kind = kind.as_str(), error = %why,
            "what the records ask for is refused, and their partition stops before the batch: mend what the error names, and restart");
        if matches!(life, Life::Leaving(_)) {
            // Its next owner meets the row again.
            self.release(id);
            return;
        }
        // Whatever else of it is under way lies behind the refused row: a new start makes it stale.
        self.restart(id.clone(), Duration::ZERO);
        if let Some(partition) = self.partitions.get_mut(id) {
            partition.life = Life::Running;
        }
        self.stop_partition(id, i64::MIN, &format!("stopped ({}): {why}", kind.as_str()));
    }
}
