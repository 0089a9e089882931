//! How much a worker holds in memory of what it has read, and what it lets go of.

use super::Partition;
use crate::{ports::Control, worker::Worker};

impl Worker {
    /// Whether more may be read. What stands still has half of the bytes at most, so that the rest goes on.
    pub(crate) fn has_room(&mut self) -> bool {
        let limit = self.settings.in_flight_bytes;
        let (mut waiting, mut bytes, mut still) = (0, self.commit_queues.bytes(), 0);
        for partition in self.partitions.values() {
            if partition.stands_still() {
                still += partition.watermark.bytes();
            } else {
                waiting += partition.pending.len();
                bytes += partition.watermark.bytes();
            }
        }
        if still > limit / 2 {
            still = self.shed(still, limit / 2);
        }
        self.stopping.is_none() && waiting < self.settings.prefetch && bytes + still.min(limit / 2) < limit
    }

    /// Has partitions that stand still let go of what they have read, the fullest first; gives the bytes that are left.
    fn shed(&mut self, mut still: usize, limit: usize) -> usize {
        let can = |p: &&mut Partition| p.stands_still() && p.can_shed();
        let mut fullest: Vec<&mut Partition> = self.partitions.values_mut().filter(can).collect();
        fullest.sort_by_key(|p| std::cmp::Reverse(p.watermark.bytes()));
        for partition in fullest {
            if still <= limit {
                break;
            }
            still -= partition.watermark.bytes();
            partition.shed();
            still += partition.watermark.bytes();
        }
        still
    }

    /// Has the source deliver again what partitions have let go of that flow now.
    pub(crate) fn read_again(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        for (id, partition) in self.partitions.iter_mut().filter(|(_, p)| p.reads_again()) {
            self.starts += 1;
            partition.reading = Some(self.starts);
            let from = partition.offsets.durable_from();
            self.source.control(Control::Begin { partition: id.clone(), from, start: self.starts });
            self.source.control(Control::Resume(vec![id.clone()]));
        }
    }
}
