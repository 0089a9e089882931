//! A member of a consumer group, as the engine sees it: two bounded queues from the polling thread, a mailbox to it.
//!
//! All of librdkafka happens on that one thread, which waits on one queue that all partitions share: a split queue of a
//! `StreamConsumer` can lose a wake-up and stall one partition for ever.

use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use headwater::{
    Time,
    ports::{Batch, BoxFuture, Control, Fetched, Source},
};
use rdkafka::{ClientConfig, consumer::BaseConsumer};
use tokio::sync::{
    mpsc::{self, Receiver, Sender},
    watch,
};

use super::{
    membership::{Membership, lease::Lease, tenure::Tenure},
    poll_loop::{self, PollLoop},
    rebalance::GroupContext,
};
use crate::kafka::{
    config::{Assignor, KafkaConfig},
    error::KafkaError,
};

/// Control events that wait for the engine at most. There are a few per rebalance.
const EVENTS: usize = 1_024;

/// Which group this is a member of, and what it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceConfig {
    /// The consumer group.
    pub group: String,
    /// Makes membership static: a restart under the same name within the session time-out needs no rebalance.
    pub instance: Option<String>,
    /// What is read.
    pub subscription: Subscription,
    /// Where a group without committed offsets starts.
    pub start: Start,
    /// Whether the source itself tells the broker what is durable. Without that it commits neither positions nor notes:
    /// offsets then travel in transactions, and a plain commit could move them back. Where a new group starts it commits all
    /// the same, before anybody has read a record.
    pub commits: bool,
    /// How this group deals out partitions, if not as `kafka.consumer.assignor` says.
    pub assignor: Option<Assignor>,
    /// What the client calls itself, which everybody sees who describes the group; as the settings say where it is `None`.
    pub client_id: Option<String>,
}

impl SourceConfig {
    /// Whether a topic belongs to the group, as its retry and redrive topics do.
    pub(crate) fn owns(&self, topic: &str) -> bool {
        topic.strip_prefix(self.group.as_str()).is_some_and(|rest| rest.starts_with('.'))
    }
}

/// What a group reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Subscription {
    /// Topics by name.
    pub topics: Vec<String>,
    /// Topics by regular expressions (POSIX extended), each of which begins with `^`, such as `^events\..*`.
    /// A topic that appears later is read within seconds.
    pub patterns: Vec<String>,
}

/// Where a group starts that has committed nothing of its inputs. Topics and partitions that appear later are read from
/// their beginning, and so, whatever this says, is every topic that the group owns: its name begins with the group's and
/// a dot, and what lies there waits for this group alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record.
    #[default]
    Earliest,
    /// Behind the newest record; that place is committed before a record is read, so that it is the same after a restart.
    Latest,
    /// At the first record with this timestamp or a later one; committed too.
    At(Time),
}

/// Reads records as a member of a consumer group.
///
/// A pause outlives [`Control::Begin`], and ends with [`Control::Resume`] or when the partition leaves.
/// `Assigned` is also reported without partitions: the member has joined. Dropping the source ends its thread, which
/// leaves the group without a last commit.
#[derive(Debug)]
pub struct KafkaSource {
    events: Receiver<Fetched>,
    batches: Receiver<Batch>,
    mailbox: Arc<Mailbox>,
    membership: Membership,
    lease: Lease,
    closed: Closed,
    joins: bool,
    ended: bool,
}

/// Tells when a source's consumer is closed and its thread has ended, which may be a while after the source is dropped.
#[derive(Clone, Debug)]
pub struct Closed(watch::Receiver<()>);

impl Closed {
    /// Resolves then. While the brokers are away that takes as long as a session lasts.
    pub async fn wait(mut self) {
        while self.0.changed().await.is_ok() {}
    }
}

impl KafkaSource {
    /// A member that joins once it is asked for the first time what there is ([`Source::next`]): from then on partitions are
    /// given to it, so whatever it needs to work on them has to be there.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn join(kafka: &KafkaConfig, config: SourceConfig) -> Result<Self, KafkaError> {
        Self::join_again(kafka, config, Tenure::default())
    }

    /// The same for a process that may have had members of this name before, which this tenure tells of.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn join_again(kafka: &KafkaConfig, config: SourceConfig, tenure: Tenure) -> Result<Self, KafkaError> {
        let mut settings = kafka.consumer(&config.group, config.instance.as_deref())?;
        if let Some(assignor) = config.assignor {
            settings.set("partition.assignment.strategy", assignor.name());
        }
        if let Some(client_id) = &config.client_id {
            settings.set("client.id", client_id);
        }
        // Behind the last record there may be markers, which no record shows to have been read.
        settings.set("enable.partition.eof", "true");
        let names = subscribed(&config.subscription)?;
        let mailbox = Arc::new(Mailbox::default());
        let (events_in, events) = mpsc::channel(EVENTS);
        let (batches_in, batches) = mpsc::channel(kafka.consumer.batches);
        let lease = Lease::of(kafka.consumer.session_timeout);
        let (open, closed) = watch::channel(());
        let outlets = Outlets { events: events_in, batches: batches_in, lease: lease.clone(), _open: open };
        let mut member = PollLoop::new(kafka, config, outlets, Arc::clone(&mailbox));
        member.tenure = tenure;
        let consumer = consumer(&settings, member)?;
        let consumer = Arc::new(consumer);
        let membership = Membership::of(&consumer);
        let told = membership.clone();
        // Not joined when the source is dropped: closing may take as long as the broker takes to answer.
        std::thread::Builder::new()
            .name("kafka-source".to_owned())
            .spawn(move || poll_loop::run(consumer, &names, &told))
            .map_err(|error| KafkaError::Outage(format!("no thread for a kafka source: {error}")))?;
        Ok(Self { events, batches, mailbox, membership, lease, closed: Closed(closed), joins: false, ended: false })
    }

    /// Tells when the member is gone: another one of its name must not join before.
    pub fn closed(&self) -> Closed {
        self.closed.clone()
    }

    /// The group's present membership, for other threads; it ends with the source.
    pub fn membership(&self) -> Membership {
        self.membership.clone()
    }

    /// The right to publish what was read here, for who publishes without transactions.
    pub fn lease(&self) -> Lease {
        self.lease.lend()
    }

    /// Notes what ends the source, so that an end without a reason is noticed.
    fn passed(&mut self, fetched: Fetched) -> Fetched {
        if matches!(fetched, Fetched::Lost(_)) {
            self.lease.heard();
        }
        self.ended |= matches!(fetched, Fetched::Failed(_) | Fetched::Halted(_) | Fetched::Closed);
        fetched
    }
}

