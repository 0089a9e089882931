//! Random calls against a model that keeps everything it ever saw.

use proptest::prelude::*;

use crate::failure::breaker::tests::*;

#[derive(Clone, Debug)]
enum Step {
    Admit(Try),
    Finish(prop::sample::Index, Verdict),
    Drop(prop::sample::Index),
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    let verdict = prop_oneof![Just(Success), Just(Failure), Just(Failure), Just(Ignored)];
    prop_oneof![
        3 => Just(Step::Admit(Try::First)),
        2 => Just(Step::Admit(Try::Again)),
        4 => (index(), verdict).prop_map(|(which, verdict)| Step::Finish(which, verdict)),
        1 => index().prop_map(Step::Drop),
        3 => (0..40u64).prop_map(Step::Wait),
    ]
}

/// Times so short and windows so small that every edge is met.
fn any_settings() -> impl Strategy<Value = BreakerSettings> {
    let rate = || (0..=4u8).prop_map(|quarters| f64::from(quarters) / 4.0);
    let sizes = (1..8u32).prop_flat_map(|window| (Just(window), 1..=window));
    let times = (1..60u64, 1..60u64, 1..90u64);
    (sizes, rate(), rate(), times, 1..5u32).prop_map(
        |((window, minimum), failed, slow, (call, open, limit), probes)| BreakerSettings {
            window: Window::Calls(window),
            failure_rate: failed,
            slow_call: ms(call),
            slow_rate: slow,
            minimum_calls: minimum,
            open_for: ms(open),
            probes,
            half_open_limit: ms(limit),
        },
    )
}

/// The rules, without bounds on memory and without sums kept up to date.
struct Model {
    settings: BreakerSettings,
    state: CircuitState,
    /// When this state was entered.
    since: Duration,
    /// How often the state has changed.
    generation: usize,
    /// The results of this generation, of retries since a first call succeeded: failed, slow.
    results: Vec<(Try, bool, bool)>,
    /// When that was, or when the circuit closed.
    vouched: Option<Duration>,
    /// First calls that failed or were slow since, over all generations.
    denied: u32,
}

impl Model {
    fn enter(&mut self, state: CircuitState, since: Duration) {
        (self.state, self.since) = (state, since);
        self.generation += 1;
        self.results.clear();
    }

    fn settle(&mut self, now: Duration) {
        let ends = self.since + self.settings.half_open_limit;
        if self.state == HalfOpen && now >= ends {
            self.enter(Open, ends);
        }
    }

    /// Whether a call is let through while so many probes are under way.
    fn admits(&mut self, now: Duration, probing: usize) -> bool {
        self.settle(now);
        if self.state == Open && now >= self.since + self.settings.open_for {
            self.enter(HalfOpen, now);
        }
        match self.state {
            Closed => true,
            Open => false,
            HalfOpen => probing < self.settings.probes as usize,
        }
    }

    fn result(&mut self, call: &Call, now: Duration, verdict: Verdict) {
        self.settle(now);
        if call.generation != self.generation || verdict == Ignored {
            return;
        }
        let (half_open, needed) = (self.state == HalfOpen, self.settings.probes as usize);
        let (failed, slow) = (verdict == Failure, now - call.since > self.settings.slow_call);
        let vouched = self.vouched.is_some_and(|at| now < at + self.settings.open_for) && self.denied < 3;
        match call.which {
            _ if half_open => {}
            Try::Again if vouched => return,
            Try::Again => {}
            Try::First if failed || slow => self.denied += 1,
            Try::First => {
                (self.vouched, self.denied) = (Some(now), 0);
                self.results.retain(|result| result.0 == Try::First);
            }
        }
        self.results.push((call.which, failed, slow));
        let Window::Calls(size) = self.settings.window else { unreachable!("only windows by calls are made") };
        let alike = self.results.iter().rev().filter(|result| half_open || result.0 == call.which);
        let latest = alike.take(if half_open { needed } else { size as usize });
        let (failed, slow) =
            latest.clone().fold((0u32, 0u32), |sum, r| (sum.0 + u32::from(r.1), sum.1 + u32::from(r.2)));
        let calls = latest.count();
        let of = if half_open { needed } else { calls };
        let reaches = |count, rate| count > 0 && f64::from(count) / of as f64 >= rate;
        let bad = reaches(failed, self.settings.failure_rate) || reaches(slow, self.settings.slow_rate);
        if bad && (half_open || calls >= self.settings.minimum_calls as usize) {
            self.enter(Open, now);
        } else if half_open && calls == needed {
            self.enter(Closed, now);
            (self.vouched, self.denied) = (Some(now), 0);
        }
    }
}

