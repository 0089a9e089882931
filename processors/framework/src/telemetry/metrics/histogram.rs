//! A distribution in fixed buckets, as Prometheus counts it.

use std::{
    fmt::{self, Write as _},
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// The buckets' upper ends: microseconds of times, and what a size counts.
const BOUNDS: [u64; 12] =
    [100, 500, 1_000, 5_000, 10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10_000_000, 60_000_000];
/// Sizes are counted in hundredths of what times are, so that the same buckets serve both.
const SIZE_UNIT: u64 = 100;

/// Times or sizes, never both in one.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BOUNDS.len() + 1],
    sum: AtomicU64,
}

impl Histogram {
    pub(crate) fn observe_time(&self, time: Duration) {
        self.observe(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
    }

    pub(crate) fn observe_size(&self, size: usize) {
        self.observe((size as u64).saturating_mul(SIZE_UNIT));
    }

    fn observe(&self, value: u64) {
        let bucket = BOUNDS.partition_point(|bound| *bound < value);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum.fetch_add(value, Ordering::Relaxed);
    }

    /// Writes it in Prometheus' text format; times in seconds.
    pub(crate) fn write(&self, name: &str, group: &str, sizes: bool, out: &mut String) -> fmt::Result {
        let label = |value: u64| match value {
            value if sizes => (value / SIZE_UNIT).to_string(),
            value => Duration::from_micros(value).as_secs_f64().to_string(),
        };
        let mut below = 0;
        for (bound, bucket) in BOUNDS.iter().zip(&self.buckets) {
            below += bucket.load(Ordering::Relaxed);
            writeln!(out, "{name}_bucket{{group=\"{group}\",le=\"{}\"}} {below}", label(*bound))?;
        }
        let count = below + self.buckets[BOUNDS.len()].load(Ordering::Relaxed);
        writeln!(out, "{name}_bucket{{group=\"{group}\",le=\"+Inf\"}} {count}")?;
        writeln!(out, "{name}_sum{{group=\"{group}\"}} {}", label(self.sum.load(Ordering::Relaxed)))?;
        writeln!(out, "{name}_count{{group=\"{group}\"}} {count}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a value at a bucket's end counts above it, buckets do not add up, or a unit is another.
    #[test]
    fn buckets_add_up_and_say_seconds_or_records() {
        let (times, sizes) = (Histogram::default(), Histogram::default());
        for micros in [500, 501, 90_000_000] {
            times.observe_time(Duration::from_micros(micros));
        }
        sizes.observe_size(1);
        sizes.observe_size(5_000);
        let mut out = String::new();
        times.write("t", "g", false, &mut out).expect("text");
        assert!(out.contains("t_bucket{group=\"g\",le=\"0.0005\"} 1\nt_bucket{group=\"g\",le=\"0.001\"} 2\n"), "{out}");
        assert!(
            out.contains("le=\"60\"} 2\nt_bucket{group=\"g\",le=\"+Inf\"} 3\nt_sum{group=\"g\"} 90.001001\n"),
            "{out}"
        );
        out.clear();
        sizes.write("s", "g", true, &mut out).expect("text");
        assert!(out.starts_with("s_bucket{group=\"g\",le=\"1\"} 1\ns_bucket{group=\"g\",le=\"5\"} 1\n"), "{out}");
        assert!(
            out.contains("le=\"5000\"} 2\n") && out.contains("s_sum{group=\"g\"} 5001\ns_count{group=\"g\"} 2\n"),
            "{out}"
        );
    }
}
