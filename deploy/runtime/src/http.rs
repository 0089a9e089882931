//! `/livez`, `/readyz`, `/metrics`, `/v1/groups`, and `/v1/state` (in `state/routes.rs`).
//!
//! Everything is bounded: connections, handshakes, how long a connection may go without an answer, and, by hyper, the head of a
//! request (100 headers, 408 KiB).

mod connection;
mod listener;

mod access;
mod groups;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result};
use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header::CONTENT_TYPE},
    middleware::from_fn_with_state,
    response::IntoResponse,
    routing::get,
};
use headwater::spi::ProcessMetrics;
use headwater_connectors::postgres::Database;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

pub(crate) use self::{
    access::Access,
    groups::{GroupHealth, InstanceGroups},
};
use self::{
    connection::Peer,
    listener::{BoundedListener, Bounds},
};
use crate::{
    config::{Problems, ServerConfig},
    state::{self, StateReader},
};

/// How long the database may take to show that it is there; a probe waits no longer.
const PING: Duration = Duration::from_secs(2);
/// How long open connections may take to end.
const CLOSE: Duration = Duration::from_secs(2);
/// Prometheus' text format.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What is told about the process.
#[derive(Clone)]
pub(crate) struct Health {
    /// The name of the process.
    instance: Arc<str>,
    states: ProcessMetrics,
    database: Option<Database>,
    stopping: Arc<AtomicBool>,
}

impl Health {
    pub(crate) fn new(instance: &str, states: ProcessMetrics, database: Option<Database>) -> Self {
        Self { instance: instance.into(), states, database, stopping: Arc::default() }
    }

    /// Why the process is not ready, a sentence each; empty when it is.
    pub(crate) async fn troubles(&self) -> Vec<String> {
        let mut troubles = self.states.troubles();
        if self.stopping.load(Ordering::Relaxed) {
            troubles.push("stopping".to_owned());
        }
        if let Some(database) = &self.database {
            let answer = tokio::time::timeout(PING, database.ping()).await;
            let why =
                answer.map_or_else(|_| Some(format!("no answer within {PING:?}")), |a| a.err().map(|e| e.to_string()));
            troubles.extend(why.map(|why| format!("database: {why}")));
        }
        troubles
    }

    /// From now on the process is not ready, so that nobody sends it new work.
    pub(crate) fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }
}

/// Addresses that are taken; nobody is answered yet.
pub(crate) struct BoundAddresses {
    main: TcpListener,
    /// Where probes are answered, where that is another one.
    probes: Option<TcpListener>,
}

impl BoundAddresses {
    /// Takes this address, and the one for probes if there is one.
    ///
    /// # Errors
    /// When one cannot be had.
    pub(crate) async fn take(addr: SocketAddr, probe_addr: Option<SocketAddr>) -> Result<Self> {
        let main = TcpListener::bind(addr).await;
        let main = main.with_context(|| format!("cannot listen on {addr}: choose another address with --http"))?;
        let Some(addr) = probe_addr else { return Ok(Self { main, probes: None }) };
        let probes = TcpListener::bind(addr).await;
        let probes = probes.with_context(|| format!("cannot listen on {addr}: choose another http.probe_addr"))?;
        Ok(Self { main, probes: Some(probes) })
    }

    /// Where it listens: the port that was found where 0 was asked for.
    ///
    /// # Errors
    /// When the system does not say it.
    pub(crate) fn addr(&self) -> Result<SocketAddr> {
        Ok(self.main.local_addr()?)
    }
}

/// The HTTP server of the process.
pub(crate) struct Server {
    addr: SocketAddr,
    has_tls: bool,
    stop: watch::Sender<bool>,
    tasks: JoinSet<std::io::Result<()>>,
}

