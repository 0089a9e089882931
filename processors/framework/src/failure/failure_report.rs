//! What went wrong with one record, as its delivery headers and its dead letter tell it.

use sha2::{Digest, Sha256};

use super::{Cause, DeadLetterKind};

/// Bytes of a message that are kept.
pub(crate) const MESSAGE_LIMIT: usize = 512;
/// Bytes of a detail that are kept.
pub(crate) const DETAIL_LIMIT: usize = 2_048;

/// What went wrong with one record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FailureReport {
    pub(crate) kind: DeadLetterKind,
    /// For people, at most 512 bytes.
    pub(crate) message: String,
    /// The same with everything behind it, at most 2 KiB.
    pub(crate) detail: String,
    types: Vec<String>,
}

impl FailureReport {
    /// A fault that the engine found itself.
    pub(crate) fn new(kind: DeadLetterKind, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { kind, detail: cut(&message, DETAIL_LIMIT), message: cut(&message, MESSAGE_LIMIT), types: Vec::new() }
    }

    /// A fault that the processor reported.
    pub(crate) fn of(kind: DeadLetterKind, cause: &Cause) -> Self {
        let (message, detail) = (cut(cause.message(), MESSAGE_LIMIT), cut(&cause.to_string(), DETAIL_LIMIT));
        Self { kind, message, detail, types: cause.types() }
    }

