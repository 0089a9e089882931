//! Logging to standard error, and the program's own spans. `HEADWATER_LOG` filters the log, in the syntax of tracing's
//! `EnvFilter`; what is logged while a record is processed ends with the record's trace.
//!
//! Levels say what an operator has to do: `error` act now, `warn` look at it when it stays, `info` nothing, `debug` and
//! `trace` are for the search of a fault.

mod trace_ids;

use std::io;

use anyhow::{Context, Result};
use headwater_connectors::otlp::Tracer;
use tracing::Metadata;
use tracing_subscriber::{
    EnvFilter, Layer as _,
    filter::filter_fn,
    fmt::{self, format::Format},
    layer::SubscriberExt as _,
    util::SubscriberInitExt as _,
};

use self::trace_ids::WithTraceIds;
use crate::config::{LogFormat, Problems};

const FILTER: &str = "HEADWATER_LOG";
/// What librdkafka has to say the connector says in its own words, once.
const SERVICE: &str = "info,librdkafka=off";
const COMMAND: &str = "warn,librdkafka=off";

/// Starts it for the whole process. A command that runs and ends says only what goes wrong.
///
/// # Errors
/// When the filter is none.
pub(crate) fn start(format: LogFormat, is_service: bool, tracer: Option<Tracer>) -> Result<()> {
    let text = std::env::var(FILTER).ok().filter(|text| !text.is_empty());
    let text = text.unwrap_or_else(|| if is_service { SERVICE } else { COMMAND }.to_owned());
    let filter = EnvFilter::try_new(&text)
        .map_err(|error| Problems::one(format!("{FILTER}: {error}; write for example info or info,headwater=debug")))?;
    let colours = io::IsTerminal::is_terminal(&io::stderr());
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = match format {
        LogFormat::Text => {
            let format = Format::default().with_ansi(colours);
            lines.with_ansi(colours).event_format(WithTraceIds { format, json: false }).boxed()
        }
        LogFormat::Json => {
            let format = Format::default().json().flatten_event(true);
            lines.json().event_format(WithTraceIds { format, json: true }).boxed()
        }
    };
    let spans = tracer.map(|tracer| {
        // Our own: those of the exporter's client would trace their own sending.
        tracing_opentelemetry::layer().with_tracer(tracer).with_filter(filter_fn(is_own_span))
    });
    tracing_subscriber::registry()
        .with(lines.with_filter(filter))
        .with(spans)
        .try_init()
        .map_err(|error| anyhow::anyhow!(error))
        .context("cannot start logging")
}

fn is_own_span(of: &Metadata<'_>) -> bool {
    of.is_span() && of.target().starts_with("headwater")
}
