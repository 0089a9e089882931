//! The few librdkafka calls that rdkafka lacks or makes unsafe for foreign data; the only module with `unsafe` code.
#![allow(unsafe_code)]

pub(crate) mod admin;
pub(crate) mod fetch;
pub(crate) mod membership;
pub(crate) mod produce;
pub(crate) mod transactions;

use std::{
    collections::{BTreeMap, HashMap},
    ffi::{CStr, CString, c_char, c_int},
    ptr::{self, NonNull},
    slice,
    time::Duration,
};

use headwater::TopicPartition;
use rdkafka::{
    TopicPartitionList,
    bindings::{
        rd_kafka_AdminOptions_destroy, rd_kafka_AdminOptions_new, rd_kafka_AdminOptions_set_request_timeout,
        rd_kafka_DescribeTopics, rd_kafka_DescribeTopics_result_topics, rd_kafka_TopicCollection_destroy,
        rd_kafka_TopicCollection_of_topic_names, rd_kafka_TopicDescription_error, rd_kafka_TopicDescription_name,
        rd_kafka_TopicDescription_t, rd_kafka_TopicDescription_topic_id, rd_kafka_Uuid_base64str, rd_kafka_admin_op_t,
        rd_kafka_commit_queue, rd_kafka_error_code, rd_kafka_event_DescribeTopics_result, rd_kafka_event_destroy,
        rd_kafka_event_error, rd_kafka_event_t, rd_kafka_event_topic_partition_list, rd_kafka_get_watermark_offsets,
        rd_kafka_queue_destroy, rd_kafka_queue_new, rd_kafka_queue_poll, rd_kafka_queue_t,
        rd_kafka_topic_partition_list_t,
    },
    client::{Client, ClientContext},
    error::RDKafkaErrorCode as Code,
    types::RDKafkaRespErr,
};

/// The first offset that the partition still holds, as the last fetch told it; no request is made.
/// `None` when nothing was fetched yet.
pub(crate) fn log_start<C: ClientContext>(client: &Client<C>, topic: &str, partition: i32) -> Option<i64> {
    let topic = CString::new(topic).ok()?;
    let (mut low, mut high) = (-1_i64, -1_i64);
    // SAFETY: the client outlives the call, the name is NUL-terminated, both out-pointers live on this stack frame.
    let error = unsafe {
        rd_kafka_get_watermark_offsets(client.native_ptr(), topic.as_ptr(), partition, &raw mut low, &raw mut high)
    };
    (error == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR && low >= 0).then_some(low)
}

/// What librdkafka writes for the id that a cluster without topic ids gives every topic: 16 zero bytes.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// The id of each of these topics, in base64, within the time; blocks. A topic that does not exist is left out, and every
/// topic of a cluster that gives none.
///
/// # Errors
/// [`Code`] when the cluster does not answer, or refuses to describe one of them.
pub(crate) fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    topics: &[String],
    timeout: Duration,
) -> Result<BTreeMap<String, String>, Code> {
    let mut unique: Vec<&String> = topics.iter().collect();
    unique.sort_unstable();
    // librdkafka refuses to describe a topic twice.
    unique.dedup();
    let owned: Vec<CString> = unique
        .into_iter()
        .map(|t| CString::new(t.as_str()))
        .collect::<Result<_, _>>()
        .map_err(|_| Code::InvalidTopic)?;
    let mut names: Vec<*const c_char> = owned.iter().map(|name| name.as_ptr()).collect();
    let timeout_ms = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    let native = client.native_ptr();
    // SAFETY: the client outlives the call, and the question with it: the answer is awaited for longer than librdkafka
    // works on it. Names and options are copied by the call; everything made here is destroyed here, once.
    unsafe {
        let queue = rd_kafka_queue_new(native);
        let collection = rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
        let options = rd_kafka_AdminOptions_new(native, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, ptr::null_mut(), 0);
        rd_kafka_DescribeTopics(native, collection, options, queue);
        rd_kafka_AdminOptions_destroy(options);
        rd_kafka_TopicCollection_destroy(collection);
        let event = NonNull::new(rd_kafka_queue_poll(queue, timeout_ms.saturating_add(1_000)));
        let ids = event.map_or(Err(Code::OperationTimedOut), read_ids);
        if let Some(event) = event {
            rd_kafka_event_destroy(event.as_ptr());
        }
        rd_kafka_queue_destroy(queue);
        ids
    }
}

