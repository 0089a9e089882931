//! The records of every assigned partition on one queue of their own, from which they are taken many at a time.
//!
//! A `poll` per record costs as much as all of its fetching. `rd_kafka_consume_batch_queue` takes many at once, but must
//! not be called on the consumer's own queue: rdkafka asks for rebalances as events, and a call that returns no events
//! answers a rebalance by giving up every partition (librdkafka 2.12, `rd_kafka_poll_cb`). So partitions are attached to
//! a queue of ours, and the consumer's holds nothing but events, which `BaseConsumer::poll` serves as ever.

use std::{
    ffi::{CStr, CString, c_int},
    marker::PhantomData,
    ptr::{self, NonNull},
    slice,
    sync::Arc,
    time::Duration,
};

use headwater::{Headers, TopicPartition, spi::Record};
use rdkafka::{
    bindings::{
        rd_kafka_consume_batch_queue, rd_kafka_header_cnt, rd_kafka_header_get_all, rd_kafka_header_get_last,
        rd_kafka_headers_t, rd_kafka_message_destroy, rd_kafka_message_headers, rd_kafka_message_t,
        rd_kafka_message_timestamp, rd_kafka_queue_destroy, rd_kafka_queue_forward, rd_kafka_queue_get_consumer,
        rd_kafka_queue_get_partition, rd_kafka_queue_length, rd_kafka_queue_new, rd_kafka_queue_t,
        rd_kafka_timestamp_type_t, rd_kafka_topic_name,
    },
    client::{Client, ClientContext},
    error::RDKafkaErrorCode as Code,
    types::RDKafkaRespErr,
};

use super::code;

/// Messages in one call at most; more save nothing that can be measured.
const CHUNK: usize = 64;

/// Where fetched records wait for us. Must go before its client does.
pub(crate) struct FetchQueue {
    records: NonNull<rd_kafka_queue_t>,
    events: NonNull<rd_kafka_queue_t>,
}

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl Send for FetchQueue {}

impl FetchQueue {
    /// A queue for this consumer; `None` when it is no member of a group, or when there is no memory.
    pub(crate) fn new<C: ClientContext>(client: &Client<C>) -> Option<Self> {
        // SAFETY: the client is alive. Each call gives a handle of our own, destroyed when this is dropped.
        unsafe {
            let events = NonNull::new(rd_kafka_queue_get_consumer(client.native_ptr()))?;
            let records = rd_kafka_queue_new(client.native_ptr());
            NonNull::new(records).map(|records| Self { records, events })
        }
    }

    /// Lets a partition's records come here, those too that wait elsewhere; whether that worked. To be called before
    /// the partition is assigned: none of its records comes any other way then. Giving it up ends it.
    pub(crate) fn attach<C: ClientContext>(&self, client: &Client<C>, name: &TopicPartition) -> bool {
        let Ok(topic) = CString::new(&*name.topic) else { return false };
        // SAFETY: client and queue are alive, the name is NUL-terminated; the partition's queue holds ours by reference
        // count, and our handle of the partition's is destroyed here, once.
        unsafe {
            let partition = rd_kafka_queue_get_partition(client.native_ptr(), topic.as_ptr(), name.partition);
            if partition.is_null() {
                return false;
            }
            rd_kafka_queue_forward(partition, self.records.as_ptr());
            rd_kafka_queue_destroy(partition);
        }
        true
    }

    /// Whether the consumer's own queue has anything to be polled for.
    pub(crate) fn has_events(&self) -> bool {
        // SAFETY: the queue is alive.
        unsafe { rd_kafka_queue_length(self.events.as_ptr()) > 0 }
    }

    /// What has been fetched, in the order of each partition's offsets; at least one message if one comes within the
    /// time. Of a partition that was since paused, placed or given up there is nothing.
    pub(crate) fn take<'a, C: ClientContext>(&self, _client: &'a Client<C>, wait: Duration) -> Vec<Message<'a>> {
        let mut taken = Vec::with_capacity(CHUNK);
        self.fill(&mut taken, CHUNK, 0);
        // A call that waits does so until it has all that it may take: one, then.
        if taken.is_empty() && !wait.is_zero() {
            self.fill(&mut taken, 1, c_int::try_from(wait.as_millis()).unwrap_or(c_int::MAX));
        }
        taken
    }

    fn fill(&self, taken: &mut Vec<Message<'_>>, most: usize, timeout_ms: c_int) {
        debug_assert!(taken.is_empty() && most <= taken.capacity());
        let room = taken.as_mut_ptr().cast::<*mut rd_kafka_message_t>();
        // SAFETY: the queue is alive. There is room for `most` messages, each of which is a pointer as librdkafka writes
        // it, and the first `count` of them have been written. They are ours.
        unsafe {
            let count = rd_kafka_consume_batch_queue(self.records.as_ptr(), timeout_ms, room, most);
            taken.set_len(usize::try_from(count).unwrap_or(0));
        }
    }
}

