//! Growing pauses between attempts.

use std::time::Duration;

/// Pauses that double from `first` up to `max`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    max: Duration,
}

impl Backoff {
    /// The first pause where nobody says otherwise.
    pub const FIRST: Duration = Duration::from_millis(500);
    /// The longest pause where nobody says otherwise: whoever was waited for is noticed so soon after it is back.
    pub const LONGEST: Duration = Duration::from_secs(5);

    /// From `first`, above zero, doubling up to `max`, not below `first`.
    pub fn try_new(first: Duration, max: Duration) -> Result<Self, String> {
        if first.is_zero() || max < first {
            return Err(format!(
                "back-off from {first:?} to {max:?}: the first must be above zero, the longest not below it"
            ));
        }
        Ok(Self { first, max })
    }

    /// The pause after the `attempt`-th failure, counted from 1.
    pub fn after(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1).min(31);
        self.first.saturating_mul(1 << doublings).min(self.max)
    }
}

impl Default for Backoff {
    /// From [`Backoff::FIRST`] to [`Backoff::LONGEST`].
    fn default() -> Self {
        Self { first: Self::FIRST, max: Self::LONGEST }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when the doubling overflows, or the maximum does not hold.
    #[test]
    fn doubles_up_to_the_maximum_and_never_overflows() {
        let backoff = Backoff::try_new(Duration::from_secs(1), Duration::from_secs(10)).expect("valid");
        let pauses: Vec<u64> = [1, 2, 3, 4, 5, u32::MAX].map(|n| backoff.after(n).as_secs()).to_vec();
        assert_eq!(pauses, [1, 2, 4, 8, 10, 10]);
        assert!(Backoff::try_new(Duration::ZERO, Duration::from_secs(1)).is_err());
        assert!(Backoff::try_new(Duration::from_secs(2), Duration::from_secs(1)).is_err());
    }
}
