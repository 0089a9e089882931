//! A partition's life in a worker.

pub(crate) mod lanes;
pub(crate) mod room;
pub(crate) mod watermark;

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use self::{
    lanes::{Lane, Lanes},
    watermark::Watermark,
};
use super::{attempt::in_flight::InFlightRecord, commit::finished_record::FinishedRecord, schema_prefetch::schema_of};
use crate::{
    ports::{Clock, StartFrom},
    telemetry::metrics::PartitionProgress,
    wire::{
        delivery_headers::due_ms,
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
    /// Which start this is; what belongs to an earlier one is stale.
    pub(crate) start: u64,
    /// Which reading of it: as `start`, until records were let go of that are read again. `None` until they are.
    pub(crate) reading: Option<u64>,
    /// Where the store or the source said that it starts.
    pub(crate) from: StartFrom,
    pub(crate) state: PartitionState,
    /// The number of the commit queue that commits it.
    pub(crate) commit_queue: usize,
    /// Where the store's position stands; -1 while it has none.
    pub(crate) durable: i64,
    /// How far the log has been read; -1 before anything of it was.
    reached: i64,
    /// Offset and timestamp of a record that is not durable: the oldest one, or one that came not long after it.
    mark: Option<(i64, i64)>,
    /// The same of the record that came last.
    newest: Option<(i64, i64)>,
    /// Where effects and offsets are one transaction, it holds what finished ahead.
    pub(crate) watermark: Watermark<Option<FinishedRecord>>,
    /// Read, and not yet begun.
    pub(crate) pending: VecDeque<Record>,
    pub(crate) lanes: Lanes<InFlightRecord>,
    /// Records in `lanes`, running or waiting behind another of their key.
    pub(crate) begun: usize,
    /// Finished, and in a unit that is not durable yet.
    pub(crate) unsaved: usize,
    /// Records that failed or were told to wait; nothing new begins until they succeed.
    pub(crate) held: Vec<InFlightRecord>,
    /// Records that failed and have not yet succeeded, those that run again included.
    pub(crate) blocks: usize,
    /// When the held records run again.
    pub(crate) hold_until: Duration,
    /// What its topic is to the group.
    pub(crate) role: TopicRole,
    /// Whether its records run one after another, whatever their keys: those of a stateful group. What one changes is
    /// then committed before, or with, what another makes of it.
    in_order: bool,
    /// The record at the head of a retry topic that was looked at last, and when it is due.
    waits: Option<(i64, Duration)>,
    /// The same time, if it had not come when the head was last looked at.
    wakes: Option<Duration>,
    /// Whether the source was told to deliver nothing until the head is due.
    pub(crate) delayed: bool,
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
            in_order,
            commit_queue,
            waits: None,
            wakes: None,
            delayed: false,
            start,
            reading: Some(start),
            from: StartFrom::Committed,
            state: PartitionState::Starting(at),
            durable: -1,
            reached: -1,
            mark: None,
            newest: None,
            watermark: Watermark::new(),
            pending: VecDeque::new(),
            lanes: Lanes::new(),
            begun: 0,
            unsaved: 0,
            held: Vec::new(),
            blocks: 0,
            hold_until: Duration::ZERO,
        }
    }

    /// Takes records in, before whose end there are no others; repeats are dropped.
    pub(crate) fn receive(&mut self, records: Vec<Record>, reached: i64) {
        self.reached = self.reached.max(reached);
        let place = |record: &Record| (record.offset, record.timestamp_ms);
        self.mark = self.mark.or(records.first().map(place));
        self.newest = records.last().map(place).or(self.newest);
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
        let head = if self.blocks > 0 { None } else { self.pending.pop_front() };
        if self.blocks > 0 {
            // Of a key they come before what is pending.
            for in_flight in self.lanes.take_waiting() {
                self.begun -= 1;
                self.watermark.shed(in_flight.record.offset);
            }
            (self.delayed, self.wakes) = (false, None);
        }
        self.pending.drain(..).for_each(|record| self.watermark.shed(record.offset));
        self.pending.shrink_to_fit();
        self.pending.extend(head);
        self.reading = None;
    }

    /// Whether letting go of records would help.
    pub(crate) fn can_shed(&self) -> bool {
        let is_held = self.blocks > 0 && (self.begun > self.blocks || !self.pending.is_empty());
        self.state == PartitionState::Running && self.role != TopicRole::Waiting && (is_held || self.pending.len() > 1)
    }

    /// Whether records are to be read again that were let go of.
    pub(crate) fn reads_again(&self) -> bool {
        self.reading.is_none() && !self.stands_still()
    }

    /// Whether the source was told to deliver nothing, or is not to deliver yet.
    pub(crate) fn stands_still(&self) -> bool {
        self.delayed || !self.flows()
    }

    /// From where: it is known to be durable.
    pub(crate) fn durable_from(&self) -> StartFrom {
        match self.from {
            // Of a store of offsets the source's own copy says nothing.
            StartFrom::Offset(_) | StartFrom::Policy if self.durable >= 0 => StartFrom::Offset(self.durable),
            from => from,
        }
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
        let open = self.watermark.oldest();
        // What was passed on in a unit that is not durable yet has left the watermark behind.
        let saving = self.mark.filter(|_| self.unsaved > 0);
        let oldest = saving.into_iter().chain(open).min();
        let next = match oldest {
            Some((offset, _)) if saving.is_none() || self.durable < 0 => offset,
            Some(_) => self.durable,
            // Behind the last record there may be markers of transactions, for which nobody waits.
            None => self.durable.max(self.reached),
        };
        PartitionProgress { next: (next >= 0).then_some(next), oldest_ms: oldest.map(|(_, timestamp)| timestamp) }
    }

    /// Everything before this offset is durable.
    pub(crate) fn advance(&mut self, next: i64) {
        self.durable = next;
        let waits = |(offset, _): &(i64, i64)| *offset >= next;
        self.mark = self.mark.filter(waits).or(self.newest.filter(waits));
    }

    /// Whether a new record may begin.
    pub(crate) fn flows(&self) -> bool {
        self.state == PartitionState::Running && self.blocks == 0
    }

    /// When the record at the head is due, if it is not yet: only those of a retry topic wait.
    pub(crate) fn due(&mut self, clock: &dyn Clock, group: &str) -> Option<Duration> {
        let TopicRole::Retry(longest) = self.role else { return None };
        let head = self.pending.front()?;
        let now = clock.elapsed();
        let at = match self.waits {
            Some((offset, at)) if offset == head.offset => at,
            // A clock that differs, or a forged time, must not hold a record for longer than its topic says.
            _ => {
                let left = due_ms(head, group).map_or(0, |due| due.saturating_sub(clock.now().millis()));
                now + Duration::from_millis(u64::try_from(left).unwrap_or(0)).min(longest)
            }
        };
        self.waits = Some((head.offset, at));
        self.wakes = (at > now).then_some(at);
        self.wakes
    }

    /// When the head is due, as [`Partition::due`] found it.
    pub(crate) fn waits_until(&self) -> Option<Duration> {
        self.wakes.filter(|_| self.flows() && !self.pending.is_empty())
    }

    /// The next record, as one in flight; one that must wait for its key is put behind it.
    pub(crate) fn next_record(&mut self, id: &TopicPartition) -> Option<Next> {
        let record = self.pending.pop_front()?;
        let schema = schema_of(&record);
        let lane = if self.in_order { Some(Lane::ONE) } else { Lane::of(record.key.as_deref()) };
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
        self.begun += 1;
        Some(self.lanes.enter(lane, in_flight).map_or(Next::Waits(schema), Next::Begins))
    }

    /// Lets go of everything that has not begun to run.
    pub(crate) fn let_go(&mut self) {
        self.pending.clear();
        let held = self.held.drain(..).count();
        self.begun -= held + self.lanes.take_waiting().count();
        self.blocks -= held;
    }

    /// Lets go of a record that is not to run any more.
    pub(crate) fn let_go_of(&mut self, in_flight: &InFlightRecord) {
        self.begun -= 1;
        self.blocks -= usize::from(in_flight.blocks);
    }

    /// Records that were begun and hold the position or wait for it: those that run, and those that finished ahead.
    pub(crate) fn open(&self) -> usize {
        match self.state {
            PartitionState::Running if self.role != TopicRole::Waiting => {
                self.watermark.len().saturating_sub(self.pending.len())
            }
            // What it has let go of never passes.
            _ => self.begun,
        }
    }

    /// Whether nothing of it is under way any more.
    pub(crate) fn is_quiet(&self) -> bool {
        self.begun == 0 && self.unsaved == 0
    }
}

/// A partition of this number of which the store knows where it stands, and where.
pub(crate) fn anchor(partitions: &BTreeMap<TopicPartition, Partition>, number: i32) -> Option<(&TopicPartition, i64)> {
    let known = |(id, p): &(&TopicPartition, &Partition)| {
        id.partition == number && p.role != TopicRole::Waiting && p.state != PartitionState::Stopped && p.durable >= 0
    };
    partitions.iter().find(known).map(|(id, p)| (id, p.durable))
}
