//! Partitions that come and go: what the source reports of its group, and what another owner has taken.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    Worker,
    attempt::stateful::STATE_PAUSE,
    error::WorkerError,
    partition::{Partition, PartitionState},
};
use crate::{
    pipeline::Work,
    ports::{Control, SourceEvent, StartFrom, StoreError},
    telemetry::metrics::Metric,
    wire::{group_topics::TopicRole, record::TopicPartition},
};

impl Worker {
    /// Handles what the source reports; true once it has closed.
    pub(super) fn on_source_event(&mut self, event: SourceEvent) -> Result<bool, WorkerError> {
        match event {
            SourceEvent::Records(batch) => {
                let ours = self.partitions.get_mut(&batch.partition).filter(|p| p.reading == Some(batch.start));
                if let Some(partition) = ours.filter(|p| p.state == PartitionState::Running) {
                    partition.receive(batch.records, batch.next);
                    // What finished behind a record that was let go of, and is there no more, waits for nothing.
                    if let Some(next) = self.commit_queues.pass(partition) {
                        partition.offsets.advance(next);
                        self.moved.insert(batch.partition, next);
                    }
                    self.progress_changed = true;
                }
            }
            SourceEvent::Assigned(partitions) => {
                self.metrics.joined();
                partitions.into_iter().for_each(|id| self.restart(id, Duration::ZERO));
                self.stop_apart();
            }
            SourceEvent::Revoked(partitions) => self.leave(partitions),
            SourceEvent::Lost(partitions) => self.forget(&partitions),
            SourceEvent::Connected(state) => {
                let why = state.as_ref().err().map(String::as_str);
                if self.metrics.trouble("kafka", why) {
                    match why {
                        Some(why) => {
                            tracing::warn!(group = %self.processor.group.id, error = why, "kafka does not answer")
                        }
                        None => tracing::info!(group = %self.processor.group.id, "kafka answers again"),
                    }
                }
            }
            SourceEvent::Displaced(why) => {
                tracing::warn!(group = %self.processor.group.id, reason = why, "the group waits");
                self.metrics.trouble("group", Some(&why));
            }
            SourceEvent::Failed(why) => return Err(self.failed(why)),
            SourceEvent::Halted(why) => return Err(self.halted(why)),
            SourceEvent::Closed if self.closing => return Ok(true),
            SourceEvent::Closed => return Err(self.failed("the consumer closed by itself".to_owned())),
        }
        Ok(false)
    }

    /// State belongs to a partition's number: what was assigned without its namesakes is not begun. Another assignment may
    /// mend it.
    fn stop_apart(&mut self) {
        let processor = Arc::clone(&self.processor);
        let is_together = |id: &TopicPartition| processor.co_partitioned.iter().any(|topic| **topic == *id.topic);
        let numbers: BTreeSet<i32> =
            self.partitions.keys().filter(|id| is_together(id)).map(|id| id.partition).collect();
        for number in numbers {
            let missing = processor
                .co_partitioned
                .iter()
                .find(|topic| !self.partitions.contains_key(&TopicPartition::new(topic.as_str(), number)));
            let Some(topic) = missing else { continue };
            let why = format!(
                "partition {number} of {topic} is not assigned here together with those of its number: the topics {} must exist with one partition count (`headwater topology apply`), and every instance must read the same ones",
                processor.co_partitioned.join(", ")
            );
            tracing::error!(group = %processor.group.id, number, error = why, "partitions of a group that keeps state are not begun");
            let apart = |id: &TopicPartition| is_together(id) && id.partition == number;
            let ids: Vec<TopicPartition> = self.partitions.keys().filter(|id| apart(id)).cloned().collect();
            for id in ids {
                if let Some(partition) = self.partitions.get_mut(&id) {
                    partition.state = PartitionState::Stopped;
                }
                self.metrics.trouble(&id.to_string(), Some(&why));
            }
        }
        self.count_partitions();
    }

