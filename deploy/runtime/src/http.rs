//! `/livez`, `/readyz`, `/metrics`, `/v1/groups`, and `/v1/state` (in `state/routes.rs`).

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
    response::IntoResponse,
    routing::get,
};
use headwater::spi::ProcessMetrics;
use headwater_connectors::postgres::Database;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};

pub(crate) use self::groups::{GroupHealth, InstanceGroups};
use crate::state::{self, StateReader};

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

/// The HTTP server of the process.
pub(crate) struct Server {
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinSet<std::io::Result<()>>,
}

impl Server {
    /// Takes an address; nobody is answered yet.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(crate) async fn listen(addr: SocketAddr) -> Result<TcpListener> {
        let listener = TcpListener::bind(addr).await;
        listener.with_context(|| format!("cannot listen on {addr}: choose another address with --http"))
    }

    /// Answers from now on.
    ///
    /// # Errors
    /// When the system does not say which address it is.
    pub(crate) fn start(listener: TcpListener, health: Health, reading: StateReader) -> Result<Self> {
        let addr = listener.local_addr()?;
        let routes = Router::new()
            .route("/livez", get(|| async { "alive\n" }))
            .route("/readyz", get(ready))
            .route("/metrics", get(metrics))
            .route("/v1/groups", get(standing))
            .with_state(health)
            .merge(state::routes(reading));
        let (stop, mut stopped) = watch::channel(false);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let stopped = async move {
                let _ = stopped.wait_for(|stopped| *stopped).await;
            };
            axum::serve(listener, routes).with_graceful_shutdown(stopped).await
        });
        tracing::info!(%addr, "listening for /livez, /readyz, /metrics, /v1/groups and /v1/state");
        Ok(Self { addr, stop, task })
    }

    /// Where it listens: the port that was found where 0 was asked for.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Ends it; a connection that stays open does not hold it up for long.
    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        if tokio::time::timeout(CLOSE, self.task.join_next()).await.is_err() {
            tracing::debug!("an HTTP connection was still open and is cut");
        }
    }
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
