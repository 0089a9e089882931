//! What `headwater run` needs with its defaults, while it works on the orders pipeline as fast as it can.

use std::{process::Stdio, time::Duration};

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    process::Command,
    time::{sleep, timeout},
};

use crate::{ground::Ground, meter::peak_memory};

/// The program itself.
const PROGRAM: &str = env!("CARGO_BIN_EXE_headwater-under-load");
/// What it may need, bytes.
pub(crate) const LIMIT: u64 = 300_000_000;
const END: Duration = Duration::from_mins(1);

/// Runs every group on a full topic for so long, and gives the resident memory at its highest, bytes.
pub(crate) async fn run(ground: &Ground, work: Duration) -> Result<u64> {
    let variables = ground.variables();
    let command = |arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).envs(variables.iter().cloned()).stdin(Stdio::null()).stdout(Stdio::null());
        command.kill_on_drop(true);
        command
    };
    let applied = timeout(END, command(&["topology", "apply"]).status()).await??;
    ensure!(applied.success(), "topology apply failed");
    let before = ground.orders().await?;
    let mut child = command(&["run"]).spawn()?;
    let pid = child.id().context("it has just been started")?;
    sleep(work).await;
    let peak = peak_memory(&pid.to_string()).context("headwater run has ended early")?;
    ensure!(ground.orders().await? > before, "headwater run did nothing");
    kill_process(Pid::from_raw(pid.cast_signed()).context("a process")?, Signal::TERM)?;
    let ended = timeout(END, child.wait()).await.context("headwater run did not stop")??;
    ensure!(ended.success(), "headwater run: {ended}");
    Ok(peak)
}
