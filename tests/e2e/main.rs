//! End-to-end tests against real servers: one binary, a module an area, a name a sentence.
//!
//! `HEADWATER_TESTS=full` runs the long form of those that kill, wait or count.

#![allow(clippy::unwrap_used, reason = "a poisoned lock in a test is a failed test")]

mod connectors;
mod failure;
mod faults;
mod operations;
mod pipeline;
mod secured;
mod state;

use headwater_tests::{SharedStack, Space, stack};

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_headwater-under-test");

/// The stack of this run.
fn shared() -> &'static SharedStack {
    stack(env!("CARGO_TARGET_TMPDIR"))
}

/// A test's own space on the stack of this run.
async fn space(name: &str) -> Space {
    Space::new(shared(), name).await
}
