//! The ways from the polling thread to the engine, both bounded, and why the thread ends.

use std::{
    collections::{HashSet, VecDeque},
    time::{Duration, Instant},
};

use headwater::{
    TopicPartition,
    spi::{Batch, SourceEvent},
};
use tokio::sync::{
    mpsc::{Sender, error::TrySendError},
    watch,
};

use super::membership::lease::Lease;

/// Why the thread ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ThreadEnd {
    Closed,
    Failed(String),
    Halted(String),
    Abandoned,
}

/// What a group's member tells the engine.
pub(crate) struct Outlets {
    pub(crate) group: String,
    events: Sender<SourceEvent>,
    batches: Sender<Batch>,
    pub(crate) lease: Lease,
    /// The consumer is being closed: rebalances are nobody's business any more.
    pub(crate) leaving: bool,
    /// Batches that the engine has no room for yet; nothing is polled for records while there are any.
    outbox: VecDeque<Batch>,
    blocked_since: Option<Instant>,
    /// How long the engine may keep us waiting before the partitions are paused.
    patience: Duration,
    end: Option<ThreadEnd>,
    /// Goes with the consumer and the thread.
    _open: watch::Sender<()>,
}

impl Outlets {
    pub(crate) fn new(
        group: &str,
        (events, batches): (Sender<SourceEvent>, Sender<Batch>),
        lease: Lease,
        patience: Duration,
        open: watch::Sender<()>,
    ) -> Self {
        Self {
            group: group.to_owned(),
            events,
            batches,
            lease,
            leaving: false,
            outbox: VecDeque::new(),
            blocked_since: None,
            patience,
            end: None,
            _open: open,
        }
    }

    /// Takes batches that go to the engine once it has room for them.
    pub(crate) fn queue(&mut self, batches: Vec<Batch>) {
        self.outbox.extend(batches);
    }

    /// Batches that wait for room.
    pub(crate) fn queued(&self) -> usize {
        self.outbox.len()
    }

    /// Hands batches to the engine as far as it has room.
    pub(crate) fn ship(&mut self) {
        while let Some(batch) = self.outbox.pop_front() {
            match self.batches.try_send(batch) {
                Ok(()) => {
                    self.blocked_since = None;
                    self.lease.expect();
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
        self.blocked_since.is_some_and(|since| since.elapsed() >= self.patience)
    }

    /// Whether nothing may be polled for before the engine has taken what there is.
    pub(crate) fn must_wait(&self) -> bool {
        !self.outbox.is_empty() && !self.is_held()
    }

    /// Drops what these partitions have left to say.
    pub(crate) fn drop_unsent(&mut self, names: &[TopicPartition]) {
        let leaving: HashSet<&TopicPartition> = names.iter().collect();
        self.outbox.retain(|batch| !leaving.contains(&batch.partition));
    }

    /// Reports that these partitions are not ours any more: nothing of theirs may be published from now on.
    pub(crate) fn report_lost(&self, names: Vec<TopicPartition>) {
        self.lease.lost();
        self.report(SourceEvent::Lost(names));
    }

    /// Reports to the engine, which takes control events before records. Waits only when a thousand were not taken.
    pub(crate) fn report(&self, event: SourceEvent) {
        // An engine that is gone is noticed as abandoned.
        let _ = self.events.blocking_send(event);
    }

    /// Ends the source, which another may replace; the first reason counts.
    pub(crate) fn fail(&mut self, reason: String) {
        self.end.get_or_insert(ThreadEnd::Failed(reason));
    }

    /// Ends the source until a person has acted; the first reason counts.
    pub(crate) fn halt(&mut self, reason: String) {
        self.end.get_or_insert(ThreadEnd::Halted(reason));
    }

    /// Ends the source as the engine asks.
    pub(crate) fn close(&mut self) {
        self.end.get_or_insert(ThreadEnd::Closed);
    }

    /// Why the thread is to end, if it is.
    pub(crate) fn end(&self) -> Option<ThreadEnd> {
        self.end.clone()
    }
}
