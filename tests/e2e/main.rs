//! End-to-end tests against real servers: one binary, a module an area, a name a sentence.
//!
//! `HEADWATER_TESTS=full` runs the long form of those that kill, wait or count.

mod bus;
mod delivery;

use headwater_tests::{Space, stack};

/// A test's own space on the stack of this run.
async fn space(name: &str) -> Space {
    Space::new(stack(env!("CARGO_TARGET_TMPDIR")), name).await
}
