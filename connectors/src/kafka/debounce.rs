//! What is believed only once it has been said for a while.
//!
//! A broker that has just come back, or has just become a partition's leader, may not know better for a moment: it tells an
//! end of a log that is older than what was read, or lacks topics that there are.

use std::time::{Duration, Instant};

/// For so long it has to be said.
pub(crate) const PERIOD: Duration = Duration::from_secs(10);
/// So often at least, or two answers with a silence between them would do.
const TIMES: u32 = 5;

/// Since when, and how often, something has been said.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Debounce(Option<(Instant, u32)>);

impl Debounce {
    /// It was said again; whether it is to be believed now.
    pub(crate) fn again(&mut self, now: Instant) -> bool {
        let (since, times) = self.0.get_or_insert((now, 0));
        *times += 1;
        *times >= TIMES && now.duration_since(*since) >= PERIOD
    }

    /// It was said otherwise.
    pub(crate) fn clear(&mut self) {
        self.0 = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when one answer is enough, be it after a long time, many at once are, or what was said before it was said otherwise
    /// counts.
    #[test]
    fn what_is_said_once_or_only_for_a_moment_is_not_believed() {
        let (mut said, now) = (Debounce::default(), Instant::now());
        for _ in 0..100 {
            assert!(!said.again(now));
        }
        assert!(said.again(now + PERIOD));
        said.clear();
        assert!(!said.again(now + PERIOD * 9));
        assert!((2..TIMES).all(|_| !said.again(now + PERIOD * 20)));
        assert!(said.again(now + PERIOD * 20));
    }
}
