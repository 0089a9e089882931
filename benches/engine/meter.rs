//! What a contender costs: time, processor time and memory of its own process, between its first record and its last.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Begun with the first record that is read.
pub(crate) struct Meter {
    began: Instant,
    processor: Duration,
}

/// What it came to.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Measurement {
    /// Records from the first read to the last that is durable.
    pub(crate) records: u64,
    /// How long that took, seconds.
    pub(crate) seconds: f64,
    /// User and system time of the whole process meanwhile, seconds.
    pub(crate) cpu_seconds: f64,
    /// Resident memory at its highest, bytes; since the process began.
    pub(crate) peak_bytes: u64,
}

impl Meter {
    /// Now.
    pub(crate) fn start() -> Self {
        Self { began: Instant::now(), processor: processor_time() }
    }

    /// The last of so many records is durable.
    pub(crate) fn stop(&self, records: u64) -> Result<Measurement> {
        Ok(Measurement {
            records,
            seconds: self.began.elapsed().as_secs_f64(),
            cpu_seconds: processor_time().saturating_sub(self.processor).as_secs_f64(),
            peak_bytes: peak_memory("self")?,
        })
    }
}

impl Measurement {
    /// Records in a second.
    pub(crate) fn rate(&self) -> f64 {
        per(self.records, self.seconds)
    }

    /// Processor seconds for a million records.
    pub(crate) fn cpu_per_million(&self) -> f64 {
        self.cpu_seconds / per(self.records, 1e6)
    }

    /// How often its memory at its highest is the other's.
    #[expect(clippy::cast_precision_loss, reason = "below 2^53")]
    pub(crate) fn peak_ratio(&self, other: &Self) -> f64 {
        self.peak_bytes as f64 / other.peak_bytes as f64
    }
}

/// Exact: a bench has fewer records than a float counts.
#[expect(clippy::cast_precision_loss)]
fn per(records: u64, of: f64) -> f64 {
    records as f64 / of
}

fn processor_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::try_from(time).unwrap_or_default()
}

/// Resident memory of a process at its highest, bytes; `self` is this one.
pub(crate) fn peak_memory(process: &str) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.strip_suffix("kB"));
    let kilobytes: u64 = line.context("no VmHWM in it: is this Linux?")?.trim().parse()?;
    Ok(kilobytes * 1024)
}
