//! How long a process has had its place in a group, over the restarts of the group's member.
//!
//! Of two processes with one static name the one that came later ends. Which one that is the broker does not tell: each knows
//! only how long it was in its place. Whoever was there for a session takes the place back when it is fenced, and goes on doing
//! so for as long as it had been there: so of two that were, the one that was there longer outlasts the other.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// A place is not claimed for longer than so many sessions, however long it was held: then two that both held it for long do not
/// take turns for long.
const CLAIM: u32 = 4;

/// How long this process has had its place in a group. Clones share it: each member of the group that the process starts
/// gets the same one.
#[derive(Clone, Debug, Default)]
pub struct Tenure(Arc<Mutex<Option<Stay>>>);

/// A stay of a session or longer.
#[derive(Clone, Copy, Debug)]
struct Stay {
    since: Instant,
    until: Instant,
}

impl Tenure {
    /// A member that joined at this time is in its place now.
    pub(crate) fn stays(&self, joined: Instant, now: Instant, session: Duration) {
        if now.duration_since(joined) >= session {
            let mut last = self.last();
            let since = last.filter(|stay| stay.holds(joined, session)).map_or(joined, |stay| stay.since);
            *last = Some(Stay { since, until: now });
        }
    }

    /// Whether the place is this process's, whoever has it now.
    pub(crate) fn holds(&self, now: Instant, session: Duration) -> bool {
        self.last().is_some_and(|stay| stay.holds(now, session))
    }

    fn last(&self) -> MutexGuard<'_, Option<Stay>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Stay {
    fn holds(&self, now: Instant, session: Duration) -> bool {
        now.duration_since(self.until) < self.until.duration_since(self.since).min(session * CLAIM)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SESSION: Duration = Duration::from_secs(10);

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    /// Red when a stay of less than a session is a claim, or a claim outlives four sessions or the stay.
    #[test]
    fn a_place_is_claimed_for_as_long_as_it_was_held() {
        let (tenure, start) = (Tenure::default(), Instant::now());
        tenure.stays(start, after(start, 9), SESSION);
        assert!(!tenure.holds(after(start, 9), SESSION));
        tenure.stays(start, after(start, 15), SESSION);
        assert!(tenure.holds(after(start, 29), SESSION) && !tenure.holds(after(start, 30), SESSION));
        tenure.stays(start, after(start, 1_000), SESSION);
        assert!(tenure.holds(after(start, 1_039), SESSION) && !tenure.holds(after(start, 1_040), SESSION));
    }

    /// Red when a restart of the group makes its member a newcomer, or a short stay after it a claim that never ends.
    #[test]
    fn a_restart_does_not_end_a_tenure() {
        let (tenure, start) = (Tenure::default(), Instant::now());
        tenure.stays(start, after(start, 1_000), SESSION);
        // Taken back, and lost again at once.
        tenure.clone().stays(after(start, 1_010), after(start, 1_012), SESSION);
        assert!(tenure.holds(after(start, 1_039), SESSION) && !tenure.holds(after(start, 1_040), SESSION));
        // Taken back for longer than a session: it goes on where it was.
        tenure.clone().stays(after(start, 1_010), after(start, 1_021), SESSION);
        assert!(tenure.holds(after(start, 1_060), SESSION));
    }

    /// Two that were both there for a session take the place from each other, a heartbeat and a restart apart. Red when they do
    /// so for ever, or the one outlasts the other that was there for less.
    #[test]
    fn of_two_that_were_there_the_one_that_was_there_longer_outlasts_the_other() {
        let start = Instant::now();
        for (first, second) in [(1_000, 15), (30, 12), (15, 600)] {
            let tenures = [Tenure::default(), Tenure::default()];
            tenures[0].stays(start, after(start, first), SESSION);
            tenures[1].stays(after(start, first), after(start, first + second), SESSION);
            let mut turns = (0..).map(|turn| (turn % 2, after(start, first + second + 5 * turn as u64)));
            let (gives_up, _) = turns.find(|(who, now)| !tenures[1 - who].holds(*now, SESSION)).expect("it ends");
            assert_eq!(1 - gives_up, usize::from(first > second), "{first} s and {second} s");
        }
    }
}