fn read_ids(event: NonNull<rd_kafka_event_t>) -> Result<BTreeMap<String, String>, Code> {
    let mut count = 0_usize;
    // SAFETY: the event is alive, and so is what it holds; it answers the one question that its queue was made for.
    let topics = unsafe {
        code(rd_kafka_event_error(event.as_ptr())).map_or(Ok(()), Err)?;
        let result = rd_kafka_event_DescribeTopics_result(event.as_ptr());
        if result.is_null() {
            return Err(Code::BadMessage);
        }
        rd_kafka_DescribeTopics_result_topics(result, &raw mut count)
    };
    if topics.is_null() || count == 0 {
        return Ok(BTreeMap::new());
    }
    // SAFETY: librdkafka keeps `count` descriptions there.
    let topics = unsafe { slice::from_raw_parts(topics, count) };
    topics.iter().filter_map(|topic| read_id(*topic).transpose()).collect()
}

/// A topic's name and id; `None` where there is no such topic, or no id.
fn read_id(topic: *const rd_kafka_TopicDescription_t) -> Result<Option<(String, String)>, Code> {
    // SAFETY: the description belongs to an event that is alive; names and ids end with a NUL. An absent error has the
    // code of no error.
    unsafe {
        match code(rd_kafka_error_code(rd_kafka_TopicDescription_error(topic))) {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => return Ok(None),
            Some(code) => return Err(code),
            None => {}
        }
        let uuid = rd_kafka_TopicDescription_topic_id(topic);
        let id = if uuid.is_null() { ptr::null() } else { rd_kafka_Uuid_base64str(uuid) };
        if id.is_null() {
            return Ok(None);
        }
        let id = CStr::from_ptr(id).to_string_lossy().into_owned();
        let name = CStr::from_ptr(rd_kafka_TopicDescription_name(topic)).to_string_lossy().into_owned();
        Ok((id != NO_ID).then_some((name, id)))
    }
}

/// Commits whose answers come back on a queue of their own.
///
/// rdkafka's asynchronous commit never reports its outcome (it enables the event, but not the callback without which
/// librdkafka 2.12 sends none), and its synchronous one waits without a limit.
pub(crate) struct CommitQueue {
    queue: NonNull<rd_kafka_queue_t>,
    unanswered: usize,
}

// SAFETY: librdkafka's queues may be used from any thread, one at a time, which `&mut` ensures.
unsafe impl Send for CommitQueue {}

/// What became of one commit.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CommitAnswer {
    /// Why all of it failed, if it did.
    pub(crate) error: Option<Code>,
    /// Each position of it, and why that one failed, if it did.
    pub(crate) places: Vec<(TopicPartition, i64, Option<Code>)>,
}

impl CommitQueue {
    /// A queue for commits of this client; `None` when there is no memory for it.
    pub(crate) fn new<C: ClientContext>(client: &Client<C>) -> Option<Self> {
        // SAFETY: the client is alive; the queue does not point to it.
        let queue = unsafe { rd_kafka_queue_new(client.native_ptr()) };
        Some(Self { queue: NonNull::new(queue)?, unanswered: 0 })
    }

    /// How many commits have no answer yet.
    pub(crate) fn unanswered(&self) -> usize {
        self.unanswered
    }

    /// Sends a commit and does not wait.
    pub(crate) fn send<C: ClientContext>(&mut self, client: &Client<C>, list: &TopicPartitionList) -> Result<(), Code> {
        // SAFETY: client, list and queue are alive; librdkafka copies the list and holds the queue by reference count.
        let error = unsafe {
            rd_kafka_commit_queue(client.native_ptr(), list.ptr(), self.queue.as_ptr(), None, ptr::null_mut())
        };
        code(error).map_or(Ok(()), Err)?;
        self.unanswered += 1;
        Ok(())
    }

