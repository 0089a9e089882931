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

mod group_state;
mod membership;
mod shutdown;

pub use error::WorkerError;

use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt;

use self::{
    attempt::{
        attempt_pool::{AttemptEnd, AttemptPool},
        in_flight::{AttemptState, InFlightRecord, Outcome},
        outcomes::Outcomes,
        record_processor::RecordProcessor,
        record_reader::RecordReader,
        schema_prefetch::SchemaPrefetch,
    },
    commit::{commit_queues::CommitQueues, commit_results::CommitResults, finished_record::FinishedRecord},
    deps::WorkerDeps,
    membership::{Membership, source_handle::SourceHandle},
    partition::{Next, Partition, PartitionState, anchor},
    schedule::failures::Failures,
    shutdown::Shutdown,
};
use crate::{
    failure::{DeadLetterKind, failure_report::FailureReport},
    pipeline::settings::GroupSettings,
    ports::{Clock, Control, SourceEvent},
    telemetry::metrics::{GroupMetrics, Metric},
    wire::{group_topics::TopicRole, record::TopicPartition},
};

/// Records begun in a row before the worker looks around for commits and control events.
const TURN: usize = 1_000;
/// A partition may be this many times the records in flight ahead of a record that is slow: each costs memory until the
/// position passes it, published or not.
const AHEAD: usize = 4;

/// The engine of one consumer group in one process.
pub struct Worker {
    settings: GroupSettings,
    processor: Arc<RecordProcessor>,
    attempts: AttemptPool,
    /// Schemas that records will need which wait for their key.
    prefetch: SchemaPrefetch,
    membership: Membership,
    shutdown: Shutdown,
    metrics: Arc<GroupMetrics>,
    clock: Arc<dyn Clock>,
}

