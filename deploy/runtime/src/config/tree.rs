//! The tree: every setting by its type.

use std::{collections::BTreeMap, fmt, net::SocketAddr, path::PathBuf, time::Duration};

use headwater::Binding;
use headwater_connectors::{
    http::HttpConfig,
    kafka::KafkaConfig,
    postgres,
    registry::RegistryConfig,
    sinks::ConfiguredSink,
    store::local::StateConfig,
    units::{Secret, duration},
};
use serde::Deserialize;

use super::group_config::GroupConfig;

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
    let text = String::deserialize(deserializer)?;
    text.parse().map_err(|_| {
        let port = text.strip_prefix(':').filter(|port| port.parse::<u16>().is_ok()).unwrap_or("8080");
        serde::de::Error::custom(format!(
            "`{text}` is no address to listen on: write an IP address and a port, 0.0.0.0:{port} for every interface or \
             127.0.0.1:{port} for this machine alone"
        ))
    })
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ServerConfig {
    /// Where health, metrics and state are answered.
    #[serde(deserialize_with = "listened")]
    pub(crate) addr: SocketAddr,
    /// `host:port` that other instances reach this one at; empty where `addr` says it.
    pub(crate) advertise: String,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct PostgresConfig {
    pub(crate) url: Secret,
    pub(crate) max_connections: u32,
    #[serde(with = "duration")]
    pub(crate) connect_timeout: Duration,
    #[serde(with = "duration")]
    pub(crate) statement_timeout: Duration,
}

impl PostgresConfig {
    /// The connector's own configuration.
    pub(crate) fn connector(&self) -> postgres::Config {
        postgres::Config {
            max_connections: self.max_connections,
            connect_timeout: self.connect_timeout,
            statement_timeout: self.statement_timeout,
            ..postgres::Config::new(self.url.expose())
        }
    }
}

/// What `topology apply` gives the topics that it creates.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct TopologyConfig {
    pub(crate) partitions: i32,
    pub(crate) replication: i32,
    pub(crate) min_insync_replicas: i32,
}
