//! What of a dead letter goes where all of it does not: the beginnings of its parts, and what the rest was.
//!
//! A broker's limit counts packed bytes, so a topic may take a record that unpacks to more than any topic of ours takes. Its
//! letter gets through all the same.

use sha2::{Digest, Sha256};

use crate::wire::{
    delivery_headers::{HEADERS_CUT, KEY_BYTES, PREFIX, VALUE_BYTES, VALUE_SHA256},
    record::{Headers, Outgoing, Record},
};

/// Bytes by which a record may grow when it is passed on: the delivery headers. Retry, redrive and dead-letter topics, and
/// the producer, allow as much more than the largest record.
pub const HEADER_ROOM: u32 = 64 << 10;
/// Of those what a record may take itself that is larger than its value: the rest is for what is added to it.
const OWN_ROOM: usize = 48 << 10;
/// Of those what a broker takes to frame a record.
const FRAME: usize = 256;
/// Bytes of the value, of the key and of the headers that a cut letter keeps, of each at most.
const KEPT: usize = 64 << 10;

/// Why a record is not processed that could not be passed on: a value of more than `limit` bytes, or more around it than the
/// room beside it.
pub(crate) fn oversize(record: &Record, limit: usize) -> Option<String> {
    let value = record.value.as_deref().map_or(0, <[u8]>::len);
    if value > limit {
        return Some(format!("the value is {value} bytes, over the limit of {limit}"));
    }
    let (key, headers) = (record.key.as_deref().map_or(0, <[u8]>::len), headers_size(&record.headers));
    let (whole, most) = (value.saturating_add(key).saturating_add(headers), limit.saturating_add(OWN_ROOM));
    (whole > most).then(|| {
        format!("key, value and headers are {key}, {value} and {headers} bytes, together over the limit of {most}")
    })
}

/// The letter as it goes where records of `limit` bytes, and the room beside them, are the largest.
pub(crate) fn fitting(letter: Outgoing, limit: usize) -> Outgoing {
    let part = |part: &Option<Vec<u8>>| part.as_deref().map_or(0, <[u8]>::len);
    let size = part(&letter.key) + part(&letter.value) + headers_size(&letter.headers) + FRAME;
    if size <= limit.saturating_add(HEADER_ROOM as usize) {
        return letter;
    }
    cut(&letter).unwrap_or(letter)
}

/// The letter with the beginnings of its parts; `None` where they are all that there is.
pub(crate) fn cut(letter: &Outgoing) -> Option<Outgoing> {
    let longer = |part: &Option<Vec<u8>>| part.as_deref().filter(|part| part.len() > KEPT).map(<[u8]>::to_vec);
    let (key, value) = (longer(&letter.key), longer(&letter.value));
    let (mut headers, left_out) = beginning(&letter.headers);
    if key.is_none() && value.is_none() && left_out == 0 {
        return None;
    }
    if let Some(value) = &value {
        headers.push_text(VALUE_BYTES, &value.len().to_string());
        headers.push_text(VALUE_SHA256, &sha256(value));
    }
    if let Some(key) = &key {
        headers.push_text(KEY_BYTES, &key.len().to_string());
    }
    if left_out > 0 {
        headers.push_text(HEADERS_CUT, &left_out.to_string());
    }
    let kept = |part: Option<Vec<u8>>, whole: &Option<Vec<u8>>| match part {
        Some(mut part) => {
            part.truncate(KEPT);
            Some(part)
        }
        None => whole.clone(),
    };
    let (key, value) = (kept(key, &letter.key), kept(value, &letter.value));
    Some(Outgoing { topic: letter.topic.clone(), partition: letter.partition, key, value, headers })
}

/// The headers that there is room for, in order, and the number of the others. Ours stay whatever they take, which is little;
/// then those go first that say which event it is.
fn beginning(headers: &Headers) -> (Headers, usize) {
    let size = |name: &str, value: Option<&[u8]>| name.len() + value.map_or(0, <[u8]>::len) + LENGTHS;
    let rank = |name: &str| match name {
        name if name.starts_with(PREFIX) => 0,
        name if name.starts_with("ce_") || name.starts_with("trace") => 1,
        _ => 2,
    };
    let mut kept = vec![false; headers.len()];
    let mut room = KEPT;
    for wanted in 0..=2 {
        for (place, (name, value)) in headers.iter().enumerate().filter(|(_, (name, _))| rank(name) == wanted) {
            let takes = if wanted == 0 { 0 } else { size(name, value) };
            kept[place] = takes <= room;
            room -= if kept[place] { takes } else { 0 };
        }
    }
    let left_out = kept.iter().filter(|kept| !**kept).count();
    (headers.iter().zip(&kept).filter(|(_, kept)| **kept).map(|(header, _)| header).collect(), left_out)
}

/// Bytes of the lengths of a header's name and value at most.
const LENGTHS: usize = 10;

fn headers_size(headers: &Headers) -> usize {
    headers.size() + headers.len() * LENGTHS
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// What a letter lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Truncation {
    value: Option<(u64, String)>,
    key: Option<u64>,
    headers: Option<u64>,
}

impl Truncation {
    /// What the headers of a letter say of it; `None` of one that is whole.
    pub(crate) fn of(headers: &Headers) -> Option<Self> {
        let text = |name| std::str::from_utf8(headers.get(name)??).ok();
        let number = |name| text(name)?.parse().ok();
        let value = number(VALUE_BYTES).zip(text(VALUE_SHA256).map(str::to_owned));
        let cut = Self { value, key: number(KEY_BYTES), headers: number(HEADERS_CUT) };
        (cut.value.is_some() || cut.key.is_some() || cut.headers.is_some()).then_some(cut)
    }

