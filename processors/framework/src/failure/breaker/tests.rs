//! The rules one by one, and all of them at once against a model that keeps every result and sums up afresh.

use crate::failure::breaker::*;
use CircuitState::{Closed, HalfOpen, Open};
use Verdict::{Failure, Ignored, Success};

mod model;

const SECOND: Duration = Duration::from_secs(1);

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// Opens at 2 failures of 4 for 5 s; 3 probes within 60 s.
fn settings() -> BreakerSettings {
    BreakerSettings { window: Window::Calls(8), minimum_calls: 4, ..BreakerSettings::default() }
}

fn breaker(settings: BreakerSettings) -> Breaker {
    Breaker::try_new("warehouse", settings).expect("valid settings")
}

fn granted(breaker: &Breaker, now: Duration) -> Permit {
    match breaker.admit(now, Try::First) {
        Admission::Granted(permit) => permit,
        Admission::Refused { retry_in } => panic!("refused for {retry_in:?} at {now:?}"),
    }
}

fn refused(breaker: &Breaker, now: Duration) -> Duration {
    match breaker.admit(now, Try::First) {
        Admission::Granted(_) => panic!("granted at {now:?}"),
        Admission::Refused { retry_in } => retry_in,
    }
}

/// Calls that end at once.
fn call(breaker: &Breaker, now: Duration, verdicts: &[Verdict]) {
    verdicts.iter().for_each(|verdict| granted(breaker, now).finish(now, *verdict));
}

/// Retries that end at once.
fn retry(breaker: &Breaker, now: Duration, verdicts: &[Verdict]) {
    for verdict in verdicts {
        let Admission::Granted(permit) = breaker.admit(now, Try::Again) else { panic!("refused at {now:?}") };
        permit.finish(now, *verdict);
    }
}

/// A breaker that opened at 0 s.
fn opened(settings: BreakerSettings) -> Breaker {
    let breaker = breaker(settings);
    call(&breaker, Duration::ZERO, &[Failure; 4]);
    assert_eq!(breaker.state(Duration::ZERO), Open);
    breaker
}

/// Red when the minimum is not asked for, or ignored calls count towards it.
#[test]
fn opens_at_the_failure_rate_and_not_below_the_minimum_of_calls() {
    let breaker = breaker(settings());
    call(&breaker, SECOND, &[Failure, Failure, Success, Ignored, Ignored]);
    assert_eq!(breaker.state(SECOND), Closed, "three results of four");
    call(&breaker, SECOND, &[Success]);
    assert_eq!(breaker.state(SECOND), Open, "the rate counts whatever the last result was");
}

/// Red when the rate is taken over all calls, or failures in a row are what counts.
#[test]
fn stays_closed_below_the_failure_rate_of_the_window() {
    let breaker = breaker(BreakerSettings { failure_rate: 0.6, ..settings() });
    for _ in 0..20 {
        call(&breaker, SECOND, &[Success, Failure, Success, Failure]);
    }
    assert_eq!(breaker.state(SECOND), Closed);
    call(&breaker, SECOND, &[Failure]);
    assert_eq!(breaker.state(SECOND), Open, "5 of the latest 8");
}

/// Everything that failed while nobody called comes at once, and fails again. Red when retries are weighed with first calls,
/// or what they said is not forgotten once a first call has succeeded.
#[test]
fn retries_that_are_due_together_open_nothing_while_first_calls_succeed() {
    let breaker = breaker(settings());
    for round in 1..=50 {
        call(&breaker, ms(400) * round, &[Success]);
        retry(&breaker, ms(400) * round, &[Failure; 100]);
    }
    assert_eq!(breaker.state(20 * SECOND), Closed);
    retry(&breaker, 25 * SECOND, &[Failure; 3]);
    call(&breaker, 26 * SECOND, &[Success]);
    retry(&breaker, 31 * SECOND, &[Failure; 3]);
    assert_eq!(breaker.state(31 * SECOND), Closed, "three since then, of four");
}

/// Red when retries weigh nothing, in their place in a partition for example, where nothing else calls.
#[test]
fn retries_open_the_circuit_once_no_first_call_succeeds_any_more() {
    let breaker = breaker(settings());
    call(&breaker, SECOND, &[Success, Failure, Failure]);
    retry(&breaker, ms(5_999), &[Failure; 9]);
    assert_eq!(breaker.state(ms(5_999)), Closed, "the success of before vouches for as long as a circuit stays open");
    retry(&breaker, 6 * SECOND, &[Failure; 4]);
    assert_eq!(breaker.state(6 * SECOND), Open);
}

