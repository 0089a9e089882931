//! Waiting for what will hold soon.

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// What is never waited for longer, however much else the machine has to do.
const MOST: f64 = 10.0;

/// How long to wait now for what takes at most `limit` on a machine that has nothing else to do: as many times longer as there
/// are programs to each processor.
pub fn patience(limit: Duration) -> Duration {
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    limit.mul_f64(share(&load, cores))
}

/// By how much the load, as Linux writes it, is more than the processors can take.
fn share(load: &str, cores: usize) -> f64 {
    let load = load.split(' ').next().and_then(|minute| minute.parse::<f64>().ok()).unwrap_or_default();
    (load / cores as f64).clamp(1.0, MOST)
}

/// Asks until the answer is yes.
///
/// # Panics
/// After `limit`, by the machine's load (see [`patience`]); the message says what never held.
pub async fn eventually<F: Future<Output = bool>>(what: &str, limit: Duration, mut holds: impl FnMut() -> F) {
    let begin = Instant::now();
    while !holds().await {
        let waited = begin.elapsed();
        assert!(waited < patience(limit), "after {waited:?} this does not hold: {what}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Whether the long form of the checks was asked for, with `HEADWATER_TESTS=full`.
pub fn full() -> bool {
    std::env::var("HEADWATER_TESTS").is_ok_and(|size| size == "full")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when the load shortens a wait, is taken for that of one processor, or makes it endless.
    #[test]
    fn patience_grows_with_the_load() {
        let shares =
            [("0.50 0.4 0.3", 2), ("6.00 1 1", 2), ("90.0 1 1", 2), ("", 2)].map(|(load, cores)| share(load, cores));
        assert_eq!(shares, [1.0, 3.0, MOST, 1.0]);
    }
}
