//! The circuit breaker: whether a dependency may be called, judged by how its latest calls ended.
//!
//! The core is a plain state machine: it reads no clock, waits for nothing and holds no lock. [`Breaker`] shares it
//! between the calls of one dependency.
//!
//! First calls and retries are weighed apart. What has failed before mostly fails again, whoever is well, and retries come
//! in crowds: after a pause, an outage or a redrive all that were due meanwhile come at once. So first calls alone open
//! a circuit, as long as they vouch for the dependency: for as long as a circuit stays open after the last one that
//! succeeded, unless three have failed since. Only where they do not are retries believed.
//!
//! Three promises hold whatever the calls do:
//!
//! - A closed circuit refuses nobody.
//! - At most [`BreakerSettings::probes`] probes are under way at once, a probe that an earlier half-open time let
//!   through and that never came back included.
//! - A half-open circuit is left within [`BreakerSettings::half_open_limit`], even when no probe ever ends.

mod settings;
mod window;

#[cfg(test)]
mod tests;

use std::{
    collections::VecDeque,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

pub use settings::{BreakerSettings, Window};
use window::{CallOutcome, Results, Tally};

/// How soon a call that found every probe taken may ask again.
const PROBE_WAIT: Duration = Duration::from_millis(200);
/// So many first calls that failed since the last one that succeeded, and none vouches any more.
const DENIED: u32 = 3;
/// Transitions that nobody has taken yet; older ones are dropped.
const TRANSITIONS_KEPT: usize = 16;

/// The breaker of one named dependency. Clones share it.
///
/// Every `now` is time since one fixed moment, such as [`Clock::elapsed`](crate::ports::Clock::elapsed); one that lies
/// before an earlier one counts as that one.
#[derive(Clone)]
pub(crate) struct Breaker(Arc<Shared>);

struct Shared {
    name: String,
    core: Mutex<Core>,
}

/// Whether a call is made for the first time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Try {
    /// The first call of a record: a fair sample of how the dependency is.
    First,
    /// A call that has failed before.
    Again,
}

/// The answer to a call that wants through.
#[derive(Debug)]
pub(crate) enum Admission {
    /// It may go; how it ends is told to the permit.
    Granted(Permit),
    /// It must not go. A refused call is no attempt.
    Refused {
        /// When asking again makes sense; above zero.
        retry_in: Duration,
    },
}

/// One call under way. Dropped unfinished, as by a cancelled call, it counts as [`Verdict::Ignored`].
#[derive(Debug)]
#[must_use = "a permit that is dropped at once says nothing about the dependency"]
pub(crate) struct Permit {
    breaker: Breaker,
    ticket: Ticket,
    finished: bool,
}

/// What a call said about its dependency.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It answered. A refusal for the request's own fault is such an answer too: the dependency is well.
    Success,
    /// It did not answer, or not as one that is well.
    Failure,
    /// Nothing: the call ended before the dependency was asked, or was cancelled. Only the probe's place is given back.
    Ignored,
}

/// Whether calls go through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum CircuitState {
    /// All calls go through.
    Closed,
    /// None does.
    Open,
    /// A few go through as probes.
    HalfOpen,
}

/// A change of state, for logs and metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transition {
    /// The state that was left.
    pub from: CircuitState,
    /// The state that was entered.
    pub to: CircuitState,
    /// When, since the same moment as every `now`. A limit that passed unseen counts from when it passed.
    pub at: Duration,
    /// Why, in a few words.
    pub why: &'static str,
    /// Results that it was decided on: those in the window, or those of the probes.
    pub calls: u64,
    /// How many of them failed.
    pub failed: u64,
    /// How many of them were slow, failed ones included.
    pub slow: u64,
}

impl CircuitState {
    /// For a gauge: closed 0, open 1, half-open 2.
    pub(crate) const fn as_u64(self) -> u64 {
        match self {
            Self::Closed => 0,
            Self::Open => 1,
            Self::HalfOpen => 2,
        }
    }

    /// For a log: `closed`, `open` or `half-open`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half-open",
        }
    }
}

