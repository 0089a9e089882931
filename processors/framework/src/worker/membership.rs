//! Partitions that come and go: what the source reports of its group, and what another owner has taken.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use super::{
    Worker, WorkerError,
    partition::{Life, Partition},
};
use crate::{
    metrics::Metric,
    owned::Role,
    ports::{Control, Fetched, From},
    record::TopicPartition,
};

impl Worker {
    /// Handles what the source reports; true once it has closed.
    pub(super) fn heard(&mut self, event: Fetched) -> Result<bool, WorkerError> {
        match event {
            Fetched::Records(batch) => {
                let ours = self.partitions.get_mut(&batch.partition).filter(|p| p.start == batch.start);
                if let Some(partition) = ours.filter(|p| p.life == Life::Running) {
                    partition.receive(batch.records);
                }
            }
            Fetched::Assigned(partitions) => {
                self.state.joined();
                partitions.into_iter().for_each(|id| self.restart(id, Duration::ZERO));
                self.stop_apart();
            }
            Fetched::Revoked(partitions) => self.leave(partitions),
            Fetched::Lost(partitions) => self.forget(&partitions),
            Fetched::Connected(state) => {
                let why = state.as_ref().err().map(String::as_str);
                if self.state.trouble("kafka", why) {
                    match why {
                        Some(why) => tracing::warn!(group = %self.step.group.id, error = why, "kafka does not answer"),
                        None => tracing::info!(group = %self.step.group.id, "kafka answers again"),
                    }
                }
            }
            Fetched::Failed(why) => return Err(self.failed(why)),
            Fetched::Closed if self.closing => return Ok(true),
            Fetched::Closed => return Err(self.failed("the consumer closed by itself".to_owned())),
        }
        Ok(false)
    }

    /// State belongs to a partition's number: what was assigned without its namesakes is not begun. Another assignment may
    /// mend it.
    fn stop_apart(&mut self) {
        let step = Arc::clone(&self.step);
        let is_together = |id: &TopicPartition| step.together.iter().any(|topic| **topic == *id.topic);
        let numbers: BTreeSet<i32> =
            self.partitions.keys().filter(|id| is_together(id)).map(|id| id.partition).collect();
        for number in numbers {
            let missing = step
                .together
                .iter()
                .find(|topic| !self.partitions.contains_key(&TopicPartition::new(topic.as_str(), number)));
            let Some(topic) = missing else { continue };
            let why = format!(
                "partition {number} of {topic} is not assigned here together with those of its number: the topics {} must exist with one partition count (`headwater topology apply`), and every instance must read the same ones",
                step.together.join(", ")
            );
            tracing::error!(group = %step.group.id, number, error = why, "partitions of a stateful group are not begun");
            let apart = |id: &TopicPartition| is_together(id) && id.partition == number;
            let ids: Vec<TopicPartition> = self.partitions.keys().filter(|id| apart(id)).cloned().collect();
            for id in ids {
                if let Some(partition) = self.partitions.get_mut(&id) {
                    partition.life = Life::Stopped;
                }
                self.state.trouble(&id.to_string(), Some(&why));
            }
        }
        self.count_partitions();
    }

    /// Starts a partition, or starts it anew, from where the store says.
    pub(super) fn restart(&mut self, id: TopicPartition, after: Duration) {
        if let Some(states) = &self.step.states {
            states.forget(id.partition);
            // What is under way of the others of its number may rest on what is forgotten.
            let rests = |other: &TopicPartition, p: &Partition| {
                *other != id && other.partition == id.partition && matches!(p.life, Life::Running)
            };
            let others: Vec<_> =
                self.partitions.iter().filter(|(other, p)| rests(other, p)).map(|(other, _)| other.clone()).collect();
            others.into_iter().for_each(|other| self.restart_alone(other, after));
        }
        self.restart_alone(id, after);
    }

