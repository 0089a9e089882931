//! Values as bytes, from a plan that was made once of schema and template (`plan.rs`).
//!
//! What changes from record to record is written straight as Avro: at a few hundred nanoseconds a record the generator is
//! not what limits the load, and needs no store of values made before. All else, the frame and every constant part, comes
//! from the codec that `produce` uses, and the codec reads the first value back before anything is sent.

use std::io::Write as _;

use headwater::Time;
use uuid::Builder;

use crate::random::Random;

const LETTERS: &[u8; 64] = b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_";

/// How one part of a value is written.
#[derive(Clone, Debug)]
pub(crate) enum Node {
    /// The same bytes each time.
    Constant(Vec<u8>),
    /// One after the other: a record's fields, an array with its counts.
    Sequence(Vec<Node>),
    /// One of a union's branches, its number before it.
    OneOf(Vec<Node>),
    /// Text in pieces, behind its length.
    Text(Vec<Piece>),
    /// A whole number, as Avro writes int, long, enums and all that is one of them below; with `int` below 2^31.
    Whole {
        number: Number,
        int: bool,
    },
    Float(f64, f64),
    Double(f64, f64),
    Boolean,
    /// So many random bytes, behind their length or without it.
    Bytes(usize),
    Fixed(usize),
    /// A number below the bound as two's complement, big endian: in so many bytes, or behind its length.
    Decimal {
        bound: u64,
        size: Option<usize>,
    },
    /// Months, days and milliseconds.
    Duration,
    /// The field that the record's key is: what it says is noted.
    Key(Box<Node>),
}

/// A piece of a text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Piece {
    Literal(String),
    Number(Number),
    Float(f64, f64),
    /// The key's text.
    Key,
    /// So many letters and digits.
    Letters(usize),
    Uuid,
    /// A UUID that belongs to the key.
    KeyUuid,
    /// RFC 3339.
    Now,
}

/// A whole number.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Number {
    /// The record's.
    Record,
    /// The key's.
    Key,
    /// Any from the first to the last.
    Between(i64, i64),
    /// The time.
    Now(Unit),
}

/// What a time is counted in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Unit {
    Days,
    MillisOfDay,
    MicrosOfDay,
    Millis,
    Micros,
    Nanos,
}

/// What one record is made of.
pub(crate) struct Record<'a> {
    pub(crate) number: u64,
    /// The key's number, and its text.
    pub(crate) key: u64,
    pub(crate) key_text: &'a str,
    pub(crate) seed: u32,
    pub(crate) now: Time,
    pub(crate) random: &'a mut Random,
    /// Gets what the key's field says.
    pub(crate) said: &'a mut Vec<u8>,
}

impl Node {
    /// Appends the part to `out`.
    pub(crate) fn write(&self, record: &mut Record<'_>, out: &mut Vec<u8>) {
        match self {
            Self::Constant(bytes) => out.extend_from_slice(bytes),
            Self::Sequence(parts) => parts.iter().for_each(|part| part.write(record, out)),
            Self::OneOf(branches) => {
                let branch = record.random.below(branches.len() as u64);
                branches[usize::try_from(branch).unwrap_or_default()].write(record, out);
            }
            Self::Text(pieces) => {
                // The length stands first and takes one byte for all but long texts.
                let start = out.len();
                pieces.iter().for_each(|piece| piece.write(record, out));
                let length = out.len() - start;
                let mut head = Vec::new();
                long(&mut head, length as i64);
                out.splice(start..start, head);
            }
            Self::Whole { number, int } => {
                let number = number.get(record);
                long(out, if *int { number.rem_euclid(1 << 31) } else { number });
            }
            Self::Boolean => out.push(u8::from(record.random.below(2) == 1)),
            #[allow(clippy::cast_possible_truncation, reason = "a random float is as good when it is rounded")]
            Self::Float(low, high) => out.extend((real(record, *low, *high) as f32).to_le_bytes()),
            Self::Double(low, high) => out.extend(real(record, *low, *high).to_le_bytes()),
            Self::Bytes(size) => {
                long(out, *size as i64);
                random_bytes(record, *size, out);
            }
            Self::Fixed(size) => random_bytes(record, *size, out),
            Self::Decimal { bound, size } => {
                let number = record.random.below(*bound).to_be_bytes();
                match size {
                    None => {
                        long(out, 8);
                        out.extend(number);
                    }
                    Some(size) if *size <= 8 => out.extend(&number[8 - size..]),
                    Some(size) => {
                        out.resize(out.len() + size - 8, 0);
                        out.extend(number);
                    }
                }
            }
            Self::Duration => {
                for below in [12, 28, 86_400_000] {
                    let part = u32::try_from(record.random.below(below)).unwrap_or_default();
                    out.extend(part.to_le_bytes());
                }
            }
            Self::Key(field) => field.write_key(record, out),
        }
    }