impl Worker {
    /// Makes sure that the group can work before it joins: looks up what it emits in the registry, asks for its store, and
    /// waits through their outages. A member that joined before would hold partitions that others could work on.
    pub async fn build(parts: WorkerDeps) -> Result<Self, WorkerError> {
        let WorkerDeps { group, catalogue, settings, source, mut committers, stores, schemas, clock, metrics, tracing } =
            parts;
        let encoders = deps::encoders(&group, &settings, &schemas, clock.as_ref(), &metrics).await?;
        deps::reach(&group, &settings, &mut committers, clock.as_ref(), &metrics).await?;
        let circuits = deps::circuits(&group, &settings, &metrics)?;
        let retry_mode = deps::retry_mode(&group, &settings, stores.as_ref(), &metrics)?;
        let state = Arc::new(deps::state(&group, &settings, stores, &retry_mode, &catalogue)?);
        let outcomes = Arc::new(Outcomes {
            group: group.id.clone(),
            catalogue,
            failures: Failures::new(&group, &settings, retry_mode, tracing.clone()),
            tracing,
            metrics: Arc::clone(&metrics),
            clock: Arc::clone(&clock),
        });
        let processor = RecordProcessor {
            reader: RecordReader {
                interest: group.work.interest(),
                record_limit: settings.max_record_bytes,
                outcomes: Arc::clone(&outcomes),
            },
            schemas: Arc::clone(&schemas),
            work: deps::record_work(&group, &settings, circuits, encoders, &state, &outcomes),
            outcomes,
        };
        let source = SourceHandle::new(source, state.waiting_place(0).map(|place| place.topic));
        let commit_queues = CommitQueues::new(committers, &settings);
        let membership = Membership::new(
            Arc::new(group),
            &settings,
            source,
            commit_queues,
            state,
            Arc::clone(&metrics),
            Arc::clone(&clock),
        );
        Ok(Self {
            processor: Arc::new(processor),
            attempts: AttemptPool::new(settings.concurrency),
            prefetch: SchemaPrefetch::new(schemas),
            membership,
            shutdown: Shutdown::default(),
            settings,
            metrics,
            clock,
        })
    }

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
                () = &mut stop, if !self.shutdown.has_begun() => self.stop(),
                (at, reply) = self.membership.commit_queues.done() => {
                    CommitResults::of(at, &mut self.membership, &self.processor.outcomes).book(reply)?;
                }
                end = self.attempts.next() => self.on_attempt_end(end),
                () = self.prefetch.answered() => {}
                event = self.membership.source.next(records) => match event {
                    SourceEvent::Closed if self.shutdown.is_closing() => return Ok(()),
                    event => self.membership.on_source_event(event)?,
                },
                () = std::future::ready(()), if more => {}
                () = sleep => {
                    if self.shutdown.is_closing() && self.gave_up() {
                        tracing::warn!(group = %self.membership.group.id, "the source did not close in time; its last positions may be read again");
                        return Ok(());
                    }
                }
            }
        }
    }

    /// Does all that can be done now without waiting; true when there is more to begin at once.
    fn turn(&mut self) -> bool {
        let stopping = self.shutdown.has_begun();
        if !stopping {
            self.membership.assignment.release_holds(self.clock.elapsed());
        }
        self.begin_ready();
        self.wake_waiting();
        let more = self.dispatch();
        if !stopping {
            self.membership.assignment.read_again(&mut self.membership.source);
        }
        self.membership.let_leavers_go();
        if stopping && !self.shutdown.is_closing() && (self.gave_up() || self.membership.assignment.is_quiet()) {
            self.close();
        }
        let (now, flush) = (self.clock.elapsed(), stopping || self.membership.assignment.is_leaving());
        self.membership.commit_queues.advance(now, flush, &self.membership.assignment.partitions);
        self.membership.report_moves();
        self.metrics.set(Metric::InFlight, self.under_way() as u64);
        self.membership.report_progress(now);
        more
    }

    /// Begins what may begin, a partition after the other; true when it stopped only to look around.
    fn dispatch(&mut self) -> bool {
        if self.shutdown.has_begun() {
            return false;
        }
        let room = self.settings.in_flight.saturating_sub(self.under_way());
        let mut left = room.min(TURN);
        let ahead = self.settings.in_flight.saturating_mul(AHEAD);
        let flowing = |p: &Partition| p.flows() && !p.pending.is_empty() && p.open() < ahead;
        let partitions = self.membership.assignment.partitions.iter();
        let ids: Vec<_> = partitions.filter(|(_, p)| flowing(p)).map(|(id, _)| id.clone()).collect();
        for id in ids {
            if self.delay(&id) {
                continue;
            }
            while left > 0
                && self.attempts.has_place()
                && self.membership.commit_queues.bytes() < self.settings.in_flight_bytes
            {
                let known = self.membership.assignment.partitions.get_mut(&id);
                let Some(partition) = known.filter(|p| flowing(p)) else { break };
                if partition.due(self.clock.as_ref(), &self.membership.group.id).is_some() {
                    self.delay(&id);
                    break;
                }
                let Some(next) = partition.next_record(&id) else { break };
                left -= 1;
                match next {
                    Next::Begins(in_flight) => self.begin(in_flight),
                    Next::Waits(schema) => schema.into_iter().for_each(|id| self.prefetch.ask(id)),
                }
            }
        }
        left == 0 && room > TURN
    }

    /// Has records that waited in the group's state begin whose time has come.
    fn wake_waiting(&mut self) {
        let now = self.clock.elapsed();
        for (id, _) in self.waiting_wakes().into_iter().filter(|(_, at)| *at <= now) {
            let due = self.membership.state.waiting().map(|waiting| waiting.due(id.partition, now));
            if let Some(partition) = self.membership.assignment.partitions.get_mut(&id) {
                partition.wake(due.unwrap_or_default());
            }
        }
    }

    /// When records that wait in the group's state are due, of the partitions that flow.
    fn waiting_wakes(&self) -> Vec<(TopicPartition, Duration)> {
        let Some(waiting) = self.membership.state.waiting() else { return Vec::new() };
        let partitions = &self.membership.assignment.partitions;
        let place = |(number, at)| {
            let id = waiting.place(number);
            let flows = partitions.get(&id).is_some_and(Partition::flows);
            (flows && anchor(partitions, number).is_some()).then_some((id, at))
        };
        waiting.wakes().into_iter().filter_map(place).collect()
    }

    /// Whether the head of a partition is not due yet. Where that takes a while the source is told, so that a partition
    /// full of waiting records takes no room from the others.
    fn delay(&mut self, id: &TopicPartition) -> bool {
        let Some(partition) = self.membership.assignment.partitions.get_mut(id) else { return true };
        let due = partition.due(self.clock.as_ref(), &self.membership.group.id);
        let left = due.map(|at| at.saturating_sub(self.clock.elapsed()));
        if let Some(delayed) = partition.delay.tell(left, partition.pending.len()) {
            let ids = vec![id.clone()];
            self.membership.source.control(if delayed { Control::Pause(ids) } else { Control::Resume(ids) });
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
                    self.attempts.run(running);
                    None
                }
                AttemptState::Fetching(fetching) => {
                    self.attempts.fetch(fetching);
                    None
                }
                AttemptState::Over(in_flight, outcome) => self.settle(in_flight, outcome),
            };
        }
    }

    /// What becomes of a record whose effects were refused when it was processed before.
    fn refused_before(&self, in_flight: &InFlightRecord) -> Option<Outcome> {
        let why = self.membership.refusals.get(&in_flight.partition, in_flight.record.offset)?;
        Some(self.processor.outcomes.dead(in_flight, &FailureReport::new(DeadLetterKind::Rejected, why), None))
    }

    /// Goes on with an attempt that is not under way any more, and with the others of which that is so too.
    fn on_attempt_end(&mut self, end: AttemptEnd) {
        let mut next = Some(end);
        while let Some(end) = next {
            next = match end {
                AttemptEnd::Over(in_flight, outcome) => {
                    if let Some(freed) = self.settle(in_flight, outcome) {
                        self.begin(freed);
                    }
                    self.attempts.next_over()
                }
                AttemptEnd::Fetched(in_flight, over) => {
                    self.looked_up(in_flight, over);
                    self.attempts.next_fetched()
                }
            };
        }
    }

    /// Books what became of a look-up in the registry.
    fn looked_up(&mut self, in_flight: InFlightRecord, over: Option<Outcome>) {
        let next = match over {
            // It took no place: what waited behind it needs one.
            Some(outcome) => self.settle(in_flight, outcome),
            None => Some(in_flight).filter(|one| self.membership.assignment.may_begin(one, self.shutdown.has_begun())),
        };
        self.membership.assignment.make_ready(next);
    }

    /// Books what became of an attempt; gives the next record of the lane, to begin now.
    fn settle(&mut self, in_flight: InFlightRecord, outcome: Outcome) -> Option<InFlightRecord> {
        let Membership { assignment, source, commit_queues, state, .. } = &mut self.membership;
        let partition = assignment.of(&in_flight)?;
        match outcome {
            Outcome::Done(mut effects) => {
                if in_flight.role == TopicRole::Waiting && effects.waiting.is_none() {
                    effects.waiting = state.waiting().map(|waiting| Box::new(waiting.done(&in_flight.record)));
                }
                if partition.held.settle(&in_flight) && partition.state == PartitionState::Running {
                    self.metrics.trouble(&in_flight.partition.to_string(), None);
                    source.control(Control::Note(vec![(in_flight.partition.clone(), None)]));
                    // Where the head is not due yet the source goes on once it is.
                    if !partition.delay.is_told() {
                        source.control(Control::Resume(vec![in_flight.partition.clone()]));
                    }
                }
                let next = partition.begun.leave(in_flight.lane);
                commit_queues.finish(FinishedRecord::new(in_flight, effects, self.clock.elapsed()), partition);
                next
            }
            Outcome::Retry(pause, why) => {
                let failed = in_flight.failed + 1;
                let why = format!("offset {} failed and is tried again: {why}", in_flight.record.offset);
                let first_failed_ms = in_flight.first_failed_ms.or(Some(self.clock.now().millis()));
                self.membership.note(&in_flight.partition, Some(why));
                self.hold(
                    InFlightRecord { failed, first_failed_ms, ..in_flight },
                    self.clock.elapsed().saturating_add(pause),
                );
                None
            }
            Outcome::Wait(pause, why) => {
                self.membership.waits(&in_flight, why);
                // Whoever asks to wait may name any time.
                self.hold(in_flight, self.clock.elapsed().saturating_add(pause));
                None
            }
            Outcome::Refused(until, why) => {
                self.membership.waits(&in_flight, why);
                self.hold(in_flight, until);
                None
            }
            Outcome::Outage(pause, why) => {
                self.membership.waits(&in_flight, why);
                let probed = in_flight.probed.saturating_add(1);
                self.hold(InFlightRecord { probed, ..in_flight }, self.clock.elapsed() + pause);
                None
            }
        }
    }

    /// Keeps a record for another attempt and holds its partition until then.
    fn hold(&mut self, in_flight: InFlightRecord, until: Duration) {
        let Some(partition) = self.membership.assignment.partitions.get_mut(&in_flight.partition) else { return };
        if partition.state != PartitionState::Running || self.shutdown.has_begun() {
            partition.let_go_of(&in_flight);
            return;
        }
        if partition.held.is_empty() {
            self.membership.source.control(Control::Pause(vec![in_flight.partition.clone()]));
        }
        partition.held.hold(in_flight, until);
    }

    /// Begins what is ready, as far as there are places.
    fn begin_ready(&mut self) {
        let stopping = self.shutdown.has_begun();
        while self.attempts.has_place() || stopping {
            let Some(in_flight) = self.membership.assignment.next_ready(stopping) else { return };
            self.begin(in_flight);
        }
    }

    fn stop(&mut self) {
        self.shutdown.begin(self.clock.elapsed() + self.settings.drain);
        self.membership.assignment.let_go();
    }

    /// Nothing is under way any more, or it is given up: the source closes.
    fn close(&mut self) {
        self.membership.report_moves();
        // Whoever comes next may go on with what is ours any moment.
        self.membership.commit_queues.close();
        self.shutdown.close(self.clock.elapsed() + self.settings.drain);
        self.membership.source.control(Control::Close);
    }

    fn gave_up(&self) -> bool {
        self.shutdown.gave_up(self.clock.elapsed())
    }

    /// Whether more may be read.
    fn has_room(&mut self) -> bool {
        let committing = self.membership.commit_queues.bytes();
        self.membership.assignment.has_room(&self.settings, committing) && !self.shutdown.has_begun()
    }

    fn under_way(&self) -> usize {
        let commit_queues = &self.membership.commit_queues;
        self.membership.assignment.under_way(commit_queues.is_atomic()) + commit_queues.waiting()
    }

    /// When something is due that no event announces.
    fn next_wake(&self) -> Option<Duration> {
        let (stopping, membership) = (self.shutdown.has_begun(), &self.membership);
        let waiting = self.waiting_wakes().into_iter().map(|(_, at)| at);
        let waiting = waiting.filter(|at| !stopping && *at < Duration::MAX);
        let wakes = waiting.chain(membership.assignment.next_wake(stopping)).chain(self.shutdown.gives_up());
        wakes.chain(membership.commit_queues.next_wake(&membership.assignment.partitions)).min()
    }
}

#[cfg(test)]
mod tests;