    /// The next answer, if one comes within the time.
    pub(crate) fn answer(&mut self, timeout: Duration) -> Option<CommitAnswer> {
        let timeout = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the queue is alive, and only commits are answered on it.
        let event = NonNull::new(unsafe { rd_kafka_queue_poll(self.queue.as_ptr(), timeout) })?;
        self.unanswered = self.unanswered.saturating_sub(1);
        let answer = read_answer(event);
        // SAFETY: the event came from the poll above, and nothing of it is kept.
        unsafe { rd_kafka_event_destroy(event.as_ptr()) };
        Some(answer)
    }
}

impl Drop for CommitQueue {
    fn drop(&mut self) {
        // SAFETY: the queue came from `rd_kafka_queue_new`, and is destroyed once.
        unsafe { rd_kafka_queue_destroy(self.queue.as_ptr()) };
    }
}

fn read_answer(event: NonNull<rd_kafka_event_t>) -> CommitAnswer {
    // SAFETY: the event is alive; both calls accept any kind of event.
    let (error, list) =
        unsafe { (rd_kafka_event_error(event.as_ptr()), rd_kafka_event_topic_partition_list(event.as_ptr())) };
    CommitAnswer { error: code(error), places: NonNull::new(list).map(read_places).unwrap_or_default() }
}

fn read_places(list: NonNull<rd_kafka_topic_partition_list_t>) -> Vec<(TopicPartition, i64, Option<Code>)> {
    // SAFETY: the list belongs to an event that is alive.
    let list = unsafe { list.as_ref() };
    let count = usize::try_from(list.cnt).unwrap_or(0);
    if count == 0 || list.elems.is_null() {
        return Vec::new();
    }
    // SAFETY: librdkafka keeps `cnt` elements there.
    let elements = unsafe { slice::from_raw_parts(list.elems, count) };
    elements
        .iter()
        .map(|element| {
            // SAFETY: every element has a name that ends with a NUL.
            let topic = unsafe { CStr::from_ptr(element.topic) }.to_string_lossy();
            (TopicPartition::new(topic.as_ref(), element.partition), element.offset, code(element.err))
        })
        .collect()
}

/// The texts beside the committed offsets of an answer, without the empty ones; bytes that are not UTF-8 are read lossily.
///
/// rdkafka's own `TopicPartitionListElem::metadata` panics on such a text, which any program may commit.
pub(crate) fn read_notes(list: &TopicPartitionList) -> HashMap<TopicPartition, String> {
    // SAFETY: the list is alive while it is borrowed, and librdkafka keeps `cnt` elements there.
    let elements = unsafe {
        let list = &*list.ptr();
        let count = usize::try_from(list.cnt).unwrap_or(0);
        if count == 0 || list.elems.is_null() { &[] } else { slice::from_raw_parts(list.elems, count) }
    };
    let noted = elements.iter().filter(|element| element.metadata_size > 0 && !element.metadata.is_null());
    noted
        .map(|element| {
            // SAFETY: every element has a name that ends with a NUL, and `metadata_size` bytes of metadata.
            let (topic, text) = unsafe {
                let text = slice::from_raw_parts(element.metadata.cast::<u8>(), element.metadata_size);
                (CStr::from_ptr(element.topic).to_string_lossy(), String::from_utf8_lossy(text))
            };
            (TopicPartition::new(topic.as_ref(), element.partition), text.into_owned())
        })
        .collect()
}

fn code(error: RDKafkaRespErr) -> Option<Code> {
    (error != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| error.into())
}

#[cfg(test)]
mod tests {
    use rdkafka::bindings::rd_kafka_mem_malloc;

    use super::*;

    /// Red when the texts go through rdkafka's own reader, which panics on this one: any program may commit it.
    #[test]
    fn a_note_that_is_not_utf8_is_read_lossily() {
        let mut list = TopicPartitionList::new();
        list.add_partition("t", 3);
        list.add_partition("t", 4);
        // SAFETY: the list is alive and has two elements; librdkafka frees what it allocates here with the list.
        unsafe {
            let text = rd_kafka_mem_malloc(ptr::null_mut(), 2).cast::<u8>();
            text.copy_from([b'b', 0xff].as_ptr(), 2);
            let first = &mut *(*list.ptr()).elems;
            (first.metadata, first.metadata_size) = (text.cast(), 2);
        }
        let expected = HashMap::from([(TopicPartition::new("t", 3), "b\u{fffd}".to_owned())]);
        assert_eq!(read_notes(&list), expected);
    }
}
