//! What a datum is made of, read off its front; nothing is believed that the bytes left cannot hold.

use crate::codec::error::FieldError;

pub(crate) type Checked<T = ()> = Result<T, Box<FieldError>>;

/// The bytes of a datum that are not read yet.
pub(crate) struct Cursor<'a>(pub(crate) &'a [u8]);

impl<'a> Cursor<'a> {
    pub(crate) fn left(&self) -> usize {
        self.0.len()
    }

    /// The number of items in an array's or map's next block; 0 ends it.
    pub(crate) fn block(&mut self) -> Checked<u64> {
        let count = self.long()?;
        if count < 0 {
            // The block's size in bytes, there for readers that skip it.
            self.long()?;
        }
        Ok(count.unsigned_abs())
    }

    #[inline]
    pub(crate) fn bytes(&mut self) -> Checked<&'a [u8]> {
        let length = self.long()?;
        match usize::try_from(length) {
            Ok(length) => self.take(length),
            Err(_) => Err(negative(length)),
        }
    }

    #[inline]
    pub(crate) fn index(&mut self, of: usize, what: &str) -> Checked<usize> {
        let index = self.long()?;
        match usize::try_from(index) {
            Ok(index) if index < of => Ok(index),
            _ => Err(outside(index, of, what)),
        }
    }

    /// A zigzag varint of at most ten bytes; most are of one.
    #[inline]
    pub(crate) fn long(&mut self) -> Checked<i64> {
        match self.0 {
            [byte @ 0..=0x7f, rest @ ..] => {
                self.0 = rest;
                Ok(zigzag(u64::from(*byte)))
            }
            _ => self.long_number(),
        }
    }

    fn long_number(&mut self) -> Checked<i64> {
        let mut bits = 0u64;
        for (n, &byte) in self.0.iter().enumerate().take(10) {
            bits |= u64::from(byte & 0x7f) << (7 * n);
            if byte < 0x80 {
                self.0 = &self.0[n + 1..];
                return Ok(zigzag(bits));
            }
        }
        Err(FieldError::new(if self.0.len() < 10 {
            "the datum ends within it"
        } else {
            "a number takes over ten bytes"
        }))
    }

    #[inline]
    pub(crate) fn take(&mut self, length: usize) -> Checked<&'a [u8]> {
        match self.0.split_at_checked(length) {
            Some((taken, rest)) => {
                self.0 = rest;
                Ok(taken)
            }
            None => Err(cut_off(length, self.0.len())),
        }
    }

    #[inline]
    pub(crate) fn int(&mut self) -> Checked<i32> {
        i32::try_from(self.long()?).map_err(|_| FieldError::new("a number is out of an int's range"))
    }

    pub(crate) fn text(&mut self) -> Checked<&'a str> {
        std::str::from_utf8(self.bytes()?).map_err(|_| FieldError::new("a string is not UTF-8"))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Checked<[u8; N]> {
        let taken = self.take(N)?;
        taken.try_into().map_err(|_| FieldError::new("the datum ends within it"))
    }
}

fn zigzag(bits: u64) -> i64 {
    (bits >> 1).cast_signed() ^ -(bits & 1).cast_signed()
}

// The faults stand apart so that the paths without one stay small.

#[cold]
fn cut_off(length: usize, left: usize) -> Box<FieldError> {
    FieldError::new(format!("the datum ends within it: {length} bytes announced, {left} left"))
}

#[cold]
fn negative(length: i64) -> Box<FieldError> {
    FieldError::new(format!("a length is {length}"))
}

#[cold]
fn outside(index: i64, of: usize, what: &str) -> Box<FieldError> {
    FieldError::new(format!("{index} is none of the {of} {what}"))
}