/// All partitions wait for the records at their heads, each of which has failed once. Red when first calls that fail deny nothing.
#[test]
fn retries_are_believed_at_once_where_the_latest_first_calls_have_failed() {
    let breaker = breaker(BreakerSettings { failure_rate: 0.9, ..settings() });
    call(&breaker, SECOND, &[Success, Failure, Failure]);
    retry(&breaker, SECOND, &[Failure; 9]);
    assert_eq!(breaker.state(SECOND), Closed);
    call(&breaker, SECOND, &[Failure]);
    retry(&breaker, SECOND, &[Failure; 4]);
    assert_eq!(breaker.state(SECOND), Open);
}

/// Red when successful retries hide that first calls fail.
#[test]
fn first_calls_that_fail_open_the_circuit_whatever_retries_say() {
    let breaker = breaker(BreakerSettings { failure_rate: 0.6, ..settings() });
    retry(&breaker, SECOND, &[Success; 100]);
    call(&breaker, SECOND, &[Failure; 4]);
    assert_eq!(breaker.state(SECOND), Open);
}

/// Red when the probes' good news vouches for nothing: what waited behind the circuit, all of it retries, opens it again.
#[test]
fn a_circuit_that_has_closed_lets_retries_fail_for_a_while() {
    let breaker = opened(settings());
    retry(&breaker, 5 * SECOND, &[Success; 3]);
    retry(&breaker, ms(9_999), &[Failure; 100]);
    assert_eq!(breaker.state(ms(9_999)), Closed);
    retry(&breaker, 10 * SECOND, &[Failure; 4]);
    assert_eq!(breaker.state(10 * SECOND), Open);
}

/// Red when the share is multiplied out (0.07 times 100 is above 7), or a rate of 0 opens without a failure.
#[test]
fn a_rate_is_reached_by_exactly_its_share_and_a_rate_of_zero_by_one_failure() {
    let hundred = BreakerSettings { window: Window::Calls(100), minimum_calls: 100, ..settings() };
    let exact = breaker(BreakerSettings { failure_rate: 0.07, ..hundred });
    call(&exact, SECOND, &[Failure; 7]);
    call(&exact, SECOND, &[Success; 93]);
    assert_eq!(exact.state(SECOND), Open);
    let zero = breaker(BreakerSettings { failure_rate: 0.0, minimum_calls: 1, ..hundred });
    call(&zero, SECOND, &[Success; 200]);
    assert_eq!(zero.state(SECOND), Closed);
    call(&zero, SECOND, &[Failure]);
    assert_eq!(zero.state(SECOND), Open);
}

/// Red when a slow success counts as a plain one, when a call of exactly the limit is slow, or when the time is not
/// taken from the call's admission.
#[test]
fn slow_calls_open_the_circuit_although_they_succeed() {
    let breaker = breaker(BreakerSettings { slow_call: SECOND, slow_rate: 0.5, ..settings() });
    let ends_after = |took: Duration| granted(&breaker, 9 * SECOND).finish(9 * SECOND + took, Success);
    ends_after(SECOND + ms(1));
    (0..3).for_each(|_| ends_after(SECOND));
    assert_eq!(breaker.state(10 * SECOND), Closed);
    (0..2).for_each(|_| ends_after(SECOND + ms(1)));
    assert_eq!(breaker.state(10 * SECOND), Open, "3 of 6 were slow");
    let transition = breaker.take_transition().expect("it opened");
    assert_eq!((transition.calls, transition.failed, transition.slow), (6, 0, 3));
    assert_eq!(transition.why, "the slow-call rate is reached");
}

/// Red when slow probes count as good ones.
#[test]
fn slow_probes_open_the_circuit_again() {
    let breaker = opened(BreakerSettings { slow_call: SECOND, ..settings() });
    let probes: Vec<Permit> = (0..3).map(|_| granted(&breaker, 5 * SECOND)).collect();
    probes.into_iter().for_each(|probe| probe.finish(7 * SECOND, Success));
    assert_eq!(breaker.state(7 * SECOND), Open);
}

/// Red when results never leave a window by time.
#[test]
fn a_window_by_time_forgets() {
    let breaker = breaker(BreakerSettings { window: Window::Time(SECOND), ..settings() });
    call(&breaker, SECOND, &[Failure; 3]);
    call(&breaker, 2 * SECOND, &[Failure; 3]);
    assert_eq!(breaker.state(2 * SECOND), Closed);
    call(&breaker, 2 * SECOND + ms(500), &[Failure]);
    assert_eq!(breaker.state(3 * SECOND), Open);
}

/// Red when an open circuit lets a call through before its time, tells another wait than what is left, or turns
/// half-open without a call.
#[test]
fn an_open_circuit_refuses_until_its_time_is_over() {
    let breaker = opened(settings());
    assert_eq!(refused(&breaker, ms(10)), ms(4_990));
    assert_eq!(refused(&breaker, ms(4_999)), ms(1));
    assert_eq!(breaker.state(5 * SECOND), Open);
    let _probe = granted(&breaker, 5 * SECOND);
    assert_eq!(breaker.state(5 * SECOND), HalfOpen);
}

