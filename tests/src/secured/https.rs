//! An HTTP server behind TLS that wants a password or a token.

use std::path::Path;

use crate::proxy::Gate;

use super::{
    certificates::Certificate,
    tls_proxy::{Inner, TlsProxy},
};

/// The two parts before a server; it closes when it is dropped.
pub struct Https {
    /// What looks at `Authorization`, counts requests and can answer in the server's place.
    pub gate: Gate,
    /// What speaks TLS.
    pub tls: TlsProxy,
}

impl Https {
    /// Before the server at this base URL, `http://host:port`: shows this certificate, wants one that an authority of the
    /// file has signed, if there is a file, and one of these values of the header `Authorization` (see
    /// [`basic`](super::basic)).
    ///
    /// # Panics
    /// As [`TlsProxy::before`].
    pub async fn before(url: &str, shown: &Certificate, client_ca: Option<&Path>, authorizations: &[&str]) -> Self {
        let gate = Gate::before(url).await;
        gate.require(authorizations);
        let tls = TlsProxy::before(Inner::Bytes, gate.url().trim_start_matches("http://"), shown, client_ca).await;
        Self { gate, tls }
    }

    /// Its base URL, `https://localhost:<port>`.
    pub fn url(&self) -> String {
        format!("https://{}", self.tls.address())
    }
}
