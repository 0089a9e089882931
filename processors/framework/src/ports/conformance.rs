//! One suite that every [`Committer`](super::Committer) passes: each promise of the trait is a check, the same for all of them.
//!
//! Who implements the trait writes a [`Fixture`] (how to make a committer on a place of its own, what a unit holds, what is
//! there afterwards), declares its [`Capability`]s, and calls [`run`] in a test. What a committer does not declare is not
//! asked of it. The suite knows neither brokers nor databases.

mod fixture;

mod group;

mod checks;

use std::{future::Future, panic::AssertUnwindSafe, pin::Pin};

use futures_util::FutureExt as _;

pub use self::fixture::{Capability, Contents, Effect, Fixture, Part};

/// Runs every check that the fixture's capabilities allow, each on a fixture of its own, made for the check of this name.
///
/// # Panics
/// When a check fails, once all have run; the message names those that failed.
pub async fn run<F: Fixture>(make: impl AsyncFn(&'static str) -> F) {
    let mut failed = Vec::new();
    for Check { name, needs, run } in all::<F>() {
        if needs.iter().all(|capability| F::CAPABILITIES.contains(capability)) {
            let check = async { run(&mut make(name).await).await };
            if AssertUnwindSafe(check).catch_unwind().await.is_err() {
                failed.push(name);
            }
        }
    }
    assert!(failed.is_empty(), "the committer breaks what it promises, see above: {}", failed.join(", "));
}

struct Check<F> {
    name: &'static str,
    needs: &'static [Capability],
    run: for<'a> fn(&'a mut F) -> Pin<Box<dyn Future<Output = ()> + 'a>>,
}

fn all<F: Fixture>() -> Vec<Check<F>> {
    use Capability::{Closing, Fencing, Markers, Outages, PositionChecks, Positions, Refusals, State, Transactions};
    vec![
        Check { name: "declares", needs: &[], run: |f| Box::pin(checks::declares_what_it_is(f)) },
        Check { name: "starts", needs: &[], run: |f| Box::pin(checks::starts_each_partition(f)) },
        Check { name: "order", needs: &[], run: |f| Box::pin(checks::keeps_the_order(f)) },
        Check { name: "given_up", needs: &[], run: |f| Box::pin(checks::commits_again_what_was_given_up(f)) },
        Check { name: "misplaced", needs: &[], run: |f| Box::pin(checks::refuses_to_drop_anything(f)) },
        Check { name: "positions", needs: &[Positions], run: |f| Box::pin(checks::commits_positions_with_effects(f)) },
        Check { name: "stale", needs: &[PositionChecks], run: |f| Box::pin(checks::fences_what_goes_back(f)) },
        Check {
            name: "forgotten",
            needs: &[PositionChecks],
            run: |f| Box::pin(checks::fences_what_it_has_forgotten(f)),
        },
        Check { name: "fenced", needs: &[Fencing], run: |f| Box::pin(checks::is_fenced_by_another_owner(f)) },
        Check {
            name: "fenced_markers",
            needs: &[Fencing, Markers],
            run: |f| Box::pin(checks::tells_nothing_of_a_fenced(f)),
        },
        Check { name: "state", needs: &[State], run: |f| Box::pin(checks::keeps_the_last_change(f)) },
        Check { name: "markers", needs: &[Markers], run: |f| Box::pin(checks::publishes_markers(f)) },
        Check {
            name: "early_markers",
            needs: &[Markers, Refusals],
            run: |f| Box::pin(checks::publishes_no_marker_early(f)),
        },
        Check { name: "refused", needs: &[Refusals], run: |f| Box::pin(checks::goes_on_without_what_is_refused(f)) },
        Check {
            name: "whole",
            needs: &[Refusals, Transactions],
            run: |f| Box::pin(checks::commits_nothing_of_a_refused(f)),
        },
        Check { name: "outage", needs: &[Outages], run: |f| Box::pin(checks::waits_for_its_server(f)) },
        Check { name: "closed", needs: &[Closing], run: |f| Box::pin(checks::commits_nothing_once_closed(f)) },
    ]
}
