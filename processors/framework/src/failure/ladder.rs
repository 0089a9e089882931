//! The retry ladder: how long a failed record waits before each further attempt.

use std::{fmt, str::FromStr, time::Duration};

/// The most delays that a ladder may have.
const MOST: usize = 16;
/// The longest delay: a record must not outlive the retention of its retry topic.
const LONGEST: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// The delays between the attempts at one record, growing: four delays make five attempts.
///
/// Each delay has a topic of its own, so that every partition of it is in due order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ladder(Vec<Delay>);

impl Ladder {
    /// These delays; none means a single attempt.
    ///
    /// # Errors
    /// A sentence, for more than 16 delays, or one that is no [`Delay`] or not longer than the one before it.
    pub fn try_new(delays: impl IntoIterator<Item = Duration>) -> Result<Self, String> {
        let delays = delays.into_iter().map(Delay::try_new).collect::<Result<Vec<_>, _>>()?;
        if delays.len() > MOST {
            return Err(format!("a retry ladder of {} delays: {MOST} at most", delays.len()));
        }
        match delays.windows(2).find(|pair| pair[1] <= pair[0]) {
            Some(pair) => Err(format!("a retry ladder must grow: {} comes after {}", pair[1], pair[0])),
            None => Ok(Self(delays)),
        }
    }

    /// The delay after the `failed`-th failure, counted from 1; `None` when there is no further attempt.
    pub fn after(&self, failed: u32) -> Option<Delay> {
        self.0.get(usize::try_from(failed).ok()?.checked_sub(1)?).copied()
    }

    /// The delays, shortest first.
    pub fn delays(&self) -> &[Delay] {
        &self.0
    }
}

impl Default for Ladder {
    /// `1s`, `10s`, `1m`, `10m`.
    fn default() -> Self {
        Self([1, 10, 60, 600].map(|s| Delay(Duration::from_secs(s))).to_vec())
    }
}

/// One delay of a ladder, in whole milliseconds; it names a topic, so it reads as people write it: `10s`, `1m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Delay(Duration);

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

impl Delay {
    /// This long, from a millisecond to 30 days.
    ///
    /// # Errors
    /// A sentence, for anything else or a part of a millisecond.
    pub fn try_new(delay: Duration) -> Result<Self, String> {
        if delay.is_zero() || delay > LONGEST || !delay.subsec_nanos().is_multiple_of(1_000_000) {
            return Err(format!("a retry delay of {delay:?}: it must be whole milliseconds, from 1ms to 30d"));
        }
        Ok(Self(delay))
    }

    /// How long it is.
    pub fn get(self) -> Duration {
        self.0
    }
}

impl fmt::Display for Delay {
    /// In the largest unit that leaves no rest.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let (unit, size) = UNITS.into_iter().find(|(_, size)| ms.is_multiple_of(*size)).unwrap_or(("ms", 1));
        write!(f, "{}{unit}", ms / size)
    }
}

impl FromStr for Delay {
    type Err = String;

    /// Reads what `Display` writes, and any whole number of a unit.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is no retry delay: write a whole number and ms, s, m, h or d, such as 10s");
        let digits = text.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = text.split_at(digits);
        let (_, size) = UNITS.into_iter().find(|(name, _)| *name == unit).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        Self::try_new(Duration::from_millis(number.checked_mul(size).ok_or_else(wrong)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(all: &[u64]) -> Vec<Duration> {
        all.iter().map(|ms| Duration::from_millis(*ms)).collect()
    }

    /// Red when the first failure has the second delay, or the last delay repeats.
    #[test]
    fn four_delays_make_five_attempts() {
        let ladder = Ladder::default();
        let after: Vec<_> = (1..=5).map(|failed| ladder.after(failed).map(|delay| delay.to_string())).collect();
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(after, [some("1s"), some("10s"), some("1m"), some("10m"), None]);
        assert_eq!(ladder.after(0), None);
    }

    /// Red when a ladder that shrinks, repeats a delay or has too many is taken.
    #[test]
    fn a_ladder_grows_and_is_bounded() {
        assert_eq!(Ladder::try_new([]).expect("one attempt").after(1), None);
        for wrong in [&[2_000, 1_000][..], &[1_000, 1_000], &[0], &(1..=17).collect::<Vec<_>>(), &[31 * 86_400_000]] {
            assert!(Ladder::try_new(ms(wrong)).is_err(), "{wrong:?}");
        }
        assert!(Ladder::try_new([Duration::from_micros(1_500)]).is_err());
    }

    /// Red when a delay is written in a unit that leaves a rest, or what is written does not read back.
    #[test]
    fn a_delay_reads_as_people_write_it() {
        for (millis, text) in [(1, "1ms"), (1_500, "1500ms"), (90_000, "90s"), (600_000, "10m"), (172_800_000, "2d")] {
            let delay = Delay::try_new(Duration::from_millis(millis)).expect("valid");
            assert_eq!(delay.to_string(), text);
            assert_eq!(text.parse(), Ok(delay));
        }
        for wrong in ["", "s", "10", "10 s", "1.5s", "-1s", "0s", "99999999999999999999s", "1w"] {
            assert!(wrong.parse::<Delay>().is_err(), "{wrong}");
        }
    }
}