impl Drop for FetchQueue {
    fn drop(&mut self) {
        // SAFETY: both handles are ours, and destroyed once. What is still fetched is dropped with the queue of records.
        unsafe {
            rd_kafka_queue_destroy(self.records.as_ptr());
            rd_kafka_queue_destroy(self.events.as_ptr());
        }
    }
}

/// A record that was fetched, or what went wrong with fetching one.
#[repr(transparent)]
pub(crate) struct Message<'a> {
    native: NonNull<rd_kafka_message_t>,
    client: PhantomData<&'a ()>,
}

impl Drop for Message<'_> {
    fn drop(&mut self) {
        // SAFETY: the message is ours, its client is alive, and it is destroyed once.
        unsafe { rd_kafka_message_destroy(self.native.as_ptr()) };
    }
}

impl Message<'_> {
    fn native(&self) -> &rd_kafka_message_t {
        // SAFETY: the message is alive as long as `self`, and nobody writes to these fields.
        unsafe { self.native.as_ref() }
    }

    /// Why there is no record; a record has no error.
    pub(crate) fn error(&self) -> Option<(Code, String)> {
        let code = code(self.native().err)?;
        let reason = self.bytes(self.native().payload.cast(), self.native().len).unwrap_or_default();
        Some((code, String::from_utf8_lossy(reason).into_owned()))
    }

    /// Whether both are records of one partition.
    pub(crate) fn is_beside(&self, other: &Self) -> bool {
        let (one, other) = (self.native(), other.native());
        let fine = RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR;
        (one.rkt, one.partition) == (other.rkt, other.partition) && (one.err, other.err) == (fine, fine)
    }

    pub(crate) fn topic(&self) -> String {
        // SAFETY: a record has a topic, whose name ends with a NUL and is kept as long as the record.
        unsafe { CStr::from_ptr(rd_kafka_topic_name(self.native().rkt)) }.to_string_lossy().into_owned()
    }

    pub(crate) fn partition(&self) -> i32 {
        self.native().partition
    }

    pub(crate) fn offset(&self) -> i64 {
        self.native().offset
    }

    /// The key, if the record has one.
    pub(crate) fn key(&self) -> Option<&[u8]> {
        self.bytes(self.native().key.cast(), self.native().key_len)
    }

    /// The value, if it is none that deletes.
    pub(crate) fn value(&self) -> Option<&[u8]> {
        self.bytes(self.native().payload.cast(), self.native().len)
    }

    /// Copies the record, with this name of its topic.
    pub(crate) fn record(&self, topic: &Arc<str>) -> Record {
        let native = self.native();
        Record {
            topic: Arc::clone(topic),
            partition: native.partition,
            offset: native.offset,
            timestamp_ms: self.timestamp_ms(),
            key: self.key().map(<[u8]>::to_vec),
            value: self.value().map(<[u8]>::to_vec),
            headers: self.headers(),
        }
    }

    fn bytes(&self, start: *const u8, size: usize) -> Option<&[u8]> {
        // SAFETY: librdkafka keeps `size` bytes there as long as the message.
        (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start, size) })
    }

    fn timestamp_ms(&self) -> i64 {
        let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive, and the out-pointer lives on this stack frame.
        let millis = unsafe { rd_kafka_message_timestamp(self.native.as_ptr(), &raw mut kind) };
        if kind == rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE { -1 } else { millis }
    }

    fn headers(&self) -> Headers {
        // SAFETY: the headers are alive as long as the message.
        self.native_headers().map_or_else(Headers::default, |headers| unsafe { read_headers(headers) })
    }

    /// The value of the last header of this name; `None` where there is none, or it is null.
    pub(crate) fn header(&self, name: &CStr) -> Option<&[u8]> {
        let headers = self.native_headers()?;
        let (mut value, mut size) = (ptr::null(), 0_usize);
        // SAFETY: the headers are alive as long as the message, the name ends with a NUL, and the out-pointers live on
        // this stack frame.
        let none = unsafe { rd_kafka_header_get_last(headers, name.as_ptr(), &raw mut value, &raw mut size) };
        if code(none).is_some() { None } else { self.bytes(value.cast(), size) }
    }

    /// The headers, if there are any; librdkafka reads them now, and keeps them as long as the message.
    fn native_headers(&self) -> Option<*mut rd_kafka_headers_t> {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive, and the out-pointer lives on this stack frame.
        let none = unsafe { rd_kafka_message_headers(self.native.as_ptr(), &raw mut headers) };
        code(none).is_none().then_some(headers)
    }
}

