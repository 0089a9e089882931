//! The process's own traces: the way of spans out, and the layer that makes spans of the program's own work.

use std::{process, time::Duration};

use anyhow::Result;
use headwater_connectors::otlp::{Otlp, OtlpConfig};

use crate::config::Problems;

/// How long the last spans may take to be sent.
const LAST_SPANS: Duration = Duration::from_secs(3);

/// Ends with the process, and sends what waits.
pub(crate) struct Telemetry(Otlp);

impl Telemetry {
    /// Reads the standard `OTEL_` variables.
    ///
    /// # Errors
    /// Every variable that makes no sense, by its name.
    pub(crate) fn start() -> Result<Self> {
        let config = OtlpConfig::from_env(env!("CARGO_PKG_VERSION"), instance())
            .map_err(|problems| Problems(problems.iter().map(ToString::to_string).collect()))?;
        Ok(Self(Otlp::start(config).map_err(|error| Problems::one(error.to_string()))?))
    }

    pub(crate) fn otlp(&self) -> &Otlp {
        &self.0
    }
}

impl Drop for Telemetry {
    fn drop(&mut self) {
        self.0.stop(LAST_SPANS);
    }
}

/// A name that no other process has at this time.
fn instance() -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    format!("{host}-{}", process::id())
}
