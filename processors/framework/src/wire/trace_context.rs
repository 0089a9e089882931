//! W3C trace context: read, written, and derived where a producer sent none.

use std::fmt;

use opentelemetry::{
    SpanId, TraceFlags, TraceId,
    trace::{SpanContext, TraceState},
};
use sha2::{Digest, Sha256};

pub(crate) const TRACE_PARENT: &str = "traceparent";
pub(crate) const TRACE_STATE: &str = "tracestate";

/// `tracestate` longer than this is dropped, as W3C allows.
const STATE_LIMIT: usize = 512;
const SAMPLED: u8 = 1;

/// The trace that a record belongs to and the span that sent it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TraceContext {
    /// The trace's id, never all zero.
    pub trace_id: [u8; 16],
    /// The id of the span that sent the record, never all zero.
    pub span_id: [u8; 8],
    /// Trace flags; bit 0 says that the trace is sampled.
    pub flags: u8,
    /// The vendors' `tracestate`, passed on as it is.
    pub state: Option<String>,
}

impl TraceContext {
    /// Reads a `traceparent` header; `None` when W3C says to ignore it.
    /// Source: W3C Trace Context, level 1, section 3.2.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let (version, rest) = (hex::<1>(text.get(..2)?)?[0], text.get(2..)?);
        let longer = rest.len() > 53;
        if version == 0xff || (longer && (version == 0 || rest[53] != b'-')) || rest.len() < 53 {
            return None;
        }
        if rest[0] != b'-' || rest[33] != b'-' || rest[50] != b'-' {
            return None;
        }
        let context = Self {
            trace_id: hex(&rest[1..33])?,
            span_id: hex(&rest[34..50])?,
            flags: hex::<1>(&rest[51..53])?[0],
            state: None,
        };
        (context.trace_id != [0; 16] && context.span_id != [0; 8]).then_some(context)
    }

    /// The same context with the producer's `tracestate`, unless that is too long or no text.
    #[must_use]
    pub fn with_state(mut self, state: &[u8]) -> Self {
        self.state =
            std::str::from_utf8(state).ok().filter(|s| !s.is_empty() && s.len() <= STATE_LIMIT).map(str::to_owned);
        self
    }

    /// The context of an event that came without one: from SHA-256 over its identity, so that every group, redelivery
    /// and retry of it shares one trace. Sampled, until a [`Sampler`](crate::telemetry::spans::Sampler) decides from the trace id alone.
    pub fn derived(source: &str, id: &str) -> Self {
        let hash = Sha256::new().chain_update(source).chain_update(b"\n").chain_update(id).finalize();
        let (mut trace_id, mut span_id) = ([0; 16], [0; 8]);
        trace_id.copy_from_slice(&hash[..16]);
        span_id.copy_from_slice(&hash[16..24]);
        Self { trace_id, span_id, flags: SAMPLED, state: None }
    }

    /// Whether the trace is recorded.
    pub fn is_sampled(&self) -> bool {
        self.flags & SAMPLED != 0
    }

    pub(crate) fn set_sampled(&mut self, sampled: bool) {
        self.flags = if sampled { self.flags | SAMPLED } else { self.flags & !SAMPLED };
    }

    /// The trace id in hex.
    pub fn trace_id_hex(&self) -> String {
        self.trace_id.iter().map(|b| format!("{b:02x}")).collect()
    }

    /// The `traceparent` header's 55 bytes.
    pub fn header(&self) -> [u8; 55] {
        let mut out = *b"00-00000000000000000000000000000000-0000000000000000-00";
        write_hex(&mut out[3..35], &self.trace_id);
        write_hex(&mut out[36..52], &self.span_id);
        write_hex(&mut out[53..55], &[self.flags]);
        out
    }

    /// The context for OpenTelemetry: a span of another process. A `tracestate` that it does not take is left out.
    pub fn span_context(&self) -> SpanContext {
        let state = self.state.as_deref().and_then(|state| state.parse::<TraceState>().ok()).unwrap_or_default();
        let (trace, span) = (TraceId::from_bytes(self.trace_id), SpanId::from_bytes(self.span_id));
        SpanContext::new(trace, span, TraceFlags::new(self.flags), true, state)
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(std::str::from_utf8(&self.header()).unwrap_or_default())
    }
}

/// What a byte is worth as a hexadecimal digit, lower case as W3C wants it; `NO_DIGIT` for any other.
const DIGITS: [u8; 256] = {
    let mut digits = [NO_DIGIT; 256];
    let mut value = 0_u8;
    while value < 16 {
        digits[b"0123456789abcdef"[value as usize] as usize] = value;
        value += 1;
    }
    digits
};
const NO_DIGIT: u8 = 0xff;

fn hex<const N: usize>(text: &[u8]) -> Option<[u8; N]> {
    let mut out = [0; N];
    if text.len() != 2 * N {
        return None;
    }
    let mut wrong = 0;
    for (byte, pair) in out.iter_mut().zip(text.chunks_exact(2)) {
        let (high, low) = (DIGITS[usize::from(pair[0])], DIGITS[usize::from(pair[1])]);
        // Only `NO_DIGIT` has any of the upper four bits.
        wrong |= high | low;
        *byte = high << 4 | low;
    }
    (wrong < 16).then_some(out)
}

fn write_hex(out: &mut [u8], bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair[0] = DIGITS[usize::from(byte >> 4)];
        pair[1] = DIGITS[usize::from(byte & 15)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VALID: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// Red when the derivation drops the line feed or takes other bytes of the hash.
    #[test]
    fn derives_the_context_of_the_test_vectors() {
        let context = TraceContext::derived("kafka://events.payment", "d1694524-516d-5e22-9ca6-3c4096a48991");
        assert_eq!(context.to_string(), "00-efc693acdf0092af7dc7c61067f18606-22f2adf4947e6158-01");
        let context = TraceContext::derived("//till", "id-7");
        assert_eq!(context.to_string(), "00-3e4fa80bc41274b924f0f7ba6c92f2fe-6bcff398391d0fee-01");
    }

    /// Red when zero ids, upper case, a wrong length or version ff pass.
    #[test]
    fn ignores_what_w3c_says_to_ignore() {
        assert_eq!(TraceContext::parse(VALID.as_bytes()).map(|c| c.to_string()).as_deref(), Some(VALID));
        let later = VALID.replacen("00", "01", 1) + "-what";
        assert!(TraceContext::parse(later.as_bytes()).is_some(), "a later version may be longer");
        for wrong in [
            "",
            "00",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0",
            "00_4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        ] {
            assert_eq!(TraceContext::parse(wrong.as_bytes()), None, "{wrong}");
        }
    }
}
