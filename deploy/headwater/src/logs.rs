//! Logging to standard error. `HEADWATER_LOG` filters it, in the syntax of tracing's `EnvFilter`.
//!
//! Levels say what an operator has to do: `error` act now, `warn` look at it when it stays, `info` nothing, `debug` and
//! `trace` are for the search of a fault.

use std::io;

use anyhow::{Context, Result};
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Problems};

const FILTER: &str = "HEADWATER_LOG";
/// What librdkafka has to say the connector says in its own words, once.
const SERVICE: &str = "info,librdkafka=off";
const COMMAND: &str = "warn,librdkafka=off";

/// Starts it for the whole process. A command that runs and ends says only what goes wrong.
///
/// # Errors
/// When the filter is none.
pub(crate) fn start(format: LogFormat, is_service: bool) -> Result<()> {
    let text = std::env::var(FILTER).ok().filter(|text| !text.is_empty());
    let text = text.unwrap_or_else(|| if is_service { SERVICE } else { COMMAND }.to_owned());
    let filter = EnvFilter::try_new(&text)
        .map_err(|error| Problems::one(format!("{FILTER}: {error}; write for example info or info,headwater=debug")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let colours = io::IsTerminal::is_terminal(&io::stderr());
    match format {
        LogFormat::Text => builder.with_ansi(colours).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    }
    .map_err(|error| anyhow::anyhow!(error))
    .context("cannot start logging")
}
