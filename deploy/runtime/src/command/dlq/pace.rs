//! How fast letters are sent: by an absolute schedule, so that the time that sending takes does not add up.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

/// Letters in one transaction at most: their rows are locked meanwhile, and the group `dead-letters` waits for them.
pub(super) const CHUNK: usize = 500;

/// When the next letters may be sent.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Option<NonZeroU32>,
    /// When everything that was let go so far may be on its way.
    due: Instant,
}

impl Pace {
    pub(super) fn new(rate: Option<NonZeroU32>, now: Instant) -> Self {
        Self { rate, due: now }
    }

    /// Letters that are sent together: what a tenth of a second allows.
    pub(super) fn chunk(&self) -> usize {
        self.rate.map_or(CHUNK, |rate| (rate.get() as usize / 10).clamp(1, CHUNK))
    }

    /// When so many may be sent. After a stall one chunk is made up for, and no more: no burst follows it.
    pub(super) fn due(&mut self, letters: usize, now: Instant) -> Instant {
        let earliest = now.checked_sub(self.time_of(self.chunk())).unwrap_or(now);
        self.due = (self.due + self.time_of(letters)).max(earliest);
        self.due
    }

    fn time_of(&self, letters: usize) -> Duration {
        let letters = u32::try_from(letters).unwrap_or(u32::MAX);
        self.rate.map_or(Duration::ZERO, |rate| Duration::from_secs(1) * letters / rate.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn millis(begin: Instant, due: Instant) -> u128 {
        due.saturating_duration_since(begin).as_millis()
    }

    /// Red when time that a chunk takes is added to its pause, or everything that a stall kept is sent at once.
    #[test]
    fn the_schedule_is_absolute_and_a_stall_is_not_made_up_for_by_a_burst() {
        let begin = Instant::now();
        let at = |ms| begin + Duration::from_millis(ms);
        let mut pace = Pace::new(NonZeroU32::new(500), begin);
        assert_eq!(pace.chunk(), 50);
        assert_eq!(millis(begin, pace.due(50, at(0))), 100, "the first waits too, so that a few are not faster");
        assert_eq!(millis(begin, pace.due(50, at(140))), 200);
        assert_eq!(millis(begin, pace.due(20, at(220))), 240);
        assert_eq!(millis(begin, pace.due(50, at(5_000))), 4_900, "one chunk is late");
        assert_eq!(millis(begin, pace.due(50, at(5_000))), 5_000);
        assert_eq!(millis(begin, pace.due(50, at(5_000))), 5_100);
    }

    /// Red when a slow rate sends nothing, or a fast one locks more than is allowed.
    #[test]
    fn a_chunk_is_at_most_a_tenth_of_a_second() {
        let chunk = |rate| Pace::new(NonZeroU32::new(rate), Instant::now()).chunk();
        assert_eq!([1, 19, 5_000, 100_000].map(chunk), [1, 1, 500, 500]);
        assert_eq!(chunk(0), 500, "no rate at all");
    }
}
