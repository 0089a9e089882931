//! The few librdkafka calls that rdkafka lacks or makes unsafe for foreign data; the only file with `unsafe` code.
#![allow(unsafe_code)]

use std::{
    ffi::{CStr, CString},
    ptr, slice,
};

use headwater::Headers;
use rdkafka::{
    bindings::{rd_kafka_get_watermark_offsets, rd_kafka_header_get_all, rd_kafka_headers_t},
    client::{Client, ClientContext},
    message::{BorrowedHeaders, Headers as _},
    types::RDKafkaRespErr,
};

/// Copies a record's headers. A name that is not UTF-8 is taken over lossily.
///
/// rdkafka's own `BorrowedHeaders::try_get` panics on such a name, so that a foreign producer could stop every reader.
pub(crate) fn read_headers(headers: &BorrowedHeaders) -> Headers {
    let count = headers.count();
    let mut read = Headers::with_capacity(count, count * 48);
    // `BorrowedHeaders` is never a value of its own: a reference to it is librdkafka's pointer, cast.
    // Source: `BorrowedHeaders::{from_native_ptr, as_native_ptr}` of rdkafka 0.39.
    let native = ptr::from_ref(headers).cast::<rd_kafka_headers_t>();
    for index in 0..count {
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0_usize);
        // SAFETY: `native` is valid while `headers` is borrowed; the three out-pointers live on this stack frame.
        let error = unsafe { rd_kafka_header_get_all(native, index, &raw mut name, &raw mut value, &raw mut size) };
        if error != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR || name.is_null() {
            break;
        }
        // SAFETY: librdkafka ends every name with a NUL and keeps it, and `size` bytes of value, as long as the record.
        let (name, value) = unsafe {
            let value = (!value.is_null()).then(|| slice::from_raw_parts(value.cast::<u8>(), size));
            (CStr::from_ptr(name), value)
        };
        read.push(&name.to_string_lossy(), value);
    }
    read
}

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