    /// Starts a partition, or starts it anew, from where the store says.
    pub(super) fn restart(&mut self, id: TopicPartition, after: Duration) {
        if let Some(states) = &self.processor.states {
            states.forget(id.partition);
            self.processor.failures.waiting().iter().for_each(|waiting| waiting.forget(id.partition));
            // What is under way of the others of its number may rest on what is forgotten.
            let rests = |other: &TopicPartition, p: &Partition| {
                *other != id && other.partition == id.partition && matches!(p.state, PartitionState::Running)
            };
            let others: Vec<_> =
                self.partitions.iter().filter(|(other, p)| rests(other, p)).map(|(other, _)| other.clone()).collect();
            others.into_iter().for_each(|other| self.restart_alone(other, after));
        }
        let place = self.processor.failures.waiting().map(|waiting| waiting.place(id.partition));
        self.restart_alone(id, after);
        let new = place.filter(|place| !self.partitions.contains_key(place));
        new.into_iter().for_each(|place| self.restart_alone(place, after));
    }

    fn restart_alone(&mut self, id: TopicPartition, after: Duration) {
        self.starts += 1;
        self.metrics.trouble(&id.to_string(), None);
        if self.partitions.get(&id).is_some_and(|p| !p.held.is_empty() || p.state == PartitionState::Stopped) {
            self.note(&id, None);
        }
        let id = self.shared(id);
        let role = self.processor.group.group_topics().map_or(TopicRole::Input, |topics| topics.role(&id.topic));
        // One that is ours already stays where its units are under way.
        let known = self.partitions.get(&id).map(|p| p.commit_queue);
        let commit_queue = known.unwrap_or_else(|| self.commit_queues.assign(&id, &self.partitions));
        let in_order = matches!(self.processor.group.work, Work::Stateful(_));
        let at = self.clock.elapsed() + after;
        self.partitions.insert(id, Partition::new(role, self.starts, at, commit_queue, in_order));
        self.count_partitions();
    }

    /// The partition with the name of its topic as others of that topic have it, which makes looking it up cheap.
    fn shared(&self, id: TopicPartition) -> TopicPartition {
        let known = self.partitions.keys().find(|known| known.topic == id.topic);
        known.map_or(id.clone(), |known| TopicPartition { topic: known.topic.clone(), ..id })
    }

    fn leave(&mut self, partitions: Vec<TopicPartition>) {
        let deadline = self.clock.elapsed() + self.settings.drain;
        let mut unknown = Vec::new();
        for id in partitions {
            if !self.leave_one(&id, deadline) {
                unknown.push(id);
                continue;
            }
            // Records that wait leave with the last partition of their number.
            let stays = |p: &Partition| p.role != TopicRole::Waiting && !matches!(p.state, PartitionState::Leaving(_));
            let mut namesakes = self.partitions.iter().filter(|(other, _)| other.partition == id.partition);
            if let Some(waiting) = self.processor.failures.waiting()
                && !namesakes.any(|(_, p)| stays(p))
            {
                self.leave_one(&waiting.place(id.partition), deadline);
            }
        }
        if !unknown.is_empty() {
            self.source.control(Control::Released(unknown));
        }
    }

    /// Begins nothing more of a partition; false where it is not ours.
    fn leave_one(&mut self, id: &TopicPartition, deadline: Duration) -> bool {
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
        self.metrics.trouble(&id.to_string(), None);
        true
    }

    /// Gives back the partitions of which nothing is under way any more, or whose time is up, and those that have only a store
    /// to wait for which does not answer, or the whole group would wait with us (not where the group keeps state, as what is
    /// under way of a number rests on all of it): those of a number once its records that waited are done with too, since
    /// whoever comes next reads those.
    pub(super) fn let_leavers_go(&mut self) {
        let now = self.clock.elapsed();
        let (waiting, keeps) = (self.processor.failures.waiting(), self.processor.states.is_some());
        let of_number = |id: &TopicPartition| self.partitions.get(&waiting?.place(id.partition));
        let done = |p: &Partition| {
            p.is_quiet() || !keeps && p.begun.len() == 0 && self.commit_queues.at(p.commit_queue).is_at_rest()
        };
        let quiet = |id: &TopicPartition, p: &Partition| done(p) && of_number(id).is_none_or(done);
        let gone = |(id, p): &(&TopicPartition, &Partition)| matches!(p.state, PartitionState::Leaving(by) if by <= now || quiet(id, p));
        let gone: Vec<_> = self.partitions.iter().filter(gone).map(|(id, _)| id.clone()).collect();
        if !gone.is_empty() {
            self.report_moves();
            self.forget(&gone);
            self.source.control(Control::Released(gone));
        }
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        let processor = Arc::clone(&self.processor);
        for id in partitions {
            self.forget_one(id);
            // State, and the records that wait, are the number's: they go with the last partition of it.
            let of_number = |(other, p): (&TopicPartition, &Partition)| {
                other.partition == id.partition && p.role != TopicRole::Waiting
            };
            if processor.states.is_none() || self.partitions.iter().any(of_number) {
                continue;
            }
            processor.states.iter().for_each(|states| states.forget(id.partition));
            if let Some(waiting) = processor.failures.waiting() {
                waiting.forget(id.partition);
                self.forget_one(&waiting.place(id.partition));
            }
        }
        self.count_partitions();
    }

