//! When each record is to be sent. The rate alone says so: a record that is held up is late, and the next ones with it,
//! but none of them is due later for that (open loop).

use std::{
    num::NonZeroU32,
    ops::ControlFlow,
    time::{Duration, Instant},
};

use crate::arguments::Rate;

/// How long a sender sleeps at most before it looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// How many records are sent, and when.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Schedule {
    pub(crate) rate: Rate,
    pub(crate) end: End,
}

/// When it is over.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    After(Duration),
    Count(u64),
}

/// One producer's part: of `of` producers each sends every `of`-th record.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ProducerShare {
    /// From 0.
    pub(crate) producer: u64,
    pub(crate) of: u64,
}

/// A record's number, from 0 over all producers, and the time since the start at which it is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DueRecord {
    pub(crate) number: u64,
    pub(crate) at: Duration,
}

/// The time since the start, as senders see it.
pub(crate) trait Clock {
    fn now(&mut self) -> Duration;
    fn sleep(&mut self, span: Duration);
}

/// The time since that instant.
impl Clock for Instant {
    fn now(&mut self) -> Duration {
        self.elapsed()
    }

    fn sleep(&mut self, span: Duration) {
        std::thread::sleep(span);
    }
}

impl Schedule {
    /// Calls `send` for each record of the share when it is due, or at once when it is late, until all are sent, `stopped`
    /// says so, or `send` does.
    pub(crate) fn run(
        self,
        share: ProducerShare,
        clock: &mut impl Clock,
        stopped: impl Fn() -> bool,
        mut send: impl FnMut(DueRecord) -> ControlFlow<()>,
    ) {
        for number in (share.producer..).step_by(usize::try_from(share.of).unwrap_or(usize::MAX)) {
            let at = match self.rate {
                Rate::Max => clock.now(),
                Rate::PerSecond(rate) => due(number, rate),
            };
            if self.is_over(number, at) {
                return;
            }
            loop {
                if stopped() {
                    return;
                }
                let early = at.saturating_sub(clock.now());
                if early.is_zero() {
                    break;
                }
                clock.sleep(early.min(LOOK));
            }
            if send(DueRecord { number, at }).is_break() {
                return;
            }
        }
    }

    fn is_over(self, number: u64, at: Duration) -> bool {
        match self.end {
            End::After(span) => at >= span,
            End::Count(count) => number >= count,
        }
    }
}

fn due(number: u64, rate: NonZeroU32) -> Duration {
    let rate = u64::from(rate.get());
    Duration::from_secs(number / rate) + Duration::from_nanos(number % rate * 1_000_000_000 / rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Time that passes only when somebody sleeps or works.
    #[derive(Default)]
    struct ManualClock(std::cell::Cell<Duration>);

    impl Clock for &ManualClock {
        fn now(&mut self) -> Duration {
            self.0.get()
        }

        fn sleep(&mut self, span: Duration) {
            self.0.set(self.0.get() + span);
        }
    }

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn schedule(rate: u32, end: End) -> Schedule {
        Schedule { rate: NonZeroU32::new(rate).map_or(Rate::Max, Rate::PerSecond), end }
    }

    /// What is due when, and how late it was.
    fn sent(
        schedule: Schedule,
        share: ProducerShare,
        work: impl Fn(u64) -> Duration,
    ) -> Vec<(u64, Duration, Duration)> {
        let (hands, mut all) = (ManualClock::default(), Vec::new());
        let mut clock = &hands;
        schedule.run(
            share,
            &mut &hands,
            || false,
            |due| {
                clock.sleep(work(due.number));
                all.push((due.number, due.at, clock.now() - due.at));
                ControlFlow::Continue(())
            },
        );
        all
    }

    const ALONE: ProducerShare = ProducerShare { producer: 0, of: 1 };

    /// Red when the rate is per producer, shares overlap, or the end is off by one.
    #[test]
    fn producers_take_turns_at_the_rate() {
        let schedule = schedule(1_000, End::After(ms(4)));
        let of = |producer| {
            let all = sent(schedule, ProducerShare { producer, of: 2 }, |_| Duration::ZERO);
            all.into_iter().map(|(number, at, _)| (number, at)).collect::<Vec<_>>()
        };
        assert_eq!(of(0), [(0, ms(0)), (2, ms(2))]);
        assert_eq!(of(1), [(1, ms(1)), (3, ms(3))]);
        let third = due(1, NonZeroU32::new(3).expect("three"));
        assert_eq!(
            (third.as_nanos(), due(3_000_000_003, NonZeroU32::new(3).expect("three"))),
            (333_333_333, ms(1_000_000_001_000))
        );
    }

    /// The heart of an open loop. Red when a slow send puts off the time from which the next ones count: then only one of
    /// them is late (coordinated omission), or fewer are sent.
    #[test]
    fn a_slow_send_makes_every_record_behind_it_late() {
        let all = sent(schedule(100, End::Count(50)), ALONE, |number| if number == 10 { ms(200) } else { ms(1) });
        assert_eq!(all.len(), 50);
        let late: Vec<_> = all.iter().map(|(_, _, late)| *late).collect();
        assert!(late[..10].iter().all(|late| *late == ms(1)), "{late:?}");
        assert_eq!(late[10], ms(200));
        // Each takes 1 ms and the next is due after 10: the backlog of 200 ms shrinks by 9 with each.
        for (place, number) in (11..30).enumerate() {
            assert_eq!(late[number], ms(200 - 9 * (place as u64 + 1)), "record {number}");
            assert_eq!(all[number].1, ms(10 * number as u64), "what is due stays due");
        }
        assert!(late[33..].iter().all(|late| *late == ms(1)), "{late:?}");
    }

    /// Red when the time of a record as fast as possible is another than that of its handing over.
    #[test]
    fn as_fast_as_possible_counts_from_the_handing_over() {
        let all = sent(schedule(0, End::After(ms(10))), ALONE, |_| ms(3));
        assert_eq!(all, [(0, ms(0), ms(3)), (1, ms(3), ms(3)), (2, ms(6), ms(3)), (3, ms(9), ms(3))]);
    }
}
