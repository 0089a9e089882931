//! Where a partition stands: from where it is read, how far that has come, and what of it is durable.

use crate::{ports::StartFrom, telemetry::metrics::PartitionProgress, wire::record::Record};

/// Offset and timestamp of a record.
type Mark = (i64, i64);

/// The offsets of one start of a partition.
#[derive(Debug)]
pub(crate) struct PartitionOffsets {
    /// Where the store or the source said that it starts.
    from: StartFrom,
    /// Where the store's position stands; -1 while it has none.
    durable: i64,
    /// How far the log has been read; -1 before anything of it was.
    reached: i64,
    /// Of a record that is not durable: the oldest one, or one that came not long after it.
    mark: Option<Mark>,
    /// Of the record that came last.
    newest: Option<Mark>,
}

impl PartitionOffsets {
    pub(crate) fn new() -> Self {
        Self { from: StartFrom::Committed, durable: -1, reached: -1, mark: None, newest: None }
    }

    /// It is said where the partition starts.
    pub(crate) fn begin(&mut self, from: StartFrom) {
        self.from = from;
        if let StartFrom::Offset(next) = from {
            self.durable = next;
        }
    }

    /// These records have come, before whose end there are no others.
    pub(crate) fn receive(&mut self, records: &[Record], reached: i64) {
        self.reached = self.reached.max(reached);
        let mark = |record: &Record| (record.offset, record.timestamp_ms);
        self.mark = self.mark.or(records.first().map(mark));
        self.newest = records.last().map(mark).or(self.newest);
    }

    /// Everything before this offset is durable.
    pub(crate) fn advance(&mut self, next: i64) {
        self.durable = next;
        let waits = |(offset, _): &Mark| *offset >= next;
        self.mark = self.mark.filter(waits).or(self.newest.filter(waits));
    }

    /// Where the store's position stands; -1 while it has none.
    pub(crate) fn durable(&self) -> i64 {
        self.durable
    }

    /// From where it is known to be durable.
    pub(crate) fn durable_from(&self) -> StartFrom {
        match self.from {
            // Of a store of offsets the source's own copy says nothing.
            StartFrom::Offset(_) | StartFrom::Policy if self.durable >= 0 => StartFrom::Offset(self.durable),
            from => from,
        }
    }

    /// Where it stands for who looks from outside: `open` is the first record that nothing has passed, and `is_saving` says
    /// that some are in a unit which is not durable yet.
    pub(crate) fn progress(&self, open: Option<Mark>, is_saving: bool) -> PartitionProgress {
        // What was passed on in a unit that is not durable yet has left the watermark behind.
        let saving = self.mark.filter(|_| is_saving);
        let oldest = saving.into_iter().chain(open).min();
        let next = match oldest {
            Some((offset, _)) if saving.is_none() || self.durable < 0 => offset,
            Some(_) => self.durable,
            // Behind the last record there may be markers of transactions, for which nobody waits.
            None => self.durable.max(self.reached),
        };
        PartitionProgress { next: (next >= 0).then_some(next), oldest_ms: oldest.map(|(_, timestamp)| timestamp) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::record::Headers;

    fn record(offset: i64) -> Record {
        let (topic, headers) = ("t".into(), Headers::default());
        Record { topic, partition: 0, offset, timestamp_ms: 10 * offset, key: None, value: None, headers }
    }

    fn stands(offsets: &PartitionOffsets, open: Option<Mark>, is_saving: bool) -> (Option<i64>, Option<i64>) {
        let progress = offsets.progress(open, is_saving);
        (progress.next, progress.oldest_ms)
    }

    /// Red when what is in a unit that is not durable counts as done, what is durable as open, or markers behind the last record
    /// as something to wait for.
    #[test]
    fn a_partition_stands_before_the_first_record_that_is_not_durable() {
        let mut offsets = PartitionOffsets::new();
        assert_eq!(stands(&offsets, None, false), (None, None));
        offsets.begin(StartFrom::Offset(5));
        offsets.receive(&[record(5), record(6), record(8)], 10);
        assert_eq!(stands(&offsets, Some((6, 60)), true), (Some(5), Some(50)), "5 is in a unit");
        offsets.advance(6);
        assert_eq!(stands(&offsets, Some((6, 60)), false), (Some(6), Some(60)));
        offsets.advance(9);
        assert_eq!(stands(&offsets, None, false), (Some(10), None));
        assert!(matches!(offsets.durable_from(), StartFrom::Offset(9)));
    }
}
