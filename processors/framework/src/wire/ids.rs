//! Event ids that come out the same whenever the same thing happens again.

use std::fmt::Write as _;

use sha1::{Digest, Sha1};
use uuid::{Builder, Uuid};

/// The namespace of every id that Headwater makes.
const NAMESPACE: Uuid = Uuid::from_u128(0x98f0_eb0e_3dd1_573a_ae72_a93d_7cf6_d360);

/// The source of an event that a foreign producer sent without one.
pub(crate) fn foreign_source(topic: &str) -> String {
    format!("kafka://{topic}")
}

/// The id of an event that a foreign producer sent without one: its place on the topic, and its timestamp there,
/// milliseconds since the epoch.
pub fn foreign_id(topic: &str, partition: i32, offset: i64, timestamp_ms: i64) -> String {
    v5(&format!("{topic}/{partition}/{offset}/{timestamp_ms}"))
}

/// The source of an event that `processor` emitted.
pub(crate) fn emitted_source(processor: &str) -> String {
    format!("headwater/{processor}")
}

/// The id of the `ordinal`-th event (from 0) that `processor` emitted for the event (`source`, `id`).
pub(crate) fn emitted_id(source: &str, id: &str, processor: &str, ordinal: usize) -> String {
    let mut name = String::with_capacity(source.len() + id.len() + processor.len() + 8);
    for part in [source, "\n", id, "\n", processor, "\n"] {
        name.push_str(part);
    }
    // Writing to a string cannot fail.
    let _ = write!(name, "{ordinal}");
    v5(&name)
}

/// The id of the event that a person made of the dead letter with this row id.
pub(crate) fn edited_id(row: &str) -> String {
    v5(&format!("edit\n{row}"))
}

fn v5(name: &str) -> String {
    let mut text = Uuid::encode_buffer();
    // As `Uuid::new_v5` does it, with a SHA-1 that knows the processor's instructions for it.
    let hash = Sha1::new().chain_update(NAMESPACE.as_bytes()).chain_update(name).finalize();
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash[..16]);
    Builder::from_sha1_bytes(bytes).into_uuid().hyphenated().encode_lower(&mut text).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a separator or the namespace changes.
    #[test]
    fn ids_equal_the_test_vectors() {
        assert_eq!(foreign_id("events.payment", 3, 1042, 1_767_225_600_000), "d1694524-516d-5e22-9ca6-3c4096a48991");
        assert_eq!(foreign_source("events.payment"), "kafka://events.payment");
        for (source, id, processor, ordinal, emitted) in [
            (
                "kafka://events.payment",
                "d1694524-516d-5e22-9ca6-3c4096a48991",
                "fulfil-order",
                0,
                "6636c9a4-dc9e-5c76-b5b2-48d2695db8cd",
            ),
            ("//till", "id-7", "send-receipt", 1, "02804431-5e0a-519f-b7fc-a2e94a348669"),
            (
                "headwater/fulfil-order",
                "6636c9a4-dc9e-5c76-b5b2-48d2695db8cd",
                "order.enrich",
                0,
                "1de0bbbc-21e2-5861-9436-ee87d5e07ae2",
            ),
        ] {
            assert_eq!(emitted_id(source, id, processor, ordinal), emitted);
        }
        assert_eq!(emitted_source("fulfil-order"), "headwater/fulfil-order");
    }
}
