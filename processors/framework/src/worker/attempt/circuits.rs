//! The circuit breakers that a processor stands behind, as one.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use crate::{
    failure::{
        Failure,
        breaker::{Admission, Breaker, BreakerSettings, CircuitState, Permit, Transition, Try, Verdict},
        failure_report::cut,
    },
    processor::ProcessError,
    telemetry::metrics::GroupMetrics,
};

/// Bytes of a failure that are said of an open circuit.
const CAUSE_LIMIT: usize = 200;

/// Every breaker of one processor: a call needs the leave of all.
#[derive(Default)]
pub(crate) struct Circuits {
    group: String,
    breakers: Vec<Breaker>,
    /// By dependency, how the last call failed while its circuit was closed: what an operator wants to know of an open one.
    causes: Mutex<BTreeMap<String, String>>,
}

/// The leave to make one call; dropped, as by a call that is cancelled, it says nothing about the dependencies.
#[derive(Default)]
pub(crate) struct Permits(Vec<(Breaker, Permit)>);

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
        metrics: &GroupMetrics,
    ) -> Result<Self, String> {
        let breaker = |(name, settings): (&String, &BreakerSettings)| Breaker::try_new(name, *settings);
        let breakers: Vec<Breaker> = settings.iter().map(breaker).collect::<Result<_, _>>()?;
        breakers.iter().for_each(|breaker| metrics.circuit(breaker.name(), CircuitState::Closed.as_u64()));
        Ok(Self { group: group.to_owned(), breakers, causes: Mutex::default() })
    }

    /// The leave of every breaker, or of none.
    pub(crate) fn admit(&self, now: Duration, which: Try, metrics: &GroupMetrics) -> Result<Permits, Refusal> {
        let mut permits = Permits::default();
        for breaker in &self.breakers {
            let admission = breaker.admit(now, which);
            self.report(breaker, metrics);
            match admission {
                Admission::Granted(permit) => permits.0.push((breaker.clone(), permit)),
                Admission::Refused { retry_in } => {
                    let until = now.saturating_add(retry_in);
                    return Err(Refusal { until, why: self.waiting_for(breaker) });
                }
            }
        }
        Ok(permits)
    }

    /// Tells the breakers how the call ended. Says what is waited for where it failed for a dependency whose circuit is
    /// not closed: the failure is the outage's, and no attempt.
    pub(crate) fn finish(
        &self,
        permits: Permits,
        now: Duration,
        result: CallResult<'_>,
        metrics: &GroupMetrics,
    ) -> Option<String> {
        let mut outage = None;
        for (breaker, permit) in permits.0 {
            let verdict = result.verdict(breaker.name());
            if verdict == Verdict::Failure && breaker.state(now) == CircuitState::Closed {
                self.causes().insert(breaker.name().to_owned(), cut(result.text(), CAUSE_LIMIT));
            }
            permit.finish(now, verdict);
            self.report(&breaker, metrics);
            if verdict == Verdict::Failure && breaker.state(now) != CircuitState::Closed {
                outage = Some(self.waiting_for(&breaker));
            }
        }
        outage
    }

    /// Every change of state reaches the metrics, and the log: that a circuit opens and that it is closed again, once each,
    /// however many probes are in between.
    fn report(&self, breaker: &Breaker, metrics: &GroupMetrics) {
        while let Some(Transition { from, to, why, calls, failed, slow, .. }) = breaker.take_transition() {
            metrics.circuit(breaker.name(), to.as_u64());
            let (group, dependency) = (&self.group, breaker.name());
            match (from, to) {
                (_, CircuitState::Closed) => {
                    self.causes().remove(dependency);
                    tracing::info!(%group, dependency, why, calls, "the circuit is closed: the dependency answers");
                }
                (CircuitState::Closed, _) => {
                    // What is slow has not failed.
                    if failed == 0 {
                        self.causes().remove(dependency);
                    }
                    let error = self.causes().get(dependency).cloned().unwrap_or_default();
                    tracing::warn!(%group, dependency, why, calls, failed, slow, error, "the circuit is open: the group waits for the dependency, and probes it");
                }
                _ => {
                    let (from, to) = (from.as_str(), to.as_str());
                    tracing::debug!(%group, dependency, from, to, why, calls, failed, slow, "the dependency is probed");
                }
            }
        }
    }

    /// The same text whatever state the circuit is in, so that each probe is no news to whoever looks at the group.
    fn waiting_for(&self, breaker: &Breaker) -> String {
        let name = breaker.name();
        match self.causes().get(name) {
            Some(cause) => format!("waits for `{name}`, whose circuit is open: {cause}"),
            None => format!("waits for `{name}`, whose circuit is open"),
        }
    }

    fn causes(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.causes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How a call ended.
#[derive(Clone, Copy)]
pub(crate) enum CallResult<'a> {
    /// The processor succeeded.
    Well,
    /// The processor failed so.
    With(&'a ProcessError),
    /// It was past its time limit, or panicked: in words.
    Badly(&'a str),
}

impl<'a> CallResult<'a> {
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
            Self::Badly(_) => Verdict::Failure,
        }
    }

    /// What is said of a failure.
    fn text(self) -> &'a str {
        match self {
            Self::With(ProcessError::Failed(Failure::Retry(cause))) => cause.message(),
            Self::Badly(text) => text,
            Self::Well | Self::With(_) => "",
        }
    }
}
