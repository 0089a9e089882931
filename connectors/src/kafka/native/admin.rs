//! The admin questions that rdkafka lacks: who is in a group, how far it has read, and where logs begin and end.
//! Each blocks for the time that it is given at most.

use std::{
    collections::BTreeMap,
    ffi::{CStr, CString, c_char, c_int},
    ptr::{self, NonNull},
    slice,
    time::Duration,
};

use headwater::TopicPartition;
use rdkafka::{
    TopicPartitionList,
    bindings::{
        rd_kafka_AdminOptions_destroy, rd_kafka_AdminOptions_new, rd_kafka_AdminOptions_set_isolation_level,
        rd_kafka_AdminOptions_set_request_timeout, rd_kafka_AdminOptions_t, rd_kafka_AlterConsumerGroupOffsets,
        rd_kafka_AlterConsumerGroupOffsets_destroy, rd_kafka_AlterConsumerGroupOffsets_new,
        rd_kafka_AlterConsumerGroupOffsets_result_groups, rd_kafka_ConsumerGroupDescription_error,
        rd_kafka_ConsumerGroupDescription_group_id, rd_kafka_ConsumerGroupDescription_member,
        rd_kafka_ConsumerGroupDescription_member_count, rd_kafka_ConsumerGroupDescription_state,
        rd_kafka_ConsumerGroupDescription_t, rd_kafka_DescribeConsumerGroups,
        rd_kafka_DescribeConsumerGroups_result_groups, rd_kafka_IsolationLevel_t, rd_kafka_ListConsumerGroupOffsets,
        rd_kafka_ListConsumerGroupOffsets_destroy, rd_kafka_ListConsumerGroupOffsets_new,
        rd_kafka_ListConsumerGroupOffsets_result_groups, rd_kafka_ListOffsets, rd_kafka_ListOffsets_result_infos,
        rd_kafka_ListOffsetsResultInfo_topic_partition, rd_kafka_MemberAssignment_partitions,
        rd_kafka_MemberDescription_assignment, rd_kafka_MemberDescription_client_id,
        rd_kafka_MemberDescription_consumer_id, rd_kafka_MemberDescription_group_instance_id,
        rd_kafka_MemberDescription_host, rd_kafka_MemberDescription_t, rd_kafka_admin_op_t,
        rd_kafka_consumer_group_state_t, rd_kafka_error_code, rd_kafka_event_AlterConsumerGroupOffsets_result,
        rd_kafka_event_DescribeConsumerGroups_result, rd_kafka_event_ListConsumerGroupOffsets_result,
        rd_kafka_event_ListOffsets_result, rd_kafka_event_destroy, rd_kafka_event_error, rd_kafka_event_t,
        rd_kafka_group_result_error, rd_kafka_group_result_partitions, rd_kafka_group_result_t, rd_kafka_queue_destroy,
        rd_kafka_queue_new, rd_kafka_queue_poll, rd_kafka_queue_t, rd_kafka_t, rd_kafka_topic_partition_list_t,
        rd_kafka_topic_partition_t,
    },
    client::{Client, ClientContext},
    error::RDKafkaErrorCode as Code,
};

use super::code;
use crate::kafka::groups::{CommittedOffset, GroupMember, GroupState, GroupStatus};

/// What a group says of each partition, or why it says nothing.
pub(crate) type Answers<T> = Vec<(TopicPartition, Result<T, Code>)>;

/// State and members of each of these groups, none of them twice; one that does not exist has no state and no member.
///
/// # Errors
/// [`Code`] when a coordinator does not answer, or refuses.
pub(crate) fn describe_groups<C: ClientContext>(
    client: &Client<C>,
    groups: &[CString],
    timeout: Duration,
) -> Result<BTreeMap<String, GroupStatus>, Code> {
    let mut names: Vec<*const c_char> = groups.iter().map(|name| name.as_ptr()).collect();
    // SAFETY: names are copied by the call; the result and all that it holds are read while the event is alive.
    unsafe {
        ask(
            client,
            rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONSUMERGROUPS,
            timeout,
            |client, options, queue| {
                rd_kafka_DescribeConsumerGroups(client, names.as_mut_ptr(), names.len(), options, queue);
            },
            |event| {
                let mut count = 0;
                let result = rd_kafka_event_DescribeConsumerGroups_result(event);
                let groups = array(rd_kafka_DescribeConsumerGroups_result_groups(result, &raw mut count), count);
                groups.iter().map(|group| read_group(*group)).collect()
            },
        )
    }
}

