//! The admin question that rdkafka lacks: where logs begin and end. It blocks for the time that it is given at most.
//!
//! Nothing here may go to a group's coordinator (DescribeConsumerGroups, ListConsumerGroupOffsets,
//! AlterConsumerGroupOffsets, DeleteConsumerGroupOffsets): librdkafka 2.12 aborts the process when the connection of such
//! a request goes at the wrong moment. Consumers ask what groups have committed, and `groups.rs` who is in them.

use std::{
    ffi::{CStr, c_int},
    ptr::{self, NonNull},
    slice,
    time::Duration,
};

use headwater::TopicPartition;
use rdkafka::{
    TopicPartitionList,
    bindings::{
        RD_KAFKA_OFFSET_INVALID, rd_kafka_AdminOptions_destroy, rd_kafka_AdminOptions_new,
        rd_kafka_AdminOptions_set_isolation_level, rd_kafka_AdminOptions_set_request_timeout, rd_kafka_AdminOptions_t,
        rd_kafka_IsolationLevel_t, rd_kafka_ListOffsets, rd_kafka_ListOffsets_result_infos,
        rd_kafka_ListOffsetsResultInfo_topic_partition, rd_kafka_admin_op_t, rd_kafka_event_ListOffsets_result,
        rd_kafka_event_destroy, rd_kafka_event_error, rd_kafka_event_t, rd_kafka_queue_destroy, rd_kafka_queue_new,
        rd_kafka_queue_poll, rd_kafka_queue_t, rd_kafka_t, rd_kafka_topic_partition_t,
    },
    client::{Client, ClientContext},
    error::RDKafkaErrorCode as Code,
};

use super::code;

/// What is said of each partition, or why nothing is.
pub(crate) type Answers<T> = Vec<(TopicPartition, Result<T, Code>)>;

/// What counts as the end of a log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// Where the oldest open transaction begins: the last stable offset.
    Committed,
    /// Behind everything: the high watermark.
    Uncommitted,
}

/// The offset of each partition of the list, which is not empty, that its own offset asks for: -2 the first, -1 the one
/// behind the last (that `read_committed` shows, or the log has, as `isolation` says), else the first with this timestamp (ms) or a later one, -1 where there is none.
///
/// # Errors
/// [`Code`] when a broker does not answer.
pub(crate) fn list_offsets<C: ClientContext>(
    client: &Client<C>,
    list: &TopicPartitionList,
    isolation: Isolation,
    timeout: Duration,
) -> Result<Answers<i64>, Code> {
    // SAFETY: the list is copied by the call; the result is read while the event is alive.
    unsafe {
        ask(
            client,
            rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS,
            timeout,
            |client, options, queue| {
                let level = match isolation {
                    Isolation::Committed => rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED,
                    Isolation::Uncommitted => rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED,
                };
                rd_kafka_AdminOptions_set_isolation_level(options, level);
                rd_kafka_ListOffsets(client, list.ptr(), options, queue);
            },
            |event| Ok(read_offsets(event)),
        )
    }
}

/// What an answer says of each partition.
///
/// # Safety
/// The event is alive, has no error, and answers ListOffsets.
pub(super) unsafe fn read_offsets(event: *mut rd_kafka_event_t) -> Answers<i64> {
    let mut count = 0;
    // SAFETY: by this function's own condition; what the event holds is copied.
    unsafe {
        let infos = rd_kafka_ListOffsets_result_infos(rd_kafka_event_ListOffsets_result(event), &raw mut count);
        let partitions = array(infos, count).iter();
        let partitions = partitions.filter_map(|info| rd_kafka_ListOffsetsResultInfo_topic_partition(*info).as_ref());
        partitions.map(read_partition).collect()
    }
}

/// Puts one question and reads its answer.
///
/// # Safety
/// `put` asks exactly one question of this kind on the queue; `read` takes the event for an answer to that kind, and keeps
/// nothing of it.
unsafe fn ask<C: ClientContext, T>(
    client: &Client<C>,
    kind: rd_kafka_admin_op_t,
    timeout: Duration,
    put: impl FnOnce(*mut rd_kafka_t, *mut rd_kafka_AdminOptions_t, *mut rd_kafka_queue_t),
    read: impl FnOnce(*mut rd_kafka_event_t) -> Result<T, Code>,
) -> Result<T, Code> {
    let timeout_ms = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    let native = client.native_ptr();
    // SAFETY: the client outlives the call, and the question with it: the answer is awaited for longer than librdkafka
    // works on it. Everything made here is destroyed here, once.
    unsafe {
        let queue = rd_kafka_queue_new(native);
        let options = rd_kafka_AdminOptions_new(native, kind);
        rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, ptr::null_mut(), 0);
        put(native, options, queue);
        rd_kafka_AdminOptions_destroy(options);
        let event = NonNull::new(rd_kafka_queue_poll(queue, timeout_ms.saturating_add(1_000)));
        let answer = match event {
            None => Err(Code::OperationTimedOut),
            Some(event) => match code(rd_kafka_event_error(event.as_ptr())) {
                Some(code) => Err(code),
                None => read(event.as_ptr()),
            },
        };
        if let Some(event) = event {
            rd_kafka_event_destroy(event.as_ptr());
        }
        rd_kafka_queue_destroy(queue);
        answer
    }
}

/// librdkafka's array of so many pointers.
///
/// # Safety
/// It is null, or holds `count` of them for as long as the result is used.
unsafe fn array<'a, T>(pointers: *mut *const T, count: usize) -> &'a [*const T] {
    if pointers.is_null() || count == 0 {
        return &[];
    }
    // SAFETY: by this function's own condition.
    unsafe { slice::from_raw_parts(pointers, count) }
}

fn read_partition(element: &rd_kafka_topic_partition_t) -> (TopicPartition, Result<i64, Code>) {
    // SAFETY: every element has a name that ends with a NUL.
    let topic = unsafe { CStr::from_ptr(element.topic) }.to_string_lossy();
    let place = match code(element.err) {
        Some(code) => Err(code),
        // librdkafka 2.12 gives no error where the leader has not answered.
        None if element.offset == i64::from(RD_KAFKA_OFFSET_INVALID) => Err(Code::OperationTimedOut),
        None => Ok(element.offset),
    };
    (TopicPartition::new(topic.as_ref(), element.partition), place)
}
