//! Who a consumer is in its group, as transactions need it. rdkafka hides the generation, and with it whether there is any.

use std::{ffi::CStr, ptr::NonNull};

use rdkafka::{
    bindings::{
        rd_kafka_consumer_group_metadata, rd_kafka_consumer_group_metadata_destroy,
        rd_kafka_consumer_group_metadata_generation_id, rd_kafka_consumer_group_metadata_member_id,
        rd_kafka_consumer_group_metadata_t,
    },
    client::{Client, ClientContext},
};

/// A consumer's group, generation, member id and instance, as they were when it was asked.
pub(crate) struct GroupMetadata(NonNull<rd_kafka_consumer_group_metadata_t>);

// SAFETY: it is a copy that nobody else points to.
unsafe impl Send for GroupMetadata {}

impl GroupMetadata {
    /// Of this consumer; `None` when it has no group.
    pub(crate) fn of<C: ClientContext>(client: &Client<C>) -> Option<Self> {
        // SAFETY: the client is alive; the answer is a copy of our own.
        NonNull::new(unsafe { rd_kafka_consumer_group_metadata(client.native_ptr()) }).map(Self)
    }

    pub(crate) fn generation(&self) -> i32 {
        // SAFETY: it is alive as long as `self`.
        unsafe { rd_kafka_consumer_group_metadata_generation_id(self.0.as_ptr()) }
    }

    /// Whether it is in a generation at all. To a broker one that is in none is an administrator, whose offsets it takes
    /// when the group is empty.
    pub(crate) fn is_member(&self) -> bool {
        self.member_id().is_some() && self.generation() >= 0
    }

    /// The id that the coordinator gave the consumer.
    pub(crate) fn member_id(&self) -> Option<String> {
        // SAFETY: it is alive, and its member id, if there is one, ends with a NUL.
        let id = unsafe {
            let id = rd_kafka_consumer_group_metadata_member_id(self.0.as_ptr());
            if id.is_null() { return None } else { CStr::from_ptr(id) }
        };
        Some(id.to_string_lossy().into_owned()).filter(|id| !id.is_empty())
    }

    pub(crate) fn as_ptr(&self) -> *const rd_kafka_consumer_group_metadata_t {
        self.0.as_ptr()
    }
}

impl Drop for GroupMetadata {
    fn drop(&mut self) {
        // SAFETY: it is ours, and destroyed once.
        unsafe { rd_kafka_consumer_group_metadata_destroy(self.0.as_ptr()) };
    }
}