/// What a group has committed, of every topic.
///
/// # Errors
/// [`Code`] when the coordinator does not answer, or refuses.
pub(crate) fn group_offsets<C: ClientContext>(
    client: &Client<C>,
    group: &CStr,
    timeout: Duration,
) -> Result<Answers<CommittedOffset>, Code> {
    // SAFETY: the question is copied by the call and destroyed here, once; the result is read while the event is alive.
    unsafe {
        let mut question = rd_kafka_ListConsumerGroupOffsets_new(group.as_ptr(), ptr::null());
        let answers = ask(
            client,
            rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS,
            timeout,
            |client, options, queue| {
                rd_kafka_ListConsumerGroupOffsets(client, &raw mut question, 1, options, queue);
            },
            |event| {
                let mut count = 0;
                let result = rd_kafka_event_ListConsumerGroupOffsets_result(event);
                let groups = array(rd_kafka_ListConsumerGroupOffsets_result_groups(result, &raw mut count), count);
                read_group_offsets(groups)
            },
        );
        rd_kafka_ListConsumerGroupOffsets_destroy(question);
        answers
    }
}

/// Sets a group's offsets to those of the list, which is not empty, as nobody's member: refused while there is one.
///
/// # Errors
/// [`Code`] when the coordinator does not answer, or refuses all of it.
pub(crate) fn set_group_offsets<C: ClientContext>(
    client: &Client<C>,
    group: &CStr,
    list: &TopicPartitionList,
    timeout: Duration,
) -> Result<Answers<CommittedOffset>, Code> {
    // SAFETY: as in `group_offsets`; the list is copied.
    unsafe {
        let mut question = rd_kafka_AlterConsumerGroupOffsets_new(group.as_ptr(), list.ptr());
        let answers = ask(
            client,
            rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_ALTERCONSUMERGROUPOFFSETS,
            timeout,
            |client, options, queue| {
                rd_kafka_AlterConsumerGroupOffsets(client, &raw mut question, 1, options, queue);
            },
            |event| {
                let mut count = 0;
                let result = rd_kafka_event_AlterConsumerGroupOffsets_result(event);
                let groups = array(rd_kafka_AlterConsumerGroupOffsets_result_groups(result, &raw mut count), count);
                read_group_offsets(groups)
            },
        );
        rd_kafka_AlterConsumerGroupOffsets_destroy(question);
        answers
    }
}

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
            |event| {
                let mut count = 0;
                let infos = rd_kafka_ListOffsets_result_infos(rd_kafka_event_ListOffsets_result(event), &raw mut count);
                let places = array(infos, count).iter().filter_map(|info| {
                    let (partition, place) =
                        read_partition(rd_kafka_ListOffsetsResultInfo_topic_partition(*info).as_ref()?);
                    Some((partition, place.map(|place| place.next)))
                });
                Ok(places.collect())
            },
        )
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

