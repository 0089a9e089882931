//! The calls of a transaction, all of which block. rdkafka's own flush in steps of 100 ms before each commit, and want a
//! group's metadata as rdkafka hides it.

use std::{
    ffi::{CStr, c_int},
    time::Duration,
};

use rdkafka::{
    TopicPartitionList,
    bindings::{
        rd_kafka_abort_transaction, rd_kafka_begin_transaction, rd_kafka_commit_transaction, rd_kafka_error_code,
        rd_kafka_error_destroy, rd_kafka_error_is_fatal, rd_kafka_error_is_retriable, rd_kafka_error_string,
        rd_kafka_error_t, rd_kafka_error_txn_requires_abort, rd_kafka_flush, rd_kafka_init_transactions,
        rd_kafka_send_offsets_to_transaction,
    },
    client::{Client, ClientContext},
    error::RDKafkaErrorCode as Code,
};

use super::{code, membership::GroupMetadata};

/// Why a call of a transaction failed, and what librdkafka makes of it.
#[derive(Clone, Debug)]
pub(crate) struct TransactionFault {
    pub(crate) code: Code,
    pub(crate) text: String,
    /// The same call may be made again, and goes on where it was.
    pub(crate) retriable: bool,
    /// The transaction can only be aborted.
    pub(crate) aborts: bool,
    /// The producer can do nothing any more.
    pub(crate) fatal: bool,
}

/// Gets a producer id of a new epoch, which ends whatever an earlier producer with this id has left open.
pub(crate) fn init<C: ClientContext>(client: &Client<C>, wait: Duration) -> Result<(), TransactionFault> {
    // SAFETY: the client is alive.
    unsafe { outcome(rd_kafka_init_transactions(client.native_ptr(), millis(wait))) }
}

/// Begins a transaction; asks only librdkafka's own thread.
pub(crate) fn begin<C: ClientContext>(client: &Client<C>) -> Result<(), TransactionFault> {
    // SAFETY: the client is alive.
    unsafe { outcome(rd_kafka_begin_transaction(client.native_ptr())) }
}

/// Makes offsets part of the transaction. Does not keep to `wait` while a coordinator is down.
pub(crate) fn send_offsets<C: ClientContext>(
    client: &Client<C>,
    offsets: &TopicPartitionList,
    metadata: &GroupMetadata,
    wait: Duration,
) -> Result<(), TransactionFault> {
    // SAFETY: client, list and metadata are alive; librdkafka copies both.
    unsafe {
        outcome(rd_kafka_send_offsets_to_transaction(
            client.native_ptr(),
            offsets.ptr(),
            metadata.as_ptr(),
            millis(wait),
        ))
    }
}

/// Commits. Goes on in the background after its time is over, and may be called again to learn the outcome.
pub(crate) fn commit<C: ClientContext>(client: &Client<C>, wait: Duration) -> Result<(), TransactionFault> {
    // SAFETY: the client is alive.
    unsafe { outcome(rd_kafka_commit_transaction(client.native_ptr(), millis(wait))) }
}

/// Aborts, and purges what is still to be sent. May be called again as a commit may.
pub(crate) fn abort<C: ClientContext>(client: &Client<C>, wait: Duration) -> Result<(), TransactionFault> {
    // SAFETY: the client is alive.
    unsafe { outcome(rd_kafka_abort_transaction(client.native_ptr(), millis(wait))) }
}

/// Waits until the fate of every record was reported; whether it was. Another thread takes the reports meanwhile.
pub(crate) fn flush<C: ClientContext>(client: &Client<C>, wait: Duration) -> bool {
    // SAFETY: the client is alive.
    code(unsafe { rd_kafka_flush(client.native_ptr(), millis(wait)) }).is_none()
}

fn millis(wait: Duration) -> c_int {
    c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX)
}

/// # Safety
/// Null, or an error that is ours.
unsafe fn outcome(error: *mut rd_kafka_error_t) -> Result<(), TransactionFault> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: by this function's own condition; the text ends with a NUL and is copied before the error is destroyed, once.
    unsafe {
        let fault = TransactionFault {
            code: rd_kafka_error_code(error).into(),
            text: CStr::from_ptr(rd_kafka_error_string(error)).to_string_lossy().into_owned(),
            retriable: rd_kafka_error_is_retriable(error) != 0,
            aborts: rd_kafka_error_txn_requires_abort(error) != 0,
            fatal: rd_kafka_error_is_fatal(error) != 0,
        };
        rd_kafka_error_destroy(error);
        Err(fault)
    }
}
