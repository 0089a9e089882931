//! The tree: every setting by its type.

use std::{
    collections::BTreeMap,
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use headwater::Binding;
use headwater_connectors::{
    http::HttpConfig,
    kafka::KafkaConfig,
    postgres,
    registry::RegistryConfig,
    sinks::ConfiguredSink,
    store::local::StateConfig,
    units::{Secret, SecretSource, duration},
};
use serde::Deserialize;

use super::{address::is_address, group_config::GroupConfig};
use crate::auth::{ServerTlsConfig, Tokens, pattern_problems};

/// Everything that can be configured.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Config {
    /// The process's name; by default made of the host's and a slot.
    pub(crate) instance: Option<String>,
    /// Put before the name of every consumer group.
    pub(crate) prefix: String,
    /// The state directory.
    pub(crate) dir: PathBuf,
    pub(crate) log: LogConfig,
    pub(crate) http: ServerConfig,
    pub(crate) kafka: KafkaConfig,
    pub(crate) registry: RegistryConfig,
    pub(crate) postgres: PostgresConfig,
    /// The HTTP client that processors use.
    pub(crate) client: HttpConfig,
    pub(crate) topology: TopologyConfig,
    /// How the keyed state of stateful groups is kept on this machine.
    pub(crate) state: StateConfig,
    pub(crate) defaults: GroupConfig,
    /// What a group has otherwise, by its name without the prefix.
    pub(crate) groups: BTreeMap<String, GroupConfig>,
    /// Existing topics that are read as events of one type.
    pub(crate) topics: BTreeMap<String, Binding>,
    pub(crate) sinks: BTreeMap<String, ConfiguredSink>,
    /// What the pipeline of a user's own program wants to be told.
    pub(crate) settings: FreeSection,
    /// The sections that the program adds, checked by their types.
    #[serde(skip)]
    pub(crate) sections: FreeSection,
}

/// A free section: which of its values are secrets only the user knows, so none prints.
#[derive(Clone, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct FreeSection(pub(crate) toml::Table);

impl fmt::Debug for FreeSection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LogConfig {
    pub(crate) format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogFormat {
    Text,
    Json,
}

/// An address to listen on; where it is none, with the form that is wanted.
fn listened<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<SocketAddr, D::Error> {
    to_listen_on(&String::deserialize(deserializer)?)
}

/// The same, or nothing.
fn listened_if_any<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<SocketAddr>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text.is_empty() { Ok(None) } else { to_listen_on(&text).map(Some) }
}

fn to_listen_on<E: serde::de::Error>(text: &str) -> Result<SocketAddr, E> {
    text.parse().map_err(|_| {
        let port = text.strip_prefix(':').filter(|port| port.parse::<u16>().is_ok()).unwrap_or("8080");
        E::custom(format!(
            "`{text}` is no address to listen on: write an IP address and a port, 0.0.0.0:{port} for every interface or \
             127.0.0.1:{port} for this machine alone"
        ))
    })
}