/// # Safety
/// The group belongs to an event that is alive.
unsafe fn read_group(group: *const rd_kafka_ConsumerGroupDescription_t) -> Result<(String, GroupStatus), Code> {
    use rd_kafka_consumer_group_state_t as State;
    // SAFETY: by this function's own condition; an absent error has the code of no error.
    unsafe {
        let id = text(rd_kafka_ConsumerGroupDescription_group_id(group)).unwrap_or_default();
        match code(rd_kafka_error_code(rd_kafka_ConsumerGroupDescription_error(group))) {
            Some(Code::GroupIdNotFound) => return Ok((id, GroupStatus::default())),
            Some(code) => return Err(code),
            None => {}
        }
        let count = rd_kafka_ConsumerGroupDescription_member_count(group);
        let members = (0..count).map(|at| read_member(rd_kafka_ConsumerGroupDescription_member(group, at)));
        let state = match rd_kafka_ConsumerGroupDescription_state(group) {
            State::RD_KAFKA_CONSUMER_GROUP_STATE_STABLE => GroupState::Stable,
            State::RD_KAFKA_CONSUMER_GROUP_STATE_PREPARING_REBALANCE
            | State::RD_KAFKA_CONSUMER_GROUP_STATE_COMPLETING_REBALANCE => GroupState::Rebalancing,
            State::RD_KAFKA_CONSUMER_GROUP_STATE_EMPTY => GroupState::Empty,
            _ => GroupState::Unknown,
        };
        Ok((id, GroupStatus { state, members: members.collect() }))
    }
}

/// # Safety
/// The member belongs to an event that is alive.
unsafe fn read_member(member: *const rd_kafka_MemberDescription_t) -> GroupMember {
    // SAFETY: by this function's own condition; a member without partitions may have no assignment.
    unsafe {
        let assignment = rd_kafka_MemberDescription_assignment(member);
        let list = if assignment.is_null() { ptr::null() } else { rd_kafka_MemberAssignment_partitions(assignment) };
        GroupMember {
            id: text(rd_kafka_MemberDescription_consumer_id(member)).unwrap_or_default(),
            client: text(rd_kafka_MemberDescription_client_id(member)).unwrap_or_default(),
            instance: text(rd_kafka_MemberDescription_group_instance_id(member)).filter(|name| !name.is_empty()),
            host: text(rd_kafka_MemberDescription_host(member)).unwrap_or_default(),
            partitions: elements(list).iter().map(|element| read_partition(element).0).collect(),
        }
    }
}

/// # Safety
/// The groups belong to an event that is alive.
unsafe fn read_group_offsets(groups: &[*const rd_kafka_group_result_t]) -> Result<Answers<CommittedOffset>, Code> {
    let mut places = Vec::new();
    for group in groups {
        // SAFETY: by this function's own condition; an absent error has the code of no error.
        let list = unsafe {
            code(rd_kafka_error_code(rd_kafka_group_result_error(*group))).map_or(Ok(()), Err)?;
            elements(rd_kafka_group_result_partitions(*group))
        };
        places.extend(list.iter().map(read_partition));
    }
    Ok(places)
}

/// # Safety
/// The list is null, or belongs to an event that is alive.
unsafe fn elements<'a>(list: *const rd_kafka_topic_partition_list_t) -> &'a [rd_kafka_topic_partition_t] {
    // SAFETY: by this function's own condition; librdkafka keeps `cnt` elements there.
    unsafe {
        let Some(list) = list.as_ref() else { return &[] };
        let count = usize::try_from(list.cnt).unwrap_or(0);
        if list.elems.is_null() { &[] } else { slice::from_raw_parts(list.elems, count) }
    }
}

/// A partition with its offset and metadata, which another program may have written: not UTF-8 is taken over lossily.
fn read_partition(element: &rd_kafka_topic_partition_t) -> (TopicPartition, Result<CommittedOffset, Code>) {
    // SAFETY: every element has a name that ends with a NUL, and `metadata_size` bytes where it has metadata.
    let (topic, metadata) = unsafe {
        let size = if element.metadata.is_null() { 0 } else { element.metadata_size };
        let bytes = if size == 0 { &[] } else { slice::from_raw_parts(element.metadata.cast::<u8>(), size) };
        (CStr::from_ptr(element.topic).to_string_lossy(), String::from_utf8_lossy(bytes))
    };
    let place = CommittedOffset { next: element.offset, note: metadata.into_owned() };
    let place = code(element.err).map_or(Ok(place), Err);
    (TopicPartition::new(topic.as_ref(), element.partition), place)
}

/// # Safety
/// Null, or text that ends with a NUL.
unsafe fn text(pointer: *const c_char) -> Option<String> {
    // SAFETY: by this function's own condition.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}
