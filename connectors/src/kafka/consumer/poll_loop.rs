//! The polling thread's state: one round serves the engine, looks up where partitions begin, moves batches, commits, and polls.
//!
//! When the group deals its partitions anew, librdkafka says so within `poll`. Taken away: report it, serve the engine until
//! it has let go of every partition or the drain deadline is over, commit what is durable, let go. Lost: report it, commit
//! nothing. Nobody else commits while this goes on.

use std::{
    collections::HashSet,
    sync::Arc,
    time::{Duration, Instant},
};

use headwater::{
    TopicPartition,
    spi::{Control, SourceEvent},
};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{Consumer as _, RebalanceProtocol},
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
};

use super::{
    config::SourceConfig,
    fetch::Fetcher,
    health::{BrokerHealth, Evidence},
    mailbox::Mailbox,
    membership::{
        group_consumer::{GroupConsumer, RebalanceListener},
        instance_claim::InstanceClaim,
        tenure::Tenure,
    },
    offsets::{
        commit_requests::CommitRequests,
        commits::Commits,
        log_bounds::LogBounds,
        start_offset::StartOffsets,
        topic_identity::{KnownTopicIds, settle_doubts},
    },
    outlets::{Outlets, ThreadEnd},
    partition::{
        self, Partitions,
        pause::{halt_all, halt_unwanted, set_off_wanted},
    },
};
use crate::kafka::{config::KafkaConfig, librdkafka::fetch::Message};

/// All that the polling thread knows.
pub(crate) struct PollLoop {
    mailbox: Arc<Mailbox>,
    pub(crate) outlets: Outlets,
    /// How long partitions that are taken away wait for what is in flight.
    drain: Duration,
    partitions: Partitions,
    fetcher: Fetcher,
    starts: StartOffsets,
    bounds: LogBounds,
    ids: KnownTopicIds,
    requests: CommitRequests,
    health: BrokerHealth,
    claim: InstanceClaim,
}

impl PollLoop {
    pub(crate) fn new(
        kafka: &KafkaConfig,
        source: SourceConfig,
        outlets: Outlets,
        mailbox: Arc<Mailbox>,
        tenure: Tenure,
    ) -> Self {
        let (config, now) = (&kafka.consumer, Instant::now());
        Self {
            mailbox,
            outlets,
            drain: config.drain,
            partitions: Partitions::default(),
            fetcher: Fetcher::new(config),
            bounds: LogBounds::default(),
            ids: KnownTopicIds::default(),
            requests: CommitRequests::new(Commits::new(config.commit_interval, source.commits, now)),
            health: BrokerHealth::new(kafka, now),
            claim: InstanceClaim::new(source.instance.as_deref(), config.session_timeout, tenure),
            starts: StartOffsets::new(source),
        }
    }

    /// Makes the queue that records come to; what the engine asks comes to the mailbox.
    pub(crate) fn equip(&mut self, consumer: &GroupConsumer) -> Arc<Mailbox> {
        self.fetcher.equip(consumer, &mut self.outlets);
        Arc::clone(&self.mailbox)
    }

    /// All that a round does besides polling.
    pub(crate) fn tick(&mut self, consumer: &GroupConsumer) -> Option<ThreadEnd> {
        while let Some(control) = self.mailbox.take() {
            self.control(control);
        }
        if self.mailbox.is_abandoned() {
            return Some(ThreadEnd::Abandoned);
        }
        let Self { outlets, partitions, bounds, ids, requests, .. } = self;
        outlets.ship();
        // Before places are looked up: what librdkafka holds of an earlier start is outdated by it.
        halt_unwanted(consumer, partitions, outlets);
        ids.look(consumer, partitions, Instant::now());
        self.starts.begin_all(consumer, bounds, partitions, &mut requests.commits, outlets);
        settle_doubts(consumer, ids, bounds, partitions, outlets);
        set_off_wanted(consumer, partitions, &self.fetcher, outlets);
        requests.commit(consumer, outlets);
        self.health.probe(consumer, outlets);
        self.claim.judge(consumer, outlets);
        outlets.end()
    }

