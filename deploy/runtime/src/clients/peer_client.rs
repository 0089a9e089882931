//! Asks other instances over HTTP, and shows them who we are. It never knows what their answers mean.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use headwater::http::{Http as _, Request, Response};
use headwater_connectors::{
    http::{HttpClient, HttpConfig},
    security::tls::TlsConfig,
};

use super::Clients;
use crate::{
    app::App,
    auth::{Peers, Reloaded, Tokens},
};

/// How long an instance may take to answer.
const ANSWER: Duration = Duration::from_secs(3);

/// Asks other instances.
pub(crate) struct PeerClient {
    http: HttpClient,
    scheme: &'static str,
    /// Ours, of which the first is shown.
    tokens: Option<Arc<Reloaded<Tokens>>>,
    peers: Peers,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PeerError {
    /// It was not asked.
    #[error("our token may not be sent to {0}: name its host in http.peers if it is one of yours")]
    NotAllowed(String),
    /// It was.
    #[error("{0}")]
    NoAnswer(String),
}

impl PeerClient {
    /// Takes answers of at most so many bytes. Instances speak TLS with each other where they have it: they trust whom the
    /// HTTP client of processors trusts, and each shows its own certificate.
    ///
    /// # Errors
    /// When certificates or the system's network configuration cannot be read.
    pub(crate) fn new(app: &App, clients: &Clients, max_body_bytes: usize) -> Result<Self> {
        let config = &app.config.http;
        let tls = config.tls.as_ref().map(|own| TlsConfig {
            ca: app.config.client.tls.ca.clone(),
            cert: own.cert.clone(),
            key: own.key.clone(),
        });
        let scheme = if tls.is_some() { "https" } else { "http" };
        let tls = tls.unwrap_or_default();
        let limits = HttpConfig { timeout: ANSWER, connect_timeout: ANSWER, max_body_bytes, tls };
        let tokens = clients.tokens.clone();
        // No proxy is told a token.
        let http = if tokens.is_some() { HttpClient::direct(&limits)? } else { HttpClient::new(&limits)? };
        Ok(Self { http, scheme, tokens, peers: Peers::new(&config.peers, &config.advertise) })
    }

    /// Asks the instance at this `host:port` for a path.
    ///
    /// # Errors
    /// That it may not be asked, or does not answer.
    pub(crate) async fn get(
        &self,
        address: &str,
        path: &str,
        mut headers: Vec<(&'static str, String)>,
    ) -> Result<Response, PeerError> {
        if let Some(tokens) = &self.tokens {
            if !self.peers.allow(address) {
                return Err(PeerError::NotAllowed(address.to_owned()));
            }
            headers.push(("authorization", format!("Bearer {}", tokens.current().first().expose())));
        }
        let url = format!("{}://{address}{path}", self.scheme);
        let request = Request { method: "GET", url, headers, body: Vec::new() };
        self.http.send(request).await.map_err(|error| PeerError::NoAnswer(error.0))
    }
}
