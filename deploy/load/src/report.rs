//! What a load has come to: a line of progress each second, and a table or JSON at the end.

use std::{
    io::{IsTerminal as _, Write as _},
    sync::atomic::Ordering,
    time::Duration,
};

use anyhow::Result;
use hdrhistogram::Histogram;
use headwater_runtime::{Output, Table, thousands};
use serde_json::{Map, Value as Json, json};

use crate::{LoadRun, arguments::Rate, meter::Meter};

/// Name and quantile of what is reported of a latency; 1 is the longest.
const QUANTILES: [(&str, f64); 5] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99_9", 0.999), ("max", 1.0)];

/// Lines of progress on standard error: one that is written over where that is a terminal.
pub(crate) struct Progress {
    terminal: bool,
    acknowledged: u64,
    at: Duration,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), acknowledged: 0, at: Duration::ZERO }
    }

    /// Says how things stand.
    pub(crate) fn line(&mut self, meter: &Meter) {
        let (now, (acks, recent)) = (meter.now(), meter.heard());
        let speed = per_second(acks.acknowledged - self.acknowledged, now - self.at);
        (self.acknowledged, self.at) = (acks.acknowledged, now);
        let sent = meter.sent.load(Ordering::Relaxed);
        let mut line = format!(
            "{:>4} s: sent {}, acknowledged {} ({}/s{})",
            now.as_secs(),
            thousands(sent),
            thousands(acks.acknowledged),
            thousands(speed),
            p99(&recent)
        );
        if acks.failed > 0 {
            line += &format!(", failed {}", thousands(acks.failed));
        }
        for destination in &meter.destinations {
            let (_, seen, _, _, recent) = destination.seen();
            line += &format!(", {} {}{}", destination.name, thousands(seen), p99(&recent).replacen(',', ":", 1));
        }
        let mut out = std::io::stderr().lock();
        // Nobody is left to hear of a failure.
        let _ = if self.terminal { write!(out, "\r\x1b[K{line}") } else { writeln!(out, "{line}") };
    }

    /// Takes the line away again.
    pub(crate) fn end(&self) {
        if self.terminal {
            let _ = write!(std::io::stderr().lock(), "\r\x1b[K");
        }
    }
}

fn p99(recent: &Histogram<u64>) -> String {
    if recent.is_empty() { String::new() } else { format!(", p99 {} ms", ms(recent.value_at_quantile(0.99))) }
}

/// What has come of a load, as JSON of the keys that `--help` lists.
pub(crate) fn summary(load: &LoadRun, interrupted: bool) -> Json {
    let meter = &load.job.meter;
    let (acks, _) = meter.heard();
    let measured = acks.last.saturating_sub(meter.warm_up);
    let rate = match load.job.schedule.rate {
        Rate::Max => Json::Null,
        Rate::PerSecond(rate) => json!(rate),
    };
    let end_to_end = meter.destinations.iter().map(|destination| {
        let (latency, seen, superseded, gap, _) = destination.seen();
        let mut entry = Map::new();
        entry.insert("to".to_owned(), json!(destination.name));
        entry.insert("seen".to_owned(), json!(seen));
        entry.insert("superseded".to_owned(), json!(superseded));
        entry.insert("unfinished".to_owned(), json!(destination.pending()));
        entry.insert("resolution_ms".to_owned(), json!(millis(gap)));
        entry.extend(quantiles(&latency));
        Json::Object(entry)
    });
    json!({
        "type": load.job.event_type,
        "topic": &*load.job.topic,
        "rate_per_s": rate,
        "producers": load.producers,
        "seed": load.job.seed,
        "interrupted": interrupted,
        "duration_s": (acks.last.as_secs_f64() * 1e3).round() / 1e3,
        "sent": meter.sent.load(Ordering::Relaxed),
        "acknowledged": acks.acknowledged,
        "failed": acks.failed,
        "first_error": acks.first_error,
        "acknowledged_per_s": per_second(acks.latency.all.len(), measured),
        "bytes_per_s": per_second(acks.bytes, measured),
        "acknowledgement": quantiles(&acks.latency.all),
        "end_to_end": end_to_end.collect::<Vec<_>>(),
    })
}

/// Prints a summary for people.
///
/// # Errors
/// When standard output cannot be written.
pub(crate) fn print(summary: &Json) -> Result<()> {
    let mut out = Output::new();
    let number = |value: &Json| thousands(value.as_u64().unwrap_or_default());
    let wanted = match &summary["rate_per_s"] {
        Json::Null => "as fast as possible".to_owned(),
        rate => format!("at {}/s", number(rate)),
    };
    let text = |key: &str| summary[key].as_str().unwrap_or_default().to_owned();
    let producers = match summary["producers"].as_u64() {
        Some(1) => "1 producer".to_owned(),
        _ => format!("{} producers", number(&summary["producers"])),
    };
    out.line(format_args!(
        "{} to {} {wanted} for {} s, {producers}, seed {}",
        text("type"),
        text("topic"),
        summary["duration_s"],
        summary["seed"]
    ))?;
    out.line(format_args!(
        "sent {}, acknowledged {} ({}/s, {} KB/s), failed {}",
        number(&summary["sent"]),
        number(&summary["acknowledged"]),
        number(&summary["acknowledged_per_s"]),
        thousands(summary["bytes_per_s"].as_u64().unwrap_or_default() / 1_000),
        number(&summary["failed"])
    ))?;
    if let Some(error) = summary["first_error"].as_str() {
        out.line(format_args!("first error: {error}"))?;
    }
    let mut table = Table::new(&["LATENCY (MS)", ">COUNT", ">P50", ">P90", ">P99", ">P99.9", ">MAX"]);
    let row = |table: &mut Table, name: String, of: &Json| {
        let quantile =
            |(name, _): (&str, f64)| of[format!("{name}_ms")].as_f64().map_or("-".to_owned(), |ms| format!("{ms:.1}"));
        table.row([name, number(&of["count"])].into_iter().chain(QUANTILES.map(quantile)).collect());
    };
    row(&mut table, "acknowledged".to_owned(), &summary["acknowledgement"]);
    for end in summary["end_to_end"].as_array().into_iter().flatten() {
        row(&mut table, end["to"].as_str().unwrap_or_default().to_owned(), end);
        for (key, what) in
            [("superseded", "superseded by a later one of their key"), ("unfinished", "not seen in time")]
        {
            if end[key] != 0 {
                table.below(&format!("{} {what}", number(&end[key])));
            }
        }
    }
    table.lines().try_for_each(|line| out.line(line).map(drop))?;
    out.flush().map(drop)
}

fn quantiles(latency: &Histogram<u64>) -> Map<String, Json> {
    let value = |quantile: f64| match latency.is_empty() {
        true => Json::Null,
        false => json!(millis(Duration::from_micros(latency.value_at_quantile(quantile)))),
    };
    let quantiles = QUANTILES.map(|(name, quantile)| (format!("{name}_ms"), value(quantile)));
    std::iter::once(("count".to_owned(), json!(latency.len()))).chain(quantiles).collect()
}

fn millis(span: Duration) -> f64 {
    (span.as_secs_f64() * 1e6).round() / 1e3
}

fn ms(micros: u64) -> String {
    format!("{:.1}", millis(Duration::from_micros(micros)))
}

/// So many a second; 0 for no time at all.
fn per_second(number: u64, span: Duration) -> u64 {
    let rate = u128::from(number) * 1_000_000 / span.as_micros().max(1);
    if span.is_zero() { 0 } else { u64::try_from(rate).unwrap_or(u64::MAX) }
}
