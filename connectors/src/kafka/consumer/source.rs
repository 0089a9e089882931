//! A member of a consumer group, as the engine sees it: two bounded queues from the polling thread, a mailbox to it.
//!
//! All of librdkafka happens on that one thread, which waits on one queue that all partitions share: a split queue of a
//! `StreamConsumer` can lose a wake-up and stall one partition for ever.

use std::sync::{Arc, Mutex};

use headwater::spi::{Batch, BoxFuture, Control, Source, SourceEvent};
use tokio::sync::{
    mpsc::{self, Receiver},
    watch,
};

use super::{
    config::SourceConfig,
    mailbox::Mailbox,
    membership::{
        Membership,
        group_consumer::{GroupContext, MemberConsumer},
        lease::Lease,
        tenure::Tenure,
    },
    outlets::Outlets,
    poll_loop::PollLoop,
    thread,
};
use crate::kafka::{config::KafkaConfig, credentials, error::KafkaError};

/// Control events that wait for the engine at most. There are a few per rebalance.
const EVENTS: usize = 1_024;

/// Reads records as a member of a consumer group.
///
/// A pause outlives [`Control::Begin`], and ends with [`Control::Resume`] or when the partition leaves.
/// `Assigned` is also reported without partitions: the member has joined. Dropping the source ends its thread, which
/// leaves the group without a last commit.
#[derive(Debug)]
pub struct KafkaSource {
    events: Receiver<SourceEvent>,
    batches: Receiver<Batch>,
    mailbox: Arc<Mailbox>,
    membership: Membership,
    lease: Lease,
    closed: CloseSignal,
    joins: bool,
    ended: bool,
}

/// Tells when a source's consumer is closed and its thread has ended, which may be a while after the source is dropped.
#[derive(Clone, Debug)]
pub struct CloseSignal(watch::Receiver<()>);

impl CloseSignal {
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
        let names = config.subscription.names()?;
        let mailbox = Arc::new(Mailbox::default());
        let (events_in, events) = mpsc::channel(EVENTS);
        let (batches_in, batches) = mpsc::channel(kafka.consumer.batches);
        let lease = Lease::of(kafka.consumer.session_timeout);
        let (open, closed) = watch::channel(());
        let patience = kafka.consumer.patience;
        let outlets = Outlets::new(&config.group, (events_in, batches_in), lease.clone(), patience, open);
        let member = Arc::new(Mutex::new(PollLoop::new(kafka, config, outlets, Arc::clone(&mailbox), tenure)));
        let context = GroupContext::new(member.clone());
        let consumer: MemberConsumer = credentials::create(&settings, context)
            .map_err(|error| KafkaError::Config(format!("cannot build a kafka consumer: {error}")))?;
        let consumer = Arc::new(consumer);
        let membership = Membership::of(&consumer);
        let told = membership.clone();
        // Not joined when the source is dropped: closing may take as long as the broker takes to answer.
        std::thread::Builder::new()
            .name("kafka-source".to_owned())
            .spawn(move || thread::run(consumer, &member, &names, &told))
            .map_err(|error| KafkaError::Outage(format!("no thread for a kafka source: {error}")))?;
        Ok(Self {
            events,
            batches,
            mailbox,
            membership,
            lease,
            closed: CloseSignal(closed),
            joins: false,
            ended: false,
        })
    }

    /// Tells when the member is gone: another one of its name must not join before.
    pub fn closed(&self) -> CloseSignal {
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
    fn passed(&mut self, fetched: SourceEvent) -> SourceEvent {
        if matches!(fetched, SourceEvent::Lost(_)) {
            self.lease.acknowledge_loss();
        }
        self.ended |= matches!(fetched, SourceEvent::Failed(_) | SourceEvent::Halted(_) | SourceEvent::Closed);
        fetched
    }
}

impl Source for KafkaSource {
    fn next(&mut self, records: bool) -> BoxFuture<'_, SourceEvent> {
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
                event = self.events.recv() => event.unwrap_or_else(|| SourceEvent::Failed(
                    "the thread of the kafka source ended unexpectedly".to_owned(),
                )),
                Some(batch) = self.batches.recv(), if records => {
                    self.mailbox.wake();
                    SourceEvent::Records(batch)
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
