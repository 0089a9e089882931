//! A small HTTP server on a loopback port, in this process.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context, Result};
use axum::Router;
use tokio::net::TcpListener;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use crate::ports::Ports;

const STOP_LIMIT: Duration = Duration::from_secs(2);

/// A running server. Dropping it stops it: no new connection, and the idle ones are closed.
#[derive(Debug)]
pub(crate) struct Server {
    port: u16,
    /// Its end is the stop signal, also when we are dropped.
    stop: oneshot::Sender<()>,
    task: JoinSet<()>,
}

impl Server {
    /// Serves `routes` on the port that is remembered for `name`, or another free one.
    ///
    /// # Errors
    /// When no port can be bound.
    pub(crate) async fn launch(name: &'static str, routes: Router, ports: &mut Ports) -> Result<Self> {
        let mut port = ports.choose(name)?;
        let listener = match TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await {
            Ok(listener) => listener,
            Err(_) => {
                ports.forget(name);
                port = ports.choose(name)?;
                let bound = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
                bound.with_context(|| format!("cannot bind 127.0.0.1:{port} for the {name}"))?
            }
        };
        let (stop, stopped) = oneshot::channel::<()>();
        let mut task = JoinSet::new();
        task.spawn(async move {
            let serving = axum::serve(listener, routes).with_graceful_shutdown(async {
                let _ = stopped.await;
            });
            if let Err(error) = serving.await {
                tracing::error!(name, %error, "server ended");
            }
        });
        Ok(Self { port, stop, task })
    }

    /// Its base address, without a trailing slash.
    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// Stops it; requests that are under way have two seconds to end.
    pub(crate) async fn stop(mut self) {
        drop(self.stop);
        let _ = tokio::time::timeout(STOP_LIMIT, self.task.join_next()).await;
    }
}

#[cfg(test)]
pub(crate) mod tests {
    /// An HTTP client, which wants a library of ciphers although no TLS is spoken.
    pub(crate) fn client() -> reqwest::Client {
        let _ = rustls::crypto::ring::default_provider().install_default();
        reqwest::Client::new()
    }
}
