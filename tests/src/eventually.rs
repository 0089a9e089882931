//! Waiting for what will hold soon.

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// Asks until the answer is yes.
///
/// # Panics
/// After `limit`; the message says what never held.
pub async fn eventually<F: Future<Output = bool>>(what: &str, limit: Duration, mut holds: impl FnMut() -> F) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < limit, "after {limit:?} this does not hold: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether the long form of the checks was asked for, with `HEADWATER_TESTS=full`.
pub fn full() -> bool {
    std::env::var("HEADWATER_TESTS").is_ok_and(|size| size == "full")
}
