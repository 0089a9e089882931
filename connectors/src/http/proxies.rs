//! Which way HTTP goes: over the proxy that the environment names, but never to this machine itself.
//!
//! `HTTP_PROXY` is set for what lies outside. reqwest sends loopback addresses there too, unless `NO_PROXY` names them.

use reqwest::{Client, ClientBuilder, NoProxy, Proxy, Url};

use headwater::http::HttpError;

use crate::security::tls::install_provider;

/// The variables of a scheme, those of both last.
const VARIABLES: [(&str, [&str; 4]); 2] = [
    ("http", ["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
    ("https", ["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
];
/// This machine.
const LOOPBACK: &str = "localhost,127.0.0.0/8,::1";

/// The proxies in use.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proxies(Vec<ProxyRoute>);

#[derive(Clone, Debug)]
struct ProxyRoute {
    scheme: &'static str,
    variable: &'static str,
    /// Without user and password.
    address: String,
}

impl Proxies {
    /// A client that goes this way, to be given its limits.
    ///
    /// # Errors
    /// When a variable holds no address.
    pub(crate) fn builder(env: impl Fn(&str) -> Option<String>) -> Result<(ClientBuilder, Self), HttpError> {
        let direct = ["NO_PROXY", "no_proxy"].into_iter().find_map(&env).unwrap_or_default();
        let direct = format!("{LOOPBACK},{direct}");
        install_provider();
        let (mut builder, mut ways) = (Client::builder().no_proxy(), Vec::new());
        for (scheme, variables) in VARIABLES {
            let set = |name| env(name).filter(|value| !value.trim().is_empty()).map(|value| (name, value));
            let Some((variable, value)) = variables.into_iter().find_map(set) else { continue };
            let value = if value.contains("://") { value } else { format!("http://{value}") };
            let wrong = || HttpError(format!("{variable} holds no proxy's address such as http://proxy:3128"));
            let url = Url::parse(value.trim()).map_err(|_| wrong())?;
            let proxy = if scheme == "http" { Proxy::http(url.clone()) } else { Proxy::https(url.clone()) };
            builder = builder.proxy(proxy.map_err(|_| wrong())?.no_proxy(NoProxy::from_string(&direct)));
            let port = url.port_or_known_default().map(|port| format!(":{port}")).unwrap_or_default();
            ways.push(ProxyRoute {
                scheme,
                variable,
                address: format!("{}{port}", url.host_str().unwrap_or_default()),
            });
        }
        Ok((builder, Self(ways)))
    }

    /// The same by this process's environment.
    ///
    /// # Errors
    /// As [`builder`](Self::builder).
    pub(crate) fn of_environment() -> Result<(ClientBuilder, Self), HttpError> {
        Self::builder(|name| std::env::var(name).ok())
    }

    /// What an error about an address is to add: over which proxy it was asked.
    pub(crate) fn over(&self, url: &str) -> String {
        let Ok(url) = Url::parse(url) else { return String::new() };
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
        let is_here = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        match self.0.iter().find(|way| way.scheme == url.scheme()) {
            Some(ProxyRoute { variable, address, .. }) if !is_here => {
                format!(" (over the proxy {address} of {variable}, unless NO_PROXY names the host)")
            }
            _ => String::new(),
        }
    }
}