fn consumer(settings: &ClientConfig, member: PollLoop) -> Result<BaseConsumer<GroupContext>, KafkaError> {
    settings
        .create_with_context(GroupContext::new(member))
        .map_err(|error| KafkaError::Config(format!("cannot build a kafka consumer: {error}")))
}

fn subscribed(subscription: &Subscription) -> Result<Vec<String>, KafkaError> {
    let mut names = subscription.topics.clone();
    names.extend(subscription.patterns.iter().cloned());
    let patterns_are_such = subscription.patterns.iter().all(|pattern| pattern.starts_with('^'));
    let topics_are_none = subscription.topics.iter().all(|topic| !topic.is_empty() && !topic.starts_with('^'));
    if names.is_empty() || !patterns_are_such || !topics_are_none {
        let text = "a subscription needs topic names, or patterns that begin with `^`";
        return Err(KafkaError::Config(text.to_owned()));
    }
    Ok(names)
}

impl Source for KafkaSource {
    fn next(&mut self, records: bool) -> BoxFuture<'_, Fetched> {
        Box::pin(async move {
            if self.ended {
                return std::future::pending().await;
            }
            if !self.joins {
                self.joins = true;
                self.mailbox.open();
            }
            let fetched = tokio::select! {
                biased;
                event = self.events.recv() => event.unwrap_or_else(|| Fetched::Failed(
                    "the thread of the kafka source ended unexpectedly".to_owned(),
                )),
                Some(batch) = self.batches.recv(), if records => {
                    self.mailbox.wake();
                    Fetched::Records(batch)
                }
            };
            self.passed(fetched)
        })
    }

    fn control(&mut self, control: Control) {
        self.mailbox.post(control);
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.mailbox.abandon();
    }
}

/// The ways to the engine, both bounded.
pub(crate) struct Outlets {
    pub(crate) events: Sender<Fetched>,
    pub(crate) batches: Sender<Batch>,
    pub(crate) lease: Lease,
    /// Goes with the consumer and the thread.
    pub(crate) _open: watch::Sender<()>,
}

/// What the engine asks, in order, until the polling thread takes it, which it does many times a second.
/// Commits, the one frequent thing, are merged; of the rest there are a few per assigned partition.
#[derive(Debug, Default)]
pub(crate) struct Mailbox {
    letters: Mutex<Commands>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Commands {
    asked: VecDeque<Control>,
    opened: bool,
    abandoned: bool,
    woken: bool,
}

impl Mailbox {
    fn letters(&self) -> MutexGuard<'_, Commands> {
        self.letters.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(&self, control: Control) {
        let mut letters = self.letters();
        match (letters.asked.back_mut(), control) {
            (Some(Control::Commit(before)), Control::Commit(positions)) => merge(before, positions),
            (_, control) => letters.asked.push_back(control),
        }
        self.changed.notify_one();
    }

    /// Somebody listens from now on.
    fn open(&self) {
        self.letters().opened = true;
        self.changed.notify_one();
    }

    /// Waits until somebody listens, or nobody ever will.
    pub(crate) fn opened(&self) {
        let waits = |letters: &mut Commands| !letters.opened && !letters.abandoned;
        drop(self.changed.wait_while(self.letters(), waits).unwrap_or_else(PoisonError::into_inner));
    }

    fn wake(&self) {
        self.letters().woken = true;
        self.changed.notify_one();
    }

    fn abandon(&self) {
        self.letters().abandoned = true;
        self.changed.notify_one();
    }

    /// The next thing asked, if any.
    pub(crate) fn take(&self) -> Option<Control> {
        self.letters().asked.pop_front()
    }

    /// Whether nobody listens any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.letters().abandoned
    }

    /// Waits until something is asked, the engine has taken a batch, or the time is over.
    pub(crate) fn wait(&self, timeout: Duration) {
        let letters = self.letters();
        let quiet = |letters: &mut Commands| letters.asked.is_empty() && !letters.abandoned && !letters.woken;
        let (mut letters, _) =
            self.changed.wait_timeout_while(letters, timeout, quiet).unwrap_or_else(PoisonError::into_inner);
        letters.woken = false;
    }
}

/// Later positions replace earlier ones of the same partition.
fn merge(before: &mut Vec<headwater::Position>, later: Vec<headwater::Position>) {
    for position in later {
        match before.iter_mut().find(|known| known.partition == position.partition) {
            Some(known) => known.next = position.next,
            None => before.push(position),
        }
    }
}