struct Call {
    permit: Permit,
    which: Try,
    generation: usize,
    since: Duration,
    probe: bool,
}

/// Breaker, model and the calls under way.
struct World {
    breaker: Breaker,
    model: Model,
    calls: Vec<Call>,
    now: Duration,
}

impl World {
    fn new(settings: BreakerSettings) -> Self {
        let model = Model {
            settings,
            state: Closed,
            since: Duration::ZERO,
            generation: 0,
            results: Vec::new(),
            vouched: None,
            denied: 0,
        };
        Self { breaker: breaker(settings), model, calls: Vec::new(), now: Duration::ZERO }
    }

    fn probing(&self) -> usize {
        self.calls.iter().filter(|call| call.probe).count()
    }

    /// How long to wait before asking again, when it was refused.
    fn admit(&mut self, which: Try) -> Result<Option<Duration>, TestCaseError> {
        // Not asked of the breaker: that alone would bring it forward.
        let (was, probing) = (self.model.state, self.probing());
        let expected = self.model.admits(self.now, probing);
        match self.breaker.admit(self.now, which) {
            Admission::Granted(permit) => {
                prop_assert!(expected, "granted while {:?} with {} probes under way", was, probing);
                let probe = self.model.state == HalfOpen;
                self.calls.push(Call { permit, which, generation: self.model.generation, since: self.now, probe });
                prop_assert!(self.probing() <= self.model.settings.probes as usize, "too many probes");
                Ok(None)
            }
            Admission::Refused { retry_in } => {
                prop_assert!(!expected, "refused while {:?} with {} probes under way", was, probing);
                prop_assert!(was != Closed, "a closed circuit refused");
                let settings = self.model.settings;
                prop_assert!(!retry_in.is_zero() && retry_in <= settings.open_for.max(settings.half_open_limit));
                Ok(Some(retry_in))
            }
        }
    }

    fn take(&mut self, which: prop::sample::Index) -> Option<Call> {
        (!self.calls.is_empty()).then(|| self.calls.swap_remove(which.index(self.calls.len())))
    }

    fn finish(&mut self, call: Call, verdict: Verdict) {
        self.model.result(&call, self.now, verdict);
        call.permit.finish(self.now, verdict);
    }

    fn run(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Admit(which) => drop(self.admit(which)?),
            Step::Finish(which, verdict) => {
                if let Some(call) = self.take(which) {
                    self.finish(call, verdict);
                }
            }
            Step::Drop(which) => drop(self.take(which)),
            // Not checked, so that the next call is the first to see what has passed.
            Step::Wait(time) => {
                self.now += ms(time);
                return Ok(());
            }
        }
        self.check()
    }

    /// Breaker and model agree, and half-open has not outlived its limit.
    fn check(&mut self) -> Result<(), TestCaseError> {
        self.model.settle(self.now);
        prop_assert_eq!(self.breaker.state(self.now), self.model.state);
        if self.model.state == HalfOpen {
            prop_assert!(self.now < self.model.since + self.model.settings.half_open_limit);
        }
        Ok(())
    }

    /// The dependency is well again, and what was under way is cancelled: calls that succeed close the circuit.
    fn recover(&mut self) -> Result<(), TestCaseError> {
        self.calls.clear();
        for _ in 0..40 {
            match self.admit(Try::First)? {
                Some(retry_in) => self.now += retry_in,
                None => {
                    let call = self.calls.pop().expect("it was just granted");
                    self.finish(call, Success);
                }
            }
            self.check()?;
        }
        prop_assert_eq!(self.breaker.state(self.now), Closed);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    /// Whatever the calls do: breaker and model agree on every admission and every state, a closed circuit never
    /// refuses, no more probes than allowed are ever under way, half-open never outlives its limit, and a dependency
    /// that is well again is used again. Red when any of the rules that the tests above name is broken.
    #[test]
    fn follows_the_model_and_keeps_its_promises_under_random_calls(
        settings in any_settings(),
        steps in proptest::collection::vec(step(), 1..200),
    ) {
        let mut world = World::new(settings);
        for step in steps {
            world.run(step)?;
        }
        world.recover()?;
    }
}
