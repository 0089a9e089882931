//! Starts the stack on a folder, prints where it listens, and stops it on Ctrl-C:
//! `cargo run -p headwater-dev --example stack -- DIR`.

use std::io::Write;

use anyhow::{Context, Result};
use headwater_dev::{Stack, StackConfig, write_endpoints};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[tokio::main]
async fn main() -> Result<()> {
    let data = std::env::args_os().nth(1).context("usage: stack DIR [tests]")?;
    let mut config = StackConfig::new(data);
    config.for_tests = std::env::args().nth(2).as_deref() == Some("tests");
    let data = config.data.clone();
    let (stop, mut cancel) = watch::channel(false);
    let mut signals = JoinSet::new();
    signals.spawn(async move {
        let _ = tokio::signal::ctrl_c().await;
        stop.send_replace(true);
        // The sender lives on: its end would count as a stop, too.
        std::future::pending::<()>().await;
    });
    let stack = Stack::start(config, cancel.clone()).await?;
    let pairs = stack.endpoints().pairs();
    write_endpoints(&data, &pairs)?;
    let mut out = std::io::stdout().lock();
    for (key, value) in pairs {
        writeln!(out, "{key}={value}")?;
    }
    drop(out);
    cancel.wait_for(|stopped| *stopped).await?;
    stack.stop().await
}
