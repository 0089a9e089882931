//! What comes from records, as it is safe and short enough to print.

use std::{fmt::Write as _, io::Write, time::Duration};

pub(super) use crate::process::table::thousands;

/// Characters of a message in a table.
pub(crate) const WIDE: usize = 72;

/// The beginning of a text, on one line: what a record brings must not move a terminal's cursor.
pub(crate) fn plain(text: &str, limit: usize) -> String {
    let mut out = String::with_capacity(text.len().min(limit));
    for (count, c) in text.chars().enumerate() {
        if count == limit {
            // The last one makes room.
            out.pop();
            out.push('…');
            break;
        }
        out.push(if c.is_control() { ' ' } else { c });
    }
    out
}

/// Text as it is, with control characters escaped; other bytes in hex behind `0x`.
pub(super) fn shown(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => {
            text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
        }
        Err(_) => format!("0x{}", hex(bytes)),
    }
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        // Writing to a string cannot fail.
        let _ = write!(out, "{byte:02x}");
        out
    })
}

/// `1 letter`, `2,000 letters`.
pub(super) fn letters(number: u64) -> String {
    format!("{} letter{}", thousands(number), if number == 1 { "" } else { "s" })
}

/// Letters a second, rounded; none for a moment too short to tell.
pub(super) fn per_second(number: u64, elapsed: Duration) -> Option<u64> {
    let millis = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX);
    number.saturating_mul(1_000).checked_add(millis / 2)?.checked_div(millis)
}

/// Says something beside the answer; nobody is left to hear of a failure.
pub(crate) fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a control character reaches the terminal, or a cut text is longer than its column.
    #[test]
    fn what_a_record_brings_is_one_harmless_line() {
        assert_eq!(plain("a\x1b[2Jb\nc", 72), "a [2Jb c");
        assert_eq!((plain("äbcd", 4), plain("äbcde", 4)), ("äbcd".to_owned(), "äbc…".to_owned()));
        assert_eq!(shown("k\x1bé".as_bytes()), "k\\u{1b}é");
        assert_eq!(shown(b"\xff\0"), "0xff00");
    }

    /// Red when a comma stands first or digits are grouped from the left.
    #[test]
    fn numbers_are_read_at_a_glance() {
        assert_eq!([7, 999, 1_000, 1_234_567].map(thousands), ["7", "999", "1,000", "1,234,567"]);
        assert_eq!((letters(1), letters(0)), ("1 letter".to_owned(), "0 letters".to_owned()));
        assert_eq!(per_second(9_998, Duration::from_millis(20_100)), Some(497));
        assert_eq!(per_second(1, Duration::ZERO), None);
    }
}