    /// Notes what the engine asks; the next round does it. Within a rebalance librdkafka delivers nothing anyway.
    fn control(&mut self, control: Control) {
        let (partitions, commits) = (&mut self.partitions, &mut self.requests.commits);
        match control {
            Control::Begin { partition, from, start } => {
                if let Some(known) = partitions.get_mut(&partition) {
                    known.begin(from, start, Instant::now());
                    self.outlets.drop_unsent(std::slice::from_ref(&partition));
                }
            }
            Control::Pause(names) => partitions.pause(&names, true),
            Control::Resume(names) => partitions.pause(&names, false),
            Control::Commit(positions) => {
                let ours = positions.into_iter().filter(|position| partitions.contains(&position.partition));
                commits.add(ours);
            }
            // Outside of a rebalance nothing waits for it.
            Control::Released(_) => {}
            Control::Note(notes) => {
                let ours = notes.iter().filter(|(name, _)| partitions.contains(name));
                ours.for_each(|(name, note)| commits.note(name, note.as_deref()));
            }
            Control::Close => self.outlets.close(),
        }
    }

    /// Whether librdkafka has anything to say beside records.
    pub(crate) fn has_events(&self) -> bool {
        self.fetcher.has_events()
    }

    /// Takes over what has been fetched; whether that is enough, or all, and then it goes to the engine.
    pub(crate) fn fetch(&mut self, consumer: &GroupConsumer, wait: Duration) -> bool {
        let (messages, queued) = (self.fetcher.fetched(consumer, wait), self.outlets.queued());
        for run in messages.chunk_by(Message::is_beside) {
            match run[0].error() {
                // A partition has nothing more for now, as far as it can be read.
                Some((Code::PartitionEOF, _)) => {
                    if let Some((_, partition)) = self.partitions.find(&run[0].topic(), run[0].partition()) {
                        partition.ends(run[0].offset());
                    }
                    self.health.reached(Evidence::Read(&run[0]), &self.outlets);
                }
                Some((Code::TopicAuthorizationFailed, _)) => self.health.forbid_reading(run[0].topic(), &self.outlets),
                Some((code, reason)) => self.trouble(consumer, &ClientError::MessageConsumption(code), &reason),
                None => {
                    self.health.reached(Evidence::Read(&run[0]), &self.outlets);
                    let Self { partitions, ids, outlets, .. } = self;
                    self.fetcher.take(consumer, run, partitions, ids, outlets);
                }
            }
        }
        let enough = messages.is_empty() || self.outlets.queued() > queued;
        if enough {
            self.fetcher.seal(&mut self.partitions, &mut self.outlets);
        }
        enough
    }

    /// The client reports an error; most pass by themselves.
    pub(crate) fn trouble(&mut self, consumer: &GroupConsumer, error: &ClientError, reason: &str) {
        match consumer.client().fatal_error() {
            Some((Code::FencedInstanceId, _)) => self.fenced(),
            Some((_, fatal)) => {
                let group = &self.outlets.group;
                let text = format!("the kafka consumer of group {group} failed for good: {fatal}");
                self.outlets.fail(text);
            }
            None => self.health.trouble(error, reason, &self.outlets),
        }
    }

    /// Another has our name in the group: whatever we had there is not ours any more.
    fn fenced(&mut self) {
        if self.claim.fence(Instant::now()) {
            self.lose_all();
            self.claim.report_displaced(&self.outlets);
        }
    }

    /// Gives up every partition: we have no place in the group any more, and librdkafka may say so later or never.
    fn lose_all(&mut self) {
        let names = self.partitions.select(|_| true);
        self.requests.commits.forget(&names);
        self.forget(&names);
        if !names.is_empty() && !self.outlets.leaving {
            self.outlets.report_lost(names);
        }
    }

    /// Forgets partitions that are not ours any more.
    fn forget(&mut self, names: &[TopicPartition]) {
        self.outlets.drop_unsent(names);
        self.bounds.forget(names);
        self.health.forget(names);
        names.iter().for_each(|name| self.partitions.remove(name));
    }

