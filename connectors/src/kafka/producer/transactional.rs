//! Transactions: records and the offsets that they came from become durable together, or not at all.
//!
//! librdkafka's calls block, and one of them for ever while a coordinator is down. So they run on a thread of their own,
//! and a watchdog here gives up on a thread that does not come back: it stays behind with its producer, and a new one with
//! the same id shuts it out.
//!
//! How a transaction ends is one of three things. *Committed* and *aborted* were confirmed by the coordinator. Everything
//! else is an *unknown outcome*: the producer is given up, since a request of it may still be on its way and would end a later
//! transaction of the same epoch (there is no KIP-890 here). For that reason a producer is also given up after every abort, and
//! after a commit during which a connection failed; the next one costs some 60 to 500 ms.

mod attempt;
mod error;
mod producer_thread;

mod wipe;

use std::{
    borrow::Borrow,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use headwater::spi::{Outgoing, Position};
use rdkafka::{error::RDKafkaErrorCode as Code, producer::Producer as _};

use self::{
    attempt::{AttemptError, MARGIN, TransactionOffsets, insist},
    error::FaultCause,
    producer_thread::{Client, ProducerThread},
};
use super::core::{
    Core,
    flush::left,
    partition_counts::{CountAnswer, ask},
    produce_error::ProduceError,
    reports::{EndOffsets, Reports},
};
use crate::kafka::{
    config::KafkaConfig,
    consumer::membership::{Membership, lease::PublishPermit},
    error::KafkaError,
    librdkafka::{self, transactions::TransactionFault},
};

pub use self::{
    error::TransactionError,
    wipe::{kept_keys, wipe_state},
};

/// How long beyond its time a call may take to come back.
const SLACK: Duration = Duration::from_secs(1);
/// How long an abort may take.
const ABORT: Duration = Duration::from_secs(5);
/// Abandoned producers that may still be stuck or closing. One whose call waits for a broker that librdkafka has dropped
/// meanwhile ends when any other connection of it does: brokers close those that are idle, after ten minutes as they come.
const MAX_ABANDONED: usize = 8;
/// Between two looks whether one of them has ended.
const ABANDONED_POLL: Duration = Duration::from_millis(50);

/// One transactional producer. Only one process may use its id, and one transaction is under way at a time.
pub struct TransactionalProducer {
    id: String,
    core: Core,
    thread: Option<ProducerThread>,
    /// The producer has no epoch yet.
    lacks_epoch: bool,
    stage: Stage,
    /// Held by every thread that lives.
    threads: Arc<()>,
    /// A thread was left behind within a call: it may have taken an epoch since.
    is_epoch_uncertain: bool,
}

/// What is known of the transactions of this id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// Nothing of ours is under way, and a producer has to be made.
    Fresh,
    /// Nothing is under way.
    Ready,
    /// A transaction is under way, or nobody knows how it ended.
    Open,
}

impl fmt::Debug for TransactionalProducer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TransactionalProducer")
            .field("id", &self.id)
            .field("stage", &self.stage)
            .finish_non_exhaustive()
    }
}

