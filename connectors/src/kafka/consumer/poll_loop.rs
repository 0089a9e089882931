//! The polling thread: one round serves the engine, looks up where partitions begin, moves batches, commits, and polls.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use headwater::{
    TopicPartition,
    ports::{Batch, Control, Fetched},
};
use rdkafka::{TopicPartitionList, consumer::Consumer as _, error::RDKafkaErrorCode as Code};
use tokio::sync::mpsc::error::TrySendError;

use super::{
    fetch::{self, Round},
    membership::{Membership, fenced::Fenced, tenure::Tenure},
    offsets::{commits::Commits, doubts::TopicIds},
    partition::Partitions,
    rebalance::{GroupConsumer, GroupContext},
    source::{Mailbox, Outlets, SourceConfig},
};
use crate::kafka::{
    config::{ConsumerConfig, KafkaConfig},
    error::KafkaError,
    librdkafka::{CommitQueue, bootstrap::Bootstrap, fetch::FetchQueue, membership::GroupMetadata},
};

/// How long a round waits for records, and so how long the engine waits to be heard.
pub(crate) const ROUND: Duration = Duration::from_millis(20);
/// How long the last commit may take when the source closes.
const LAST_COMMIT: Duration = Duration::from_secs(5);
/// How long leaving the group may take.
const CLOSING: Duration = Duration::from_secs(5);

/// All that the polling thread knows.
pub(crate) struct PollLoop {
    pub(crate) config: ConsumerConfig,
    pub(crate) source: SourceConfig,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) partitions: Partitions,
    pub(crate) ids: TopicIds,
    pub(crate) commits: Commits,
    /// The consumer is being closed: rebalances are nobody's business any more.
    pub(crate) leaving: bool,
    pub(crate) outlets: Outlets,
    /// Until the consumer is closed.
    pub(crate) fetches: Option<FetchQueue>,
    /// Made with the first commit.
    answers: Option<CommitQueue>,
    /// Batches that the engine has no room for yet; nothing is polled for records while there are any.
    pub(crate) outbox: VecDeque<Batch>,
    blocked_since: Option<Instant>,
    pub(crate) round: Round,
    pub(crate) up: Option<bool>,
    pub(crate) probe_at: Instant,
    pub(crate) bootstrap: Bootstrap,
    /// When the group first gave us our part.
    pub(crate) joined: Option<Instant>,
    /// How long this process has been there.
    pub(crate) tenure: Tenure,
    /// Another has our name in the group.
    pub(crate) fenced: Option<Fenced>,
    end: Option<End>,
}

/// Why the thread ends.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Failed(String),
    Halted(String),
    Abandoned,
}

/// Polls until the engine closes the source, nobody listens any more, or it cannot go on.
pub(crate) fn run(consumer: Arc<GroupConsumer>, topics: &[String], membership: &Membership) {
    let context = Arc::clone(consumer.context());
    context.member().equip(&consumer);
    let mailbox = Arc::clone(&context.member().mailbox);
    mailbox.opened();
    let topics: Vec<&str> = topics.iter().map(String::as_str).collect();
    // One that nobody listens to any more joins nothing.
    if !mailbox.is_abandoned()
        && let Err(error) = consumer.subscribe(&topics)
    {
        context.member().fail(format!("cannot subscribe: {error}"));
    }
    let end = loop {
        let mut member = context.member();
        if let Some(end) = member.tick(&consumer) {
            break end;
        }
        if member.must_wait() {
            drop(member);
            mailbox.wait(ROUND);
        } else {
            drop(member);
            fetch::poll(&consumer, &context);
        }
    };
    match &end {
        End::Failed(reason) => context.member().report(Fetched::Failed(reason.clone())),
        End::Halted(reason) => context.member().report(Fetched::Halted(reason.clone())),
        End::Closed | End::Abandoned => {}
    }
    membership.end();
    leave(consumer, &context, &end);
    if end == End::Closed {
        context.member().report(Fetched::Closed);
    }
}

/// Commits what is durable and leaves the group.
fn leave(consumer: Arc<GroupConsumer>, context: &GroupContext, end: &End) {
    context.member().leaving = true;
    if *end != End::Abandoned && consumer.client().fatal_error().is_none() {
        let deadline = Instant::now() + LAST_COMMIT;
        context.member().commits.hurry(Instant::now());
        loop {
            let mut member = context.member();
            member.commit(&consumer);
            if member.commits.is_settled() {
                break;
            }
            drop(member);
            if Instant::now() > deadline {
                tracing::warn!(
                    group = context.member().source.group,
                    "the last positions were not committed in time: some records will be read again"
                );
                break;
            }
            // Records that still come are nobody's: nothing is begun any more.
            consumer.poll(ROUND);
        }
    }
    // They may not outlive the consumer.
    (context.member().fetches, context.member().answers) = (None, None);
    context.member().ids.end();
    let group = context.member().source.group.clone();
    close(consumer, &group);
}

