//! Who is measured, and how: each in a process of its own, which this program starts of itself.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::{process::Command, time::timeout};

use crate::{
    engine,
    meter::Measurement,
    place::Place,
    reference::{forward, unnest},
    state,
};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contender {
    /// The stateless processor by hand.
    Loop,
    /// The engine with the same processor; no spans are made.
    Engine,
    /// The same with spans of every hundredth trace.
    EngineTraced1,
    /// The same with spans of every record.
    EngineTraced100,
    /// The sink by hand.
    Unnest,
    /// The engine with the same sink over one connection.
    EngineSink,
    /// The same over two connections, each with half of the partitions.
    EngineSink2,
    /// The engine with a stateful step that counts, exactly once.
    Count,
    /// The same at least once.
    CountAtLeastOnce,
    /// What is left of its state without the disk: its changelog is read, and nothing done.
    ReadChangelog,
    /// The same, and its state restored from it.
    Restore,
}

/// Those that make receipts; the first is the reference.
pub(crate) const PROCESSORS: &[Contender] =
    &[Contender::Loop, Contender::Engine, Contender::EngineTraced1, Contender::EngineTraced100];
/// Those that fill a table; the first is the reference.
pub(crate) const SINKS: &[Contender] = &[Contender::Unnest, Contender::EngineSink, Contender::EngineSink2];

impl Contender {
    /// Its name on the command line and in the table.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Does the work in this process.
    pub(crate) fn work(self, place: &Place) -> Result<Measurement> {
        // Who measures us is gone: nobody waits for the result.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        match self {
            Self::Loop => forward::run(place),
            Self::Engine | Self::EngineTraced1 | Self::EngineTraced100 => engine::process(place),
            Self::Unnest => unnest::run(place),
            Self::EngineSink => engine::write(place, 1),
            Self::EngineSink2 => engine::write(place, 2),
            Self::Count => engine::count(place, true),
            Self::CountAtLeastOnce => engine::count(place, false),
            Self::ReadChangelog => state::read(place),
            Self::Restore => state::restore(place),
        }
    }

    /// Where it writes receipts.
    pub(crate) fn output(self, place: &Place) -> &str {
        if self == Self::Loop { &place.output } else { "events.receipt" }
    }

    /// The share of traces that it makes spans of, as OpenTelemetry's variable has it.
    pub(crate) fn sampled(self) -> Option<&'static str> {
        match self {
            Self::EngineTraced1 => Some("0.01"),
            Self::EngineTraced100 => Some("1"),
            _ => None,
        }
    }

    /// Does the work in a process of its own, which is killed when it takes too long or nobody waits for it any more.
    pub(crate) async fn measure(self, place: &Place, back_end: &str, limit: Duration) -> Result<Measurement> {
        let name = self.name();
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["contend", &name]).args(place.arguments());
        if let Some(ratio) = self.sampled() {
            command
                .env("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
                .env("OTEL_EXPORTER_OTLP_ENDPOINT", back_end)
                .env("OTEL_TRACES_SAMPLER", "traceidratio")
                .env("OTEL_TRACES_SAMPLER_ARG", ratio);
        }
        result(&name, command.stdin(Stdio::null()), limit).await
    }
}

/// Runs a program that does the work, and reads from its output what that cost.
pub(crate) async fn result(name: &str, command: &mut Command, limit: Duration) -> Result<Measurement> {
    let mut child = command.stdout(Stdio::piped()).kill_on_drop(true).spawn()?;
    // Held open: its end tells the program that nobody waits for it any more.
    let _input = child.stdin.take();
    let output = timeout(limit, child.wait_with_output()).await;
    let output = output.with_context(|| format!("{name} was not done after {limit:?} and was killed"))??;
    ensure!(output.status.success(), "{name} failed: {}", output.status);
    serde_json::from_slice(&output.stdout).with_context(|| format!("{name} told no result"))
}