    /// Whether the value is cut.
    pub fn is_of_the_value(&self) -> bool {
        self.value.is_some()
    }

    /// Whether more than the value is cut.
    pub fn is_beside_the_value(&self) -> bool {
        self.key.is_some() || self.headers.is_some()
    }

    /// Whether this record, which stands where the letter's first stood, is the one that it was cut from; why not.
    pub(crate) fn fits(&self, record: &Record) -> Result<(), String> {
        let length = |part: &Option<Vec<u8>>| part.as_deref().map_or(0, <[u8]>::len) as u64;
        if let Some((bytes, digest)) = &self.value
            && (length(&record.value) != *bytes || sha256(record.value.as_deref().unwrap_or_default()) != *digest)
        {
            return Err("the value that stands there is another".to_owned());
        }
        match self.key {
            Some(bytes) if length(&record.key) != bytes => Err("the key that stands there is another".to_owned()),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Display for Truncation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        if let Some((bytes, digest)) = &self.value {
            parts.push(format!("the first {KEPT} of {bytes} bytes of the value (sha256 {digest})"));
        }
        if let Some(bytes) = self.key {
            parts.push(format!("the first {KEPT} of {bytes} bytes of the key"));
        }
        if let Some(number) = self.headers {
            parts.push(format!("all but {number} of the headers"));
        }
        write!(f, "only {} could be kept", parts.join(", and "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(key: usize, value: usize, headers: &[(&str, usize)]) -> Outgoing {
        let bytes = |n: usize| (0..n).map(|i| u8::try_from(i % 251).expect("small")).collect::<Vec<u8>>();
        let mut all = Headers::default();
        headers.iter().for_each(|(name, size)| all.push(name, Some(&bytes(*size))));
        let (key, value) = (Some(bytes(key)), Some(bytes(value)));
        Outgoing { topic: "g.dlq".into(), partition: Some(1), key, value, headers: all }
    }

    fn names(letter: &Outgoing) -> Vec<&str> {
        letter.headers.iter().map(|(name, _)| name).collect()
    }

    /// Red when a letter that fits is cut, one that does not is whole, or what is cut is not said, a value's
    /// SHA-256 among it.
    #[test]
    fn a_letter_that_fits_nowhere_keeps_its_beginning_and_says_what_it_lacks() {
        let (limit, room) = (1 << 20, HEADER_ROOM as usize);
        let fits = letter(2, limit + room - FRAME - 2 - 20, &[("ce_id", 5)]);
        assert!(fitting(fits.clone(), limit) == fits);
        let large = letter(2, 3 << 20, &[("ce_id", 5), ("hw_group", 1)]);
        let cut = fitting(large.clone(), limit);
        assert!(cut.value.as_deref() == Some(&large.value.as_deref().unwrap()[..65_536]));
        assert_eq!((&cut.key, cut.partition), (&large.key, large.partition));
        assert_eq!(names(&cut), ["ce_id", "hw_group", "hw_value_bytes", "hw_value_sha256"]);
        assert_eq!(cut.headers.get("hw_value_bytes"), Some(Some(&b"3145728"[..])));
        let digest = cut.headers.get("hw_value_sha256").flatten().expect("a digest");
        assert_eq!(digest, sha256(large.value.as_deref().unwrap()).as_bytes());
        assert_eq!(sha256(b"abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert!(super::cut(&cut).is_none(), "what is cut is not cut again");
    }

    /// Red when the headers that say which event it is go before others, ours are left out, or their order is lost.
    #[test]
    fn of_many_headers_those_stay_that_say_which_event_it_is() {
        let large =
            letter(2, 2, &[("x-a", 60_000), ("x-b", 60_000), ("x-c", 10), ("ce_id", 9_000), ("hw_group", 9_000)]);
        let cut = super::cut(&large).expect("too large");
        assert_eq!(names(&cut), ["x-c", "ce_id", "hw_group", "hw_headers_cut"]);
        assert_eq!(cut.headers.get("hw_headers_cut"), Some(Some(&b"2"[..])));
        assert_eq!((&cut.key, &cut.value), (&large.key, &large.value));
        let many: Vec<(&str, usize)> = vec![("", 0); 1_000_000];
        assert!(super::cut(&letter(0, 0, &many)).expect("too many").headers.len() < 7_000, "empty ones take room too");
    }

    /// Red when a record is processed that could not be passed on, for its key or its headers.
    #[test]
    fn a_record_is_measured_as_a_whole() {
        let record = |key, value, headers: &[(&str, usize)]| {
            let Outgoing { topic, key, value, headers, .. } = letter(key, value, headers);
            Record { topic, partition: 0, offset: 0, timestamp_ms: 0, key, value, headers }
        };
        let limit = 100_000;
        assert_eq!(oversize(&record(1_000, limit, &[("x", 40_000)]), limit), None);
        let why = oversize(&record(2, limit + 1, &[]), limit).expect("too large");
        assert_eq!(why, "the value is 100001 bytes, over the limit of 100000");
        let why = oversize(&record(2, 3, &[("x", 200_000)]), limit).expect("too large");
        assert_eq!(why, "key, value and headers are 2, 3 and 200011 bytes, together over the limit of 149152");
        assert!(oversize(&record(200_000, 3, &[]), limit).is_some());
    }
}
