//! How far in its changelog a partition's state is complete.

use super::source_offsets::SourceOffsets;

/// How far the state of one partition is complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checkpoint {
    /// The offset in the changelog's partition that comes next.
    pub next: i64,
    /// When this was written, in milliseconds since 1970. It is never later than the moment up to which the changelog had
    /// been read.
    pub at_ms: i64,
    /// The id of the changelog topic that the offset belongs to; empty where it is not known.
    pub topic_id: String,
    /// How far the inputs have come whose changes are there, where they may come again.
    pub inputs: SourceOffsets,
}

impl Checkpoint {
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(16 + self.topic_id.len());
        bytes.extend_from_slice(&self.next.to_be_bytes());
        bytes.extend_from_slice(&self.at_ms.to_be_bytes());
        // The id has no line break; who knows no inputs takes it for another topic's, and restores.
        bytes.extend_from_slice(format!("{}\n{}", self.topic_id, self.inputs).trim_end().as_bytes());
        bytes
    }

    /// `None` where the bytes are none of [`encode`](Self::encode).
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        let (next, rest) = bytes.split_first_chunk()?;
        let (at_ms, text) = rest.split_first_chunk()?;
        let text = std::str::from_utf8(text).ok()?;
        let (topic_id, inputs) = text.split_once('\n').unwrap_or((text, ""));
        Some(Self {
            next: i64::from_be_bytes(*next),
            at_ms: i64::from_be_bytes(*at_ms),
            topic_id: topic_id.to_owned(),
            inputs: inputs.parse().ok()?,
        })
    }
}
