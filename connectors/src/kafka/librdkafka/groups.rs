//! Who is in a group. `rd_kafka_list_groups` puts no admin request to a coordinator: those of librdkafka 2.12 abort the
//! process when the connection goes at the wrong moment. rdkafka's own call drops an answer that lacks any broker's part.

use std::{
    ffi::{CStr, c_char, c_int},
    ptr, slice,
    time::Duration,
};

use headwater::TopicPartition;
use rdkafka::{
    bindings::{
        rd_kafka_group_info, rd_kafka_group_list, rd_kafka_group_list_destroy, rd_kafka_group_member_info,
        rd_kafka_list_groups,
    },
    client::{Client, ClientContext},
    error::RDKafkaErrorCode as Code,
    types::RDKafkaRespErr,
};

use super::code;
use crate::kafka::admin::groups::{GroupMember, GroupState, GroupStatus};

/// Characters behind its name in the id that a broker gives a member: `-` and a UUID.
const UUID: usize = 37;

/// State and members of a group; one that no broker knows has neither. Blocks for the time at most.
///
/// # Errors
/// [`Code`] when a broker that might know it does not answer, or refuses.
pub(crate) fn describe<C: ClientContext>(
    client: &Client<C>,
    group: &CStr,
    timeout: Duration,
) -> Result<GroupStatus, Code> {
    let timeout_ms = c_int::try_from(timeout.as_millis()).unwrap_or(c_int::MAX);
    let mut list: *const rd_kafka_group_list = ptr::null();
    // SAFETY: the client outlives the call and the name ends with a NUL. A list is given back without an error, and with that
    // of an answer that lacks some broker's part; it is read while it is alive, and destroyed once.
    unsafe {
        let error = rd_kafka_list_groups(client.native_ptr(), group.as_ptr(), &raw mut list, timeout_ms);
        let told = list.as_ref().map_or(&[][..], |list| array(list.groups, list.group_cnt));
        let found = told
            .iter()
            .find(|info| !info.group.is_null() && CStr::from_ptr(info.group) == group)
            .map(|info| read(info));
        if !list.is_null() {
            rd_kafka_group_list_destroy(list);
        }
        match (found, code(error)) {
            (Some(status), _) => status,
            (None, None) => Ok(GroupStatus::default()),
            (None, Some(Code::Partial)) => Err(Code::OperationTimedOut),
            (None, Some(code)) => Err(code),
        }
    }
}

/// # Safety
/// Null, or so many elements for as long as the result is used.
unsafe fn array<'a, T>(first: *const T, count: c_int) -> &'a [T] {
    match usize::try_from(count) {
        // SAFETY: by this function's own condition.
        Ok(count @ 1..) if !first.is_null() => unsafe { slice::from_raw_parts(first, count) },
        _ => &[],
    }
}

/// # Safety
/// The group belongs to a list that is alive.
unsafe fn read(info: &rd_kafka_group_info) -> Result<GroupStatus, Code> {
    // SAFETY: by this function's own condition. The error came from a broker: read as a number it may be any.
    unsafe {
        if (&raw const info.err).cast::<i32>().read() != 0 {
            return Err(known(info).unwrap_or(Code::Fail));
        }
        let state = match text(info.state).as_str() {
            "Stable" => GroupState::Stable,
            "PreparingRebalance" | "CompletingRebalance" => GroupState::Rebalancing,
            "Empty" => GroupState::Empty,
            _ => GroupState::Unknown,
        };
        let members = array(info.members, info.member_cnt).iter().map(|member| read_member(member)).collect();
        Ok(GroupStatus { state, members })
    }
}

/// The error that a broker gave, if librdkafka knows it.
fn known(info: &rd_kafka_group_info) -> Option<Code> {
    use RDKafkaRespErr as E;
    // SAFETY: a number of that size is there.
    let number = unsafe { (&raw const info.err).cast::<i32>().read() };
    let expected = [
        E::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
        E::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
        E::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
        E::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
    ];
    expected.into_iter().find(|error| *error as i32 == number).and_then(code)
}

/// # Safety
/// The member belongs to a list that is alive.
unsafe fn read_member(member: &rd_kafka_group_member_info) -> GroupMember {
    // SAFETY: by this function's own condition.
    unsafe {
        let (id, client) = (text(member.member_id), text(member.client_id));
        let bytes = array(member.member_assignment.cast::<u8>(), member.member_assignment_size);
        GroupMember {
            instance: instance(&id, &client).map(str::to_owned),
            host: text(member.client_host),
            partitions: assignment(bytes).unwrap_or_default(),
            id,
            client,
        }
    }
}

/// # Safety
/// Null, or text that ends with a NUL.
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: by this function's own condition.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

/// A static member's name in its group. Brokers give ids that begin with it, and with the client's own name where
/// membership is dynamic.
fn instance<'a>(id: &'a str, client: &str) -> Option<&'a str> {
    let (name, mark) = id.split_at_checked(id.len().checked_sub(UUID)?)?;
    (mark.starts_with('-') && !name.is_empty() && name != client).then_some(name)
}

/// The partitions of an assignment as consumers write it: a version, then topics with their partitions.
fn assignment(bytes: &[u8]) -> Option<Vec<TopicPartition>> {
    let mut rest = bytes;
    let _version = i16::from_be_bytes(*take(&mut rest)?);
    let mut partitions = Vec::new();
    for _ in 0..i32::from_be_bytes(*take(&mut rest)?) {
        let size = usize::try_from(i16::from_be_bytes(*take(&mut rest)?)).ok()?;
        let (name, behind) = rest.split_at_checked(size)?;
        rest = behind;
        let topic = std::str::from_utf8(name).ok()?;
        for _ in 0..i32::from_be_bytes(*take(&mut rest)?) {
            partitions.push(TopicPartition::new(topic, i32::from_be_bytes(*take(&mut rest)?)));
        }
    }
    Some(partitions)
}

fn take<'a, const N: usize>(rest: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (first, behind) = rest.split_first_chunk()?;
    *rest = behind;
    Some(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a topic or a partition is left out, or what was cut short, or claims to be longer than it is, is more than
    /// nothing.
    #[test]
    fn an_assignment_is_read_as_consumers_write_it() {
        let whole = [
            &[0, 1, 0, 0, 0, 2][..],
            &[0, 1, b'a', 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0, 5],
            &[0, 2, b'b', b'b', 0, 0, 0, 1, 0, 0, 0, 7],
            // The client's own data.
            &[0, 0, 0, 1, 9],
        ]
        .concat();
        let at = TopicPartition::new;
        assert_eq!(assignment(&whole), Some(vec![at("a", 0), at("a", 5), at("bb", 7)]));
        assert_eq!(assignment(&[0, 1, 0, 0, 0, 0]), Some(Vec::new()));
        for wrong in [&[][..], &whole[..20], &[0, 1, 0x7f, 0xff, 0xff, 0xff], &[0, 1, 0, 0, 0, 1, 0xff, 0xff]] {
            assert_eq!(assignment(wrong), None, "{wrong:?}");
        }
    }

    /// Red when a dynamic member passes for a static one, or the broker's mark stays behind a name.
    #[test]
    fn a_static_member_is_known_by_its_id() {
        let id = |name: &str| format!("{name}-0f8fad5b-d9cb-469f-a165-70867728950e");
        assert_eq!(instance(&id("till-7"), "headwater"), Some("till-7"));
        assert_eq!(instance(&id("headwater"), "headwater"), None);
        for other in ["", "short", &id("")] {
            assert_eq!(instance(other, "headwater"), None, "{other}");
        }
    }
}