/// Closes the consumer, which serves the callbacks that give up its partitions. While the brokers are away librdkafka
/// waits for a commit as long as a session lasts: then the rest is left to a thread that the process need not wait for.
fn close(consumer: Arc<GroupConsumer>, group: &str) {
    let (closed, wait) = mpsc::sync_channel(1);
    let drop_it = move || {
        // The last one: the membership, which borrows it for a moment, has ended before.
        drop(consumer);
        // Nobody may wait any more.
        let _ = closed.send(());
    };
    let spawned = std::thread::Builder::new().name("kafka-close".to_owned()).spawn(drop_it);
    // Without a thread the closure, and the consumer with it, is dropped right here.
    if spawned.is_ok() && wait.recv_timeout(CLOSING).is_err() {
        tracing::warn!(group, "the kafka consumer does not close: its partitions move after the session time-out");
    }
}

impl PollLoop {
    pub(crate) fn new(kafka: &KafkaConfig, source: SourceConfig, outlets: Outlets, mailbox: Arc<Mailbox>) -> Self {
        let (config, now) = (kafka.consumer.clone(), Instant::now());
        Self {
            commits: Commits::new(config.commit_interval, source.commits, now),
            config,
            source,
            mailbox,
            partitions: Partitions::default(),
            ids: TopicIds::default(),
            leaving: false,
            outlets,
            fetches: None,
            answers: None,
            outbox: VecDeque::new(),
            blocked_since: None,
            round: Round::default(),
            up: None,
            probe_at: now,
            bootstrap: Bootstrap::new(&kafka.bootstrap),
            joined: None,
            tenure: Tenure::default(),
            fenced: None,
            end: None,
        }
    }

    /// All that a round does besides polling.
    fn tick(&mut self, consumer: &GroupConsumer) -> Option<End> {
        let mailbox = Arc::clone(&self.mailbox);
        while let Some(control) = mailbox.take() {
            self.control(control);
        }
        if mailbox.is_abandoned() {
            return Some(End::Abandoned);
        }
        self.ship();
        // Before places are looked up: what librdkafka holds of an earlier start is outdated by it.
        self.halt_unwanted(consumer);
        self.begin_all(consumer);
        self.settle_doubts(consumer);
        self.set_off_wanted(consumer);
        self.commit(consumer);
        self.probe(consumer);
        self.judge(consumer);
        self.end.clone()
    }

    /// Notes what the engine asks; the next round does it. Within a rebalance librdkafka delivers nothing anyway.
    pub(crate) fn control(&mut self, control: Control) {
        match control {
            Control::Begin { partition, from, start } => {
                if let Some(known) = self.partitions.get_mut(&partition) {
                    known.begin(from, start, Instant::now());
                    self.outbox.retain(|batch| batch.partition != partition);
                }
            }
            Control::Pause(names) => self.pause(&names, true),
            Control::Resume(names) => self.pause(&names, false),
            Control::Commit(positions) => {
                let ours = positions.into_iter().filter(|position| self.partitions.contains(&position.partition));
                self.commits.add(ours.collect::<Vec<_>>());
            }
            // Outside of a rebalance nothing waits for it.
            Control::Released(_) => {}
            Control::Note(notes) => {
                let ours = notes.iter().filter(|(name, _)| self.partitions.contains(name));
                ours.for_each(|(name, note)| self.commits.note(name, note.as_deref()));
            }
            Control::Close => {
                self.end.get_or_insert(End::Closed);
            }
        }
    }

    fn pause(&mut self, names: &[TopicPartition], paused: bool) {
        for name in names {
            if let Some(partition) = self.partitions.get_mut(name) {
                partition.paused = paused;
            }
        }
    }

    /// Hands batches to the engine as far as it has room.
    fn ship(&mut self) {
        while let Some(batch) = self.outbox.pop_front() {
            match self.outlets.batches.try_send(batch) {
                Ok(()) => {
                    self.blocked_since = None;
                    self.outlets.lease.expect();
                }
                Err(TrySendError::Full(batch)) => {
                    self.outbox.push_front(batch);
                    self.blocked_since.get_or_insert_with(Instant::now);
                    return;
                }
                // Noticed as abandoned.
                Err(TrySendError::Closed(_)) => {}
            }
        }
        self.blocked_since = None;
    }

