//! The HTTP port: one client with a pool of connections, a limit on time and one on size, and no redirects.

pub(crate) mod base64;
pub(crate) mod proxies;
pub(crate) mod reload;

use std::{error::Error, sync::Arc, time::Duration};

use headwater::{
    http::{Http, HttpError, Request, Response},
    spi::BoxFuture,
};
use reqwest::{
    Client, Method,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect::Policy,
};
use serde::Deserialize;

use self::{proxies::Proxies, reload::ReloadingClient};
use crate::{
    security::tls::{TlsConfig, handshake::handshake_problem},
    units::duration,
};

/// Limits of the HTTP client.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HttpConfig {
    /// From the start of a request to the end of its answer.
    #[serde(with = "duration")]
    pub timeout: Duration,
    /// To establish a connection.
    #[serde(with = "duration")]
    pub connect_timeout: Duration,
    /// Bytes of an answer at most.
    pub max_body_bytes: usize,
    /// Whom it trusts, and how it proves who it is.
    pub tls: TlsConfig,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(3),
            max_body_bytes: 1 << 20,
            tls: TlsConfig::default(),
        }
    }
}

impl HttpConfig {
    /// Every problem with these settings of the section of this name; empty when there is none.
    pub fn problems(&self, section: &str) -> Vec<String> {
        self.tls.problems(&format!("{section}.tls"))
    }
}

/// Sends requests. Clones share the pool of connections. When a file of its certificates changes, there is a new pool.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Arc<ReloadingClient<Client>>,
    proxies: Proxies,
    max_body_bytes: usize,
}

impl HttpClient {
    /// A client with these limits.
    ///
    /// # Errors
    /// When the system's network configuration cannot be read, a variable that names a proxy, or a file of `tls`.
    pub fn new(config: &HttpConfig) -> Result<Self, HttpError> {
        Self::with(config, |name| std::env::var(name).ok())
    }

    fn with(config: &HttpConfig, env: fn(&str) -> Option<String>) -> Result<Self, HttpError> {
        let (_, proxies) = Proxies::builder(env)?;
        let (settings, max_body_bytes) = (config.clone(), config.max_body_bytes);
        let make = move || {
            let (builder, _) = Proxies::builder(env)?;
            let builder = settings.tls.apply(builder)?;
            let builder = builder.timeout(settings.timeout).connect_timeout(settings.connect_timeout);
            builder.redirect(Policy::none()).build().map_err(describe)
        };
        let client = ReloadingClient::new("http", config.tls.files(), move || make().map_err(|error| error.0));
        Ok(Self { client: Arc::new(client.map_err(HttpError)?), proxies, max_body_bytes })
    }

    async fn exchange(&self, request: Request) -> Result<Response, HttpError> {
        let method = Method::from_bytes(request.method.as_bytes())
            .map_err(|_| HttpError(format!("`{}` is no HTTP method", request.method)))?;
        let client = self.client.current();
        let mut answer = client
            .request(method, &request.url)
            .headers(headers(&request)?)
            .body(request.body)
            .send()
            .await
            .map_err(|error| HttpError(format!("{}{}", at_peer(error).0, self.proxies.over(&request.url))))?;
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(describe)? {
            if body.len() + chunk.len() > self.max_body_bytes {
                return Err(HttpError(format!("the answer is longer than {} bytes", self.max_body_bytes)));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(Response { status: answer.status().as_u16(), retry_after: retry_after(answer.headers()), body })
    }
}

impl Http for HttpClient {
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, HttpError>> {
        Box::pin(self.exchange(request))
    }
}

fn headers(request: &Request) -> Result<HeaderMap, HttpError> {
    let mut headers = HeaderMap::new();
    for (name, value) in &request.headers {
        let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value)) else {
            return Err(HttpError(format!(
                "header `{name}` cannot be sent: its name or value holds a forbidden character"
            )));
        };
        headers.append(name, value);
    }
    if !request.body.is_empty() && !headers.contains_key(CONTENT_TYPE) {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    Ok(headers)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// The same with the server's name before it, as far as it is no secret.
fn at_peer(error: reqwest::Error) -> HttpError {
    let peer = error.url().map(|url| format!("{}: ", url.origin().ascii_serialization())).unwrap_or_default();
    HttpError(format!("{peer}{}", describe(error).0))
}

/// The error with its causes, a handshake's in words, and without the URL, which may hold a password.
pub(crate) fn describe(error: reqwest::Error) -> HttpError {
    let host = error.url().and_then(|url| url.host_str()).unwrap_or_default();
    if let Some(problem) = handshake_problem(&error, host) {
        return HttpError(problem);
    }
    HttpError(with_causes(&error.without_url()))
}

/// An error with what stands behind it.
pub(crate) fn with_causes(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    fn get(url: &str) -> Request {
        Request { method: "GET", url: url.to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    /// Red when this machine is asked for over a proxy (loopback left out of `NO_PROXY`), an address outside is not, or the error
    /// does not name the proxy, or with its password.
    #[tokio::test]
    async fn loopback_goes_past_a_proxy_and_an_error_names_it() {
        let env = |name: &str| (name == "HTTP_PROXY").then(|| "user:secret@127.0.0.1:1".to_owned());
        let client = HttpClient::with(&HttpConfig::default(), env).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let here = format!("http://{}/", listener.local_addr().unwrap());
        let answers = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let _ = stream.read(&mut [0; 1_024]).unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").unwrap();
        });
        assert_eq!(client.send(get(&here)).await.unwrap().status, 204);
        answers.join().unwrap();
        let HttpError(why) = client.send(get("http://warehouse.invalid/")).await.unwrap_err();
        assert!(why.contains("over the proxy 127.0.0.1:1 of HTTP_PROXY") && !why.contains("secret"), "{why}");
        let HttpError(why) = Proxies::builder(|name| (name == "ALL_PROXY").then(|| "://".to_owned())).unwrap_err();
        assert!(why.starts_with("ALL_PROXY holds no proxy's address"), "{why}");
    }
}
