//! The latest results of a dependency, by number or by time, and their sums.

use std::time::Duration;

use super::settings::Window;

/// The parts of a window by time.
const BUCKETS: u8 = 10;

/// How one call ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct CallOutcome {
    pub(crate) failed: bool,
    pub(crate) slow: bool,
}

/// Sums over results. A result that failed slowly is in both.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) calls: u64,
    pub(crate) failed: u64,
    pub(crate) slow: u64,
}

impl Tally {
    pub(crate) fn add(&mut self, outcome: CallOutcome) {
        self.calls += 1;
        self.failed += u64::from(outcome.failed);
        self.slow += u64::from(outcome.slow);
    }

    fn remove(&mut self, outcome: CallOutcome) {
        self.calls -= 1;
        self.failed -= u64::from(outcome.failed);
        self.slow -= u64::from(outcome.slow);
    }

    fn plus(self, other: Self) -> Self {
        Self { calls: self.calls + other.calls, failed: self.failed + other.failed, slow: self.slow + other.slow }
    }
}

/// The results in a window. It takes its memory when it is made, and none after.
pub(crate) enum Results {
    Calls(Ring),
    Time(Box<Buckets>),
}

impl Results {
    /// An empty window; the sizes are those that [`BreakerSettings::check`](super::settings::BreakerSettings::check) lets pass.
    pub(crate) fn new(window: Window) -> Self {
        match window {
            Window::Calls(calls) => Self::Calls(Ring::new(calls)),
            Window::Time(time) => Self::Time(Box::new(Buckets::new(time / u32::from(BUCKETS)))),
        }
    }

    /// Takes a result in, lets the ones go that are too old, and sums up. `now` never goes back.
    pub(crate) fn record(&mut self, now: Duration, outcome: CallOutcome) -> Tally {
        match self {
            Self::Calls(ring) => ring.record(outcome),
            Self::Time(buckets) => buckets.record(now, outcome),
        }
    }

    pub(crate) fn clear(&mut self) {
        match self {
            Self::Calls(ring) => ring.clear(),
            Self::Time(buckets) => **buckets = Buckets::new(buckets.width),
        }
    }
}

/// The latest results, one place each.
pub(crate) struct Ring {
    places: Box<[CallOutcome]>,
    /// Where the next result goes; once the ring is full, the oldest is there.
    at: usize,
    tally: Tally,
}

impl Ring {
    fn new(calls: u32) -> Self {
        Self { places: vec![CallOutcome::default(); calls as usize].into(), at: 0, tally: Tally::default() }
    }

    fn record(&mut self, outcome: CallOutcome) -> Tally {
        if self.tally.calls == self.places.len() as u64 {
            self.tally.remove(self.places[self.at]);
        }
        self.places[self.at] = outcome;
        self.at = (self.at + 1) % self.places.len();
        self.tally.add(outcome);
        self.tally
    }

    fn clear(&mut self) {
        (self.at, self.tally) = (0, Tally::default());
    }
}

/// The sums of the latest stretches of time, each `width` long.
pub(crate) struct Buckets {
    sums: [Tally; BUCKETS as usize],
    /// The bucket that results go to now.
    at: usize,
    /// When that bucket ends.
    ends: Duration,
    width: Duration,
}

impl Buckets {
    fn new(width: Duration) -> Self {
        Self { sums: Default::default(), at: 0, ends: Duration::ZERO, width }
    }

    fn record(&mut self, now: Duration, outcome: CallOutcome) -> Tally {
        self.advance(now);
        self.sums[self.at].add(outcome);
        self.sums.iter().copied().fold(Tally::default(), Tally::plus)
    }

    fn advance(&mut self, now: Duration) {
        // All is too old: start anew, rather than step through a night bucket by bucket.
        if now >= self.ends.saturating_add(self.width * u32::from(BUCKETS)) {
            *self = Self { ends: now.saturating_add(self.width), ..Self::new(self.width) };
            return;
        }
        while now >= self.ends {
            self.at = (self.at + 1) % self.sums.len();
            self.sums[self.at] = Tally::default();
            self.ends = self.ends.saturating_add(self.width);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;

    use super::*;

    fn sum<'a>(results: impl Iterator<Item = &'a CallOutcome>) -> Tally {
        results.fold(Tally::default(), |mut tally, outcome| {
            tally.add(*outcome);
            tally
        })
    }

    proptest! {
        /// Red when the ring keeps one more or fewer, forgets another than the oldest, or is not emptied by `clear`.
        #[test]
        fn a_window_by_calls_holds_the_latest_so_many(
            size in 1..12u32,
            steps in proptest::collection::vec(proptest::option::weighted(0.95, any::<(bool, bool)>()), 1..100),
        ) {
            let (mut results, mut latest) = (Results::new(Window::Calls(size)), VecDeque::new());
            for step in steps {
                let Some((failed, slow)) = step else {
                    results.clear();
                    latest.clear();
                    continue;
                };
                latest.push_back(CallOutcome { failed, slow });
                if latest.len() > size as usize {
                    latest.pop_front();
                }
                let tally = results.record(Duration::ZERO, CallOutcome { failed, slow });
                prop_assert_eq!(tally, sum(latest.iter()));
            }
        }

        /// Between nine and ten tenths of the window are remembered, whatever the pauses. Red when a bucket that comes
        /// round again keeps its old sums, a long pause is not forgotten, or `clear` leaves something.
        #[test]
        fn a_window_by_time_holds_the_latest_so_much_time(
            steps in proptest::collection::vec((0..40u64, proptest::option::weighted(0.95, any::<(bool, bool)>())), 1..100),
            jump in 0..3_000u64,
        ) {
            let mut results = Results::new(Window::Time(Duration::from_millis(100)));
            let (mut past, mut now) = (Vec::<(u64, CallOutcome)>::new(), 0);
            let last = steps.len() - 1;
            for (at, (pause, step)) in steps.into_iter().enumerate() {
                now += if at == last { jump } else { pause };
                let Some((failed, slow)) = step else {
                    results.clear();
                    past.clear();
                    continue;
                };
                past.push((now, CallOutcome { failed, slow }));
                let tally = results.record(Duration::from_millis(now), CallOutcome { failed, slow });
                let within = |ms| sum(past.iter().filter(|(at, _)| at + ms > now).map(|(_, outcome)| outcome));
                let (least, most) = (within(90), within(100));
                prop_assert!((least.calls..=most.calls).contains(&tally.calls), "{:?} {:?} {:?}", least, tally, most);
                prop_assert!((least.failed..=most.failed).contains(&tally.failed));
                prop_assert!((least.slow..=most.slow).contains(&tally.slow));
            }
        }
    }

    /// Red when the end of time wraps, or is stepped towards.
    #[test]
    fn a_window_by_time_survives_the_end_of_time() {
        let mut results = Results::new(Window::Time(Duration::from_secs(1)));
        for calls in 1..3 {
            assert!(results.record(Duration::MAX, CallOutcome::default()).calls <= calls);
        }
    }
}
