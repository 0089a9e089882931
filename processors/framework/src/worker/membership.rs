//! Partitions that come and go: what the source reports of its group, and what another owner has taken.

pub(crate) mod assignment;
pub(crate) mod progress_report;
pub(crate) mod source_handle;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use self::{assignment::Assignment, progress_report::ProgressReport, source_handle::SourceHandle};
use super::{
    attempt::{in_flight::InFlightRecord, outcomes::STATE_PAUSE},
    commit::{commit_queues::CommitQueues, refusals::Refusals},
    error::WorkerError,
    group_state::GroupState,
    partition::{Partition, PartitionState},
};
use crate::{
    failure::backoff::Backoff,
    pipeline::{ConsumerGroup, Work, settings::GroupSettings},
    ports::{Clock, Control, SourceEvent, StartFrom, StoreError},
    telemetry::metrics::{GroupMetrics, Metric},
    wire::{
        group_topics::{GroupTopics, TopicRole},
        record::{Position, TopicPartition},
    },
};

/// What a member of the group has of it, and tells the source about it.
pub(crate) struct Membership {
    pub(crate) group: Arc<ConsumerGroup>,
    pub(crate) assignment: Assignment,
    pub(crate) source: SourceHandle,
    pub(crate) commit_queues: CommitQueues,
    /// Positions that are durable and not yet told to the source.
    pub(crate) moved: BTreeMap<TopicPartition, i64>,
    pub(crate) refusals: Refusals,
    pub(crate) state: Arc<GroupState>,
    pub(crate) progress: ProgressReport,
    pub(crate) metrics: Arc<GroupMetrics>,
    pub(crate) clock: Arc<dyn Clock>,
    /// How long what is under way may take when a partition leaves.
    drain: Duration,
    /// Pauses after an outage.
    pub(crate) backoff: Backoff,
}

