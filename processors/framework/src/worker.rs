//! The engine of one consumer group: takes records in, keeps them in order per key, commits what they ask for.
//!
//! Delivery: a position is committed only when every record before it has left its effects durable. Order: per key, in
//! lanes. A record that fails waits on a retry topic or in the group's state, or holds its partition, as the order says; one that nobody
//! can process becomes a dead letter; an outage holds the partitions, and is no attempt.
//! Shutdown and rebalance: nothing new begins, what is under way ends within the drain deadline, then the position is
//! committed; late completions of a partition that is gone are dropped.

pub(crate) mod deps;
mod error;

mod attempt;
mod commit;
pub(crate) mod partition;
mod schedule;

mod membership;
mod schema_prefetch;
mod source_handle;

pub use error::WorkerError;

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    future::Future,
    pin::pin,
    sync::Arc,
    time::Duration,
};

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};

use self::{
    attempt::{
        dispatch::AttemptState,
        in_flight::{InFlightRecord, Outcome},
        record_processor::RecordProcessor,
    },
    commit::{commit_queues::CommitQueues, finished_record::FinishedRecord},
    partition::{Next, Partition, PartitionState, anchor},
    schema_prefetch::SchemaPrefetch,
    source_handle::SourceHandle,
};
use crate::{
    pipeline::settings::GroupSettings,
    ports::{BoxFuture, Clock, Control},
    telemetry::metrics::{GroupMetrics, Metric},
    wire::{
        group_topics::TopicRole,
        record::{Position, TopicPartition},
    },
};

/// Records begun in a row before the worker looks around for commits and control events.
const TURN: usize = 1_000;
/// A partition may be this many times the records in flight ahead of a record that is slow: each costs memory until the
/// position passes it, published or not.
const AHEAD: usize = 4;
/// How often others are told where the partitions stand.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(1);

/// The engine of one consumer group in one process.
pub struct Worker {
    settings: GroupSettings,
    processor: Arc<RecordProcessor>,
    source: SourceHandle,
    commit_queues: CommitQueues,
    clock: Arc<dyn Clock>,
    metrics: Arc<GroupMetrics>,
    partitions: BTreeMap<TopicPartition, Partition>,
    running: FuturesUnordered<BoxFuture<'static, (InFlightRecord, Outcome)>>,
    /// Those that wait for a schema: they take no place of those that run, so that a row of unknown ids holds up nobody.
    fetching: FuturesUnordered<BoxFuture<'static, (InFlightRecord, Option<Outcome>)>>,
    /// Those whose schema has come or whose pause is over, to begin once there is a place.
    ready: VecDeque<InFlightRecord>,
    /// Schemas that records will need which wait for their key.
    prefetch: SchemaPrefetch,
    /// Positions that are durable and not yet told to the source.
    moved: BTreeMap<TopicPartition, i64>,
    /// Records of a stateful group whose effects the store has refused: they become dead letters when they are read again.
    refusals: HashMap<(TopicPartition, i64), String>,
    starts: u64,
    /// Whether partitions have moved since others were told, and when they may be told again.
    progress_changed: bool,
    progress_at: Duration,
    /// Set once the process is to stop: when it gives up.
    stopping: Option<Duration>,
    closing: bool,
}