    fn forget_one(&mut self, id: &TopicPartition) {
        if let Some(partition) = self.partitions.remove(id)
            && partition.role != TopicRole::Waiting
        {
            self.commit_queues.of(partition.commit_queue).forget(id);
        }
        self.moved.remove(id);
        self.refusals.retain(|(place, _), _| place != id);
        self.metrics.trouble(&id.to_string(), None);
    }

    /// Gives a partition that leaves back at once, whatever of it is under way: in a group that keeps state with all of its
    /// number that leave, since what is under way of those may rest on that.
    pub(super) fn release(&mut self, id: &TopicPartition) {
        let keeps = self.processor.states.is_some();
        let leaves = |(other, p): &(&TopicPartition, &Partition)| {
            *other == id
                || keeps
                    && other.partition == id.partition
                    && p.role != TopicRole::Waiting
                    && matches!(p.state, PartitionState::Leaving(_))
        };
        let all: Vec<_> = self.partitions.iter().filter(leaves).map(|(other, _)| other.clone()).collect();
        if !all.is_empty() {
            self.forget(&all);
            self.source.control(Control::Released(all));
        }
    }

    pub(super) fn begin_partition(&mut self, id: TopicPartition, start: u64, from: StartFrom) {
        let starting = |p: &&mut Partition| p.start == start && matches!(p.state, PartitionState::Starting(_));
        if self.partitions.get_mut(&id).filter(starting).is_none() {
            return;
        }
        if let Err(error) = self.begin_waiting(id.partition) {
            tracing::error!(group = %self.processor.group.id, partition = %id, error = error.0, "a partition waits: its records that wait cannot be read");
            self.restart(id.clone(), STATE_PAUSE);
            self.metrics.trouble(&id.to_string(), Some(&error.0));
            return;
        }
        let Some(partition) = self.partitions.get_mut(&id) else { return };
        partition.run(from);
        self.source.control(Control::Begin { partition: id.clone(), from, start });
        // A partition that starts anew may have been held before.
        self.source.control(Control::Resume(vec![id]));
    }

    /// Reads the records that wait under a number, whose state can be read now.
    fn begin_waiting(&mut self, number: i32) -> Result<(), StoreError> {
        let Some(waiting) = self.processor.failures.waiting() else { return Ok(()) };
        // An input whose records are repartitioned may have partitions of higher numbers: there is no state for those.
        let own = TopicPartition::new(self.processor.group_topics.redrive(), number);
        if !self.partitions.contains_key(&own) {
            return Ok(());
        }
        waiting.load(number, self.clock.as_ref())?;
        let starting = |p: &&mut Partition| matches!(p.state, PartitionState::Starting(_));
        if let Some(partition) = self.partitions.get_mut(&waiting.place(number)).filter(starting) {
            partition.state = PartitionState::Running;
        }
        Ok(())
    }

    /// Another owner has these partitions. If the group still gives them to us we take them again, with back-off.
    pub(super) fn fenced(&mut self, partitions: Vec<TopicPartition>) {
        for id in partitions {
            self.metrics.add(Metric::Fenced, 1);
            tracing::warn!(group = %self.processor.group.id, partition = %id, "another owner has committed this partition; starting it anew");
            match self.partitions.get(&id).map(|p| p.state) {
                // Gone already, or about to take possession again.
                None | Some(PartitionState::Starting(_)) => {}
                Some(PartitionState::Leaving(_)) => self.release(&id),
                Some(PartitionState::Running | PartitionState::Stopped) => {
                    self.source.control(Control::Pause(vec![id.clone()]));
                    self.restart(id, self.settings.backoff.after(1));
                }
            }
        }
    }
}