impl Server {
    /// Answers from now on, those who may ask.
    ///
    /// # Errors
    /// When the system does not say which address it is, or certificates cannot be read.
    pub(crate) fn start(
        addresses: BoundAddresses,
        (config, access): (&ServerConfig, Access),
        health: Health,
        reading: StateReader,
    ) -> Result<Self> {
        let addr = addresses.addr()?;
        let tls = config.tls.as_ref().map(|tls| tls.open().map_err(Problems)).transpose()?;
        let (stop, _) = watch::channel(false);
        let mut server = Self { addr, has_tls: tls.is_some(), stop, tasks: JoinSet::new() };
        let (probes, asked) = (probes(health.clone()), asked(health, reading));
        if let Some(warning) = openness(addr, server.has_tls, &access) {
            tracing::warn!(listens_on = %addr, "{warning}");
        }
        tracing::info!(%addr, tls = server.has_tls, "listening for /livez, /readyz, /metrics, /v1/groups and /v1/state");
        let routes = match addresses.probes {
            Some(listener) => {
                tracing::info!(probe_addr = %listener.local_addr()?, "listening for /livez, /readyz and /metrics there alone");
                server.serve(BoundedListener::new(listener, None, Bounds::default()), probes);
                asked
            }
            None => asked.merge(probes),
        };
        server.serve(BoundedListener::new(addresses.main, tls, Bounds::default()), behind(access, routes));
        Ok(server)
    }

    fn serve(&mut self, listener: BoundedListener, routes: Router) {
        let mut stopped = self.stop.subscribe();
        let stopped = async move {
            let _ = stopped.wait_for(|stopped| *stopped).await;
        };
        let routes = routes.into_make_service_with_connect_info::<Peer>();
        self.tasks.spawn(async move { axum::serve(listener, routes).with_graceful_shutdown(stopped).await });
    }

    /// Where it answers: with the port that was found where 0 was asked for.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", if self.has_tls { "https" } else { "http" }, self.addr)
    }

    /// Ends it; a connection that stays open does not hold it up for long.
    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        let ended = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(CLOSE, ended).await.is_err() {
            tracing::debug!("an HTTP connection was still open and is cut");
        }
    }
}

/// What whoever sets it up has to know, where others reach the address.
fn openness(addr: SocketAddr, has_tls: bool, access: &Access) -> Option<&'static str> {
    if addr.ip().to_canonical().is_loopback() {
        None
    } else if access.is_open() {
        Some("whoever reaches this address reads groups and keyed state: set http.token_file or http.tls.client_ca")
    } else {
        (!has_tls).then_some("tokens come in plain text to this address: set http.tls")
    }
}

/// Routes for those alone who may ask; all of them, so that none that comes later is forgotten.
fn behind(access: Access, routes: Router) -> Router {
    routes.layer(from_fn_with_state(access, access::admit))
}

/// What tells whoever starts and stops processes, and Prometheus.
fn probes(health: Health) -> Router {
    let [live, ready_at, metrics_at] = access::PROBES;
    Router::new()
        .route(live, get(|| async { "alive\n" }))
        .route(ready_at, get(ready))
        .route(metrics_at, get(metrics))
        .with_state(health)
}

/// What programs and people ask for.
fn asked(health: Health, reading: StateReader) -> Router {
    Router::new().route("/v1/groups", get(standing)).with_state(health).merge(state::routes(reading))
}

async fn ready(State(health): State<Health>) -> impl IntoResponse {
    let troubles = health.troubles().await;
    if troubles.is_empty() {
        return (StatusCode::OK, "ready\n".to_owned());
    }
    (StatusCode::SERVICE_UNAVAILABLE, troubles.join("\n") + "\n")
}

async fn metrics(State(health): State<Health>) -> impl IntoResponse {
    ([(CONTENT_TYPE, METRICS)], health.states.prometheus())
}

async fn standing(State(health): State<Health>) -> Json<InstanceGroups> {
    Json(InstanceGroups::of(&health.instance, &health.states))
}

#[cfg(test)]
mod tests;
