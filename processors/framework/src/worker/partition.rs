//! A partition's life in a worker.

pub(crate) mod begun_records;
pub(crate) mod head_delay;
pub(crate) mod held_records;
pub(crate) mod lanes;
pub(crate) mod offsets;
pub(crate) mod watermark;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use self::{
    begun_records::BegunRecords, head_delay::HeadDelay, held_records::HeldRecords, offsets::PartitionOffsets,
    watermark::Watermark,
};
use super::{
    attempt::{in_flight::InFlightRecord, schema_prefetch::schema_of},
    commit::finished_record::FinishedRecord,
};
use crate::{
    ports::{Clock, StartFrom},
    telemetry::metrics::PartitionProgress,
    wire::{
        group_topics::TopicRole,
        record::{Record, TopicPartition},
    },
};

/// What a partition is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PartitionState {
    /// Assigned; where it starts is asked for once this time has come.
    Starting(Duration),
    /// Delivering.
    Running,
    /// Stands still before a record that can neither be processed nor put aside, until a person acts.
    Stopped,
    /// Being given back: nothing new begins, what is under way ends by this time.
    Leaving(Duration),
}

/// The records of one partition that are under way.
#[derive(Debug)]
pub(crate) struct Partition {
    /// What its topic is to the group.
    pub(crate) role: TopicRole,
    /// Which start this is; what belongs to an earlier one is stale.
    pub(crate) start: u64,
    /// Which reading of it: as `start`, until records were let go of that are read again. `None` until they are.
    pub(crate) reading: Option<u64>,
    pub(crate) state: PartitionState,
    /// The number of the commit queue that commits it.
    pub(crate) commit_queue: usize,
    pub(crate) offsets: PartitionOffsets,
    /// Where effects and offsets are one transaction, it holds what finished ahead.
    pub(crate) watermark: Watermark<Option<FinishedRecord>>,
    /// Read, and not yet begun.
    pub(crate) pending: VecDeque<Record>,
    pub(crate) begun: BegunRecords,
    /// Finished, and in a unit that is not durable yet.
    pub(crate) unsaved: usize,
    /// Nothing new begins until these have succeeded.
    pub(crate) held: HeldRecords,
    /// Of a retry topic.
    pub(crate) delay: HeadDelay,
}

/// What becomes of a partition's next record.
#[expect(clippy::large_enum_variant, reason = "most begin, and a box for those would cost each of them an allocation")]
pub(crate) enum Next {
    /// It may run now.
    Begins(InFlightRecord),
    /// It waits for its key; it was written with the schema of this id.
    Waits(Option<u32>),
}

impl Partition {
    pub(crate) fn new(role: TopicRole, start: u64, at: Duration, commit_queue: usize, in_order: bool) -> Self {
        Self {
            role,
            start,
            reading: Some(start),
            state: PartitionState::Starting(at),
            commit_queue,
            offsets: PartitionOffsets::new(),
            watermark: Watermark::new(),
            pending: VecDeque::new(),
            begun: BegunRecords::new(in_order),
            unsaved: 0,
            held: HeldRecords::default(),
            delay: HeadDelay::default(),
        }
    }

    /// Takes records in, before whose end there are no others; repeats are dropped.
    pub(crate) fn receive(&mut self, records: Vec<Record>, reached: i64) {
        self.offsets.receive(&records, reached);
        for record in records {
            self.watermark.read_to(record.offset);
            if self.watermark.receive(record.offset, record.size(), record.timestamp_ms) {
                self.pending.push_back(record);
            }
        }
        self.watermark.read_to(reached);
    }

    /// Lets go of what was read and has not begun to run, since it stands still: it is read again once it flows. The head stays
    /// of what waits until that is due.
    pub(crate) fn shed(&mut self) {
        let head = if self.held.is_empty() { self.pending.pop_front() } else { None };
        if !self.held.is_empty() {
            // Of a key they come before what is pending.
            self.begun.take_waiting().for_each(|in_flight| self.watermark.shed(in_flight.record.offset));
            self.delay.clear();
        }
        self.pending.drain(..).for_each(|record| self.watermark.shed(record.offset));
        self.pending.shrink_to_fit();
        self.pending.extend(head);
        self.reading = None;
    }