impl TransactionalProducer {
    /// Writes as `transactional_id`, which has to be the same after a restart. Does not connect yet.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(config: &KafkaConfig, transactional_id: &str) -> Result<Self, KafkaError> {
        let settings = config.transactional(transactional_id)?;
        Ok(Self {
            id: transactional_id.to_owned(),
            core: Core::new(config, settings, config.producer.transaction_timeout),
            thread: None,
            lacks_epoch: true,
            stage: Stage::Fresh,
            threads: Arc::default(),
            is_epoch_uncertain: false,
        })
    }

    /// From now on records for these topics which name no partition go where their key has one of so many.
    pub fn fix_counts(&mut self, topics: impl IntoIterator<Item = String>, count: i32) {
        self.core.fix_counts(topics, count);
    }

    /// Ends whatever an earlier process with this id has left open, and shuts that process out. What was committed may
    /// only be read after this. Does nothing when it was done before; [`commit`](Self::commit) does it when it was not.
    ///
    /// # Errors
    /// [`TransactionError::OutcomeUnknown`] when the coordinator does not answer within `kafka.producer.transaction_timeout`, or
    /// the last transaction has to be settled; [`TransactionError::Taken`] and [`TransactionError::Fatal`].
    pub async fn begin(&mut self) -> Result<(), TransactionError> {
        match self.stage {
            Stage::Ready => Ok(()),
            Stage::Fresh => self.init().await,
            Stage::Open => {
                let text = "how the last transaction ended is not known: settle it first".to_owned();
                Err(TransactionError::OutcomeUnknown(text))
            }
        }
    }

    /// After an unknown outcome: makes a new producer, which ends the old one's transaction one way or the other. Then what
    /// is committed says which. To be tried again until it works.
    ///
    /// # Errors
    /// As [`begin`](Self::begin).
    pub async fn settle(&mut self) -> Result<(), TransactionError> {
        // One that waits for its epoch goes on waiting: a second one at the same time would shut out the first.
        if !self.lacks_epoch {
            self.thread = None;
        }
        self.init().await
    }

    /// Makes these records, in this order, and these offsets durable together. A group's member has to own every partition
    /// that has an offset here. Dropping the future leaves the outcome unknown.
    ///
    /// # Errors
    /// Every variant of [`TransactionError`]. It ends within `kafka.producer.transaction_timeout` and some 12 s.
    pub async fn commit<R: Borrow<Outgoing> + Sync>(
        &mut self,
        records: &[R],
        offsets: &[Position],
        membership: &Membership,
    ) -> Result<EndOffsets, TransactionError> {
        let records: Vec<&Outgoing> = records.iter().map(Borrow::borrow).collect();
        let records = records.as_slice();
        self.begin().await?;
        if records.is_empty() && offsets.is_empty() {
            return Ok(EndOffsets::default());
        }
        self.count(records).await?;
        loop {
            let offsets =
                TransactionOffsets::new(offsets, membership).map_err(|e| TransactionError::Fatal(e.to_string()))?;
            let since = Instant::now();
            let error = match self.attempt(records, offsets).await {
                Ok(ends) => return Ok(ends),
                Err(error) => error,
            };
            if !self.core.narrow(error.errors(), records) {
                return Err(self.undo(error, records, since).await);
            }
            self.abort(since).await?;
            self.begin().await?;
        }
    }

    async fn attempt(
        &mut self,
        records: &[&Outgoing],
        offsets: Option<TransactionOffsets>,
    ) -> Result<EndOffsets, AttemptError> {
        let Some(thread) = &self.thread else { return Err(AttemptError::Stuck) };
        let Some(client) = thread.client() else { return Err(AttemptError::Stuck) };
        let deadline = Instant::now() + self.core.patience;
        let attempt = client.context().begin(records.len());
        // Also for who drops this future.
        self.stage = Stage::Open;
        let begun = thread
            .call(MARGIN, |client| librdkafka::transactions::begin(client.client()).map_err(AttemptError::Call))
            .await;
        begun.unwrap_or(Err(AttemptError::Stuck))?;
        let permit = PublishPermit::unconditional();
        if let Err(failed) = self.core.hand_over(&permit).all_numbered(client, records, attempt, deadline).await {
            return Err(attempt::untaken(client, failed, deadline).await);
        }
        let within = left(deadline) + MARGIN + SLACK;
        let done = self.call(within, move |client| attempt::finish(client, offsets, deadline)).await;
        done.unwrap_or(Err(AttemptError::Stuck))?;
        let ends = client.context().take_end_offsets();
        self.committed();
        Ok(ends)
    }

    /// Takes back what an attempt has left, and says what became of it.
    async fn undo(&mut self, error: AttemptError, records: &[&Outgoing], since: Instant) -> TransactionError {
        match error {
            AttemptError::Stuck => {
                self.abandon();
                self.outcome_unknown("a call of the transaction does not come back: the coordinator may be down")
            }
            AttemptError::Commit(fault) => match self.verdict(&fault, since) {
                Some(error) => error,
                None => self.outcome_unknown(&format!("the commit was not confirmed: {}", fault.text)),
            },
            AttemptError::Call(fault) => match self.verdict(&fault, since) {
                Some(error) => error,
                None if FaultCause::of(&fault) == FaultCause::Member => {
                    self.aborted(
                        since,
                        TransactionError::Fenced(format!("the group has gone on without us: {}", fault.text)),
                    )
                    .await
                }
                None => self.aborted(since, TransactionError::Aborted(fault.text)).await,
            },
            AttemptError::Member(why) => self.aborted(since, TransactionError::Fenced(why)).await,
            AttemptError::Slow => {
                let text = "the records were not acknowledged within kafka.producer.transaction_timeout: the broker may be down, or slow";
                self.aborted(since, TransactionError::Aborted(text.to_owned())).await
            }
            AttemptError::Records(errors) => {
                let error = self.refused(errors, records);
                self.aborted(since, error).await
            }
        }
    }

    /// What records failed of, as an error of the unit.
    fn refused(&self, mut errors: Vec<(usize, ProduceError)>, records: &[&Outgoing]) -> TransactionError {
        // What was purged along with another is not the reason, and of those that are too large it is one that stood alone.
        errors.sort_by_key(|(index, error)| {
            let purged = matches!(error.code(), Some(Code::PurgeQueue | Code::PurgeInflight));
            (purged, error.is_too_large() && !self.core.is_alone(records[*index]))
        });
        self.core.recount(&errors, records);
        let described = self.core.errors(errors, records).0;
        let worst = described.iter().find(|error| error.permanent).or(described.first());
        match worst {
            Some(error) if error.permanent => {
                TransactionError::Refused { index: error.index, why: error.reason.clone() }
            }
            Some(error) => TransactionError::Aborted(format!("record {}: {}", error.index, error.reason)),
            None => TransactionError::Aborted("records failed for no known reason".to_owned()),
        }
    }

    /// The error of a transaction that is aborted, once that is so.
    async fn aborted(&mut self, since: Instant, error: TransactionError) -> TransactionError {
        match self.abort(since).await {
            Ok(()) => error,
            Err(worse @ (TransactionError::Taken(_) | TransactionError::Fatal(_))) => worse,
            Err(unknown) => TransactionError::OutcomeUnknown(format!("{error}; {unknown}")),
        }
    }

    async fn abort(&mut self, since: Instant) -> Result<(), TransactionError> {
        let deadline = Instant::now() + ABORT;
        let abort =
            move |client: &Client| insist(deadline, |wait| librdkafka::transactions::abort(client.client(), wait));
        match self.call(ABORT + SLACK, abort).await {
            Some(Ok(())) => {
                // Of what was given up something may still be on its way. And after a batch that was refused librdkafka
                // 2.12 misses its sequence numbers in the next transaction.
                (self.thread, self.stage) = (None, Stage::Fresh);
                Ok(())
            }
            Some(Err(fault)) => Err(match self.verdict(&fault, since) {
                Some(error) => error,
                None => self.outcome_unknown(&format!("the abort was not confirmed: {}", fault.text)),
            }),
            None => {
                self.abandon();
                Err(self.outcome_unknown("the abort does not come back: the coordinator may be down"))
            }
        }
    }

    /// It is committed: the producer goes on, unless a request may still be on its way.
    fn committed(&mut self) {
        self.stage = Stage::Ready;
        let client = self.thread.as_ref().and_then(ProducerThread::client);
        if client.is_none_or(|client| client.context().had_trouble()) {
            tracing::debug!(id = self.id, "a connection failed during a transaction: its producer is replaced");
            (self.thread, self.stage) = (None, Stage::Fresh);
        }
    }

    /// Leaves a thread behind that does not come back, and its producer with it.
    fn abandon(&mut self) {
        (self.thread, self.is_epoch_uncertain) = (None, true);
        tracing::warn!(id = self.id, "a call of a kafka transaction does not come back: its producer is left behind");
    }

    /// What a fault says of the producer, if it is the producer's end.
    fn verdict(&mut self, fault: &TransactionFault, since: Instant) -> Option<TransactionError> {
        match FaultCause::of(fault) {
            // A coordinator does the same to a transaction that has outlived its time.
            FaultCause::Epoch if self.is_epoch_uncertain || since.elapsed() >= self.core.patience => {
                // Each time once, or two processes would shut each other out for ever.
                self.is_epoch_uncertain = false;
                Some(self.outcome_unknown(&format!("the coordinator has given up the transaction: {}", fault.text)))
            }
            FaultCause::Epoch => Some(TransactionError::Taken(error::taken(&self.id))),
            FaultCause::Forbidden => Some(TransactionError::Fatal(error::forbidden(&self.id, fault))),
            FaultCause::Producer => {
                Some(self.outcome_unknown(&format!("the producer failed for good: {}", fault.text)))
            }
            FaultCause::Passing | FaultCause::Member => None,
        }
    }

    fn outcome_unknown(&self, why: &str) -> TransactionError {
        TransactionError::OutcomeUnknown(format!("{why} (transactions of `{}`)", self.id))
    }

    async fn init(&mut self) -> Result<(), TransactionError> {
        if self.thread.is_none() {
            self.wait_for_abandoned().await?;
            let client = self.core.client(Reports::default()).map_err(TransactionError::Fatal)?;
            let thread = ProducerThread::begin(client, Arc::clone(&self.threads)).map_err(TransactionError::Fatal)?;
            (self.thread, self.lacks_epoch) = (Some(thread), true);
        }
        let (since, timeout) = (Instant::now(), self.core.patience);
        let init = move |client: &Client| {
            insist(since + timeout, |wait| librdkafka::transactions::init(client.client(), wait))
        };
        match self.call(timeout + MARGIN, init).await {
            Some(Ok(())) => {
                (self.stage, self.lacks_epoch) = (Stage::Ready, false);
                Ok(())
            }
            Some(Err(fault)) if fault.retriable && !fault.fatal => {
                Err(self.outcome_unknown(&format!("the coordinator does not answer: {}", fault.text)))
            }
            Some(Err(fault)) => {
                let error = self.verdict(&fault, since);
                self.thread = None;
                Err(error
                    .unwrap_or_else(|| self.outcome_unknown(&format!("no producer id was given out: {}", fault.text))))
            }
            None => {
                self.abandon();
                Err(self.outcome_unknown("the coordinator does not answer"))
            }
        }
    }

    async fn call<T: Send + 'static>(
        &self,
        within: Duration,
        work: impl FnOnce(&Client) -> T + Send + 'static,
    ) -> Option<T> {
        let thread = self.thread.as_ref()?;
        self.core.wait(thread.client()?.client(), thread.call(within, work)).await
    }

    /// Waits while too many abandoned producers have not ended.
    async fn wait_for_abandoned(&self) -> Result<(), TransactionError> {
        let deadline = Instant::now() + self.core.patience;
        while Arc::strong_count(&self.threads) - 1 > MAX_ABANDONED {
            if Instant::now() > deadline {
                return Err(self.outcome_unknown("earlier producers do not end: the coordinator may be down"));
            }
            tokio::time::sleep(ABANDONED_POLL).await;
        }
        Ok(())
    }

    /// Learns how many partitions those topics have whose partition a record names, before anything is under way.
    async fn count(&self, records: &[&Outgoing]) -> Result<(), TransactionError> {
        // Without a producer the attempt fails, which says so.
        let Some(thread) = &self.thread else { return Ok(()) };
        let Some(client) = thread.client() else { return Ok(()) };
        let deadline = Instant::now() + self.core.patience;
        for (index, record) in self.core.uncounted(records) {
            let ask = || async {
                let topic = Arc::clone(&record.topic);
                let asked = thread.call(SLACK + MARGIN, move |client| ask(client.client(), &topic)).await;
                Ok(asked.unwrap_or(CountAnswer::Nobody))
            };
            let counted = self.core.count(client.client(), &record.topic, deadline, ask).await;
            counted.map_err(|error| self.refused(vec![(index, error)], records))?;
        }
        Ok(())
    }
}
