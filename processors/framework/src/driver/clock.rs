//! A clock that moves when it is told to.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Poll, Waker},
    time::Duration,
};

use crate::{
    event::time::Time,
    ports::{BoxFuture, Clock},
};

/// 2026-01-01T00:00:00Z: where every driver's wall clock begins.
const BEGIN_MS: i64 = 1_767_225_600_000;

/// A clock that stands still until [`ManualClock::set`].
#[derive(Clone, Default)]
pub(crate) struct ManualClock(Arc<Mutex<ClockState>>);

#[derive(Default)]
struct ClockState {
    elapsed: Duration,
    sleepers: Vec<(Duration, u64, Waker)>,
    next_id: u64,
}

impl ManualClock {
    /// Moves the clock and wakes whoever is due.
    pub(crate) fn set(&self, to: Duration) {
        let mut hands = self.hands();
        hands.elapsed = hands.elapsed.max(to);
        let now = hands.elapsed;
        hands.sleepers.extract_if(.., |(due, ..)| *due <= now).for_each(|(.., waker)| waker.wake());
    }

    /// When the next sleeper is due.
    pub(crate) fn next_due(&self) -> Option<Duration> {
        self.hands().sleepers.iter().map(|(due, ..)| *due).min()
    }

    fn hands(&self) -> MutexGuard<'_, ClockState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Time {
        Time::from_millis(BEGIN_MS).plus(self.elapsed())
    }

    fn elapsed(&self) -> Duration {
        self.hands().elapsed
    }

    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        let (clock, due) = (self.clone(), self.elapsed() + duration);
        let sleeper = Sleeper { clock: clock.clone(), id: None };
        Box::pin(sleep(sleeper, due))
    }
}

async fn sleep(mut sleeper: Sleeper, due: Duration) {
    std::future::poll_fn(|context| {
        let mut hands = sleeper.clock.hands();
        if hands.elapsed >= due {
            return Poll::Ready(());
        }
        let id = *sleeper.id.get_or_insert(hands.next_id);
        hands.next_id = hands.next_id.max(id + 1);
        hands.sleepers.retain(|(_, other, _)| *other != id);
        hands.sleepers.push((due, id, context.waker().clone()));
        Poll::Pending
    })
    .await;
}

/// Takes a sleeper that is dropped early off the clock, or the driver would stop at times that nobody waits for.
struct Sleeper {
    clock: ManualClock,
    id: Option<u64>,
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        self.clock.hands().sleepers.retain(|(_, id, _)| Some(*id) != self.id);
    }
}
