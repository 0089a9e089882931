//! Finished records that may be committed, gathered until they make a unit of work: by count, by bytes, or by time.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::{batch::UnitBatch, finished_record::FinishedRecord};
use crate::{
    pipeline::settings::GroupSettings,
    wire::{group_topics::TopicRole, record::TopicPartition},
    worker::partition::{Partition, anchor},
};

/// The finished records of a commit queue that no unit has yet.
pub(crate) struct Accumulator {
    records: VecDeque<FinishedRecord>,
    bytes: usize,
    batch_records: usize,
    batch_bytes: usize,
    linger: Duration,
}

impl Accumulator {
    pub(crate) fn new(settings: &GroupSettings) -> Self {
        let GroupSettings { batch_records, batch_bytes, linger, .. } = *settings;
        Self { records: VecDeque::new(), bytes: 0, batch_records, batch_bytes, linger }
    }

    pub(crate) fn push(&mut self, finished: FinishedRecord) {
        self.bytes += finished.covered.bytes;
        self.records.push_back(finished);
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Bytes of the records, and of what they publish.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Whether the records make a unit: they fill one, or the first has waited long enough.
    pub(crate) fn is_due(&self, now: Duration) -> bool {
        let full = self.records.len() >= self.batch_records || self.bytes >= self.batch_bytes;
        full || self.ages().is_some_and(|at| now >= at)
    }

    /// When the first record has waited long enough.
    pub(crate) fn ages(&self) -> Option<Duration> {
        self.records.front().map(|first| first.at + self.linger)
    }

    /// The next batch, without positions, of the records whose partitions are still ours.
    pub(crate) fn next_batch(&mut self, partitions: &BTreeMap<TopicPartition, Partition>) -> UnitBatch {
        let (mut batch, mut bytes) = (UnitBatch::with_room(self.records.len().min(self.batch_records)), 0);
        // Records of one partition mostly follow each other.
        let mut last: Option<(TopicPartition, u64, Option<i64>)> = None;
        while batch.records.len() < self.batch_records && bytes < self.batch_bytes {
            let Some(finished) = self.records.pop_front() else { break };
            let covered = &finished.covered;
            self.bytes -= covered.bytes;
            // What belongs to a partition that has left since is not ours to commit.
            let known = last.as_ref().filter(|(id, start, _)| *start == covered.start && *id == covered.partition);
            let from = match known {
                Some((.., from)) => *from,
                None => {
                    let ours = partitions.get(&covered.partition).filter(|p| p.start == covered.start);
                    let from = ours.map(|partition| partition.offsets.durable());
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
        batch
    }
}
