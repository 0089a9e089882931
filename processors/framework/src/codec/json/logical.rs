//! The text of dates, times and decimals.

use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, SecondsFormat, Timelike, Utc};

/// More digits than any database keeps; turning digits into bytes takes time square to their number.
const DIGITS_LIMIT: usize = 1_000;
/// What RFC 3339 can write; a time outside comes out as its number.
const YEARS: std::ops::RangeInclusive<i32> = 0..=9_999;
const LOCAL: &str = "%Y-%m-%dT%H:%M:%S%.f";

/// What a timestamp counts since the epoch.
#[derive(Clone, Copy)]
pub(super) enum TimestampUnit {
    Millis,
    Micros,
    Nanos,
}

impl TimestampUnit {
    fn of(self, time: DateTime<Utc>) -> Option<i64> {
        match self {
            Self::Millis => Some(time.timestamp_millis()),
            Self::Micros => Some(time.timestamp_micros()),
            Self::Nanos => time.timestamp_nanos_opt(),
        }
    }

    fn time(self, count: i64) -> Option<DateTime<Utc>> {
        match self {
            Self::Millis => DateTime::from_timestamp_millis(count),
            Self::Micros => DateTime::from_timestamp_micros(count),
            Self::Nanos => Some(DateTime::from_timestamp_nanos(count)),
        }
    }
}

/// RFC 3339; finer than the unit is cut off.
pub(super) fn instant(text: &str, unit: TimestampUnit) -> Option<i64> {
    unit.of(DateTime::parse_from_rfc3339(text).ok()?.to_utc())
}

pub(super) fn instant_text(count: i64, unit: TimestampUnit) -> Option<String> {
    let time = unit.time(count).filter(|time| YEARS.contains(&time.year()))?;
    Some(time.to_rfc3339_opts(SecondsFormat::AutoSi, true))
}

/// `2026-01-31T12:34:56.789`
pub(super) fn local(text: &str, unit: TimestampUnit) -> Option<i64> {
    unit.of(NaiveDateTime::parse_from_str(text, LOCAL).ok()?.and_utc())
}

pub(super) fn local_text(count: i64, unit: TimestampUnit) -> Option<String> {
    instant_text(count, unit).map(|text| text.trim_end_matches('Z').to_owned())
}

/// Days since the epoch.
pub(super) fn date(text: &str) -> Option<i32> {
    let date = NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()?;
    i32::try_from(date.signed_duration_since(NaiveDate::default()).num_days()).ok()
}

pub(super) fn date_text(days: i32) -> Option<String> {
    let date = NaiveDate::default().checked_add_signed(chrono::TimeDelta::try_days(i64::from(days))?)?;
    YEARS.contains(&date.year()).then(|| date.format("%Y-%m-%d").to_string())
}

/// Microseconds since midnight.
pub(super) fn time_micros(text: &str) -> Option<i64> {
    let time = NaiveTime::parse_from_str(text, "%H:%M:%S%.f").ok()?;
    Some(i64::from(time.num_seconds_from_midnight()) * 1_000_000 + i64::from(time.nanosecond() / 1_000))
}

pub(super) fn time_text(micros: i64) -> Option<String> {
    let micros = u64::try_from(micros).ok()?;
    let seconds = u32::try_from(micros / 1_000_000).ok()?;
    let nanos = u32::try_from(micros % 1_000_000 * 1_000).ok()?;
    Some(NaiveTime::from_num_seconds_from_midnight_opt(seconds, nanos)?.format("%H:%M:%S%.f").to_string())
}

/// The text, if it is a number without an exponent, whose size its length bounds.
pub(super) fn plain_number(text: &str) -> Option<&str> {
    let digits = text.strip_prefix('-').unwrap_or(text);
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let all_digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    (digits.len() <= DIGITS_LIMIT && all_digits(whole) && all_digits(fraction)).then_some(text)
}

/// The unscaled value's two's complement, big endian, in as few bytes as hold it.
pub(super) fn decimal_bytes(text: &str, precision: usize, scale: usize) -> Result<Vec<u8>, String> {
    let Some(text) = plain_number(text) else {
        return Err(format!("expected a decimal like 12.34 of at most {DIGITS_LIMIT} digits, without an exponent"));
    };
    let (digits, negative) = match text.strip_prefix('-') {
        Some(digits) => (digits, true),
        None => (text, false),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let (whole, fraction) = (whole.trim_start_matches('0'), fraction.trim_end_matches('0'));
    if fraction.len() > scale {
        return Err(format!("expected a decimal with at most {scale} digits after the point"));
    }
    if scale > DIGITS_LIMIT || whole.len() + scale > precision {
        return Err(format!("expected a decimal of at most {precision} digits, {scale} of them after the point"));
    }
    let mut bytes = vec![0u8];
    for digit in format!("{whole}{fraction:0<scale$}").bytes() {
        let mut carry = digit - b'0';
        for byte in &mut bytes {
            [*byte, carry] = (u16::from(*byte) * 10 + u16::from(carry)).to_le_bytes();
        }
        if carry > 0 {
            bytes.push(carry);
        }
    }
    // Room for the sign.
    bytes.push(0);
    bytes.reverse();
    if negative {
        negate(&mut bytes);
    }
    let spare = bytes.windows(2).take_while(|w| matches!(w, [0, 0..=0x7f] | [0xff, 0x80..=0xff])).count();
    Ok(bytes.split_off(spare))
}

/// The decimal with all its `scale` digits; `None` when it is too long to print.
pub(super) fn decimal_text(bytes: &[u8], scale: usize) -> Option<String> {
    if bytes.len() * 2 > DIGITS_LIMIT || scale > DIGITS_LIMIT {
        return None;
    }
    let negative = bytes.first().is_some_and(|byte| *byte >= 0x80);
    let mut left = bytes.to_vec();
    if negative {
        negate(&mut left);
    }
    let (mut digits, mut count) = (Vec::new(), 0);
    while count <= scale || left.iter().any(|byte| *byte != 0) {
        let mut rest = 0u8;
        for byte in &mut left {
            let part = u16::from_be_bytes([rest, *byte]);
            // Both fit a byte: `rest` is below 10, so `part` is below 2,560.
            [_, *byte] = (part / 10).to_be_bytes();
            [_, rest] = (part % 10).to_be_bytes();
        }
        digits.push(char::from(b'0' + rest));
        count += 1;
        if count == scale {
            digits.push('.');
        }
    }
    if negative {
        digits.push('-');
    }
    Some(digits.iter().rev().collect())
}

/// Two's complement, big endian.
fn negate(bytes: &mut [u8]) {
    let mut carry = true;
    for byte in bytes.iter_mut().rev() {
        (*byte, carry) = (!*byte).overflowing_add(u8::from(carry));
    }
}