impl Worker {
    /// Runs until `stop` resolves and everything under way is committed, or the group cannot go on.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Result<(), WorkerError> {
        let mut stop = pin!(stop);
        loop {
            let more = self.turn();
            let (now, records) = (self.clock.elapsed(), self.has_room());
            let wake = self.next_wake().map(|at| at.saturating_sub(now));
            let sleep = wake.map_or_else(|| std::future::pending().boxed(), |d| self.clock.sleep(d));
            tokio::select! {
                biased;
                () = &mut stop, if self.stopping.is_none() => self.stop(),
                (at, done) = self.commit_queues.done() => self.on_commit_result(at, done)?,
                Some((in_flight, outcome)) = self.running.next(), if !self.running.is_empty() => {
                    self.completed(in_flight, outcome);
                    while let Some(Some((in_flight, outcome))) = self.running.next().now_or_never() {
                        self.completed(in_flight, outcome);
                    }
                }
                Some((in_flight, over)) = self.fetching.next(), if !self.fetching.is_empty() => {
                    self.looked_up(in_flight, over);
                    while let Some(Some((in_flight, over))) = self.fetching.next().now_or_never() {
                        self.looked_up(in_flight, over);
                    }
                }
                () = self.prefetch.answered() => {}
                event = self.source.next(records) => {
                    if self.on_source_event(event)? {
                        return Ok(());
                    }
                }
                () = std::future::ready(()), if more => {}
                () = sleep => {
                    if self.closing && self.gave_up() {
                        tracing::warn!(group = %self.processor.group.id, "the source did not close in time; its last positions may be read again");
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Does all that can be done now without waiting; true when there is more to begin at once.
    fn turn(&mut self) -> bool {
        self.release_holds();
        self.begin_ready();
        self.wake_waiting();
        let more = self.dispatch();
        self.read_again();
        self.let_leavers_go();
        if self.stopping.is_some() && !self.closing && (self.gave_up() || self.is_quiet()) {
            self.report_moves();
            self.closing = true;
            // Whoever comes next may go on with what is ours any moment.
            self.commit_queues.close();
            self.stopping = Some(self.clock.elapsed() + self.settings.drain);
            self.source.control(Control::Close);
        }
        let (now, flush) = (self.clock.elapsed(), self.must_flush());
        self.commit_queues.advance(now, flush, &self.partitions);
        self.report_moves();
        self.metrics.set(Metric::InFlight, self.under_way() as u64);
        self.report_progress(now);
        more
    }

    /// Begins what may begin, a partition after the other; true when it stopped only to look around.
    fn dispatch(&mut self) -> bool {
        if self.stopping.is_some() {
            return false;
        }
        let room = self.settings.in_flight.saturating_sub(self.under_way());
        let mut left = room.min(TURN);
        let ahead = self.settings.in_flight.saturating_mul(AHEAD);
        let flowing = |p: &Partition| p.flows() && !p.pending.is_empty() && p.open() < ahead;
        let ids: Vec<_> = self.partitions.iter().filter(|(_, p)| flowing(p)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            if self.delay(&id) {
                continue;
            }
            while left > 0
                && self.running.len() < self.settings.concurrency
                && self.commit_queues.bytes() < self.settings.in_flight_bytes
            {
                let Some(partition) = self.partitions.get_mut(&id).filter(|p| flowing(p)) else { break };
                if partition.due(self.clock.as_ref(), &self.processor.group.id).is_some() {
                    self.delay(&id);
                    break;
                }
                let Some(next) = partition.next_record(&id) else { break };
                left -= 1;
                match next {
                    Next::Begins(in_flight) => self.begin(in_flight),
                    Next::Waits(schema) => {
                        schema.into_iter().for_each(|id| self.prefetch.ask(&self.processor.schemas, id))
                    }
                }
            }
        }
        left == 0 && room > TURN
    }

    /// Has records that waited in the group's state begin whose time has come.
    fn wake_waiting(&mut self) {
        let now = self.clock.elapsed();
        for (id, _) in self.waiting_wakes().into_iter().filter(|(_, at)| *at <= now) {
            let due = self.processor.failures.waiting().map(|waiting| waiting.due(id.partition, now));
            if let Some(partition) = self.partitions.get_mut(&id) {
                partition.wake(due.unwrap_or_default());
            }
        }
    }

    /// When records that wait in the group's state are due, of the partitions that flow.
    fn waiting_wakes(&self) -> Vec<(TopicPartition, Duration)> {
        let Some(waiting) = self.processor.failures.waiting() else { return Vec::new() };
        let place = |(number, at)| {
            let id = waiting.place(number);
            let flows = self.partitions.get(&id).is_some_and(Partition::flows);
            (flows && anchor(&self.partitions, number).is_some()).then_some((id, at))
        };
        waiting.wakes().into_iter().filter_map(place).collect()
    }

    /// Whether the head of a partition is not due yet. Where that takes a while the source is told, so that a partition
    /// full of waiting records takes no room from the others.
    fn delay(&mut self, id: &TopicPartition) -> bool {
        let Some(partition) = self.partitions.get_mut(id) else { return true };
        let due = partition.due(self.clock.as_ref(), &self.processor.group.id);
        let left = due.map(|at| at.saturating_sub(self.clock.elapsed()));
        if let Some(delayed) = partition.delay.tell(left, partition.pending.len()) {
            let ids = vec![id.clone()];
            self.source.control(if delayed { Control::Pause(ids) } else { Control::Resume(ids) });
        }
        left.is_some()
    }

    /// Begins a record, and every record of its lane that it frees at once.
    fn begin(&mut self, in_flight: InFlightRecord) {
        let mut next = Some(in_flight);
        while let Some(in_flight) = next {
            if let Some(outcome) = self.refused_before(&in_flight) {
                next = self.settle(in_flight, outcome);
                continue;
            }
            next = match self.processor.begin(in_flight) {
                AttemptState::Running(running) => {
                    self.running.push(running);
                    None
                }
                AttemptState::Fetching(fetching) => {
                    self.fetching.push(fetching);
                    None
                }
                AttemptState::Over(in_flight, outcome) => self.settle(in_flight, outcome),
            };
        }
    }

    fn completed(&mut self, in_flight: InFlightRecord, outcome: Outcome) {
        if let Some(next) = self.settle(in_flight, outcome) {
            self.begin(next);
        }
    }

    /// Books what became of a look-up in the registry.
    fn looked_up(&mut self, in_flight: InFlightRecord, over: Option<Outcome>) {
        match over {
            // It took no place: what waited behind it needs one.
            Some(outcome) => {
                let next = self.settle(in_flight, outcome);
                self.ready.extend(next);
            }
            None if self.may_begin(&in_flight) => self.ready.push_back(in_flight),
            None => {}
        }
    }

    /// Books what became of an attempt; gives the next record of the lane, to begin now.
    fn settle(&mut self, in_flight: InFlightRecord, outcome: Outcome) -> Option<InFlightRecord> {
        let partition = self.partitions.get_mut(&in_flight.partition).filter(|p| p.start == in_flight.start)?;
        match outcome {
            Outcome::Done(mut effects) => {
                if in_flight.role == TopicRole::Waiting && effects.waiting.is_none() {
                    effects.waiting =
                        self.processor.failures.waiting().map(|waiting| Box::new(waiting.done(&in_flight.record)));
                }
                if partition.held.settle(&in_flight) && partition.state == PartitionState::Running {
                    self.metrics.trouble(&in_flight.partition.to_string(), None);
                    self.source.control(Control::Note(vec![(in_flight.partition.clone(), None)]));
                    // Where the head is not due yet the source goes on once it is.
                    if !partition.delay.is_told() {
                        self.source.control(Control::Resume(vec![in_flight.partition.clone()]));
                    }
                }
                let next = partition.begun.leave(in_flight.lane);
                self.commit_queues.finish(FinishedRecord::new(in_flight, effects, self.clock.elapsed()), partition);
                next
            }
            Outcome::Retry(pause, why) => {
                let failed = in_flight.failed + 1;
                let why = format!("offset {} failed and is tried again: {why}", in_flight.record.offset);
                let first_failed_ms = in_flight.first_failed_ms.or(Some(self.clock.now().millis()));
                self.note(&in_flight.partition, Some(why));
                self.hold(
                    InFlightRecord { failed, first_failed_ms, ..in_flight },
                    self.clock.elapsed().saturating_add(pause),
                );
                None
            }
            Outcome::Wait(pause, why) => {
                self.waits(&in_flight, why);
                // Whoever asks to wait may name any time.
                self.hold(in_flight, self.clock.elapsed().saturating_add(pause));
                None
            }
            Outcome::Refused(until, why) => {
                self.waits(&in_flight, why);
                self.hold(in_flight, until);
                None
            }
            Outcome::Outage(pause, why) => {
                self.waits(&in_flight, why);
                let probed = in_flight.probed.saturating_add(1);
                self.hold(InFlightRecord { probed, ..in_flight }, self.clock.elapsed() + pause);
                None
            }
        }
    }

    /// Tells why a partition waits, once.
    fn waits(&mut self, in_flight: &InFlightRecord, why: String) {
        let id = &in_flight.partition;
        let running = self.partitions.get(id).is_some_and(|p| p.state == PartitionState::Running);
        if running && self.metrics.trouble(&id.to_string(), Some(&why)) {
            tracing::warn!(group = %self.processor.group.id, partition = %id, reason = why, "a partition waits");
            self.note(id, Some(why));
        }
    }

    /// Keeps a record for another attempt and holds its partition until then.
    fn hold(&mut self, in_flight: InFlightRecord, until: Duration) {
        let Some(partition) = self.partitions.get_mut(&in_flight.partition) else { return };
        if partition.state != PartitionState::Running || self.stopping.is_some() {
            partition.let_go_of(&in_flight);
            return;
        }
        if partition.held.is_empty() {
            self.source.control(Control::Pause(vec![in_flight.partition.clone()]));
        }
        partition.held.hold(in_flight, until);
    }

    /// Begins what is ready, as far as there are places.
    fn begin_ready(&mut self) {
        while self.running.len() < self.settings.concurrency || self.stopping.is_some() {
            let Some(in_flight) = self.ready.pop_front() else { return };
            if self.may_begin(&in_flight) {
                self.begin(in_flight);
            }
        }
    }

    /// Whether a record may still begin; where its partition begins nothing any more, that lets go of it.
    fn may_begin(&mut self, in_flight: &InFlightRecord) -> bool {
        let ours = self.partitions.get_mut(&in_flight.partition).filter(|p| p.start == in_flight.start);
        let Some(partition) = ours else { return false };
        let may = partition.state == PartitionState::Running && self.stopping.is_none();
        if !may {
            partition.let_go_of(in_flight);
        }
        may
    }

    /// Has the source tell outside why a partition stands still.
    fn note(&mut self, id: &TopicPartition, why: Option<String>) {
        self.source.control(Control::Note(vec![(id.clone(), why)]));
    }

    /// Makes held records ready whose pause is over: of those that wait for a circuit first the ones that have probed it least,
    /// so that a record which always fails leaves the next probe to others.
    fn release_holds(&mut self) {
        if self.stopping.is_some() {
            return;
        }
        let now = self.clock.elapsed();
        let mut records: Vec<InFlightRecord> = self.partitions.values_mut().flat_map(|p| p.held.due(now)).collect();
        records.sort_by_key(|in_flight| in_flight.probed);
        self.ready.extend(records);
    }

    /// Tells the source which positions are durable.
    fn report_moves(&mut self) {
        if !self.moved.is_empty() {
            let position = |(partition, next)| Position { partition, next };
            let positions = std::mem::take(&mut self.moved).into_iter().map(position).collect();
            self.source.control(Control::Commit(positions));
        }
    }

    fn stop(&mut self) {
        self.stopping = Some(self.clock.elapsed() + self.settings.drain);
        self.partitions.values_mut().for_each(Partition::let_go);
    }

    fn gave_up(&self) -> bool {
        self.stopping.is_some_and(|by| by <= self.clock.elapsed())
    }

    fn is_quiet(&self) -> bool {
        self.partitions.values().all(Partition::is_quiet)
    }

    fn must_flush(&self) -> bool {
        self.stopping.is_some() || self.partitions.values().any(|p| matches!(p.state, PartitionState::Leaving(_)))
    }

    fn under_way(&self) -> usize {
        // What a transaction must hold back until the position reaches it is under way still.
        let atomic = self.commit_queues.is_atomic();
        let records = |p: &Partition| if atomic { p.open() } else { p.begun.len() };
        self.partitions.values().map(records).sum::<usize>() + self.commit_queues.waiting()
    }

    /// When something is due that no event announces.
    fn next_wake(&self) -> Option<Duration> {
        let wakes = self.partitions.values().filter_map(|p| match p.state {
            PartitionState::Leaving(by) => Some(by),
            _ if self.stopping.is_some() => None,
            _ => p.next_wake(),
        });
        let waiting = self.waiting_wakes().into_iter().map(|(_, at)| at);
        let wakes = wakes.chain(waiting.filter(|at| self.stopping.is_none() && *at < Duration::MAX));
        wakes.chain(self.stopping).chain(self.commit_queues.next_wake(&self.partitions)).min()
    }

    /// Tells others where the partitions stand: once a second, and once nothing is under way.
    fn report_progress(&mut self, now: Duration) {
        if self.progress_changed && (now >= self.progress_at || self.is_quiet()) {
            let read = self.partitions.iter().filter(|(_, p)| p.role != TopicRole::Waiting);
            self.metrics.set_progress(read.map(|(id, p)| (id.clone(), p.progress())).collect());
            self.progress_changed = false;
            self.progress_at = now + PROGRESS_INTERVAL;
        }
    }

    fn count_partitions(&mut self) {
        self.progress_changed = true;
        let read = || self.partitions.values().filter(|p| p.role != TopicRole::Waiting);
        let stopped = read().filter(|p| p.state == PartitionState::Stopped).count();
        self.metrics.set(Metric::Partitions, read().count() as u64);
        self.metrics.set(Metric::Stopped, stopped as u64);
    }

    fn failed(&self, why: String) -> WorkerError {
        self.metrics.trouble("group", Some(&why));
        WorkerError::Failed { group: self.processor.group.id.clone(), why }
    }

    fn halted(&self, why: String) -> WorkerError {
        self.metrics.trouble("group", Some(&why));
        WorkerError::Halted { group: self.processor.group.id.clone(), why }
    }
}

#[cfg(test)]
mod tests;