    fn write_key(&self, record: &mut Record<'_>, out: &mut Vec<u8>) {
        record.said.clear();
        match self {
            Self::Text(pieces) => {
                let mut text = std::mem::take(record.said);
                pieces.iter().for_each(|piece| piece.write(record, &mut text));
                long(out, text.len() as i64);
                out.extend_from_slice(&text);
                *record.said = text;
            }
            Self::Whole { number, int } => {
                let number = number.get(record);
                let number = if *int { number.rem_euclid(1 << 31) } else { number };
                long(out, number);
                let _ = write!(record.said, "{number}");
            }
            // A union's branch number and what it holds.
            Self::Sequence(parts) => match parts.as_slice() {
                [Self::Constant(branch), field] => {
                    out.extend_from_slice(branch);
                    field.write_key(record, out);
                }
                _ => self.write(record, out),
            },
            other => other.write(record, out),
        }
    }
}

impl Piece {
    fn write(&self, record: &mut Record<'_>, out: &mut Vec<u8>) {
        // Writing to a vector cannot fail.
        let _ = match self {
            Self::Literal(text) => out.write_all(text.as_bytes()),
            Self::Number(number) => write!(out, "{}", number.get(record)),
            Self::Float(low, high) => write!(out, "{}", real(record, *low, *high)),
            Self::Key => out.write_all(record.key_text.as_bytes()),
            Self::Letters(count) => {
                letters(record.random, *count, out);
                Ok(())
            }
            Self::Uuid => uuid(record.random, out),
            Self::KeyUuid => uuid(&mut Random::new(record.seed, u64::MAX ^ record.key), out),
            Self::Now => write!(out, "{}", record.now),
        };
    }
}

impl Number {
    fn get(self, record: &mut Record<'_>) -> i64 {
        match self {
            Self::Record => record.number.cast_signed(),
            Self::Key => record.key.cast_signed(),
            Self::Between(first, last) => {
                // All but the whole range of a long has a span that fits.
                let span = last.wrapping_sub(first).cast_unsigned().saturating_add(1);
                first.wrapping_add(record.random.below(span).cast_signed())
            }
            Self::Now(unit) => unit.of(record.now),
        }
    }
}

impl Unit {
    fn of(self, now: Time) -> i64 {
        const DAY: i64 = 86_400_000_000;
        let micros = now.micros();
        match self {
            Self::Days => micros.div_euclid(DAY),
            Self::MillisOfDay => micros.rem_euclid(DAY) / 1_000,
            Self::MicrosOfDay => micros.rem_euclid(DAY),
            Self::Millis => now.millis(),
            Self::Micros => micros,
            Self::Nanos => micros.saturating_mul(1_000),
        }
    }
}

/// A whole number as Avro writes it: zigzag, seven bits a byte, the lowest first.
pub(crate) fn long(out: &mut Vec<u8>, number: i64) {
    let mut rest = (number << 1 ^ number >> 63).cast_unsigned();
    while rest >= 0x80 {
        out.push(rest.to_le_bytes()[0] | 0x80);
        rest >>= 7;
    }
    out.push(rest.to_le_bytes()[0]);
}

fn real(record: &mut Record<'_>, low: f64, high: f64) -> f64 {
    low + record.random.unit() * (high - low)
}

fn letters(random: &mut Random, count: usize, out: &mut Vec<u8>) {
    let mut bits = 0;
    for place in 0..count {
        if place % 10 == 0 {
            bits = random.next();
        }
        out.push(LETTERS[usize::from(bits.to_le_bytes()[0] & 63)]);
        bits >>= 6;
    }
}

fn random_bytes(record: &mut Record<'_>, size: usize, out: &mut Vec<u8>) {
    let end = out.len() + size;
    while out.len() < end {
        out.extend(record.random.next().to_le_bytes());
    }
    out.truncate(end);
}

fn uuid(random: &mut Random, out: &mut Vec<u8>) -> std::io::Result<()> {
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&random.next().to_le_bytes());
    bytes[8..].copy_from_slice(&random.next().to_le_bytes());
    write!(out, "{}", Builder::from_random_bytes(bytes).into_uuid())
}
