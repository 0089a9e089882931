//! Who is measured, and how: each in a process of its own, which this program starts of itself.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use rustix::process::{Signal, set_parent_process_death_signal};
use tokio::{process::Command, time::timeout};

use crate::{forward, meter::Measured, place::Place, unnest};

/// Who is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Contender {
    /// The stateless processor by hand.
    Loop,
    /// The sink by hand.
    Unnest,
}

/// Contenders that do the same work; the first is the reference.
pub(crate) const CLASSES: [&[Contender]; 2] = [&[Contender::Loop], &[Contender::Unnest]];

impl Contender {
    /// Its name on the command line and in the table.
    pub(crate) fn name(self) -> String {
        self.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
    }

    /// Does the work in this process.
    pub(crate) fn work(self, place: &Place) -> Result<Measured> {
        // Who measures us is gone: nobody waits for the result.
        set_parent_process_death_signal(Some(Signal::KILL))?;
        match self {
            Self::Loop => forward::run(place),
            Self::Unnest => unnest::run(place),
        }
    }

    /// Does the work in a process of its own, which is killed when it takes too long or nobody waits for it any more.
    pub(crate) async fn measure(self, place: &Place, limit: Duration) -> Result<Measured> {
        let name = self.name();
        let child = Command::new(std::env::current_exe()?)
            .args(["contend", &name])
            .args(place.arguments())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()?;
        let output = timeout(limit, child.wait_with_output()).await;
        let output = output.with_context(|| format!("{name} was not done after {limit:?} and was killed"))??;
        ensure!(output.status.success(), "{name} failed: {}", output.status);
        serde_json::from_slice(&output.stdout).with_context(|| format!("{name} told no result"))
    }
}