impl Breaker {
    /// A closed circuit for the dependency of this name; the error is that of [`BreakerSettings::check`], with the name.
    pub(crate) fn try_new(name: impl Into<String>, settings: BreakerSettings) -> Result<Self, String> {
        let name = name.into();
        settings.check().map_err(|why| format!("breaker {name}: {why}"))?;
        Ok(Self(Arc::new(Shared { name, core: Mutex::new(Core::new(settings)) })))
    }

    /// The dependency's name.
    pub(crate) fn name(&self) -> &str {
        &self.0.name
    }

    /// Asks whether a call may go now.
    pub(crate) fn admit(&self, now: Duration, which: Try) -> Admission {
        let answer = self.core().admit(now, which);
        match answer {
            Ok(ticket) => Admission::Granted(Permit { breaker: self.clone(), ticket, finished: false }),
            Err(retry_in) => Admission::Refused { retry_in },
        }
    }

    /// The state now. An open circuit stays open, also past its time, until a call asks.
    pub(crate) fn state(&self, now: Duration) -> CircuitState {
        let mut core = self.core();
        core.settle(now);
        core.state.name()
    }

    /// The oldest transition that nobody has taken yet. The newest 16 are kept.
    pub(crate) fn take_transition(&self) -> Option<Transition> {
        self.core().transitions.pop_front()
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        self.0.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Breaker {
    /// Without the window, which may hold 100,000 results.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker").field("name", &self.0.name).finish_non_exhaustive()
    }
}

impl Permit {
    /// The call has ended; it took from its admission to `now`.
    pub(crate) fn finish(mut self, now: Duration, verdict: Verdict) {
        self.finished = true;
        self.breaker.core().finish(self.ticket, now, verdict);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.finished {
            self.breaker.core().release(self.ticket);
        }
    }
}

/// What the core knows of a call that it let through.
#[derive(Clone, Copy, Debug)]
struct Ticket {
    /// The stretch between two transitions that it was granted in: its result counts only there.
    generation: u64,
    admitted: Duration,
    which: Try,
    probe: bool,
}

#[derive(Clone, Copy)]
enum State {
    Closed,
    Open { until: Duration },
    HalfOpen { until: Duration, tally: Tally },
}

impl State {
    fn name(self) -> CircuitState {
        match self {
            Self::Closed => CircuitState::Closed,
            Self::Open { .. } => CircuitState::Open,
            Self::HalfOpen { .. } => CircuitState::HalfOpen,
        }
    }
}

struct Core {
    settings: BreakerSettings,
    /// The results of first calls in the closed time; beside the state, so that closing again allocates nothing.
    results: Results,
    /// Those of retries since the last first call that succeeded.
    retries: Results,
    /// When a first call succeeded last, or the circuit closed.
    vouched: Option<Duration>,
    /// First calls that have failed since.
    denied: u32,
    state: State,
    generation: u64,
    /// Probes under way, those of earlier half-open times included: a dependency that swallows its probes must not be
    /// given new ones each time.
    probing: u32,
    /// The latest time seen: callers read the clock before they hold the lock, so their order is not that of time.
    now: Duration,
    transitions: VecDeque<Transition>,
}

impl Core {
    fn new(settings: BreakerSettings) -> Self {
        Self {
            results: Results::new(settings.window),
            retries: Results::new(settings.window),
            vouched: None,
            denied: 0,
            settings,
            state: State::Closed,
            generation: 0,
            probing: 0,
            now: Duration::ZERO,
            transitions: VecDeque::with_capacity(TRANSITIONS_KEPT),
        }
    }

    /// Lets a call through, or says how long to wait.
    fn admit(&mut self, now: Duration, which: Try) -> Result<Ticket, Duration> {
        self.settle(now);
        if let State::Open { until } = self.state {
            if self.now < until {
                return Err(until - self.now);
            }
            let until = self.now.saturating_add(self.settings.half_open_limit);
            let tally = Tally::default();
            self.turn(State::HalfOpen { until, tally }, self.now, "the time to stay open is over", tally);
        }
        let State::HalfOpen { until, .. } = self.state else {
            return Ok(Ticket { generation: self.generation, admitted: now, which, probe: false });
        };
        if self.probing >= self.settings.probes {
            return Err(PROBE_WAIT.min(until.saturating_sub(self.now)));
        }
        self.probing += 1;
        Ok(Ticket { generation: self.generation, admitted: now, which, probe: true })
    }