/// Red when probes are not counted, or the refused are sent away past the limit.
#[test]
fn half_open_lets_through_no_more_than_its_probes_at_once() {
    let breaker = opened(settings());
    let mut probes: Vec<Permit> = (0..3).map(|_| granted(&breaker, 5 * SECOND)).collect();
    assert_eq!(refused(&breaker, 5 * SECOND), ms(200));
    assert_eq!(refused(&breaker, ms(64_950)), ms(50), "the limit is nearer");
    probes.pop().expect("three").finish(ms(64_950), Success);
    probes.push(granted(&breaker, ms(64_950)));
    assert_eq!(refused(&breaker, ms(64_950)), ms(50));
}

/// Red when the failures of before count after it closed, or it closes before all results are in.
#[test]
fn closes_with_an_empty_window_once_the_probes_went_well() {
    let breaker = opened(settings());
    call(&breaker, 5 * SECOND, &[Success, Failure]);
    assert_eq!(breaker.state(5 * SECOND), HalfOpen);
    call(&breaker, 5 * SECOND, &[Success]);
    assert_eq!(breaker.state(5 * SECOND), Closed, "one of three is below a half");
    call(&breaker, 5 * SECOND, &[Failure, Success, Success]);
    assert_eq!(breaker.state(5 * SECOND), Closed, "below the minimum of calls");
    call(&breaker, 5 * SECOND, &[Success; 4]);
    assert_eq!(breaker.state(5 * SECOND), Closed);
}

/// Red when it waits for the third result although two failures of three suffice.
#[test]
fn opens_again_as_soon_as_the_failed_probes_suffice() {
    let breaker = opened(settings());
    call(&breaker, 5 * SECOND, &[Failure]);
    assert_eq!(breaker.state(5 * SECOND), HalfOpen);
    call(&breaker, 6 * SECOND, &[Failure]);
    assert_eq!(breaker.state(6 * SECOND), Open);
    assert_eq!(refused(&breaker, 6 * SECOND), 5 * SECOND, "the whole time anew");
}

/// The half-open leak: a probe ends in an error that says nothing, or is cancelled. Red when `finish` keeps the place
/// of an ignored probe, when `Drop` does nothing, when either counts as a result, or when a place is given back twice.
#[test]
fn an_ignored_and_a_cancelled_probe_only_give_their_places_back() {
    let breaker = opened(settings());
    for _ in 0..20 {
        granted(&breaker, 5 * SECOND).finish(5 * SECOND, Ignored);
        drop(granted(&breaker, 5 * SECOND));
    }
    assert_eq!(breaker.state(5 * SECOND), HalfOpen, "no result yet");
    let probes: Vec<Permit> = (0..3).map(|_| granted(&breaker, 5 * SECOND)).collect();
    assert_eq!(refused(&breaker, 5 * SECOND), ms(200));
    probes.into_iter().for_each(|probe| probe.finish(5 * SECOND, Success));
    assert_eq!(breaker.state(5 * SECOND), Closed);
}

/// The half-open leak: no probe ever ends. Red when the limit is not kept, when the next half-open time gives out new
/// places for those still taken, or when a late end does not give its place back.
#[test]
fn probes_that_never_end_neither_hold_half_open_nor_multiply() {
    let breaker = opened(settings());
    let mut stuck: Vec<Permit> = (0..3).map(|_| granted(&breaker, 5 * SECOND)).collect();
    assert_eq!(breaker.state(ms(64_999)), HalfOpen);
    assert_eq!(breaker.state(65 * SECOND), Open);
    assert_eq!(refused(&breaker, 66 * SECOND), 4 * SECOND, "open since the limit, whenever it was seen");
    assert_eq!(refused(&breaker, 70 * SECOND), ms(200));
    assert_eq!(breaker.state(70 * SECOND), HalfOpen);
    stuck.pop().expect("three").finish(71 * SECOND, Failure);
    let probe = granted(&breaker, 71 * SECOND);
    assert_eq!(refused(&breaker, 71 * SECOND), ms(200));
    probe.finish(71 * SECOND, Success);
    call(&breaker, 71 * SECOND, &[Success, Success]);
    assert_eq!(breaker.state(71 * SECOND), Closed, "by the one free place, and the late failure did not count");
    drop(stuck);
    call(&breaker, 71 * SECOND, &[Success]);
}

/// Red when `finish` does not look at the limit first.
#[test]
fn a_probe_that_ends_past_the_limit_decides_nothing() {
    let breaker = opened(BreakerSettings { probes: 1, slow_call: Duration::MAX, ..settings() });
    granted(&breaker, 5 * SECOND).finish(65 * SECOND, Success);
    assert_eq!(breaker.state(65 * SECOND), Open);
}

