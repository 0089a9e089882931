//! `health`: whether the process of this configuration works, as a container's probe asks.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use headwater::http::{Http as _, Request};
use headwater_connectors::{
    http::{HttpClient, HttpConfig},
    security::tls::TlsConfig,
};

use crate::{app::Loader, config::Problems, process::output::Output};

/// How long it may take to say so.
const ANSWER: Duration = Duration::from_secs(3);
/// Bytes of that at most.
const BYTES: usize = 1 << 10;

pub(crate) async fn run(loader: &Loader) -> Result<ExitCode> {
    let app = loader.load(&[])?;
    let at = app.config.http.probed_at().ok_or_else(|| {
        Problems::one("http.addr takes whatever port is free, so nobody knows where to ask: set http.probe_addr")
    })?;
    // Its own certificate is for the name that others know it by, and nothing secret is sent.
    let limits =
        HttpConfig { timeout: ANSWER, connect_timeout: ANSWER, max_body_bytes: BYTES, tls: TlsConfig::default() };
    let request = Request { method: "GET", url: format!("{at}/livez"), headers: Vec::new(), body: Vec::new() };
    let answer = HttpClient::of_this_host(&limits)?.send(request).await;
    let answer = answer.map_err(anyhow::Error::from).with_context(|| format!("{at} does not answer"))?;
    ensure!(answer.status == 200, "{at} says {}", answer.status);
    let mut out = Output::new();
    out.line(String::from_utf8_lossy(&answer.body).trim_end())?;
    out.flush()?;
    Ok(ExitCode::SUCCESS)
}
