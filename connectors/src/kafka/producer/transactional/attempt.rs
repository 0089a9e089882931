//! One attempt at a transaction: what its records and offsets go through, and what can go wrong on the way.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use headwater::{TopicPartition, spi::Position};
use rdkafka::{TopicPartitionList, error::RDKafkaErrorCode as Code, producer::Producer as _};

use super::{error::FaultCause, producer_thread::Client};
use crate::kafka::{
    consumer::{membership::Membership, partition},
    error::KafkaError,
    librdkafka::{self, transactions::TransactionFault},
    producer::core::{
        flush::{flush, left},
        produce_error::ProduceError,
    },
};

/// How long beyond a transaction's own time its outcome is asked for.
pub(crate) const MARGIN: Duration = Duration::from_secs(5);
/// Between two tries of a call that may be made again.
const PAUSE: Duration = Duration::from_millis(50);

/// Why an attempt did not end in a commit.
#[derive(Debug)]
pub(crate) enum AttemptError {
    /// These records failed.
    Records(Vec<(usize, ProduceError)>),
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
    pub(crate) fn errors(&self) -> &[(usize, ProduceError)] {
        if let Self::Records(errors) = self { errors } else { &[] }
    }
}

/// Offsets that belong to the transaction, and whose they are.
pub(crate) struct TransactionOffsets {
    list: TopicPartitionList,
    names: Vec<TopicPartition>,
    membership: Membership,
}

impl TransactionOffsets {
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

/// What an attempt failed of in which this record was not taken.
pub(crate) async fn untaken(client: &Arc<Client>, failed: (usize, ProduceError), deadline: Instant) -> AttemptError {
    match failed.1.code() {
        // It cannot be sent at all.
        None => AttemptError::Records(vec![failed]),
        Some(Code::QueueFull) => unharmed(client).err().unwrap_or(AttemptError::Slow),
        // The transaction has failed: of records that were handed over before, whose reports say why.
        Some(Code::State) => earlier(client, deadline).await.unwrap_or_else(|| AttemptError::Records(vec![failed])),
        Some(_) => AttemptError::Records(vec![failed]),
    }
}

/// What records failed of that were handed over before.
async fn earlier(client: &Arc<Client>, deadline: Instant) -> Option<AttemptError> {
    let client = Arc::clone(client);
    let told = tokio::task::spawn_blocking(move || flushed(&client, deadline)).await;
    told.map_or(Some(AttemptError::Stuck), Result::err)
}

/// Waits for the fate of every record, adds the offsets, and commits. Blocks, and maybe for ever.
pub(crate) fn finish(
    client: &Client,
    offsets: Option<TransactionOffsets>,
    deadline: Instant,
) -> Result<(), AttemptError> {
    flushed(client, deadline)?;
    // No report may be missing of what is committed.
    if client.context().left() > 0 {
        return Err(AttemptError::Slow);
    }
    if let Some(TransactionOffsets { list, names, membership }) = offsets {
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
    if !flush(client, deadline, || !client.context().errors().is_empty()) {
        return Err(AttemptError::Slow);
    }
    unharmed(client)
}

/// Whether no record has failed so far.
fn unharmed(client: &Client) -> Result<(), AttemptError> {
    let errors = client.context().errors();
    if errors.is_empty() {
        return Ok(());
    }
    Err(AttemptError::Records(errors.into_iter().map(|(index, code)| (index, ProduceError::of(code))).collect()))
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
                    && FaultCause::of(&fault) == FaultCause::Passing
                    && Instant::now() + PAUSE < deadline =>
            {
                std::thread::sleep(PAUSE);
            }
            outcome => return outcome,
        }
    }
}