    /// Whether the engine has kept us waiting for so long that the partitions must be paused and polled on.
    pub(crate) fn is_held(&self) -> bool {
        self.blocked_since.is_some_and(|since| since.elapsed() >= self.config.patience)
    }

    fn must_wait(&self) -> bool {
        !self.outbox.is_empty() && !self.is_held()
    }

    /// Drops what partitions that leave have left to say.
    pub(crate) fn drop_unsent(&mut self, names: &[TopicPartition]) {
        let leaving: HashSet<&TopicPartition> = names.iter().collect();
        self.outbox.retain(|batch| !leaving.contains(&batch.partition));
    }

    /// Takes the broker's answers, and commits what is due.
    pub(crate) fn commit(&mut self, consumer: &GroupConsumer) {
        self.take_answers(consumer, Duration::ZERO);
        let now = Instant::now();
        let wanted = self.outlets.lease.is_wanted() && !self.leaving;
        if self.commits.due(now).is_none() && !(wanted && self.commits.affirm(now)) {
            return;
        }
        let list = self.commits.list();
        if let Err(error) = list.and_then(|list| self.send_commit(consumer, &list)) {
            tracing::warn!(group = self.source.group, %error, "positions cannot be committed yet");
            self.commits.failed(now);
        }
    }

    /// Sends a commit and does not wait for its answer.
    pub(crate) fn send_commit(
        &mut self,
        consumer: &GroupConsumer,
        list: &TopicPartitionList,
    ) -> Result<(), KafkaError> {
        if self.answers.is_none() {
            self.answers = CommitQueue::new(consumer.client());
        }
        let Some(queue) = &mut self.answers else { return Err(KafkaError::Outage("no memory".to_owned())) };
        // One that is in no generation would be taken for an administrator's, and move others' offsets in an empty group.
        let Some(generation) = generation(consumer) else {
            return Err(KafkaError::Outage("the consumer is not in its group at the moment".to_owned()));
        };
        queue.send(consumer.client(), list, Some(generation)).map_err(|code| KafkaError::Outage(code.to_string()))
    }

    /// Takes the answers to commits, waiting at most this long for that to the last one; its error.
    pub(crate) fn take_answers(&mut self, consumer: &GroupConsumer, wait: Duration) -> Option<Code> {
        let deadline = Instant::now() + wait;
        let mut last = None;
        let Some(queue) = &mut self.answers else { return last };
        while queue.awaits_any() {
            let (now, awaited) = (Instant::now(), queue.awaits_last());
            let left = if awaited { deadline.saturating_duration_since(now) } else { Duration::ZERO };
            let Some(answer) = queue.answer(left) else {
                return if awaited { Some(Code::OperationTimedOut) } else { last };
            };
            let refusal = answer.error.or_else(|| answer.places.iter().find_map(|(.., error)| *error));
            if awaited && !queue.awaits_last() {
                last = refusal;
            }
            if let Some(error) = refusal {
                // Expected while the group rebalances: kept, and committed later or when the partition leaves.
                tracing::debug!(group = self.source.group, %error, "positions were not committed");
            } else if let Some(asked) = answer.asked
                && generation(consumer) == asked.generation
            {
                self.outlets.lease.prove(asked.at);
            }
            self.commits.answered(now, &answer);
        }
        last
    }

    /// Reports that these partitions are not ours any more: nothing of theirs may be published from now on.
    pub(crate) fn report_lost(&self, names: Vec<TopicPartition>) {
        self.outlets.lease.lost();
        self.report(Fetched::Lost(names));
    }

    /// Reports to the engine, which takes control events before records. Waits only when a thousand were not taken.
    pub(crate) fn report(&self, event: Fetched) {
        // An engine that is gone is noticed as abandoned.
        let _ = self.outlets.events.blocking_send(event);
    }

    /// Ends the source, which another may replace; the first reason counts.
    pub(crate) fn fail(&mut self, reason: String) {
        self.end.get_or_insert(End::Failed(reason));
    }

    /// Ends the source until a person has acted; the first reason counts.
    pub(crate) fn halt(&mut self, reason: String) {
        self.end.get_or_insert(End::Halted(reason));
    }
}

/// The generation of the group that the consumer is in, if it is in one.
pub(crate) fn generation(consumer: &GroupConsumer) -> Option<i32> {
    let metadata = GroupMetadata::of(consumer.client()).filter(GroupMetadata::is_member);
    metadata.map(|metadata| metadata.generation())
}
