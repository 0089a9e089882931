//! The polling thread: one round serves the engine, looks up where partitions begin, moves batches, commits, and polls.

use std::{
    collections::{HashSet, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use headwater::{
    Record, TopicPartition,
    ports::{Batch, Control, Fetched},
};
use rdkafka::{
    Message as _, TopicPartitionList,
    consumer::{CommitMode, Consumer as _},
    error::{KafkaError as ClientError, KafkaResult, RDKafkaErrorCode as Code},
    message::BorrowedMessage,
};
use tokio::sync::mpsc::error::TrySendError;

use super::{
    commits::Commits,
    config::ConsumerConfig,
    native,
    partition::{self, Life, Partitions, Verdict},
    rebalance::{GroupConsumer, GroupContext},
    source::{Mailbox, Outlets, SourceConfig},
};

/// How long a round waits for records, and so how long the engine waits to be heard.
const ROUND: Duration = Duration::from_millis(20);
/// How often it is tried whether the brokers are back, and how long one try may take.
const PROBE: Duration = Duration::from_secs(2);
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long the last commit may take when the source closes.
const LAST_COMMIT: Duration = Duration::from_secs(5);
/// How long a partition may refuse to be placed before the engine is asked again.
const SEEK_LIMIT: Duration = Duration::from_secs(30);
const SEEK_TIMEOUT: Duration = Duration::from_secs(2);

/// All that the polling thread knows.
pub(crate) struct Member {
    pub(crate) config: ConsumerConfig,
    pub(crate) source: SourceConfig,
    pub(crate) mailbox: Arc<Mailbox>,
    pub(crate) partitions: Partitions,
    pub(crate) commits: Commits,
    /// The consumer is being closed: rebalances are nobody's business any more.
    pub(crate) leaving: bool,
    outlets: Outlets,
    /// Batches that the engine has no room for yet; nothing is polled for records while there are any.
    outbox: VecDeque<Batch>,
    blocked_since: Option<Instant>,
    round_bytes: usize,
    round_records: usize,
    up: Option<bool>,
    probe_at: Instant,
    end: Option<End>,
}

/// Why the thread ends.
#[derive(Clone, Debug, PartialEq, Eq)]
enum End {
    Closed,
    Failed(String),
    Abandoned,
}

/// Polls until the engine closes the source, nobody listens any more, or it cannot go on.
pub(crate) fn run(consumer: GroupConsumer) {
    let context = Arc::clone(consumer.context());
    let end = loop {
        let mut member = context.member();
        if let Some(end) = member.tick(&consumer) {
            break end;
        }
        if member.must_wait() {
            let mailbox = Arc::clone(&member.mailbox);
            drop(member);
            mailbox.wait(ROUND);
        } else {
            drop(member);
            poll(&consumer, &context);
        }
    };
    if let End::Failed(reason) = &end {
        context.member().report(Fetched::Failed(reason.clone()));
    }
    leave(consumer, &context, &end);
    if end == End::Closed {
        context.member().report(Fetched::Closed);
    }
}

/// Takes what there is, up to one batch, and serves librdkafka's callbacks.
fn poll(consumer: &GroupConsumer, context: &GroupContext) {
    let mut wait = ROUND;
    while let Some(polled) = consumer.poll(wait) {
        wait = Duration::ZERO;
        match polled {
            Ok(message) => {
                if context.member().take(consumer, &message) {
                    break;
                }
            }
            Err(error) => context.member().trouble(consumer, &error, &context.reason()),
        }
    }
    context.member().seal();
}

/// Commits what is durable and leaves the group.
fn leave(consumer: GroupConsumer, context: &GroupContext, end: &End) {
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
            consumer.poll(ROUND);
        }
    }
    // Closing serves the callbacks that give up the partitions.
    drop(consumer);
}

impl Member {
    pub(crate) fn new(config: ConsumerConfig, source: SourceConfig, outlets: Outlets, mailbox: Arc<Mailbox>) -> Self {
        let now = Instant::now();
        Self {
            commits: Commits::new(config.commit_interval, now),
            config,
            source,
            mailbox,
            partitions: Partitions::default(),
            leaving: false,
            outlets,
            outbox: VecDeque::new(),
            blocked_since: None,
            round_bytes: 0,
            round_records: 0,
            up: None,
            probe_at: now,
            end: None,
        }
    }

    /// All that a round does besides polling.
    fn tick(&mut self, consumer: &GroupConsumer) -> Option<End> {
        let mailbox = Arc::clone(&self.mailbox);
        while let Some(control) = mailbox.take() {
            self.control_now(consumer, control);
        }
        if mailbox.is_abandoned() {
            return Some(End::Abandoned);
        }
        self.begin_all(consumer);
        self.ship();
        self.flow(consumer);
        self.commit(consumer);
        self.probe(consumer);
        self.end.clone()
    }

