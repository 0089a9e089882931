//! Records as a broker hands them over, and as it takes them.

use std::{
    cmp::Ordering,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

/// One partition of one topic; in the order of the topics' names.
#[derive(Clone, Debug, Eq)]
pub struct TopicPartition {
    /// The topic's name.
    pub topic: Arc<str>,
    /// The partition's number, from 0.
    pub partition: i32,
}

impl TopicPartition {
    /// The partition `partition` of `topic`.
    pub fn new(topic: impl Into<Arc<str>>, partition: i32) -> Self {
        Self { topic: topic.into(), partition }
    }
}

// Within a process most partitions of a topic share its name: then the names need not be compared.

impl Ord for TopicPartition {
    fn cmp(&self, other: &Self) -> Ordering {
        let same = Arc::ptr_eq(&self.topic, &other.topic);
        let topics = if same { Ordering::Equal } else { self.topic.cmp(&other.topic) };
        topics.then(self.partition.cmp(&other.partition))
    }
}

impl PartialOrd for TopicPartition {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for TopicPartition {
    fn eq(&self, other: &Self) -> bool {
        self.partition == other.partition && (Arc::ptr_eq(&self.topic, &other.topic) || self.topic == other.topic)
    }
}

impl Hash for TopicPartition {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.topic.hash(state);
        self.partition.hash(state);
    }
}

impl fmt::Display for TopicPartition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.partition)
    }
}

/// A place in a partition: the offset of the next record to read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Position {
    /// The partition.
    pub partition: TopicPartition,
    /// The offset of the first record not yet processed.
    pub next: i64,
}

/// Where a record was first read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin {
    /// The partition.
    pub partition: TopicPartition,
    /// The offset there.
    pub offset: i64,
    /// The record's timestamp there, milliseconds since the epoch.
    pub timestamp_ms: i64,
}

/// A record that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The topic it was read from.
    pub topic: Arc<str>,
    /// The partition it was read from.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// The record's timestamp, milliseconds since the epoch.
    pub timestamp_ms: i64,
    /// The key's bytes, if it has one.
    pub key: Option<Vec<u8>>,
    /// The value's bytes; `None` is a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its headers, in order.
    pub headers: Headers,
}

impl Record {
    /// The partition that it was read from.
    pub fn place(&self) -> TopicPartition {
        TopicPartition { topic: self.topic.clone(), partition: self.partition }
    }

    /// Where it stands, as the place where it first stood.
    pub(crate) fn origin(&self) -> Origin {
        Origin { partition: self.place(), offset: self.offset, timestamp_ms: self.timestamp_ms }
    }

    /// Bytes of key, value and headers: what a bound on memory counts.
    pub fn size(&self) -> usize {
        self.key.as_ref().map_or(0, Vec::len) + self.value.as_ref().map_or(0, Vec::len) + self.headers.size()
    }
}

/// A record to be written.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Outgoing {
    /// The topic to write to.
    pub topic: Arc<str>,
    /// The partition of that number modulo the topic's partition count, or `None` for murmur2 of the key as Java does it.
    pub partition: Option<i32>,
    /// The key's bytes, if it has one.
    pub key: Option<Vec<u8>>,
    /// The value's bytes; `None` writes a tombstone.
    pub value: Option<Vec<u8>>,
    /// Its headers, in order.
    pub headers: Headers,
}

impl Outgoing {
    /// Bytes of key, value and headers.
    pub fn size(&self) -> usize {
        self.key.as_ref().map_or(0, Vec::len) + self.value.as_ref().map_or(0, Vec::len) + self.headers.size()
    }
}

/// Record headers in order: names may repeat, values may be null or any bytes.
///
/// Kept in one buffer, because a dozen headers as strings of their own cost more than the payload.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Headers {
    bytes: Vec<u8>,
    ranges: Vec<HeaderRange>,
}

/// Where a name and its value end; it begins where the one before it ends. A record has at most 2 GiB.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct HeaderRange {
    name: u32,
    value: u32,
    null: bool,
}

impl Headers {
    /// No headers, with room for `count` of together `bytes` bytes.
    pub fn with_capacity(count: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), ranges: Vec::with_capacity(count) }
    }

    /// These headers, in exactly as much memory as they take.
    pub(crate) fn of<'a>(list: impl Iterator<Item = (&'a str, Option<&'a [u8]>)> + Clone) -> Self {
        let size = |(name, value): (&str, Option<&[u8]>)| name.len() + value.map_or(0, <[u8]>::len);
        let mut headers = Self::with_capacity(list.clone().count(), list.clone().map(size).sum());
        list.for_each(|(name, value)| headers.push(name, value));
        headers
    }

    /// Adds a header at the end.
    ///
    /// # Panics
    /// When the headers are 4 GiB: no record can have so many.
    pub fn push(&mut self, name: &str, value: Option<&[u8]>) {
        let at = |length: usize| u32::try_from(length).expect("the headers of a record are less than 4 GiB");
        self.bytes.extend_from_slice(name.as_bytes());
        let end = at(self.bytes.len());
        self.bytes.extend_from_slice(value.unwrap_or_default());
        self.ranges.push(HeaderRange { name: end, value: at(self.bytes.len()), null: value.is_none() });
    }

    /// Adds a header with text.
    pub fn push_text(&mut self, name: &str, value: &str) {
        self.push(name, Some(value.as_bytes()));
    }

    /// Name and value of each, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> + Clone {
        // A name is pushed as `&str`, so its bytes are UTF-8.
        self.raw().map(|(name, value)| (std::str::from_utf8(name).unwrap_or_default(), value))
    }

    /// The same with the names' bytes, for who compares or copies them.
    pub fn raw(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> + Clone {
        self.ranges.iter().scan(0, |start, span| {
            let (name, value) = (span.name as usize, span.value as usize);
            let from = std::mem::replace(start, value);
            Some((&self.bytes[from..name], (!span.null).then(|| &self.bytes[name..value])))
        })
    }

    /// The value of the last header of that name: `None` without one, `Some(None)` when its value is null.
    pub fn get(&self, name: &str) -> Option<Option<&[u8]>> {
        self.iter().filter(|(n, _)| *n == name).last().map(|(_, v)| v)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// Bytes of all names and values.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }
}

impl<'a> FromIterator<(&'a str, Option<&'a [u8]>)> for Headers {
    fn from_iter<I: IntoIterator<Item = (&'a str, Option<&'a [u8]>)>>(items: I) -> Self {
        let mut headers = Self::default();
        items.into_iter().for_each(|(name, value)| headers.push(name, value));
        headers
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter().map(|(n, v)| (n, v.map(String::from_utf8_lossy)))).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when `get` takes the first of a repeated name, or null reads as empty.
    #[test]
    fn headers_keep_order_nulls_and_repeats() {
        let mut headers = Headers::default();
        headers.push("a", Some(b"1"));
        headers.push("b", None);
        headers.push("a", Some(b""));
        let all: Vec<_> = headers.iter().collect();
        assert_eq!(all, [("a", Some(&b"1"[..])), ("b", None), ("a", Some(&b""[..]))]);
        assert_eq!(headers.get("a"), Some(Some(&b""[..])));
        assert_eq!(headers.get("b"), Some(None));
        assert_eq!(headers.get("c"), None);
    }
}
