//! The HTTP port: one client with a pool of connections, a limit on time and one on size, and no redirects.

use std::{error::Error, time::Duration};

use headwater::ports::{BoxFuture, Http, HttpError, Request, Response};
use reqwest::{
    Client, Method,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect::Policy,
};
use serde::Deserialize;

use crate::units::duration;

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
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(10), connect_timeout: Duration::from_secs(3), max_body_bytes: 1 << 20 }
    }
}

/// Sends requests. Clones share the pool of connections.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Client,
    max_body_bytes: usize,
}

impl HttpClient {
    /// A client with these limits.
    ///
    /// # Errors
    /// When the system's network configuration cannot be read.
    pub fn new(config: &HttpConfig) -> Result<Self, HttpError> {
        let client = Client::builder()
            .timeout(config.timeout)
            .connect_timeout(config.connect_timeout)
            .redirect(Policy::none())
            .build()
            .map_err(describe)?;
        Ok(Self { client, max_body_bytes: config.max_body_bytes })
    }

    async fn exchange(&self, request: Request) -> Result<Response, HttpError> {
        let method = Method::from_bytes(request.method.as_bytes())
            .map_err(|_| HttpError(format!("`{}` is no HTTP method", request.method)))?;
        let mut answer = self
            .client
            .request(method, &request.url)
            .headers(headers(&request)?)
            .body(request.body)
            .send()
            .await
            .map_err(describe)?;
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

/// The error with its causes and without the URL, which may hold a password.
pub(crate) fn describe(error: reqwest::Error) -> HttpError {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    HttpError(text)
}