    /// 16 hex digits that are the same for faults of one make: whatever differs from record to record does not count.
    pub(crate) fn fingerprint(&self, group: &str, processor: &str) -> String {
        let mut hash = Sha256::new();
        for part in [group, processor, self.kind.as_str(), &self.types.join(">"), &normalised(&self.message)] {
            hash.update(part);
            hash.update(b"\n");
        }
        hash.finalize()[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// The beginning of a text, whole characters of at most `limit` bytes; characters that no text column holds are replaced.
pub(crate) fn cut(text: &str, limit: usize) -> String {
    let end = text.floor_char_boundary(limit);
    text[..end].replace('\0', "\u{fffd}")
}

/// A message with quoted text, UUIDs, hex and numbers replaced by `#`.
fn normalised(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    let mut rest = message;
    let mut in_word = false;
    while let Some(c) = rest.chars().next() {
        let word = rest.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let taken = if let Some(length) = quoted(rest, c, in_word) {
            out.push('#');
            length
        } else if let Some(length) = uuid(rest).filter(|_| !in_word) {
            out.push('#');
            length
        } else if word > 0 {
            push_word(&mut out, &rest[..word]);
            word
        } else {
            out.push(c);
            c.len_utf8()
        };
        in_word = word > 0;
        rest = &rest[taken..];
    }
    out
}

/// The length of a quoted text at the beginning, its quotes included. An apostrophe within a word quotes nothing.
fn quoted(text: &str, first: char, in_word: bool) -> Option<usize> {
    let quote = matches!(first, '"' | '\'' | '`') && !(first == '\'' && in_word);
    let end = quote.then(|| text[1..].find(first))??;
    Some(end + 2)
}

fn uuid(text: &str) -> Option<usize> {
    let text = text.as_bytes().get(..36)?;
    let fits = |(at, byte): (usize, &u8)| match at {
        8 | 13 | 18 | 23 => *byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    text.iter().enumerate().all(fits).then_some(36)
}

/// A word of letters and digits: hex as a whole, other digits run by run.
fn push_word(out: &mut String, word: &str) {
    let has_digit = word.bytes().any(|b| b.is_ascii_digit());
    let hex = word.strip_prefix("0x").unwrap_or(word);
    let is_hex = hex.bytes().all(|b| b.is_ascii_hexdigit()) && has_digit && (hex.len() >= 6 || hex.len() < word.len());
    if is_hex {
        return out.push('#');
    }
    let mut in_number = false;
    for c in word.chars() {
        if !c.is_ascii_digit() {
            out.push(c);
        } else if !in_number {
            out.push('#');
        }
        in_number = c.is_ascii_digit();
    }
}

#[cfg(test)]
mod tests {
    use super::{super::Failure, *};

    /// Red when one of the replacements is dropped, or words are mangled.
    #[test]
    fn what_differs_from_record_to_record_is_replaced() {
        for (message, wanted) in [
            ("order o42 has 3 items", "order o# has # items"),
            ("no customer 4bf92f35-77b3-5da6-a3ce-929d0e0e4736 here", "no customer # here"),
            ("schema `a.b` and \"c d\" and 'e'", "schema # and # and #"),
            ("it can't be 0xdeadbeef or 12ab34cd", "it can't be # or #"),
            ("answered 503 after 1.5s", "answered # after #.#s"),
            ("an unclosed `quote", "an unclosed `quote"),
            ("Zürich 8001 – déjà vu", "Zürich # – déjà vu"),
            ("", ""),
        ] {
            assert_eq!(normalised(message), wanted);
        }
    }

    /// Red when a part is left out of the hash, or the parts run into each other.
    #[test]
    fn a_fingerprint_tells_makes_of_faults_apart_and_nothing_else() {
        let fault = |kind, message: &str| FailureReport::new(kind, message);
        let base = fault(DeadLetterKind::Rejected, "no e-mail for o1");
        let print = base.fingerprint("g", "p");
        assert_eq!(print.len(), 16);
        assert_eq!(print, fault(DeadLetterKind::Rejected, "no e-mail for o2").fingerprint("g", "p"));
        let mut typed = base.clone();
        typed.types = vec!["io::Error".to_owned()];
        for other in [
            base.fingerprint("g2", "p"),
            base.fingerprint("g", "p2"),
            base.fingerprint("gp", ""),
            fault(DeadLetterKind::Contract, "no e-mail for o1").fingerprint("g", "p"),
            fault(DeadLetterKind::Rejected, "no name for o1").fingerprint("g", "p"),
            typed.fingerprint("g", "p"),
        ] {
            assert_ne!(print, other);
        }
    }

    /// Red when the chain of errors counts for nothing, or the messages behind the first do.
    #[test]
    fn a_fingerprint_knows_the_chain_of_errors_and_none_of_their_ids() {
        #[derive(Debug, thiserror::Error)]
        #[error("cannot reserve for order {0}")]
        struct Unreserved(u32, #[source] Answer);
        #[derive(Debug, thiserror::Error)]
        enum Answer {
            #[error("it says {0}")]
            Status(u16),
            #[error("no answer within {0} ms")]
            Silence(u32),
        }
        #[derive(Debug, thiserror::Error)]
        #[error("cannot reserve for order {0}")]
        struct Other(u32);
        let print = |failure: Failure| {
            let (Failure::Retry(cause) | Failure::Reject(cause)) = failure else { panic!("a cause") };
            FailureReport::of(DeadLetterKind::Exhausted, &cause).fingerprint("g", "p")
        };
        let status = print(Unreserved(7, Answer::Status(503)).into());
        assert_eq!(status, print(Unreserved(12_345, Answer::Status(429)).into()));
        let silence = print(Unreserved(7, Answer::Silence(200)).into());
        let prints = [status, silence, print(Other(7).into()), print(Failure::retry("cannot reserve for order 7"))];
        assert!((0..4).all(|one| !prints[..one].contains(&prints[one])), "{prints:?}");
    }

    /// Red when a text is cut within a character, or a NUL passes, which Postgres refuses.
    #[test]
    fn texts_are_cut_at_whole_characters() {
        assert_eq!(cut("aß", 2), "a");
        assert_eq!(cut("a\0b", 9), "a\u{fffd}b");
        let long = FailureReport::new(DeadLetterKind::Decode, "x".repeat(5_000));
        assert_eq!((long.message.len(), long.detail.len()), (MESSAGE_LIMIT, DETAIL_LIMIT));
    }
}