    fn restart_alone(&mut self, id: TopicPartition, after: Duration) {
        self.starts += 1;
        self.state.trouble(&id.to_string(), None);
        if self.partitions.get(&id).is_some_and(|p| p.blocks > 0 || p.life == Life::Stopped) {
            self.note(&id, None);
        }
        let id = self.shared(id);
        let role = self.step.group.owned().map_or(Role::Input, |owned| owned.role(&id.topic));
        // One that is ours already stays where its units are under way.
        let known = self.partitions.get(&id).map(|p| p.assembly);
        let assembly = known.unwrap_or_else(|| self.assemblies.assign(&id, &self.partitions));
        let in_order = self.step.states.is_some();
        let at = self.clock.elapsed() + after;
        self.partitions.insert(id, Partition::new(role, self.starts, at, assembly, in_order));
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
            match self.partitions.get_mut(&id) {
                Some(partition) => {
                    partition.let_go();
                    self.ready.retain(|job| {
                        let leaves = job.partition == id && job.start == partition.start;
                        if leaves {
                            partition.let_go_of(job);
                        }
                        !leaves
                    });
                    partition.life = Life::Leaving(deadline);
                    self.state.trouble(&id.to_string(), None);
                }
                None => unknown.push(id),
            }
        }
        if !unknown.is_empty() {
            self.source.control(Control::Released(unknown));
        }
    }

    /// Gives back the partitions of which nothing is under way any more, or whose time is up.
    pub(super) fn let_leavers_go(&mut self) {
        let now = self.clock.elapsed();
        let gone = |p: &Partition| matches!(p.life, Life::Leaving(by) if p.is_quiet() || by <= now);
        let gone: Vec<_> = self.partitions.iter().filter(|(_, p)| gone(p)).map(|(id, _)| id.clone()).collect();
        if !gone.is_empty() {
            self.report_moves();
            self.forget(&gone);
            self.source.control(Control::Released(gone));
        }
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        for id in partitions {
            if let Some(partition) = self.partitions.remove(id) {
                self.assemblies.of(partition.assembly).forget(id);
            }
            self.moved.remove(id);
            self.refusals.retain(|(place, _), _| place != id);
            self.step.states.iter().for_each(|states| states.forget(id.partition));
            self.state.trouble(&id.to_string(), None);
        }
        self.count_partitions();
    }

    /// Gives a partition back at once, whatever of it is under way.
    pub(super) fn release(&mut self, id: &TopicPartition) {
        self.forget(std::slice::from_ref(id));
        self.source.control(Control::Released(vec![id.clone()]));
    }

    pub(super) fn begin_partition(&mut self, id: TopicPartition, start: u64, from: From) {
        let starting = |p: &&mut Partition| p.start == start && matches!(p.life, Life::Starting(_));
        let Some(partition) = self.partitions.get_mut(&id).filter(starting) else { return };
        partition.life = Life::Running;
        if let From::Offset(next) = from {
            partition.durable = next;
        }
        self.source.control(Control::Begin { partition: id.clone(), from, start });
        // A partition that starts anew may have been held before.
        self.source.control(Control::Resume(vec![id]));
    }

    /// Another owner has these partitions. If the group still gives them to us we take them again, with back-off.
    pub(super) fn fenced(&mut self, partitions: Vec<TopicPartition>) {
        for id in partitions {
            self.state.add(Metric::Fenced, 1);
            tracing::warn!(group = %self.step.group.id, partition = %id, "another owner has committed this partition; starting it anew");
            match self.partitions.get(&id).map(|p| p.life) {
                // Gone already, or about to take possession again.
                None | Some(Life::Starting(_)) => {}
                Some(Life::Leaving(_)) => self.release(&id),
                Some(Life::Running | Life::Stopped) => {
                    self.source.control(Control::Pause(vec![id.clone()]));
                    self.restart(id, self.settings.backoff.after(1));
                }
            }
        }
    }
}
