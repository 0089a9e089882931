//! Handing records to a producer: as rdkafka does it, but without a copy of each header's name.

use std::{
    ffi::{CStr, c_char, c_void},
    ptr,
};

use headwater::{Headers, spi::Outgoing};
use rdkafka::{
    bindings::{
        RD_KAFKA_MSG_F_COPY, rd_kafka_header_add, rd_kafka_headers_destroy, rd_kafka_headers_new, rd_kafka_headers_t,
        rd_kafka_producev, rd_kafka_vtype_t,
    },
    client::{Client, ClientContext},
    error::RDKafkaErrorCode as Code,
};

use super::code;

/// Hands a record to librdkafka, which copies it; -1 leaves the partition to the partitioner. `opaque` comes back with the
/// record's fate, through the producer's context, whose `DeliveryOpaque` must be `Box<T>`.
///
/// # Errors
/// Why it was not taken, and `opaque`.
pub(crate) fn produce<C: ClientContext, T>(
    client: &Client<C>,
    topic: &CStr,
    record: &Outgoing,
    partition: i32,
    opaque: Box<T>,
) -> Result<(), (Code, Box<T>)> {
    let opaque = Box::into_raw(opaque);
    // SAFETY: what librdkafka did not take, opaque included, is still ours alone.
    hand_over(client, topic, record, partition, opaque.cast()).map_err(|code| (code, unsafe { Box::from_raw(opaque) }))
}

/// As [`produce`], with a number in the place of the box: `DeliveryOpaque` must be `usize`.
///
/// # Errors
/// Why it was not taken.
pub(crate) fn produce_numbered<C: ClientContext>(
    client: &Client<C>,
    topic: &CStr,
    record: &Outgoing,
    partition: i32,
    number: usize,
) -> Result<(), Code> {
    hand_over(client, topic, record, partition, ptr::without_provenance_mut(number))
}

fn hand_over<C: ClientContext>(
    client: &Client<C>,
    topic: &CStr,
    record: &Outgoing,
    partition: i32,
    opaque: *mut c_void,
) -> Result<(), Code> {
    let Some(headers) = NativeHeaders::new(&record.headers) else { return Err(Code::Fail) };
    let (key, key_size) = bytes(record.key.as_deref());
    let (value, value_size) = bytes(record.value.as_deref());
    // SAFETY: the client is alive, the name NUL-terminated, each type followed by what librdkafka expects of it, and all is
    // copied before the call returns. Headers and opaque are librdkafka's only where it took the record.
    let answer = unsafe {
        rd_kafka_producev(
            client.native_ptr(),
            rd_kafka_vtype_t::RD_KAFKA_VTYPE_TOPIC,
            topic.as_ptr(),
            rd_kafka_vtype_t::RD_KAFKA_VTYPE_PARTITION,
            partition,
            rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS,
            RD_KAFKA_MSG_F_COPY,
            rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE,
            value,
            value_size,
            rd_kafka_vtype_t::RD_KAFKA_VTYPE_KEY,
            key,
            key_size,
            rd_kafka_vtype_t::RD_KAFKA_VTYPE_OPAQUE,
            opaque,
            rd_kafka_vtype_t::RD_KAFKA_VTYPE_HEADERS,
            headers.0,
            rd_kafka_vtype_t::RD_KAFKA_VTYPE_END,
        )
    };
    match code(answer) {
        None => {
            std::mem::forget(headers);
            Ok(())
        }
        Some(code) => Err(code),
    }
}

/// Null is a null pointer; what is empty is not null.
fn bytes(bytes: Option<&[u8]>) -> (*mut c_void, usize) {
    bytes.map_or((ptr::null_mut(), 0), |bytes| (bytes.as_ptr().cast_mut().cast(), bytes.len()))
}

/// Headers as librdkafka has them, until a record takes them over; null where there are none.
struct NativeHeaders(*mut rd_kafka_headers_t);

impl NativeHeaders {
    /// `None` without memory.
    fn new(headers: &Headers) -> Option<Self> {
        if headers.is_empty() {
            return Some(Self(ptr::null_mut()));
        }
        // SAFETY: a new list is ours until a record takes it; names and values are copied by their lengths.
        let native = Self(unsafe { rd_kafka_headers_new(headers.len()) });
        if native.0.is_null() {
            return None;
        }
        for (name, value) in headers.raw() {
            let (value, size) = bytes(value);
            let (name, length) = (name.as_ptr().cast::<c_char>(), isize::try_from(name.len()).ok()?);
            let size = isize::try_from(size).ok()?;
            // SAFETY: as above.
            let added = unsafe { rd_kafka_header_add(native.0, name, length, value, size) };
            if code(added).is_some() {
                return None;
            }
        }
        Some(native)
    }
}

impl Drop for NativeHeaders {
    fn drop(&mut self) {
        if !self.0.is_null() {
            // SAFETY: no record has taken them.
            unsafe { rd_kafka_headers_destroy(self.0) };
        }
    }
}