    /// Whether letting go of records would help.
    pub(crate) fn can_shed(&self) -> bool {
        let waits = self.begun.len() > self.held.len() || !self.pending.is_empty();
        let is_held = !self.held.is_empty() && waits;
        self.state == PartitionState::Running && self.role != TopicRole::Waiting && (is_held || self.pending.len() > 1)
    }

    /// Whether records are to be read again that were let go of.
    pub(crate) fn reads_again(&self) -> bool {
        self.reading.is_none() && !self.stands_still()
    }

    /// Whether the source was told to deliver nothing, or is not to deliver yet.
    pub(crate) fn stands_still(&self) -> bool {
        self.delay.is_told() || !self.flows()
    }

    /// It has begun: the store or the source has said from where.
    pub(crate) fn run(&mut self, from: StartFrom) {
        self.state = PartitionState::Running;
        self.offsets.begin(from);
    }

    /// Takes records in that waited: they have no position.
    pub(crate) fn wake(&mut self, records: Vec<Record>) {
        self.pending.extend(records);
    }

    /// When its start is to be asked for, if it is: records that wait are read with the state of their number.
    pub(crate) fn starts_at(&self) -> Option<Duration> {
        match self.state {
            PartitionState::Starting(at) if self.role != TopicRole::Waiting => Some(at),
            _ => None,
        }
    }

    /// Where it stands, for who looks from outside.
    pub(crate) fn progress(&self) -> PartitionProgress {
        self.offsets.progress(self.watermark.oldest(), self.unsaved > 0)
    }

    /// Whether a new record may begin.
    pub(crate) fn flows(&self) -> bool {
        self.state == PartitionState::Running && self.held.is_empty()
    }

    /// When the record at the head is due, if it is not yet: only those of a retry topic wait.
    pub(crate) fn due(&mut self, clock: &dyn Clock, group: &str) -> Option<Duration> {
        let TopicRole::Retry(longest) = self.role else { return None };
        self.delay.due(self.pending.front()?, longest, clock, group)
    }

    /// When something of it is due that no event announces.
    pub(crate) fn next_wake(&self) -> Option<Duration> {
        self.held.wakes().or_else(|| self.delay.wakes().filter(|_| self.flows() && !self.pending.is_empty()))
    }

    /// The next record, as one in flight; one that must wait for its key is put behind it.
    pub(crate) fn next_record(&mut self, id: &TopicPartition) -> Option<Next> {
        let record = self.pending.pop_front()?;
        let schema = schema_of(&record);
        let lane = self.begun.lane_of(record.key.as_deref());
        let in_flight = InFlightRecord {
            partition: id.clone(),
            role: self.role,
            start: self.start,
            lane,
            failed: 0,
            first_failed_ms: None,
            probed: 0,
            begun: false,
            blocks: false,
            record,
        };
        Some(self.begun.enter(in_flight).map_or(Next::Waits(schema), Next::Begins))
    }

    /// Lets go of everything that has not begun to run.
    pub(crate) fn let_go(&mut self) {
        self.pending.clear();
        self.begun.let_go(self.held.let_go());
        self.begun.take_waiting().for_each(drop);
    }

    /// Lets go of a record that is not to run any more.
    pub(crate) fn let_go_of(&mut self, in_flight: &InFlightRecord) {
        self.begun.let_go(1);
        self.held.settle(in_flight);
    }

    /// Records that were begun and hold the position or wait for it: those that run, and those that finished ahead.
    pub(crate) fn open(&self) -> usize {
        match self.state {
            PartitionState::Running if self.role != TopicRole::Waiting => {
                self.watermark.len().saturating_sub(self.pending.len())
            }
            // What it has let go of never passes.
            _ => self.begun.len(),
        }
    }

    /// Whether nothing of it is under way any more.
    pub(crate) fn is_quiet(&self) -> bool {
        self.begun.len() == 0 && self.unsaved == 0
    }
}

/// A partition of this number of which the store knows where it stands, and where.
pub(crate) fn anchor(partitions: &BTreeMap<TopicPartition, Partition>, number: i32) -> Option<(&TopicPartition, i64)> {
    let known = |(id, p): &(&TopicPartition, &Partition)| {
        id.partition == number
            && p.role != TopicRole::Waiting
            && p.state != PartitionState::Stopped
            && p.offsets.durable() >= 0
    };
    partitions.iter().find(known).map(|(id, p)| (id, p.offsets.durable()))
}
