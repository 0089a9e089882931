//! An OAuth server that gives tokens to a client who knows the secret (the client credentials grant of RFC 6749).

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{
    Json, Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinSet};

use super::tokens::{AUDIENCE, TokenSigner, basic};

/// A server on a free port; it closes when it is dropped.
pub struct TokenServer {
    url: String,
    shared: Arc<Shared>,
    _server: JoinSet<()>,
}

struct Shared {
    signer: Arc<TokenSigner>,
    client_id: String,
    settings: Mutex<Settings>,
}

struct Settings {
    secret: String,
    lifetime: Duration,
    audience: String,
    failure: Option<StatusCode>,
    /// The bodies of all requests.
    requests: Vec<String>,
}

impl TokenServer {
    /// A server for one client, whose tokens are valid for an hour; they name the client as the user.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start(signer: Arc<TokenSigner>, client_id: &str, secret: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}/token", listener.local_addr().expect("an address"));
        let settings = Mutex::new(Settings {
            secret: secret.to_owned(),
            lifetime: Duration::from_hours(1),
            audience: AUDIENCE.to_owned(),
            failure: None,
            requests: Vec::new(),
        });
        let shared = Arc::new(Shared { signer, client_id: client_id.to_owned(), settings });
        let routes = Router::new().route("/token", post(token)).with_state(shared.clone());
        let mut server = JoinSet::new();
        server.spawn(async move { _ = axum::serve(listener, routes).await });
        Self { url, shared, _server: server }
    }

    /// Where tokens are asked for, in plain HTTP.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The bodies of all requests, refused ones too.
    pub fn requests(&self) -> Vec<String> {
        self.settings().requests.clone()
    }

    /// From now on tokens are valid for so long.
    pub fn set_lifetime(&self, lifetime: Duration) {
        self.settings().lifetime = lifetime;
    }

    /// From now on tokens are for this audience; brokers take only [`AUDIENCE`].
    pub fn set_audience(&self, audience: &str) {
        self.settings().audience = audience.to_owned();
    }

    /// From now on this is the client's secret.
    pub fn set_secret(&self, secret: &str) {
        self.settings().secret = secret.to_owned();
    }

    /// From now on every request is answered so; `None` ends that.
    pub fn fail(&self, failure: Option<StatusCode>) {
        self.settings().failure = failure;
    }

    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.shared.settings()
    }
}

impl Shared {
    /// No code panics while it holds the lock.
    fn settings(&self) -> MutexGuard<'_, Settings> {
        self.settings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn token(State(shared): State<Arc<Shared>>, headers: HeaderMap, body: String) -> (StatusCode, Json<Value>) {
    let mut settings = shared.settings();
    settings.requests.push(body.clone());
    if let Some(failure) = settings.failure {
        return refused(failure, "temporarily_unavailable");
    }
    let form = form(&body);
    let field = |name: &str| form.iter().find(|(key, _)| key == name).map_or("", |(_, value)| value.as_str());
    if field("grant_type") != "client_credentials" {
        return refused(StatusCode::BAD_REQUEST, "unsupported_grant_type");
    }
    let header = headers.get("authorization").and_then(|value| value.to_str().ok());
    let known = match header {
        Some(shown) => shown == basic(&shared.client_id, &settings.secret),
        None => (field("client_id"), field("client_secret")) == (shared.client_id.as_str(), settings.secret.as_str()),
    };
    if !known {
        return refused(StatusCode::UNAUTHORIZED, "invalid_client");
    }
    let token = shared.signer.token_for(&shared.client_id, &settings.audience, settings.lifetime);
    let answer = json!({"access_token": token, "token_type": "Bearer", "expires_in": settings.lifetime.as_secs()});
    (StatusCode::OK, Json(answer))
}

fn refused(status: StatusCode, error: &str) -> (StatusCode, Json<Value>) {
    (status, Json(json!({"error": error})))
}

/// The fields of a form, decoded.
fn form(body: &str) -> Vec<(String, String)> {
    let url = reqwest::Url::parse(&format!("http://form.example/?{body}"));
    url.map(|url| url.query_pairs().into_owned().collect()).unwrap_or_default()
}