impl Membership {
    /// A member that has no partitions yet.
    pub(crate) fn new(
        group: Arc<ConsumerGroup>,
        settings: &GroupSettings,
        source: SourceHandle,
        commit_queues: CommitQueues,
        state: Arc<GroupState>,
        metrics: Arc<GroupMetrics>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            group,
            assignment: Assignment::default(),
            source,
            commit_queues,
            moved: BTreeMap::new(),
            refusals: Refusals::default(),
            state,
            progress: ProgressReport::default(),
            metrics,
            clock,
            drain: settings.drain,
            backoff: settings.backoff,
        }
    }

    /// Handles what the source reports.
    pub(crate) fn on_source_event(&mut self, event: SourceEvent) -> Result<(), WorkerError> {
        match event {
            SourceEvent::Records(batch) => {
                let known = self.assignment.partitions.get_mut(&batch.partition);
                let ours = known.filter(|p| p.reading == Some(batch.start));
                if let Some(partition) = ours.filter(|p| p.state == PartitionState::Running) {
                    partition.receive(batch.records, batch.next);
                    // What finished behind a record that was let go of, and is there no more, waits for nothing.
                    if let Some(next) = self.commit_queues.pass(partition) {
                        partition.offsets.advance(next);
                        self.moved.insert(batch.partition, next);
                    }
                    self.progress.change();
                }
            }
            SourceEvent::Assigned(partitions) => {
                partitions.into_iter().for_each(|id| self.restart(id, Duration::ZERO));
                self.stop_apart();
                // Behind what makes them count as not begun.
                self.metrics.joined();
            }
            SourceEvent::Revoked(partitions) => self.leave(partitions),
            SourceEvent::Lost(partitions) => self.forget(&partitions),
            SourceEvent::Connected(state) => {
                let why = state.as_ref().err().map(String::as_str);
                if self.metrics.trouble("kafka", why) {
                    match why {
                        Some(why) => tracing::warn!(group = %self.group.id, error = why, "kafka does not answer"),
                        None => tracing::info!(group = %self.group.id, "kafka answers again"),
                    }
                }
            }
            SourceEvent::Displaced(why) => {
                tracing::warn!(group = %self.group.id, reason = why, "the group waits");
                self.metrics.trouble("group", Some(&why));
            }
            SourceEvent::Failed(why) => return Err(self.failed(why)),
            SourceEvent::Halted(why) => return Err(self.halted(why)),
            SourceEvent::Closed => return Err(self.failed("the consumer closed by itself".to_owned())),
        }
        Ok(())
    }

    /// State belongs to a partition's number: what was assigned without its namesakes is not begun. Another assignment may
    /// mend it.
    fn stop_apart(&mut self) {
        let state = Arc::clone(&self.state);
        for (number, topic) in state.apart(self.assignment.partitions.keys()) {
            let why = format!(
                "partition {number} of {topic} is not assigned here together with those of its number: the topics {} must exist with one partition count (`headwater topology apply`), and every instance must read the same ones",
                state.co_partitioned().join(", ")
            );
            tracing::error!(group = %self.group.id, number, error = why, "partitions of a group that keeps state are not begun");
            let apart = |id: &TopicPartition| id.partition == number && state.is_co_partitioned(id);
            for (id, partition) in self.assignment.partitions.iter_mut().filter(|(id, _)| apart(id)) {
                partition.state = PartitionState::Stopped;
                self.metrics.trouble(&id.to_string(), Some(&why));
            }
        }
        self.count_partitions();
    }

    /// Starts a partition, or starts it anew, from where the store says.
    pub(crate) fn restart(&mut self, id: TopicPartition, after: Duration) {
        if self.state.is_kept() {
            self.state.forget(id.partition);
            // What is under way of the others of its number may rest on what is forgotten.
            let rests = |other: &TopicPartition, p: &Partition| {
                *other != id && other.partition == id.partition && matches!(p.state, PartitionState::Running)
            };
            let others = self.assignment.partitions.iter().filter(|(other, p)| rests(other, p));
            let others: Vec<_> = others.map(|(other, _)| other.clone()).collect();
            others.into_iter().for_each(|other| self.restart_alone(other, after));
        }
        let place = self.state.waiting_place(id.partition);
        self.restart_alone(id, after);
        let new = place.filter(|place| !self.assignment.partitions.contains_key(place));
        new.into_iter().for_each(|place| self.restart_alone(place, after));
    }

    fn restart_alone(&mut self, id: TopicPartition, after: Duration) {
        let start = self.assignment.next_start();
        self.metrics.trouble(&id.to_string(), None);
        let stands = |p: &Partition| !p.held.is_empty() || p.state == PartitionState::Stopped;
        if self.assignment.partitions.get(&id).is_some_and(stands) {
            self.note(&id, None);
        }
        let id = self.assignment.shared(id);
        let partitions = &mut self.assignment.partitions;
        let role = self.group.group_topics().map_or(TopicRole::Input, |topics| topics.role(&id.topic));
        // One that is ours already stays where its units are under way.
        let known = partitions.get(&id).map(|p| p.commit_queue);
        let commit_queue = known.unwrap_or_else(|| self.commit_queues.assign(&id, partitions));
        let in_order = matches!(self.group.work, Work::Stateful(_));
        let at = self.clock.elapsed() + after;
        partitions.insert(id, Partition::new(role, start, at, commit_queue, in_order));
        self.count_partitions();
    }

    fn leave(&mut self, partitions: Vec<TopicPartition>) {
        let deadline = self.clock.elapsed() + self.drain;
        let mut unknown = Vec::new();
        for id in partitions {
            if !self.leave_one(&id, deadline) {
                unknown.push(id);
                continue;
            }
            // Records that wait leave with the last partition of their number.
            let stays = |p: &Partition| p.role != TopicRole::Waiting && !matches!(p.state, PartitionState::Leaving(_));
            let mut namesakes = self.assignment.partitions.iter().filter(|(other, _)| other.partition == id.partition);
            if let Some(place) = self.state.waiting_place(id.partition)
                && !namesakes.any(|(_, p)| stays(p))
            {
                self.leave_one(&place, deadline);
            }
        }
        if !unknown.is_empty() {
            self.source.control(Control::Released(unknown));
        }
    }

    /// Begins nothing more of a partition; false where it is not ours.
    fn leave_one(&mut self, id: &TopicPartition, deadline: Duration) -> bool {
        let ours = self.assignment.leave(id, deadline);
        if ours {
            self.metrics.trouble(&id.to_string(), None);
        }
        ours
    }

    /// Gives back the partitions of which nothing is under way any more, or whose time is up, and those that have only a store
    /// to wait for which does not answer, or the whole group would wait with us (not where the group keeps state, as what is
    /// under way of a number rests on all of it): those of a number once its records that waited are done with too, since
    /// whoever comes next reads those.
    pub(crate) fn let_leavers_go(&mut self) {
        let (now, keeps, partitions) = (self.clock.elapsed(), self.state.is_kept(), &self.assignment.partitions);
        let of_number = |id: &TopicPartition| partitions.get(&self.state.waiting_place(id.partition)?);
        let done = |p: &Partition| {
            p.is_quiet() || !keeps && p.begun.len() == 0 && self.commit_queues.at(p.commit_queue).is_at_rest()
        };
        let quiet = |id: &TopicPartition, p: &Partition| done(p) && of_number(id).is_none_or(done);
        let gone = |(id, p): &(&TopicPartition, &Partition)| matches!(p.state, PartitionState::Leaving(by) if by <= now || quiet(id, p));
        let gone: Vec<_> = partitions.iter().filter(gone).map(|(id, _)| id.clone()).collect();
        if !gone.is_empty() {
            self.report_moves();
            self.forget(&gone);
            self.source.control(Control::Released(gone));
        }
    }

    fn forget(&mut self, ids: &[TopicPartition]) {
        for id in ids {
            self.forget_one(id);
            // State, and the records that wait, are the number's: they go with the last partition of it.
            let of_number = |(other, p): (&TopicPartition, &Partition)| {
                other.partition == id.partition && p.role != TopicRole::Waiting
            };
            if !self.state.is_kept() || self.assignment.partitions.iter().any(of_number) {
                continue;
            }
            self.state.forget(id.partition);
            if let Some(place) = self.state.waiting_place(id.partition) {
                self.forget_one(&place);
            }
        }
        self.count_partitions();
    }

    fn forget_one(&mut self, id: &TopicPartition) {
        if let Some(partition) = self.assignment.partitions.remove(id)
            && partition.role != TopicRole::Waiting
        {
            self.commit_queues.of(partition.commit_queue).forget(id);
        }
        self.moved.remove(id);
        self.refusals.forget(id);
        self.metrics.trouble(&id.to_string(), None);
    }

    /// Gives a partition that leaves back at once, whatever of it is under way: in a group that keeps state with all of its
    /// number that leave, since what is under way of those may rest on that.
    pub(crate) fn release(&mut self, id: &TopicPartition) {
        let keeps = self.state.is_kept();
        let leaves = |(other, p): &(&TopicPartition, &Partition)| {
            *other == id
                || keeps
                    && other.partition == id.partition
                    && p.role != TopicRole::Waiting
                    && matches!(p.state, PartitionState::Leaving(_))
        };
        let all = self.assignment.partitions.iter().filter(leaves);
        let all: Vec<_> = all.map(|(other, _)| other.clone()).collect();
        if !all.is_empty() {
            self.forget(&all);
            self.source.control(Control::Released(all));
        }
    }

    /// The store has said where this start of a partition begins.
    pub(crate) fn begin_partition(&mut self, id: TopicPartition, start: u64, from: StartFrom) {
        let starting = |p: &Partition| p.start == start && matches!(p.state, PartitionState::Starting(_));
        if !self.assignment.partitions.get(&id).is_some_and(starting) {
            return;
        }
        if let Err(error) = self.begin_waiting(id.partition) {
            tracing::error!(group = %self.group.id, partition = %id, error = error.0, "a partition waits: its records that wait cannot be read");
            self.restart(id.clone(), STATE_PAUSE);
            self.metrics.trouble(&id.to_string(), Some(&error.0));
            return;
        }
        let Some(partition) = self.assignment.partitions.get_mut(&id) else { return };
        partition.run(from);
        self.count_starting();
        self.source.control(Control::Begin { partition: id.clone(), from, start });
        // A partition that starts anew may have been held before.
        self.source.control(Control::Resume(vec![id]));
    }

    /// Reads the records that wait under a number, whose state can be read now.
    fn begin_waiting(&mut self, number: i32) -> Result<(), StoreError> {
        let Some(waiting) = self.state.waiting() else { return Ok(()) };
        // An input whose records are repartitioned may have partitions of higher numbers: there is no state for those.
        let own = TopicPartition::new(GroupTopics::of(&self.group.id).redrive(), number);
        if !self.assignment.partitions.contains_key(&own) {
            return Ok(());
        }
        waiting.load(number, self.clock.as_ref())?;
        let starting = |p: &&mut Partition| matches!(p.state, PartitionState::Starting(_));
        if let Some(partition) = self.assignment.partitions.get_mut(&waiting.place(number)).filter(starting) {
            partition.state = PartitionState::Running;
        }
        Ok(())
    }

    /// Another owner has these partitions. If the group still gives them to us we take them again, with back-off.
    pub(crate) fn fenced(&mut self, partitions: Vec<TopicPartition>) {
        for id in partitions {
            self.metrics.add(Metric::Fenced, 1);
            tracing::warn!(group = %self.group.id, partition = %id, "another owner has committed this partition; starting it anew");
            match self.assignment.partitions.get(&id).map(|p| p.state) {
                // Gone already, or about to take possession again.
                None | Some(PartitionState::Starting(_)) => {}
                Some(PartitionState::Leaving(_)) => self.release(&id),
                Some(PartitionState::Running | PartitionState::Stopped) => {
                    self.source.control(Control::Pause(vec![id.clone()]));
                    self.restart(id, self.backoff.after(1));
                }
            }
        }
    }

    /// Tells why a partition waits, once.
    pub(crate) fn waits(&mut self, in_flight: &InFlightRecord, why: String) {
        let id = &in_flight.partition;
        let running = self.assignment.partitions.get(id).is_some_and(|p| p.state == PartitionState::Running);
        if running && self.metrics.trouble(&id.to_string(), Some(&why)) {
            tracing::warn!(group = %self.group.id, partition = %id, reason = why, "a partition waits");
            self.note(id, Some(why));
        }
    }

    /// Has the source tell outside why a partition stands still.
    pub(crate) fn note(&mut self, id: &TopicPartition, why: Option<String>) {
        self.source.control(Control::Note(vec![(id.clone(), why)]));
    }

    /// Tells the source which positions are durable.
    pub(crate) fn report_moves(&mut self) {
        if !self.moved.is_empty() {
            let position = |(partition, next)| Position { partition, next };
            let positions = std::mem::take(&mut self.moved).into_iter().map(position).collect();
            self.source.control(Control::Commit(positions));
        }
    }

    /// Tells others where the partitions stand: once a second, and once nothing is under way.
    pub(crate) fn report_progress(&mut self, now: Duration) {
        if self.progress.is_due(now, || self.assignment.is_quiet()) {
            let read = self.assignment.partitions.iter().filter(|(_, p)| p.role != TopicRole::Waiting);
            self.metrics.set_progress(read.map(|(id, p)| (id.clone(), p.progress())).collect());
        }
    }

    pub(crate) fn count_partitions(&mut self) {
        self.progress.change();
        let read = || self.assignment.partitions.values().filter(|p| p.role != TopicRole::Waiting);
        let stopped = read().filter(|p| p.state == PartitionState::Stopped).count();
        self.metrics.set(Metric::Partitions, read().count() as u64);
        self.metrics.set(Metric::Stopped, stopped as u64);
        self.count_starting();
    }

    fn count_starting(&self) {
        let read = self.assignment.partitions.values().filter(|p| p.role != TopicRole::Waiting);
        self.metrics.set_starting(read.filter(|p| matches!(p.state, PartitionState::Starting(_))).count());
    }

    pub(crate) fn failed(&self, why: String) -> WorkerError {
        self.metrics.trouble("group", Some(&why));
        WorkerError::Failed { group: self.group.id.clone(), why }
    }

    pub(crate) fn halted(&self, why: String) -> WorkerError {
        self.metrics.trouble("group", Some(&why));
        WorkerError::Halted { group: self.group.id.clone(), why }
    }
}