    /// Serves the engine until it has let go of these partitions, at most for the drain deadline.
    fn await_release(&mut self, consumer: &GroupConsumer, names: &[TopicPartition]) {
        let mut waiting: HashSet<TopicPartition> = names.iter().cloned().collect();
        let deadline = Instant::now() + self.drain;
        while !waiting.is_empty() && !self.mailbox.is_abandoned() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let (still, group) = (waiting.len(), &self.outlets.group);
                tracing::warn!(group, still, "revoked partitions leave before they were drained");
                return self.outlets.report_lost(waiting.into_iter().collect());
            }
            match self.mailbox.take() {
                Some(Control::Released(released)) => released.iter().for_each(|name| {
                    waiting.remove(name);
                }),
                Some(control) => self.control(control),
                None => {
                    // What is drained is published, for which our place may have to be proven.
                    if self.outlets.lease.is_wanted() {
                        self.requests.commit(consumer, &self.outlets);
                    }
                    self.mailbox.wait(left.min(Duration::from_millis(100)));
                }
            }
        }
    }

    /// Lets the last commits go out at once.
    pub(crate) fn hurry(&mut self) {
        self.requests.commits.hurry(Instant::now());
    }

    /// Commits what is due; whether the broker knows everything.
    pub(crate) fn commit(&mut self, consumer: &GroupConsumer) -> bool {
        self.requests.commit(consumer, &self.outlets);
        self.requests.commits.is_settled(Instant::now())
    }

    /// Lets go of what may not outlive the consumer.
    pub(crate) fn end(&mut self) {
        self.fetcher.end();
        self.requests.end();
        self.ids.end();
        self.bounds.end();
    }
}

impl RebalanceListener for PollLoop {
    fn assigned(&mut self, consumer: &GroupConsumer, list: &mut TopicPartitionList) {
        let names = partition::names(list);
        self.fetcher.attach(consumer, names.iter(), &mut self.outlets);
        self.ids.assigned(&self.partitions, &names);
        // Nothing is fetched there, since the partitions are paused before they have any place, and `Begin` names the real
        // one. It is absolute: for `Beginning` librdkafka asks the broker, and when something else is said of the partition
        // meanwhile, it asks again half a second later and then goes there, over whatever place it was told.
        let paused = if names.is_empty() { Ok(()) } else { consumer.pause(list) };
        halt_all(consumer, &mut self.partitions, &self.outlets);
        let placed = paused.and_then(|()| list.set_all_offsets(Offset::Offset(0)));
        let assigned = placed.and_then(|()| match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_assign(list),
            _ => consumer.assign(list),
        });
        if let Err(error) = assigned {
            return self.outlets.fail(format!("cannot take over assigned partitions: {error}"));
        }
        tracing::info!(group = self.outlets.group, partitions = names.len(), "partitions were assigned");
        let now = Instant::now();
        self.claim.joined(now);
        names.iter().for_each(|name| self.partitions.insert(name, now));
        if !self.outlets.leaving {
            self.health.reached(Evidence::Joined, &self.outlets);
            self.outlets.report(SourceEvent::Assigned(names));
        }
    }

    fn revoked(&mut self, consumer: &GroupConsumer, list: &TopicPartitionList) {
        let names = partition::names(list);
        let (leaving, partitions) = (self.outlets.leaving, names.len());
        if !consumer.assignment_lost() && !leaving && !names.is_empty() {
            tracing::info!(group = self.outlets.group, partitions, "partitions are taken away");
            self.outlets.drop_unsent(&names);
            self.outlets.report(SourceEvent::Revoked(names.clone()));
            self.await_release(consumer, &names);
        }
        if consumer.assignment_lost() {
            tracing::warn!(group = self.outlets.group, partitions, "partitions were lost to other members");
            self.requests.commits.forget(&names);
            if !leaving {
                self.outlets.report_lost(names.clone());
            }
        } else {
            self.requests.commit_last(consumer, &self.outlets, &names);
        }
        self.forget(&names);
        halt_all(consumer, &mut self.partitions, &self.outlets);
        let unassigned = match consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => consumer.incremental_unassign(list),
            _ => consumer.unassign(),
        };
        if let Err(error) = unassigned {
            tracing::warn!(group = self.outlets.group, %error, "cannot give up partitions");
        }
    }
}
