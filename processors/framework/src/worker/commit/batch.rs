//! What a store commits at once, and how it is taken apart where it refuses that.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    finished_record::{CoveredRecord, FinishedRecord},
    unit_share::{UnitShare, UnitShares},
};
use crate::{
    failure::cut,
    ports::unit::{OffsetRange, RefusedRow, Row, Unit},
    wire::{
        group_topics::TopicRole,
        record::{Position, Record, TopicPartition},
    },
    worker::{
        attempt::in_flight::{Disposition, Effects},
        partition::Partition,
    },
};

/// A unit of work and the records that it covers, in one order.
#[derive(Debug, Default)]
pub(crate) struct UnitBatch {
    pub(crate) unit: Unit,
    pub(crate) records: Vec<CoveredRecord>,
    /// Where each partition of it stands before it.
    from: BTreeMap<TopicPartition, i64>,
    /// Partitions of it that it leaves where they are, unless it has records of theirs: records that waited have no
    /// position, and the store must hear of one to know whose they are.
    anchors: BTreeSet<TopicPartition>,
}

impl UnitBatch {
    pub(crate) fn bytes(&self) -> usize {
        self.records.iter().map(|covered| covered.bytes).sum()
    }

    /// Every partition of it.
    pub(crate) fn partitions(&self) -> Vec<TopicPartition> {
        self.from.keys().cloned().collect()
    }

    /// An empty one with room for so many records.
    pub(crate) fn with_room(records: usize) -> Self {
        let mut batch = Self { records: Vec::with_capacity(records), ..Self::default() };
        batch.unit.outgoing.reserve(records);
        batch
    }

    /// Notes where a partition stands before the batch, once.
    pub(crate) fn begin(&mut self, partition: &TopicPartition, from: i64) {
        self.from.entry(partition.clone()).or_insert(from);
    }

    /// Has the store hear of this partition, which stands here.
    pub(crate) fn anchor(&mut self, partition: &TopicPartition, at: i64) {
        self.begin(partition, at);
        self.anchors.insert(partition.clone());
    }

    /// Adds a finished record of a partition that has begun.
    pub(crate) fn push(&mut self, finished: FinishedRecord) {
        let FinishedRecord { mut covered, effects, .. } = finished;
        let Effects { outgoing, row, change, waiting, marker, .. } = effects;
        self.unit.outgoing.extend(outgoing);
        self.unit.changes.extend(change.into_iter().chain(waiting.map(|waiting| *waiting)));
        if let (Some((meta, data)), Some(record)) = (row, covered.record.take_if(|_| covered.share.rows > 0)) {
            self.unit.rows.push(Row { meta, record, data });
        }
        self.unit.markers.extend(marker.map(|marker| *marker));
        self.records.push(covered);
    }

    /// Adds a record with what is its own of another unit.
    fn add(&mut self, covered: CoveredRecord, own: Unit) {
        self.unit.outgoing.extend(own.outgoing);
        self.unit.rows.extend(own.rows);
        self.unit.changes.extend(own.changes);
        self.unit.markers.extend(own.markers);
        self.records.push(covered);
    }

    /// Says how far it moves each partition, where the store is to know.
    pub(crate) fn with_positions(mut self, atomic: bool) -> Self {
        let mut to: BTreeMap<&TopicPartition, i64> = BTreeMap::new();
        if atomic {
            to.extend(self.anchors.iter().filter_map(|anchor| Some((anchor, *self.from.get(anchor)?))));
            let read = self.records.iter().filter(|covered| covered.role != TopicRole::Waiting);
            to.extend(read.map(|covered| (&covered.partition, covered.offset + 1)));
        }
        let range = |(partition, next): (&TopicPartition, i64)| OffsetRange {
            from: self.from.get(partition).copied().unwrap_or(next),
            to: Position { partition: partition.clone(), next },
        };
        self.unit.positions = to.into_iter().map(range).collect();
        self
    }

    /// The first `count` records and the rest, each with what is its own of the unit.
    pub(crate) fn split_at(mut self, count: usize, atomic: bool) -> (Self, Self) {
        let later = self.records.split_off(count);
        let share: UnitShare = self.records.iter().map(|covered| covered.share).sum();
        let unit = share.split_off(&mut self.unit);
        let mut from = self.from.clone();
        for covered in &self.records {
            from.insert(covered.partition.clone(), covered.offset + 1);
        }
        let rest = Self { unit, records: later, from, anchors: self.anchors.clone() };
        (self.with_positions(atomic), rest.with_positions(atomic))
    }

    /// What of it belongs to partitions that are still ours.
    pub(crate) fn of_ours(mut self, partitions: &BTreeMap<TopicPartition, Partition>, atomic: bool) -> Self {
        let ours = |c: &CoveredRecord| partitions.get(&c.partition).is_some_and(|p| p.start == c.start);
        if self.records.iter().all(ours) {
            return self;
        }
        let mut rest = Self { from: self.from, anchors: self.anchors, ..Self::default() };
        let mut shares = UnitShares::of(self.unit);
        for covered in self.records.drain(..) {
            let own = shares.take(covered.share);
            if ours(&covered) {
                rest.add(covered, own);
            }
        }
        let waited =
            |number| rest.records.iter().any(|c| c.role == TopicRole::Waiting && c.partition.partition == number);
        rest.anchors.retain(|anchor| partitions.contains_key(anchor) && waited(anchor.partition));
        rest.with_positions(atomic)
    }

    /// With dead letters instead of the records whose rows are refused.
    pub(crate) fn without_rows(
        self,
        refused: Vec<RefusedRow>,
        atomic: bool,
        mut letter: impl FnMut(CoveredRecord, Record, RefusedRow) -> FinishedRecord,
    ) -> Self {
        let mut refused: BTreeMap<usize, RefusedRow> = refused.into_iter().map(|one| (one.row, one)).collect();
        let mut rest = Self { from: self.from, anchors: self.anchors, ..Self::default() };
        let (mut shares, mut rows) = (UnitShares::of(self.unit), 0);
        for covered in self.records {
            let mut own = shares.take(covered.share);
            let refusal = (rows..rows + own.rows.len()).find_map(|row| refused.remove(&row));
            rows += own.rows.len();
            match refusal.and_then(|refusal| Some((refusal, own.rows.pop()?))) {
                Some((refusal, row)) => rest.push(letter(covered, row.record, refusal)),
                None => rest.add(covered, own),
            }
        }
        rest.with_positions(atomic)
    }

    /// Cuts its letter to as much as goes anywhere, where it has one record, which is a letter; whether there was more.
    pub(crate) fn cut(&mut self) -> bool {
        let is_letter = matches!(self.records.as_slice(), [one] if matches!(one.disposition, Disposition::Dead(_)));
        match self.unit.outgoing.as_mut_slice() {
            [letter] if is_letter && let Some(beginning) = cut::cut(letter) => {
                *letter = beginning;
                true
            }
            _ => false,
        }
    }

    /// The record of a batch that has one, to be made something else of.
    pub(crate) fn into_only(mut self) -> Option<(CoveredRecord, Record, i64)> {
        let mut covered = self.records.pop()?;
        let record = covered.record.take().or_else(|| self.unit.rows.pop().map(|row| row.record))?;
        let from = self.from.get(&covered.partition).copied().unwrap_or(covered.offset);
        Some((covered, record, from))
    }
}

#[cfg(test)]
mod tests;