/// A file, or none where the text is empty.
fn file_if_any<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<PathBuf>, D::Error> {
    let file = PathBuf::deserialize(deserializer)?;
    Ok(Some(file).filter(|file| !file.as_os_str().is_empty()))
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerConfig {
    /// Where health, metrics and state are answered.
    #[serde(deserialize_with = "listened")]
    pub(crate) addr: SocketAddr,
    /// `host:port` that other instances reach this one at; empty where `addr` says it.
    pub(crate) advertise: String,
    /// TLS on `addr`, where this section is there.
    pub(crate) tls: Option<ServerTlsConfig>,
    /// Where probes and metrics are answered in plain HTTP, and then not on `addr`.
    #[serde(deserialize_with = "listened_if_any")]
    pub(crate) probe_addr: Option<SocketAddr>,
    /// Lines `name token`: whoever shows one may ask, and the first is shown to other instances.
    #[serde(deserialize_with = "file_if_any")]
    pub(crate) token_file: Option<PathBuf>,
    /// Patterns of hosts that tokens may be sent to, beside this one.
    pub(crate) peers: Vec<String>,
    /// Names of tokens, and common names of clients' certificates, whose `X-User-Id` is believed.
    pub(crate) delegates: Vec<String>,
}

impl ServerConfig {
    /// Every problem with these settings, files among them; empty when there is none.
    pub(crate) fn problems(&self) -> Vec<String> {
        let mut problems = self.tls.as_ref().map(ServerTlsConfig::problems).unwrap_or_default();
        problems.extend(self.token_file.as_deref().and_then(|file| Tokens::open(file).err()).into_iter().flatten());
        problems.extend(pattern_problems(&self.peers));
        if !self.advertise.is_empty() && !is_address(&self.advertise) {
            problems.push("http.advertise must be a host and a port such as 10.0.0.7:8080".to_owned());
        }
        if self.probe_addr == Some(self.addr) && self.addr.port() > 0 {
            problems.push("http.probe_addr is http.addr: give it another port, or leave it out".to_owned());
        }
        let is_open = self.token_file.is_none() && self.tls.as_ref().is_none_or(|tls| tls.client_ca.is_none());
        if is_open && !self.delegates.is_empty() {
            problems
                .push("http.delegates wants http.token_file or http.tls.client_ca: nobody has a name else".to_owned());
        }
        problems
    }

    /// Where the process answers probes on this host, with the scheme; `None` where the port is not known beforehand.
    pub(crate) fn probed_at(&self) -> Option<String> {
        let addr = self.probe_addr.unwrap_or(self.addr);
        let scheme = if self.probe_addr.is_none() && self.tls.is_some() { "https" } else { "http" };
        let ip = match addr.ip() {
            IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
            ip => ip,
        };
        (addr.port() > 0).then(|| format!("{scheme}://{}", SocketAddr::new(ip, addr.port())))
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PostgresConfig {
    /// Where the database is, as whom and over which TLS.
    pub(crate) url: Secret,
    /// The file with the URL, in its place; it may change while the program runs, and so may those below.
    url_file: Option<PathBuf>,
    /// The file with the password, where the URL has none.
    password_file: Option<PathBuf>,
    /// Whether a transaction pooler stands before the server.
    pooler: bool,
    /// The file with the URL that `topology apply` uses, where the pooler cannot do it.
    direct_url_file: Option<PathBuf>,
    pub(crate) max_connections: u32,
    #[serde(with = "duration")]
    pub(crate) connect_timeout: Duration,
    #[serde(with = "duration")]
    pub(crate) statement_timeout: Duration,
}

/// The URL that holds where nobody names another one, as it stands in `defaults.toml`.
pub(super) const DEFAULT_URL: &str = "postgres://headwater@127.0.0.1:5432/headwater";

impl PostgresConfig {
    /// The connector's own configuration.
    pub(crate) fn connector(&self) -> postgres::Config {
        let url =
            named(self.url_file.as_ref()).map_or_else(|| SecretSource::Text(self.url.clone()), SecretSource::File);
        postgres::Config {
            password_file: named(self.password_file.as_ref()),
            pooler: self.pooler,
            ..self.reached_at(url)
        }
    }

    /// The same past the pooler, for what changes tables; `None` where nothing is said of it.
    pub(crate) fn direct(&self) -> Option<postgres::Config> {
        Some(self.reached_at(SecretSource::File(named(self.direct_url_file.as_ref())?)))
    }

    /// What is wrong with it, a sentence each.
    pub(super) fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        if named(self.url_file.as_ref()).is_some() && ![DEFAULT_URL, ""].contains(&self.url.expose()) {
            problems.push("postgres.url and postgres.url_file are both set: keep one".to_owned());
        }
        problems.extend(self.connector().problems().iter().map(|why| format!("postgres.{why}")));
        let direct = self.direct().map(|direct| direct.problems()).unwrap_or_default();
        problems.extend(direct.iter().map(|why| format!("postgres.direct_{why}")));
        if self.max_connections == 0 || self.connect_timeout.is_zero() || self.statement_timeout.is_zero() {
            problems.push("postgres.max_connections, connect_timeout and statement_timeout must be above 0".to_owned());
        }
        problems
    }

    fn reached_at(&self, url: SecretSource) -> postgres::Config {
        postgres::Config {
            max_connections: self.max_connections,
            connect_timeout: self.connect_timeout,
            statement_timeout: self.statement_timeout,
            ..postgres::Config::of(url)
        }
    }
}

/// A file that is named: an empty name is none.
fn named(file: Option<&PathBuf>) -> Option<PathBuf> {
    file.filter(|file| !file.as_os_str().is_empty()).cloned()
}

/// What `topology apply` gives the topics that it creates.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TopologyConfig {
    pub(crate) partitions: i32,
    pub(crate) replication: i32,
    pub(crate) min_insync_replicas: i32,
}
