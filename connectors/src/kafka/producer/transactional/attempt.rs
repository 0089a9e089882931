//! One attempt at a transaction: what its records and offsets go through, and what can go wrong on the way.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use headwater::{Outgoing, Position, TopicPartition};
use rdkafka::{
    TopicPartitionList,
    error::RDKafkaErrorCode as Code,
    producer::{Producer as _, PurgeConfig},
};

use super::{
    error::Cause,
    life::{Client, Life},
    reports::Reports,
};
use crate::kafka::{
    consumer::{membership::Membership, partition},
    error::KafkaError,
    librdkafka::{self, transactions::TransactionFault},
    producer::{
        batch::Fault,
        idempotent::Names,
        partition_counts::{Counts, FixedCounts},
    },
};

/// How long beyond a transaction's own time its outcome is asked for.
pub(crate) const MARGIN: Duration = Duration::from_secs(5);
/// How long to wait for room in a full queue before trying again.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(1);
/// Between two looks whether records have failed while others are waited for.
const FLUSH: Duration = Duration::from_millis(200);
/// Between two tries of a call that may be made again.
const PAUSE: Duration = Duration::from_millis(50);

/// Why an attempt did not end in a commit.
#[derive(Debug)]
pub(crate) enum AttemptError {
    /// These records failed.
    Records(Vec<(usize, Fault)>),
    /// It took as long as a transaction may.
    Slow,
    /// We are not the one who commits these offsets.
    Member(String),
    /// A call before the commit failed.
    Call(TransactionFault),
    /// The commit failed, and may have happened.
    Commit(TransactionFault),
    /// A call does not come back.
    Stuck,
}

impl AttemptError {
    /// The records that failed.
    pub(crate) fn faults(&self) -> &[(usize, Fault)] {
        if let Self::Records(faults) = self { faults } else { &[] }
    }
}

/// Offsets that belong to the transaction, and whose they are.
pub(crate) struct Offsets {
    list: TopicPartitionList,
    names: Vec<TopicPartition>,
    membership: Membership,
}

impl Offsets {
    /// `None` where there are none.
    pub(crate) fn new(positions: &[Position], membership: &Membership) -> Result<Option<Self>, KafkaError> {
        if positions.is_empty() {
            return Ok(None);
        }
        let list = partition::list_at(positions.iter().map(|position| (&position.partition, position.next)))?;
        let names = positions.iter().map(|position| position.partition.clone()).collect();
        Ok(Some(Self { list, names, membership: membership.clone() }))
    }
}

/// Records on their way to the producer.
pub(crate) struct Batch<'a> {
    pub(crate) life: &'a Life,
    pub(crate) counts: &'a Counts,
    pub(crate) fixed: &'a FixedCounts,
    pub(crate) records: &'a [&'a Outgoing],
    pub(crate) deadline: Instant,
}

impl Batch<'_> {
    /// Hands all of them over in order, waiting for room.
    pub(crate) async fn hand_over(&self, attempt: usize) -> Result<(), AttemptError> {
        let Some(client) = self.life.client() else { return Err(AttemptError::Stuck) };
        let mut names = Names::default();
        for (index, record) in self.records.iter().enumerate() {
            let refused = |fault| AttemptError::Records(vec![(index, fault)]);
            let topic = names.of(&record.topic).map_err(|error| refused(Fault::Client(error.into())))?;
            let partition = match record.partition {
                Some(number) => self.counts.place(&record.topic, number),
                None => self.fixed.place(record),
            };
            let number = Reports::numbered(attempt, index);
            while let Err(code) =
                librdkafka::produce::produce_numbered(client.client(), topic, record, partition, number)
            {
                match code {
                    Code::QueueFull => self.room(client).await?,
                    Code::MessageSizeTooLarge => return Err(refused(Fault::Oversize)),
                    // The transaction has failed: of records that were handed over before, whose reports say why.
                    Code::State => return Err(self.earlier(client).await.unwrap_or_else(|| refused(Fault::of(code)))),
                    code => return Err(refused(Fault::of(code))),
                }
            }
        }
        Ok(())
    }

    /// What records failed of that were handed over before.
    async fn earlier(&self, client: &Arc<Client>) -> Option<AttemptError> {
        let (client, deadline) = (Arc::clone(client), self.deadline);
        let told = tokio::task::spawn_blocking(move || flushed(&client, deadline)).await;
        told.map_or(Some(AttemptError::Stuck), Result::err)
    }

    async fn room(&self, client: &Client) -> Result<(), AttemptError> {
        unharmed(client)?;
        if Instant::now() > self.deadline {
            return Err(AttemptError::Slow);
        }
        tokio::time::sleep(QUEUE_FULL_WAIT).await;
        Ok(())
    }
}

/// Waits for the fate of every record, adds the offsets, and commits. Blocks, and maybe for ever.
pub(crate) fn finish(client: &Client, offsets: Option<Offsets>, deadline: Instant) -> Result<(), AttemptError> {
    flushed(client, deadline)?;
    // No report may be missing of what is committed.
    if client.context().left() > 0 {
        return Err(AttemptError::Slow);
    }
    if let Some(Offsets { list, names, membership }) = offsets {
        // As late as can be, so that it is the present generation.
        let metadata = membership.of_owner(&names).map_err(AttemptError::Member)?;
        let send = |wait| librdkafka::transactions::send_offsets(client.client(), &list, &metadata, wait);
        insist(deadline, send).map_err(AttemptError::Call)?;
    }
    insist(deadline + MARGIN, |wait| librdkafka::transactions::commit(client.client(), wait)).map_err(|fault| {
        // Said before anything is asked of the coordinator.
        if fault.code == Code::Inconsistent { AttemptError::Call(fault) } else { AttemptError::Commit(fault) }
    })
}

fn flushed(client: &Client, deadline: Instant) -> Result<(), AttemptError> {
    while !librdkafka::transactions::flush(client.client(), left(deadline).min(FLUSH)) {
        if !client.context().faults().is_empty() {
            // librdkafka keeps what came back behind a record that was refused, and sends it no more.
            client.purge(PurgeConfig::default().queue());
        }
        if Instant::now() >= deadline {
            return Err(AttemptError::Slow);
        }
    }
    unharmed(client)
}

/// Whether no record has failed so far.
fn unharmed(client: &Client) -> Result<(), AttemptError> {
    let faults = client.context().faults();
    if faults.is_empty() {
        return Ok(());
    }
    Err(AttemptError::Records(faults.into_iter().map(|(index, code)| (index, Fault::of(code))).collect()))
}

/// Makes a call again that says so, until its time is over.
pub(crate) fn insist(
    deadline: Instant,
    call: impl Fn(Duration) -> Result<(), TransactionFault>,
) -> Result<(), TransactionFault> {
    loop {
        match call(left(deadline)) {
            Err(fault)
                if fault.retriable
                    && !fault.aborts
                    && Cause::of(&fault) == Cause::Passing
                    && Instant::now() + PAUSE < deadline =>
            {
                std::thread::sleep(PAUSE);
            }
            outcome => return outcome,
        }
    }
}

pub(crate) fn left(deadline: Instant) -> Duration {
    // Zero is not "at once" everywhere.
    deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1))
}
