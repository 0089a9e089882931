//! Log lines that end with the trace of the record that is being processed.

use std::fmt;

use headwater::spi::current_trace;
use tracing::{Event, Subscriber};
use tracing_subscriber::{
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    registry::LookupSpan,
};

/// A format, and behind what it writes the ids of the current trace.
pub(crate) struct WithTraceIds<F> {
    pub(crate) format: F,
    /// Whether a line is an object.
    pub(crate) json: bool,
}

impl<S, N, F> FormatEvent<S, N> for WithTraceIds<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let Some(trace) = current_trace() else { return self.format.format_event(context, out, event) };
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        let (line, trace, span) = (line.trim_end(), trace.trace_id(), trace.span_id());
        match line.strip_suffix('}').filter(|_| self.json) {
            Some(object) => writeln!(out, "{object},\"trace_id\":\"{trace}\",\"span_id\":\"{span}\"}}"),
            None => writeln!(out, "{line} trace_id={trace} span_id={span}"),
        }
    }
}