/// Nobody asks for an hour. Red when the open time counts from when the passed limit was seen.
#[test]
fn a_limit_that_passed_unseen_costs_no_second_wait() {
    let breaker = opened(settings());
    let _stuck = granted(&breaker, 5 * SECOND);
    let _probe = granted(&breaker, 3_600 * SECOND);
    assert_eq!(breaker.state(3_600 * SECOND), HalfOpen);
    let seen: Vec<_> = std::iter::from_fn(|| breaker.take_transition()).map(|t| (t.to, t.at)).collect();
    assert_eq!(seen, [(Open, Duration::ZERO), (HalfOpen, 5 * SECOND), (Open, 65 * SECOND), (HalfOpen, 3_600 * SECOND)]);
}

/// Red when the generation of a permit is not looked at.
#[test]
fn results_of_an_earlier_state_never_count() {
    let breaker = breaker(settings());
    let mut late: Vec<Permit> = (0..6).map(|_| granted(&breaker, Duration::ZERO)).collect();
    let mut ends = |now, verdict| late.pop().expect("six were granted").finish(now, verdict);
    call(&breaker, Duration::ZERO, &[Failure; 4]);
    let mut probes: Vec<Permit> = (0..3).map(|_| granted(&breaker, 5 * SECOND)).collect();
    (0..3).for_each(|_| ends(5 * SECOND, Failure));
    assert_eq!(breaker.state(5 * SECOND), HalfOpen, "failures of closed calls are no probes' failures");
    assert_eq!(refused(&breaker, 5 * SECOND), ms(200), "nor do they free a place");
    let straggler = probes.pop().expect("three");
    probes.into_iter().for_each(|probe| probe.finish(5 * SECOND, Success));
    assert_eq!(breaker.state(5 * SECOND), HalfOpen);
    call(&breaker, 5 * SECOND, &[Success]);
    assert_eq!(breaker.state(5 * SECOND), Closed);
    straggler.finish(6 * SECOND, Failure);
    (0..3).for_each(|_| ends(6 * SECOND, Failure));
    assert_eq!(breaker.state(6 * SECOND), Closed, "nor do any of them count in the new closed time");
}

/// Calls read the clock before they hold the lock. Red when the earlier time is subtracted from, or moves the breaker
/// back.
#[test]
fn a_time_before_the_latest_one_counts_as_that() {
    let breaker = opened(settings());
    assert_eq!(refused(&breaker, 3 * SECOND), 2 * SECOND);
    assert_eq!(refused(&breaker, SECOND), 2 * SECOND);
    granted(&breaker, 5 * SECOND).finish(4 * SECOND, Success);
    assert_eq!(breaker.state(4 * SECOND), HalfOpen);
}

/// Red when a transition is told twice, in another order, with the wrong results, or is kept for ever.
#[test]
fn transitions_are_told_once_in_order_and_the_newest_are_kept() {
    let breaker = opened(settings());
    let opening = breaker.take_transition().expect("it opened");
    assert_eq!((opening.from, opening.to, opening.at), (Closed, Open, Duration::ZERO));
    assert_eq!((opening.calls, opening.failed, opening.slow), (4, 4, 0));
    assert_eq!(opening.why, "the failure rate is reached");
    assert_eq!(breaker.take_transition(), None);
    for round in 1..=20 {
        call(&breaker, 5 * round * SECOND, &[Failure, Failure]);
    }
    let kept: Vec<_> = std::iter::from_fn(|| breaker.take_transition()).collect();
    assert_eq!(kept.len(), TRANSITIONS_KEPT);
    assert_eq!(kept.last().map(|t| (t.from, t.to, t.at, t.calls)), Some((HalfOpen, Open, 100 * SECOND, 2)));
    assert!(kept.windows(2).all(|pair| pair[0].to == pair[1].from && pair[0].at <= pair[1].at));
}

/// Dashboards and alerts hold on to these. Red when two are exchanged.
#[test]
fn states_have_fixed_numbers_and_names() {
    let told = [Closed, Open, HalfOpen].map(|state| (state.as_u64(), state.as_str()));
    assert_eq!(told, [(0, "closed"), (1, "open"), (2, "half-open")]);
}

/// Red when the settings are not checked, or the name is left out.
#[test]
fn a_breaker_is_not_made_of_settings_that_cannot_work() {
    let wrong = BreakerSettings { probes: 0, ..settings() };
    let why = Breaker::try_new("warehouse", wrong).expect_err("no probes");
    assert_eq!(why, "breaker warehouse: probes 0: give from 1 to 1000");
}

/// What the engine's tasks need of it. Red, by not compiling, when a part of it may not leave its thread.
#[test]
fn breaker_and_permit_may_go_to_other_threads() {
    fn shared<T: Send + Sync + 'static>() {}
    shared::<Breaker>();
    shared::<Permit>();
}
