//! The few librdkafka calls that rdkafka lacks or makes unsafe for foreign data; the only module with `unsafe` code.
#![allow(unsafe_code)]

pub(crate) mod admin;
pub(crate) mod bootstrap;
pub(crate) mod fetch;
pub(crate) mod groups;
pub(crate) mod live_clients;
pub(crate) mod log_offsets;
pub(crate) mod membership;
pub(crate) mod produce;
pub(crate) mod topic_ids;
pub(crate) mod transactions;

use std::{
    collections::{HashMap, VecDeque},
    ffi::{CStr, CString, c_int},
    ptr::{self, NonNull},
    slice,
    time::{Duration, Instant},
};

use headwater::TopicPartition;
use rdkafka::{
    TopicPartitionList,
    bindings::{
        rd_kafka_commit_queue, rd_kafka_event_destroy, rd_kafka_event_error, rd_kafka_event_opaque, rd_kafka_event_t,
        rd_kafka_event_topic_partition_list, rd_kafka_get_watermark_offsets, rd_kafka_queue_destroy,
        rd_kafka_queue_new, rd_kafka_queue_poll, rd_kafka_queue_t, rd_kafka_topic_partition_list_t,
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

/// Commits without an answer at most of which is known when they were sent.
const UNANSWERED: usize = 64;

/// Commits whose answers come back on a queue of their own.
///
/// librdkafka repeats what a broker could not do just then, and holds back what has no coordinator: an answer may come
/// minutes later, and after those to later commits. So each commit has a number, which comes back with its answer.
///
/// rdkafka's asynchronous commit never reports its outcome (it enables the event, but not the callback without which
/// librdkafka 2.12 sends none), and its synchronous one waits without a limit.
pub(crate) struct CommitQueue {
    queue: NonNull<rd_kafka_queue_t>,
    /// The commits without an answer, by their numbers, the oldest first.
    unanswered: VecDeque<(usize, SentCommit)>,
    /// The number of the last commit.
    last: usize,
}

/// When a commit was sent, and in which generation of the group, if by a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SentCommit {
    pub(crate) at: Instant,
    pub(crate) generation: Option<i32>,
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
    /// When it was sent, unless too many later ones were.
    pub(crate) asked: Option<SentCommit>,
}

impl CommitAnswer {
    /// As librdkafka tells it. It gives the error of one position as that of all, though the others were accepted.
    pub(crate) fn new(error: Option<Code>, places: Vec<(TopicPartition, i64, Option<Code>)>) -> Self {
        let is_told = places.iter().any(|(.., error)| error.is_some());
        Self { error: error.filter(|_| !is_told), places, asked: None }
    }

    /// The first reason why any position was refused.
    pub(crate) fn refusal(&self) -> Option<Code> {
        self.error.or_else(|| self.places.iter().find_map(|(.., error)| *error))
    }

    /// Whether any position was accepted: then the coordinator knows who sent it.
    pub(crate) fn is_accepted(&self) -> bool {
        self.error.is_none() && self.places.iter().any(|(.., error)| error.is_none())
    }
}

impl CommitQueue {
    /// A queue for commits of this client; `None` when there is no memory for it.
    pub(crate) fn new<C: ClientContext>(client: &Client<C>) -> Option<Self> {
        // SAFETY: the client is alive; the queue does not point to it.
        let queue = unsafe { rd_kafka_queue_new(client.native_ptr()) };
        Some(Self { queue: NonNull::new(queue)?, unanswered: VecDeque::new(), last: 0 })
    }

    /// Whether any commit has no answer yet.
    pub(crate) fn awaits_any(&self) -> bool {
        !self.unanswered.is_empty()
    }

    /// Whether the last commit has no answer yet.
    pub(crate) fn awaits_last(&self) -> bool {
        self.unanswered.back().is_some_and(|(number, _)| *number == self.last)
    }

    /// Sends a commit, in this generation, and does not wait.
    pub(crate) fn send<C: ClientContext>(
        &mut self,
        client: &Client<C>,
        list: &TopicPartitionList,
        generation: Option<i32>,
    ) -> Result<(), Code> {
        let asked = SentCommit { at: Instant::now(), generation };
        let number = self.last + 1;
        // A number, not the address of anything.
        let opaque = ptr::without_provenance_mut(number);
        // SAFETY: client, list and queue are alive; librdkafka copies the list, holds the queue by reference count, and only
        // gives the number back.
        let error =
            unsafe { rd_kafka_commit_queue(client.native_ptr(), list.ptr(), self.queue.as_ptr(), None, opaque) };
        code(error).map_or(Ok(()), Err)?;
        self.last = number;
        self.unanswered.push_back((number, asked));
        if self.unanswered.len() > UNANSWERED {
            self.unanswered.pop_front();
        }
        Ok(())
    }

    /// The next answer, if one comes within the time.
    pub(crate) fn answer(&mut self, timeout: Duration) -> Option<CommitAnswer> {
        let timeout = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the queue is alive, and only commits are answered on it.
        let event = NonNull::new(unsafe { rd_kafka_queue_poll(self.queue.as_ptr(), timeout) })?;
        let mut answer = read_answer(event);
        // SAFETY: the event is alive.
        let number = unsafe { rd_kafka_event_opaque(event.as_ptr()) }.addr();
        let known = self.unanswered.iter().position(|(asked, _)| *asked == number);
        answer.asked = known.and_then(|index| self.unanswered.remove(index)).map(|(_, asked)| asked);
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
    CommitAnswer::new(code(error), NonNull::new(list).map(read_places).unwrap_or_default())
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
