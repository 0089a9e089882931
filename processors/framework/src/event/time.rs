//! Points in time, as events carry them.

use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Serialize};

/// A point in time in microseconds since the Unix epoch, UTC; the Rust type of an Avro `timestamp-micros`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Time(i64);

impl Time {
    /// From microseconds since the epoch.
    pub const fn from_micros(micros: i64) -> Self {
        Self(micros)
    }

    /// From milliseconds since the epoch, a Kafka timestamp's unit; saturates.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis.saturating_mul(1_000))
    }

    /// The system clock's time.
    pub fn now() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self(i64::try_from(since.as_micros()).unwrap_or(i64::MAX))
    }

    /// Microseconds since the epoch.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// Whole milliseconds since the epoch, rounded down.
    pub const fn millis(self) -> i64 {
        self.0.div_euclid(1_000)
    }

    /// How long after `earlier` this is; zero when it is before.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// This time and `by` more; saturates.
    #[must_use]
    pub fn plus(self, by: Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX)))
    }

    /// Reads RFC 3339, with any offset; `None` when it is not that. Finer than a microsecond is cut off.
    pub fn parse(text: &str) -> Option<Self> {
        DateTime::parse_from_rfc3339(text).ok().map(|t| Self(t.timestamp_micros()))
    }
}

impl fmt::Display for Time {
    /// RFC 3339 in UTC, with as many digits of a second as the time has.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match DateTime::<Utc>::from_timestamp_micros(self.0) {
            Some(t) => f.write_str(&t.to_rfc3339_opts(SecondsFormat::AutoSi, true)),
            None => write!(f, "{}us since the epoch", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when `parse` ignores the offset or the display drops the microseconds.
    #[test]
    fn reads_and_writes_rfc_3339_with_any_offset() {
        let t = Time::parse("2026-01-01T02:00:00.000250+02:00").expect("valid");
        assert_eq!(t, Time::from_micros(1_767_225_600_000_250));
        assert_eq!(t.to_string(), "2026-01-01T00:00:00.000250Z");
        assert_eq!(Time::from_millis(1_767_225_600_000).to_string(), "2026-01-01T00:00:00Z");
        assert_eq!(Time::parse("yesterday"), None);
    }
}
