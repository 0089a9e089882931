//! The HTTP port: one client with a pool of connections, a limit on time and one on size, and no redirects.

pub(crate) mod base64;
pub(crate) mod proxies;

use std::{error::Error, time::Duration};

use headwater::{
    http::{Http, HttpError, Request, Response},
    spi::BoxFuture,
};
use reqwest::{
    Client, ClientBuilder, Method,
    header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect::Policy,
};
use serde::Deserialize;

use self::proxies::Proxies;
use crate::{tls::TlsConfig, units::duration};

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

/// Sends requests. Clones share the pool of connections.
#[derive(Clone, Debug)]
pub struct HttpClient {
    client: Client,
    proxies: Proxies,
    max_body_bytes: usize,
}

impl HttpClient {
    /// A client with these limits.
    ///
    /// # Errors
    /// When the system's network configuration cannot be read, or a variable that names a proxy.
    pub fn new(config: &HttpConfig) -> Result<Self, HttpError> {
        Self::with(config, Proxies::of_environment()?)
    }

    fn with(config: &HttpConfig, (builder, proxies): (ClientBuilder, Proxies)) -> Result<Self, HttpError> {
        let client = config
            .tls
            .apply(builder)?
            .timeout(config.timeout)
            .connect_timeout(config.connect_timeout)
            .redirect(Policy::none())
            .build()
            .map_err(describe)?;
        Ok(Self { client, proxies, max_body_bytes: config.max_body_bytes })
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
            .map_err(|error| HttpError(format!("{}{}", describe(error).0, self.proxies.over(&request.url))))?;
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
        let nobody = "user:secret@127.0.0.1:1";
        let env = |name: &str| (name == "HTTP_PROXY").then(|| nobody.to_owned());
        let client = HttpClient::with(&HttpConfig::default(), Proxies::builder(env).unwrap()).unwrap();
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