    /// Does what the engine asks. Within a rebalance librdkafka delivers nothing, so that flags are enough.
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
            Control::Close => {
                self.end.get_or_insert(End::Closed);
            }
        }
    }

    fn control_now(&mut self, consumer: &GroupConsumer, control: Control) {
        if let Control::Begin { partition, .. } = &control {
            // What librdkafka holds of an earlier start is outdated by this.
            self.halt(consumer, std::slice::from_ref(partition));
        }
        self.control(control);
    }

    fn pause(&mut self, names: &[TopicPartition], paused: bool) {
        for name in names {
            if let Some(partition) = self.partitions.get_mut(name) {
                partition.paused = paused;
            }
        }
    }

    /// Takes a record over; whether this round has enough.
    fn take(&mut self, consumer: &GroupConsumer, message: &BorrowedMessage<'_>) -> bool {
        self.reached();
        let (name, number, offset) = (message.topic(), message.partition(), message.offset());
        let Some((topic, partition)) = self.partitions.find(name, number) else { return false };
        match partition.accept(offset, || native::log_start(consumer.client(), name, number)) {
            Verdict::Stale => {}
            Verdict::Backwards { expected } => {
                let text = format!("offset {offset} came where {expected} or a later one was due");
                self.fail_anew(&TopicPartition::new(topic, number), &text);
            }
            Verdict::Take { lost, .. } => {
                let record = Record {
                    topic,
                    partition: number,
                    offset,
                    timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().map(<[u8]>::to_vec),
                    headers: message.headers().map(native::read_headers).unwrap_or_default(),
                };
                self.round_bytes += record.size();
                self.round_records += 1;
                partition.keep(record);
                if lost > 0 {
                    self.warn_lost(name, number, lost);
                }
            }
        }
        self.round_records >= self.config.batch_records || self.round_bytes >= self.config.batch_bytes
    }

    /// Says that retention was faster than the group.
    pub(crate) fn warn_lost(&self, topic: &str, partition: i32, records: i64) {
        let group = &self.source.group;
        tracing::error!(
            group,
            topic,
            partition,
            records,
            "up to this many records were deleted by retention before the group read them: reading goes on at the oldest one left; raise the topic's retention"
        );
    }

    fn seal(&mut self) {
        self.outbox.extend(self.partitions.seal());
        (self.round_bytes, self.round_records) = (0, 0);
    }

    /// Hands batches to the engine as far as it has room.
    fn ship(&mut self) {
        while let Some(batch) = self.outbox.pop_front() {
            match self.outlets.batches.try_send(batch) {
                Ok(()) => self.blocked_since = None,
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
    fn is_held(&self) -> bool {
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

    /// Has librdkafka deliver exactly what the engine wants: everywhere else it is paused, and where it goes on it is
    /// told the place.
    fn flow(&mut self, consumer: &GroupConsumer) {
        let (held, now) = (self.is_held(), Instant::now());
        let wanted = |life: &Life, paused: bool| matches!(life, Life::Delivering { .. }) && !paused && !held;
        let stop = self.partitions.select(|p| p.flowing && !wanted(&p.life, p.paused));
        self.halt(consumer, &stop);
        let go: Vec<(TopicPartition, i64)> = self
            .partitions
            .iter_mut()
            .filter(|(_, p)| !p.flowing && now >= p.not_before && wanted(&p.life, p.paused))
            .filter_map(|(name, p)| match p.life {
                Life::Delivering { next, .. } => Some((name, next)),
                _ => None,
            })
            .collect();
        if !go.is_empty() {
            self.set_off(consumer, &go, now);
        }
    }

    fn halt(&mut self, consumer: &GroupConsumer, names: &[TopicPartition]) {
        let mut flowing = Vec::new();
        for name in names {
            if let Some(partition) = self.partitions.get_mut(name).filter(|partition| partition.flowing) {
                partition.flowing = false;
                flowing.push(name);
            }
        }
        if flowing.is_empty() {
            return;
        }
        if let Err(error) = consumer.pause(&partition::list(flowing)) {
            tracing::warn!(group = self.source.group, %error, "cannot pause partitions");
        }
    }

    /// Places partitions and lets them flow. Just after an assignment librdkafka may refuse a place for a moment.
    fn set_off(&mut self, consumer: &GroupConsumer, places: &[(TopicPartition, i64)], now: Instant) {
        let placed = partition::list_at(places.iter().map(|(name, next)| (name, *next)))
            .map_err(|error| error.to_string())
            .and_then(|list| consumer.seek_partitions(list, SEEK_TIMEOUT).map_err(|error| error.to_string()));
        let ready = match placed {
            Ok(list) => partition::names_where(&list, |element| element.error().is_ok()),
            Err(error) => {
                tracing::debug!(group = self.source.group, error, "partitions cannot be placed yet");
                Vec::new()
            }
        };
        let resumed = ready.is_empty() || consumer.resume(&partition::list(&ready)).is_ok();
        let mut asked_again = Vec::new();
        for (name, _) in places {
            let Some(partition) = self.partitions.get_mut(name) else { continue };
            if resumed && ready.contains(name) {
                partition.flowing = true;
                partition.step(now);
            } else if partition.postpone(now, ROUND, SEEK_LIMIT) {
                partition.life = Life::Waiting;
                asked_again.push(name.clone());
            }
        }
        if !asked_again.is_empty() {
            tracing::warn!(group = self.source.group, partitions = ?asked_again, "partitions could not be placed: they begin again");
            self.report(Fetched::Assigned(asked_again));
        }
    }

    fn commit(&mut self, consumer: &GroupConsumer) {
        let now = Instant::now();
        let Some(positions) = self.commits.due(now) else { return };
        let sent = partition::list_at(positions.iter().map(|(name, next)| (name, *next)))
            .map_err(|error| error.to_string())
            .and_then(|list| consumer.commit(&list, CommitMode::Async).map_err(|error| error.to_string()));
        if let Err(error) = sent {
            tracing::warn!(group = self.source.group, error, "positions cannot be committed yet");
            self.commits.failed(now, |_| true);
        }
    }

    /// The broker's answer to a commit.
    pub(crate) fn committed(&mut self, result: KafkaResult<()>, offsets: &TopicPartitionList) {
        let failed: HashSet<TopicPartition> = match &result {
            Ok(()) => partition::names_where(offsets, |element| element.error().is_err()).into_iter().collect(),
            Err(_) => partition::names(offsets).into_iter().collect(),
        };
        if failed.is_empty() && result.is_ok() {
            return self.commits.done();
        }
        // Expected while the group rebalances: the positions are kept, and committed later or when they leave.
        tracing::debug!(group = self.source.group, ?result, "positions were not committed");
        self.commits.failed(Instant::now(), |name| result.is_err() || failed.contains(name));
    }

    /// The client reports an error; most pass by themselves.
    fn trouble(&mut self, consumer: &GroupConsumer, error: &ClientError, reason: &str) {
        if let Some((code, fatal)) = consumer.client().fatal_error() {
            return self.fail(self.fatal(code, &fatal));
        }
        let group = &self.source.group;
        match error.rdkafka_error_code() {
            Some(Code::AllBrokersDown | Code::Authentication) => self.unreachable(reason),
            Some(
                Code::GroupAuthorizationFailed | Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed,
            ) => {
                self.unreachable(&format!("{reason}: grant group {group} the right to read"));
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                tracing::warn!(group, reason, "a subscribed topic does not exist: run `headwater topology apply`");
            }
            _ => tracing::warn!(group, %error, reason, "the kafka consumer has trouble"),
        }
    }

    fn fatal(&self, code: Code, reason: &str) -> String {
        let group = &self.source.group;
        let instance = self.source.instance.as_deref().unwrap_or_default();
        match code {
            Code::FencedInstanceId => format!(
                "another process runs group {group} as instance {instance}: stop it, or give this one an `instance` of its own"
            ),
            _ => format!("the kafka consumer of group {group} failed for good: {reason}: restart the program"),
        }
    }

    fn unreachable(&mut self, reason: &str) {
        self.probe_at = Instant::now() + PROBE;
        if self.up != Some(false) {
            self.up = Some(false);
            self.report(Fetched::Connected(Err(reason.to_owned())));
        }
    }

    /// A broker has answered.
    pub(crate) fn reached(&mut self) {
        if self.up != Some(true) {
            self.up = Some(true);
            self.report(Fetched::Connected(Ok(())));
        }
    }

    /// Asks whether the brokers are back: an idle topic would not show it.
    fn probe(&mut self, consumer: &GroupConsumer) {
        if self.up != Some(false) || Instant::now() < self.probe_at {
            return;
        }
        // One topic that every cluster with groups has; whether we may see it does not matter.
        if consumer.fetch_metadata(Some("__consumer_offsets"), PROBE_TIMEOUT).is_ok() {
            self.reached();
        }
        self.probe_at = Instant::now() + PROBE;
    }

    /// Reports to the engine, which takes control events before records. Waits only when a thousand were not taken.
    pub(crate) fn report(&self, event: Fetched) {
        // An engine that is gone is noticed as abandoned.
        let _ = self.outlets.events.blocking_send(event);
    }

    /// Ends the source; the first reason counts.
    pub(crate) fn fail(&mut self, reason: String) {
        self.end.get_or_insert(End::Failed(reason));
    }

    /// Ends the source because a topic is not the one that the offsets belong to.
    pub(crate) fn fail_anew(&mut self, name: &TopicPartition, what: &str) {
        let (group, topic, partition) = (&self.source.group, &name.topic, name.partition);
        self.fail(format!(
            "{name}: {what}: the topic was created anew or truncated after group {group} read it. \
             Decide where the group goes on, with every member of it stopped: \
             `kafka-consumer-groups.sh --bootstrap-server … --group {group} --topic {topic}:{partition} --reset-offsets --to-earliest --execute`, \
             and for a sink delete its row of {topic}/{partition} in headwater.consumer_offsets"
        ));
    }
}
