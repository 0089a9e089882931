//! The partitions that this member has, how much of them it holds in memory, and which of their records are ready to begin.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use super::source_handle::SourceHandle;
use crate::{
    pipeline::settings::GroupSettings,
    ports::Control,
    wire::record::TopicPartition,
    worker::{
        attempt::in_flight::InFlightRecord,
        partition::{Partition, PartitionState},
    },
};

/// The partitions that are ours, those that leave included.
#[derive(Default)]
pub(crate) struct Assignment {
    pub(crate) partitions: BTreeMap<TopicPartition, Partition>,
    /// Records whose schema has come or whose pause is over, to begin once there is a place.
    ready: VecDeque<InFlightRecord>,
    starts: u64,
}

impl Assignment {
    /// The number of a start or a reading that nothing has had before.
    pub(crate) fn next_start(&mut self) -> u64 {
        self.starts += 1;
        self.starts
    }

    /// The partition of a record, unless it is another start of it.
    pub(crate) fn of(&mut self, in_flight: &InFlightRecord) -> Option<&mut Partition> {
        self.partitions.get_mut(&in_flight.partition).filter(|p| p.start == in_flight.start)
    }

    /// The partition with the name of its topic as others of that topic have it, which makes looking it up cheap.
    pub(crate) fn shared(&self, id: TopicPartition) -> TopicPartition {
        let known = self.partitions.keys().find(|known| known.topic == id.topic);
        known.map_or(id.clone(), |known| TopicPartition { topic: known.topic.clone(), ..id })
    }

    /// Whether a record may still begin; where its partition begins nothing any more, that lets go of it.
    pub(crate) fn may_begin(&mut self, in_flight: &InFlightRecord, stopping: bool) -> bool {
        let Some(partition) = self.of(in_flight) else { return false };
        let may = partition.state == PartitionState::Running && !stopping;
        if !may {
            partition.let_go_of(in_flight);
        }
        may
    }

    /// Has records begin once there are places.
    pub(crate) fn make_ready(&mut self, records: impl IntoIterator<Item = InFlightRecord>) {
        self.ready.extend(records);
    }

    /// The next record that is ready and may still begin.
    pub(crate) fn next_ready(&mut self, stopping: bool) -> Option<InFlightRecord> {
        loop {
            let in_flight = self.ready.pop_front()?;
            if self.may_begin(&in_flight, stopping) {
                return Some(in_flight);
            }
        }
    }

    /// Makes held records ready whose pause is over: of those that wait for a circuit first the ones that have probed it least,
    /// so that a record which always fails leaves the next probe to others.
    pub(crate) fn release_holds(&mut self, now: Duration) {
        let mut records: Vec<InFlightRecord> = self.partitions.values_mut().flat_map(|p| p.held.due(now)).collect();
        records.sort_by_key(|in_flight| in_flight.probed);
        self.ready.extend(records);
    }

    /// Begins nothing more of a partition, which has until then to end what is under way; false where it is not ours.
    pub(crate) fn leave(&mut self, id: &TopicPartition, deadline: Duration) -> bool {
        let Some(partition) = self.partitions.get_mut(id) else { return false };
        partition.let_go();
        self.ready.retain(|in_flight| {
            let leaves = in_flight.partition == *id && in_flight.start == partition.start;
            if leaves {
                partition.let_go_of(in_flight);
            }
            !leaves
        });
        partition.state = PartitionState::Leaving(deadline);
        true
    }

    /// Lets go of everything that has not begun to run.
    pub(crate) fn let_go(&mut self) {
        self.partitions.values_mut().for_each(Partition::let_go);
    }

    /// Whether nothing is under way any more.
    pub(crate) fn is_quiet(&self) -> bool {
        self.partitions.values().all(Partition::is_quiet)
    }

    /// Whether a partition is being given back.
    pub(crate) fn is_leaving(&self) -> bool {
        self.partitions.values().any(|p| matches!(p.state, PartitionState::Leaving(_)))
    }

    /// Records that are under way: what a transaction must hold back until the position reaches it is so still.
    pub(crate) fn under_way(&self, atomic: bool) -> usize {
        self.partitions.values().map(|p| if atomic { p.open() } else { p.begun.len() }).sum()
    }

    /// When something of the partitions is due that no event announces.
    pub(crate) fn next_wake(&self, stopping: bool) -> Option<Duration> {
        let wakes = self.partitions.values().filter_map(|p| match p.state {
            PartitionState::Leaving(by) => Some(by),
            _ if stopping => None,
            _ => p.next_wake(),
        });
        wakes.min()
    }

    /// Whether more may be read while so many bytes wait to be committed. What stands still has half of the bytes at most, so
    /// that the rest goes on.
    pub(crate) fn has_room(&mut self, settings: &GroupSettings, committing: usize) -> bool {
        let limit = settings.in_flight_bytes;
        let (mut waiting, mut bytes, mut still) = (0, committing, 0);
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
        waiting < settings.prefetch && bytes + still.min(limit / 2) < limit
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
    pub(crate) fn read_again(&mut self, source: &mut SourceHandle) {
        for (id, partition) in self.partitions.iter_mut().filter(|(_, p)| p.reads_again()) {
            self.starts += 1;
            partition.reading = Some(self.starts);
            let from = partition.offsets.durable_from();
            source.control(Control::Begin { partition: id.clone(), from, start: self.starts });
            source.control(Control::Resume(vec![id.clone()]));
        }
    }
}
