//! The circuit breakers that a processor stands behind, as one.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    breaker::{Admission, Breaker, BreakerSettings, CircuitState, Permit, Transition, Verdict},
    failure::Failure,
    metrics::GroupState,
    processor::ProcessError,
};

/// Every breaker of one processor: a call needs the leave of all.
#[derive(Default)]
pub(crate) struct Circuits {
    group: String,
    breakers: Vec<Breaker>,
}

/// The leave to make one call; dropped, as by a call that is cancelled, it says nothing about the dependencies.
#[derive(Default)]
pub(crate) struct Leave(Vec<(Breaker, Permit)>);

/// Why a call may not be made now.
pub(crate) struct Refusal {
    /// When to ask again: the same time for all that wait for an open circuit.
    pub(crate) until: Duration,
    pub(crate) why: String,
}

impl Circuits {
    /// # Errors
    /// A sentence that names the breaker whose settings make no sense.
    pub(crate) fn try_new(
        group: &str,
        settings: &BTreeMap<String, BreakerSettings>,
        state: &GroupState,
    ) -> Result<Self, String> {
        let breaker = |(name, settings): (&String, &BreakerSettings)| Breaker::try_new(name, *settings);
        let breakers: Vec<Breaker> = settings.iter().map(breaker).collect::<Result<_, _>>()?;
        breakers.iter().for_each(|breaker| state.circuit(breaker.name(), CircuitState::Closed.as_u64()));
        Ok(Self { group: group.to_owned(), breakers })
    }

    /// The leave of every breaker, or of none.
    pub(crate) fn admit(&self, now: Duration, state: &GroupState) -> Result<Leave, Refusal> {
        let mut leave = Leave::default();
        for breaker in &self.breakers {
            let admission = breaker.admit(now);
            self.report(breaker, state);
            match admission {
                Admission::Granted(permit) => leave.0.push((breaker.clone(), permit)),
                Admission::Refused { retry_in } => {
                    let until = now.saturating_add(retry_in);
                    return Err(Refusal { until, why: waiting_for(breaker) });
                }
            }
        }
        Ok(leave)
    }

    /// Tells the breakers how the call ended. Says what is waited for where it failed for a dependency whose circuit is
    /// not closed: the failure is the outage's, and no attempt.
    pub(crate) fn finish(&self, leave: Leave, now: Duration, ended: Ended<'_>, state: &GroupState) -> Option<String> {
        let mut outage = None;
        for (breaker, permit) in leave.0 {
            let verdict = ended.verdict(breaker.name());
            permit.finish(now, verdict);
            self.report(&breaker, state);
            if verdict == Verdict::Failure && breaker.state(now) != CircuitState::Closed {
                outage = Some(waiting_for(&breaker));
            }
        }
        outage
    }

    /// Every change of state reaches the log and the metrics.
    fn report(&self, breaker: &Breaker, state: &GroupState) {
        while let Some(Transition { from, to, why, calls, failed, slow, .. }) = breaker.take_transition() {
            state.circuit(breaker.name(), to.as_u64());
            let (group, dependency, from) = (&self.group, breaker.name(), from.as_str());
            if to == CircuitState::Closed {
                tracing::info!(%group, dependency, from, why, calls, "the circuit is closed: the dependency answers");
            } else {
                let to = to.as_str();
                tracing::warn!(%group, dependency, from, to, why, calls, failed, slow, "the circuit has changed: the group waits for the dependency");
            }
        }
    }
}

/// The same text whatever state the circuit is in, so that each probe is no news to whoever looks at the group.
fn waiting_for(breaker: &Breaker) -> String {
    format!("waits for `{0}`: its circuit is not closed", breaker.name())
}

/// How a call ended.
#[derive(Clone, Copy)]
pub(crate) enum Ended<'a> {
    /// The processor succeeded.
    Well,
    /// The processor failed so.
    With(&'a ProcessError),
    /// It was past its time limit, or panicked.
    Badly,
}

impl Ended<'_> {
    fn verdict(self, dependency: &str) -> Verdict {
        match self {
            Self::Well => Verdict::Success,
            Self::With(ProcessError::Failed(Failure::Retry(cause))) => match cause.dependency() {
                Some(other) if other != dependency => Verdict::Ignored,
                _ => Verdict::Failure,
            },
            // It answered, though not as the record would have it.
            Self::With(ProcessError::Failed(Failure::Reject(_))) => Verdict::Success,
            Self::With(_) => Verdict::Ignored,
            Self::Badly => Verdict::Failure,
        }
    }
}