/// Copies a record's headers. A name that is not UTF-8 is taken over lossily.
///
/// rdkafka's own `BorrowedHeaders::try_get` panics on such a name, so that a foreign producer could stop every reader.
///
/// # Safety
/// The headers are alive.
unsafe fn read_headers(native: *const rd_kafka_headers_t) -> Headers {
    // SAFETY: the headers are alive.
    let count = unsafe { rd_kafka_header_cnt(native) };
    let header = |index| {
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0_usize);
        // SAFETY: the headers are alive; the three out-pointers live on this stack frame.
        let error = unsafe { rd_kafka_header_get_all(native, index, &raw mut name, &raw mut value, &raw mut size) };
        if code(error).is_some() || name.is_null() {
            return None;
        }
        // SAFETY: librdkafka ends every name with a NUL and keeps it, and `size` bytes of value, with the headers.
        unsafe {
            let value = (!value.is_null()).then(|| slice::from_raw_parts(value.cast::<u8>(), size));
            Some((CStr::from_ptr(name), value))
        }
    };
    let size = |(name, value): (&CStr, Option<&[u8]>)| name.count_bytes() + value.map_or(0, <[u8]>::len);
    let mut read = Headers::with_capacity(count, (0..count).map_while(header).map(size).sum());
    for (name, value) in (0..count).map_while(header) {
        read.push(&name.to_string_lossy(), value);
    }
    read
}

#[cfg(test)]
mod tests {
    use rdkafka::bindings::{rd_kafka_header_add, rd_kafka_headers_destroy, rd_kafka_headers_new};

    use super::*;

    /// What is read of these headers.
    fn read(headers: &[(&[u8], Option<&[u8]>)]) -> Vec<(String, Option<Vec<u8>>)> {
        // SAFETY: name and value are copied within each call; the headers are alive until they are destroyed, once.
        let read = unsafe {
            let native = rd_kafka_headers_new(1);
            for (name, value) in headers {
                let bytes = value.map_or(ptr::null(), <[u8]>::as_ptr).cast();
                let (name_size, size) = (name.len().cast_signed(), value.map_or(0, <[u8]>::len).cast_signed());
                let error = rd_kafka_header_add(native, name.as_ptr().cast(), name_size, bytes, size);
                assert_eq!(error, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
            }
            let read = read_headers(native);
            rd_kafka_headers_destroy(native);
            read
        };
        read.iter().map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect()
    }

    /// Red when a name goes through rdkafka's own reader, which panics on one that is not UTF-8; when a null value is
    /// read as an empty one; or when a value ends at its first NUL.
    #[test]
    fn headers_are_read_as_they_are() {
        let all: [(&[u8], Option<&[u8]>); 5] = [
            (b"good", Some(b"1")),
            (b"b\xffd", Some(&[0, 255])),
            (b"null", None),
            (b"", Some(b"")),
            (b"good", Some(b"2")),
        ];
        let text = |name: &str, value: Option<&[u8]>| (name.to_owned(), value.map(<[u8]>::to_vec));
        let expected = [
            text("good", Some(b"1")),
            text("b\u{fffd}d", Some(&[0, 255])),
            text("null", None),
            text("", Some(b"")),
            text("good", Some(b"2")),
        ];
        assert_eq!(read(&all), expected);
        assert_eq!(read(&[]), []);
    }

    /// Red when only so many headers are read as there was room for.
    #[test]
    fn as_many_headers_as_there_are_are_read() {
        let values: Vec<Vec<u8>> = (0..5_000).map(|n| vec![b'x'; n % 300]).collect();
        let all: Vec<(&[u8], Option<&[u8]>)> = values.iter().map(|value| (&b"name"[..], Some(&value[..]))).collect();
        let expected: Vec<_> = values.iter().map(|value| ("name".to_owned(), Some(value.clone()))).collect();
        assert_eq!(read(&all), expected);
    }
}
