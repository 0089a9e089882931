//! When a circuit opens and closes, as values that are checked before they are used.

use std::time::Duration;

/// The longest window by calls; a result takes two bytes.
const MOST_CALLS: u32 = 100_000;
/// The most probes at once: more is no probing.
const MOST_PROBES: u32 = 1_000;
/// The shortest window by time: a tenth of it is a bucket.
const SHORTEST_WINDOW: Duration = Duration::from_millis(10);
/// The longest of the durations that the breaker itself waits or remembers for.
const LONGEST: Duration = Duration::from_secs(24 * 60 * 60);

/// When a circuit opens and when it closes again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BreakerSettings {
    /// The results that the rates are taken over.
    pub window: Window,
    /// The share of failed calls that opens the circuit, from 0 to 1; at 0 a single failure does.
    pub failure_rate: f64,
    /// A call that takes longer than this is slow, however it ends; above zero. [`Duration::MAX`] makes none slow.
    pub slow_call: Duration,
    /// The share of slow calls that opens the circuit, from 0 to 1; at 0 a single slow call does.
    pub slow_rate: f64,
    /// Results that the window must hold before they are judged, from 1 to the window's calls.
    pub minimum_calls: u32,
    /// How long an open circuit refuses every call; above zero, at most a day.
    pub open_for: Duration,
    /// Calls let through at once while half-open, and the results that decide how it goes on; from 1 to 1,000.
    pub probes: u32,
    /// The longest time half-open; without a decision by then the circuit opens again. Above zero, at most a day.
    pub half_open_limit: Duration,
}

/// Which results count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// The latest so many, from 1 to 100,000.
    Calls(u32),
    /// Those of the latest so much time, from 10 ms to a day, forgotten a tenth of it at a time.
    Time(Duration),
}

impl Default for BreakerSettings {
    /// Half of the latest 100 calls failed, or all took more than 10 s, with 10 at least: 5 s open, then 3 probes
    /// within a minute.
    fn default() -> Self {
        Self {
            window: Window::Calls(100),
            failure_rate: 0.5,
            slow_call: Duration::from_secs(10),
            slow_rate: 1.0,
            minimum_calls: 10,
            open_for: Duration::from_secs(5),
            probes: 3,
            half_open_limit: Duration::from_secs(60),
        }
    }
}

impl BreakerSettings {
    /// Whether a breaker can work with these; the error is a sentence that says which one to change, and to what.
    pub fn check(&self) -> Result<(), String> {
        match self.window {
            Window::Calls(calls) => {
                count("window calls", calls, MOST_CALLS)?;
                if self.minimum_calls > calls {
                    let minimum = self.minimum_calls;
                    return Err(format!(
                        "minimum calls {minimum} never fit into a window of {calls}: lower it, or widen the window"
                    ));
                }
            }
            Window::Time(time) => duration("window", time, SHORTEST_WINDOW)?,
        }
        count("minimum calls", self.minimum_calls, u32::MAX)?;
        count("probes", self.probes, MOST_PROBES)?;
        rate("failure rate", self.failure_rate)?;
        rate("slow rate", self.slow_rate)?;
        duration("open time", self.open_for, Duration::from_nanos(1))?;
        duration("half-open limit", self.half_open_limit, Duration::from_nanos(1))?;
        if self.slow_call.is_zero() {
            return Err("slow call 0 s makes every call slow: give it a time above zero".to_owned());
        }
        Ok(())
    }
}

fn count(what: &str, value: u32, most: u32) -> Result<(), String> {
    if !(1..=most).contains(&value) {
        return Err(format!("{what} {value}: give from 1 to {most}"));
    }
    Ok(())
}

fn rate(what: &str, value: f64) -> Result<(), String> {
    // Not a number is in no range.
    if !(0.0..=1.0).contains(&value) {
        return Err(format!("{what} {value}: give a share from 0 to 1"));
    }
    Ok(())
}

fn duration(what: &str, value: Duration, least: Duration) -> Result<(), String> {
    if !(least..=LONGEST).contains(&value) {
        return Err(format!("{what} {value:?}: give from {least:?} to {LONGEST:?}"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each of these would make a breaker that never opens, never closes or grows without bound. Red when any one of
    /// the checks is dropped.
    #[test]
    fn settings_that_cannot_work_are_refused_with_what_to_change() {
        let fine = BreakerSettings::default();
        assert_eq!(fine.check(), Ok(()));
        let second = Duration::from_secs(1);
        let wrong = [
            (BreakerSettings { window: Window::Calls(0), ..fine }, "window calls 0"),
            (BreakerSettings { window: Window::Calls(100_001), ..fine }, "window calls 100001"),
            (BreakerSettings { window: Window::Calls(9), ..fine }, "minimum calls 10 never fit into a window of 9"),
            (BreakerSettings { window: Window::Time(Duration::from_millis(9)), ..fine }, "window 9ms"),
            (BreakerSettings { window: Window::Time(LONGEST + second), ..fine }, "window 86401s"),
            (BreakerSettings { minimum_calls: 0, ..fine }, "minimum calls 0"),
            (BreakerSettings { probes: 0, ..fine }, "probes 0"),
            (BreakerSettings { probes: 1_001, ..fine }, "probes 1001"),
            (BreakerSettings { failure_rate: 1.01, ..fine }, "failure rate 1.01"),
            (BreakerSettings { failure_rate: f64::NAN, ..fine }, "failure rate NaN"),
            (BreakerSettings { slow_rate: -0.1, ..fine }, "slow rate -0.1"),
            (BreakerSettings { open_for: Duration::ZERO, ..fine }, "open time 0ns"),
            (BreakerSettings { open_for: LONGEST + second, ..fine }, "open time 86401s"),
            (BreakerSettings { half_open_limit: Duration::ZERO, ..fine }, "half-open limit 0ns"),
            (BreakerSettings { slow_call: Duration::ZERO, ..fine }, "slow call 0 s"),
        ];
        for (settings, says) in wrong {
            let why = settings.check().expect_err(says);
            assert!(why.starts_with(says), "{why}");
        }
        assert_eq!(BreakerSettings { window: Window::Calls(100_000), ..fine }.check(), Ok(()));
        assert_eq!(BreakerSettings { window: Window::Time(second), slow_call: Duration::MAX, ..fine }.check(), Ok(()));
    }
}
