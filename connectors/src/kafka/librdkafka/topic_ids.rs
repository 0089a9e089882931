//! The ids of topics, which change when a topic is created anew under its name. rdkafka has no call for them.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, c_char, c_int},
    ptr::{self, NonNull},
    slice,
    time::Duration,
};

use rdkafka::{
    bindings::{
        rd_kafka_AdminOptions_destroy, rd_kafka_AdminOptions_new, rd_kafka_AdminOptions_set_request_timeout,
        rd_kafka_DescribeTopics, rd_kafka_DescribeTopics_result_topics, rd_kafka_TopicCollection_destroy,
        rd_kafka_TopicCollection_of_topic_names, rd_kafka_TopicDescription_error, rd_kafka_TopicDescription_name,
        rd_kafka_TopicDescription_t, rd_kafka_TopicDescription_topic_id, rd_kafka_Uuid_base64str, rd_kafka_admin_op_t,
        rd_kafka_error_code, rd_kafka_event_DescribeTopics_result, rd_kafka_event_destroy, rd_kafka_event_error,
        rd_kafka_event_t, rd_kafka_queue_destroy, rd_kafka_queue_new, rd_kafka_queue_poll, rd_kafka_queue_t,
    },
    client::{Client, ClientContext},
    error::RDKafkaErrorCode as Code,
};

use super::code;

/// What librdkafka writes for the id that a cluster without topic ids gives every topic: 16 zero bytes.
const NO_ID: &str = "AAAAAAAAAAAAAAAAAAAAAA";

/// A question for the ids of topics, which are told in base64. It goes to no group's coordinator, and is safe in a process
/// that runs for long. Must go before its client does.
pub(crate) struct TopicIdsRequest {
    queue: NonNull<rd_kafka_queue_t>,
    timeout_ms: c_int,
}

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl Send for TopicIdsRequest {}

impl TopicIdsRequest {
    /// Asks, and does not wait: there is an answer within the time and a little more.
    ///
    /// # Errors
    /// [`Code`] when one of these can name no topic, or there is no memory.
    pub(crate) fn ask<C: ClientContext>(
        client: &Client<C>,
        topics: &[String],
        timeout: Duration,
    ) -> Result<Self, Code> {
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
        // SAFETY: the client is alive. Names and options are copied by the call, which holds the queue by reference count;
        // what is made here is destroyed here, once, but for the queue, which is ours.
        unsafe {
            let Some(queue) = NonNull::new(rd_kafka_queue_new(native)) else { return Err(Code::Fail) };
            let collection = rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
            let options = rd_kafka_AdminOptions_new(native, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
            rd_kafka_AdminOptions_set_request_timeout(options, timeout_ms, ptr::null_mut(), 0);
            rd_kafka_DescribeTopics(native, collection, options, queue.as_ptr());
            rd_kafka_AdminOptions_destroy(options);
            rd_kafka_TopicCollection_destroy(collection);
            Ok(Self { queue, timeout_ms })
        }
    }

    /// The answer, once it is there; there is one: what is said of each topic. An error says that the cluster did not answer.
    pub(crate) fn answer(&self, wait: Duration) -> Option<Result<BTreeMap<String, TopicIdAnswer>, Code>> {
        let wait = c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX);
        // SAFETY: the queue is alive, and only this question is answered on it.
        let event = NonNull::new(unsafe { rd_kafka_queue_poll(self.queue.as_ptr(), wait) })?;
        let ids = read_ids(event);
        // SAFETY: the event came from the poll above, and nothing of it is kept.
        unsafe { rd_kafka_event_destroy(event.as_ptr()) };
        Some(ids)
    }
}

/// What a cluster says of one topic: its id, `None` where it gives no ids, or why it does not describe it.
pub(crate) type TopicIdAnswer = Result<Option<String>, Code>;

impl Drop for TopicIdsRequest {
    fn drop(&mut self) {
        // SAFETY: the queue is ours, and destroyed once.
        unsafe { rd_kafka_queue_destroy(self.queue.as_ptr()) };
    }
}

/// The ids of these topics; blocks for the time and a little more at most. A topic that does not exist is left out, and
/// every topic of a cluster that gives no ids.
///
/// # Errors
/// [`Code`] when the cluster does not answer, or refuses to describe one of them.
pub(crate) fn topic_ids<C: ClientContext>(
    client: &Client<C>,
    topics: &[String],
    timeout: Duration,
) -> Result<BTreeMap<String, String>, Code> {
    let asked = TopicIdsRequest::ask(client, topics, timeout)?;
    // librdkafka works on it for no longer than its time.
    let longer = asked.timeout_ms.saturating_add(1_000);
    let answer = asked.answer(Duration::from_millis(u64::from(longer.unsigned_abs())));
    let told = answer.unwrap_or(Err(Code::OperationTimedOut))?;
    let ids = told.into_iter().filter_map(|(topic, told)| match told {
        Ok(id) => Some(Ok((topic, id?))),
        Err(Code::UnknownTopicOrPartition | Code::UnknownTopic) => None,
        Err(code) => Some(Err(code)),
    });
    ids.collect()
}

fn read_ids(event: NonNull<rd_kafka_event_t>) -> Result<BTreeMap<String, TopicIdAnswer>, Code> {
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
    Ok(topics.iter().map(|topic| read_id(*topic)).collect())
}

/// A topic's name, and what is said of it.
fn read_id(topic: *const rd_kafka_TopicDescription_t) -> (String, TopicIdAnswer) {
    // SAFETY: the description belongs to an event that is alive; names and ids end with a NUL. An absent error has the
    // code of no error.
    unsafe {
        let name = CStr::from_ptr(rd_kafka_TopicDescription_name(topic)).to_string_lossy().into_owned();
        if let Some(code) = code(rd_kafka_error_code(rd_kafka_TopicDescription_error(topic))) {
            return (name, Err(code));
        }
        let uuid = rd_kafka_TopicDescription_topic_id(topic);
        let id = if uuid.is_null() { ptr::null() } else { rd_kafka_Uuid_base64str(uuid) };
        let id = if id.is_null() { None } else { Some(CStr::from_ptr(id).to_string_lossy().into_owned()) };
        (name, Ok(id.filter(|id| id != NO_ID)))
    }
}
