//! Patterns over event types: `*` is one segment, `#` the rest, a lone `*` everything.

use std::{fmt, str::FromStr};

/// A pattern over dotted event types, `analysis.*` or `error.#`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(String);

/// Why a text is no pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is not a pattern: write dotted segments of a-z, 0-9, `-`, `_`, each `*` for any one, or a last `#` for the rest"
)]
pub struct PatternError(String);

impl Pattern {
    /// Whether an event type matches.
    pub fn matches(&self, event_type: &str) -> bool {
        if self.0 == "*" {
            return true;
        }
        let mut segments = event_type.split('.');
        for part in self.0.split('.') {
            match (part, segments.next()) {
                ("#", _) => return true,
                ("*", Some(_)) => {}
                (part, Some(segment)) if part == segment => {}
                _ => return false,
            }
        }
        segments.next().is_none()
    }

    /// The one domain whose types can match, or `None` when any can.
    pub fn domain(&self) -> Option<&str> {
        self.0.split('.').next().filter(|first| !matches!(*first, "*" | "#"))
    }
}

impl FromStr for Pattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        if is_pattern(text) { Ok(Self(text.to_owned())) } else { Err(PatternError(text.to_owned())) }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether a text is a dotted event type, `payment.completed`: at least two segments, since the first is the domain.
pub(crate) fn is_event_type(text: &str) -> bool {
    is_pattern(text) && !text.contains(['*', '#']) && text.contains('.')
}

/// Whether a text is a type as any CloudEvents producer may write it, `com.acme.Order:Placed`: what a `ce_type` header can
/// hold, but for blanks and wildcards. A topic of ours is named after none of these.
pub(crate) fn is_foreign_type(text: &str) -> bool {
    let odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '*' | '#');
    !text.is_empty() && text.chars().count() <= 256 && !text.contains(odd)
}

/// Whether `#[on_event(text)]` fits a function whose argument has this label; `None` takes any pattern.
pub const fn label_matches(label: Option<&str>, text: &str) -> bool {
    let Some(label) = label else { return is_pattern(text) };
    let (a, b) = (label.as_bytes(), text.as_bytes());
    let mut i = 0;
    while i < a.len() && i < b.len() && a[i] == b[i] {
        i += 1;
    }
    i == a.len() && i == b.len()
}

const fn is_pattern(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut i = 0;
    // A segment is a whole wildcard or a word; `#` ends the pattern.
    while i < bytes.len() {
        let start = i;
        while i < bytes.len() && bytes[i] != b'.' {
            let word = matches!(bytes[i], b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
            let wild = i == start && matches!(bytes[i], b'*' | b'#') && (i + 1 == bytes.len() || bytes[i + 1] == b'.');
            if !word && !wild || bytes[i] == b'#' && i + 1 != bytes.len() {
                return false;
            }
            i += 1;
        }
        if i == start || i + 1 == bytes.len() {
            return false;
        }
        i += 1;
    }
    !bytes.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when `*` spans segments, `#` does not, or a lone `*` is one segment.
    #[test]
    fn a_star_is_one_segment_and_a_hash_the_rest() {
        let matches = |pattern: &str, event: &str| pattern.parse::<Pattern>().expect(pattern).matches(event);
        assert!(matches("*", "a.b.c"));
        assert!(matches("analysis.*", "analysis.done"));
        assert!(!matches("analysis.*", "analysis.step.done"));
        assert!(!matches("analysis.*", "analysis"));
        assert!(matches("error.#", "error.disk.full"));
        assert!(matches("error.#", "error"));
        assert!(matches("*.completed", "payment.completed"));
        assert!(!matches("payment.completed", "payment.complete"));
    }

    /// Red when an empty segment, an upper-case letter or an inner `#` passes.
    #[test]
    fn what_is_no_pattern_is_refused_with_the_rule() {
        for wrong in ["", ".", "a.", ".a", "a..b", "A.b", "a.#.b", "a.*b", "a b", "##"] {
            assert!(wrong.parse::<Pattern>().is_err(), "{wrong}");
        }
        assert!(label_matches(Some("payment.completed"), "payment.completed"));
        assert!(!label_matches(Some("payment.completed"), "payment.complete"));
        assert!(label_matches(None, "analysis.*"));
        assert!(is_event_type("payment.completed") && !is_event_type("payment") && !is_event_type("payment.*"));
    }
}