    /// Takes in how a call ended.
    fn finish(&mut self, ticket: Ticket, now: Duration, verdict: Verdict) {
        self.settle(now);
        self.release(ticket);
        if ticket.generation != self.generation || verdict == Verdict::Ignored {
            return;
        }
        let slow = now.saturating_sub(ticket.admitted) > self.settings.slow_call;
        self.judge(ticket.which, CallOutcome { failed: verdict == Verdict::Failure, slow });
    }

    /// Gives a probe's place back.
    fn release(&mut self, ticket: Ticket) {
        if ticket.probe {
            self.probing -= 1;
        }
    }

    /// Counts a result of this generation and draws the conclusion.
    fn judge(&mut self, which: Try, outcome: CallOutcome) {
        match &mut self.state {
            State::Closed => {
                let Some(tally) = self.weigh(which, outcome) else { return };
                if tally.calls < u64::from(self.settings.minimum_calls) {
                    return;
                }
                if let Some(why) = self.reached(tally, tally.calls) {
                    self.open(self.now, why, tally);
                }
            }
            State::HalfOpen { tally, .. } => {
                tally.add(outcome);
                let (tally, needed) = (*tally, u64::from(self.settings.probes));
                // Measured against all results that will be: once that is reached, the missing ones change nothing.
                if let Some(why) = self.reached(tally, needed) {
                    self.open(self.now, why, tally);
                } else if tally.calls >= needed {
                    self.results.clear();
                    self.vouch();
                    self.turn(State::Closed, self.now, "the probes went well", tally);
                }
            }
            // No call is let through in an open generation.
            State::Open { .. } => {}
        }
    }

    /// Adds a result of the closed time to those of its kind; nothing for a retry while first calls vouch for the
    /// dependency.
    fn weigh(&mut self, which: Try, outcome: CallOutcome) -> Option<Tally> {
        match which {
            Try::First => {
                if outcome.failed || outcome.slow {
                    self.denied = self.denied.saturating_add(1);
                } else {
                    self.vouch();
                }
                Some(self.results.record(self.now, outcome))
            }
            Try::Again if self.is_vouched() => None,
            Try::Again => Some(self.retries.record(self.now, outcome)),
        }
    }

    /// Whether retries that fail do so by their own fault.
    fn is_vouched(&self) -> bool {
        let lasts = |at: Duration| self.now < at.saturating_add(self.settings.open_for);
        self.denied < DENIED && self.vouched.is_some_and(lasts)
    }

    /// The dependency is well now, whatever retries have said.
    fn vouch(&mut self) {
        (self.vouched, self.denied) = (Some(self.now), 0);
        self.retries.clear();
    }

    /// Brings the time forward, and leaves a half-open state whose limit has passed.
    fn settle(&mut self, now: Duration) {
        self.now = self.now.max(now);
        if let State::HalfOpen { until, tally } = self.state
            && self.now >= until
        {
            // From the limit and not from now: a circuit that nobody asked meanwhile has waited all the same.
            self.open(until, "too few probes ended within the half-open limit", tally);
        }
    }

    /// Which threshold these results reach, out of so many.
    fn reached(&self, tally: Tally, of: u64) -> Option<&'static str> {
        // Divided, not multiplied: 7 of 100 is exactly the 0.07 that somebody wrote, and 0.07 times 100 is above 7.
        let reaches = |count: u64, rate: f64| count > 0 && count as f64 / of as f64 >= rate;
        if reaches(tally.failed, self.settings.failure_rate) {
            return Some("the failure rate is reached");
        }
        reaches(tally.slow, self.settings.slow_rate).then_some("the slow-call rate is reached")
    }

    fn open(&mut self, at: Duration, why: &'static str, tally: Tally) {
        self.turn(State::Open { until: at.saturating_add(self.settings.open_for) }, at, why, tally);
    }

    fn turn(&mut self, to: State, at: Duration, why: &'static str, Tally { calls, failed, slow }: Tally) {
        let from = std::mem::replace(&mut self.state, to).name();
        self.generation += 1;
        if self.transitions.len() == TRANSITIONS_KEPT {
            self.transitions.pop_front();
        }
        self.transitions.push_back(Transition { from, to: to.name(), at, why, calls, failed, slow });
    }
}
