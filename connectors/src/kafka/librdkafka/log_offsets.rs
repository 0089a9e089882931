//! Questions where single logs begin and end, whose answers come back on a queue of their own: nobody waits for a leader that
//! does not answer. They go to leaders and to no group's coordinator, and are safe in a process that runs for long.

use std::{
    ffi::c_int,
    ptr::{self, NonNull},
    time::Duration,
};

use headwater::TopicPartition;
use rdkafka::{
    Offset, TopicPartitionList,
    bindings::{
        rd_kafka_AdminOptions_destroy, rd_kafka_AdminOptions_new, rd_kafka_AdminOptions_set_isolation_level,
        rd_kafka_AdminOptions_set_opaque, rd_kafka_AdminOptions_set_request_timeout, rd_kafka_IsolationLevel_t,
        rd_kafka_ListOffsets, rd_kafka_admin_op_t, rd_kafka_event_destroy, rd_kafka_event_error, rd_kafka_event_opaque,
        rd_kafka_event_t, rd_kafka_queue_destroy, rd_kafka_queue_new, rd_kafka_queue_poll, rd_kafka_queue_t,
    },
    client::{Client, ClientContext},
    error::RDKafkaErrorCode as Code,
};

use super::{admin::read_offsets, code};

/// Where the answers come. Must go before its client does.
pub(crate) struct OffsetQueue(NonNull<rd_kafka_queue_t>);

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl Send for OffsetQueue {}

impl OffsetQueue {
    /// A queue for questions of this client; `None` when there is no memory for it.
    pub(crate) fn new<C: ClientContext>(client: &Client<C>) -> Option<Self> {
        // SAFETY: the client is alive; the queue does not point to it.
        NonNull::new(unsafe { rd_kafka_queue_new(client.native_ptr()) }).map(Self)
    }

    /// Asks for the first offset of a log (`Beginning`) or the one behind its last that `read_committed` shows (`End`), and does
    /// not wait. There is an answer with this number within the time and a little more.
    ///
    /// # Errors
    /// [`Code`] when the question cannot be put.
    pub(crate) fn ask<C: ClientContext>(
        &self,
        client: &Client<C>,
        (name, at): (&TopicPartition, Offset),
        timeout: Duration,
        number: usize,
    ) -> Result<(), Code> {
        let mut list = TopicPartitionList::new();
        let added = list.add_partition_offset(&name.topic, name.partition, at);
        added.map_err(|error| error.rdkafka_error_code().unwrap_or(Code::InvalidArgument))?;
        let timeout_ms = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: client, list and queue are alive. List and options are copied by the call, which holds the queue by reference
        // count and only gives the number back; the options are destroyed here, once.
        unsafe {
            let native = client.native_ptr();
            let options = rd_kafka_AdminOptions_new(native, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS);
            rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, ptr::null_mut(), 0);
            let level = rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED;
            rd_kafka_AdminOptions_set_isolation_level(options, level);
            // A number, not the address of anything.
            rd_kafka_AdminOptions_set_opaque(options, ptr::without_provenance_mut(number));
            rd_kafka_ListOffsets(native, list.ptr(), options, self.0.as_ptr());
            rd_kafka_AdminOptions_destroy(options);
        }
        Ok(())
    }

    /// The next answer and its number, if one comes within the time.
    pub(crate) fn answer(&self, wait: Duration) -> Option<(usize, Result<i64, Code>)> {
        let wait = c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the queue is alive, and only questions for offsets are answered on it.
        let event = NonNull::new(unsafe { rd_kafka_queue_poll(self.0.as_ptr(), wait) })?;
        // SAFETY: the event is alive.
        let number = unsafe { rd_kafka_event_opaque(event.as_ptr()) }.addr();
        let answer = read_answer(event);
        // SAFETY: the event came from the poll above, and nothing of it is kept.
        unsafe { rd_kafka_event_destroy(event.as_ptr()) };
        Some((number, answer))
    }
}

impl Drop for OffsetQueue {
    fn drop(&mut self) {
        // SAFETY: the queue is ours, and destroyed once.
        unsafe { rd_kafka_queue_destroy(self.0.as_ptr()) };
    }
}

/// The one offset of an answer.
fn read_answer(event: NonNull<rd_kafka_event_t>) -> Result<i64, Code> {
    // SAFETY: the event is alive; one without an error answers a question for offsets.
    let offsets = unsafe {
        code(rd_kafka_event_error(event.as_ptr())).map_or(Ok(()), Err)?;
        read_offsets(event.as_ptr())
    };
    offsets.into_iter().next().map_or(Err(Code::BadMessage), |(_, offset)| offset)
}
