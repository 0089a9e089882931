//! A store that does not answer, and when it is asked again.

use std::time::Duration;

use crate::failure::backoff::Backoff;

/// The outage of one store: it is asked again after pauses that grow.
#[derive(Debug, Default)]
pub(crate) struct StoreOutage {
    /// How often it has not answered in a row.
    failures: u32,
    paused_until: Duration,
}

impl StoreOutage {
    /// The store has not answered: nothing is asked of it for the pause that this gives.
    pub(crate) fn goes_on(&mut self, now: Duration, backoff: &Backoff) -> Duration {
        self.failures = self.failures.saturating_add(1);
        let pause = backoff.after(self.failures);
        self.paused_until = now + pause;
        pause
    }

    /// The store answers; whether it did not before.
    pub(crate) fn ends(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }

    /// Whether the store did not answer when it was asked last.
    pub(crate) fn is_on(&self) -> bool {
        self.failures > 0
    }

    /// Before this nothing is asked of it.
    pub(crate) fn paused_until(&self) -> Duration {
        self.paused_until
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when the pauses of an outage do not grow, its end is reported twice, or the next one goes on from there.
    #[test]
    fn pauses_grow_until_the_store_answers() {
        let (mut outage, at) = (StoreOutage::default(), Duration::from_secs);
        let backoff = Backoff::try_new(at(1), at(10)).unwrap();
        assert!(!outage.is_on() && !outage.ends());
        assert_eq!((outage.goes_on(at(5), &backoff), outage.paused_until()), (at(1), at(6)));
        assert_eq!((outage.goes_on(at(6), &backoff), outage.paused_until()), (at(2), at(8)));
        assert!(outage.is_on() && outage.ends() && !outage.ends());
        assert_eq!(outage.goes_on(at(9), &backoff), at(1));
    }
}
