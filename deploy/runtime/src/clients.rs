//! The clients of one process, shared by its groups.

pub(crate) mod admission;
pub(crate) mod peer_client;
pub(crate) mod topic_reader;

use std::sync::Arc;

use anyhow::Result;
use headwater::spi::{Clock, SchemaCache, SystemClock};
use headwater_connectors::{
    kafka::{Cluster, KafkaConfig, Producer},
    postgres::Database,
    registry::Registry,
};

use crate::{
    app::App,
    auth::{Reloaded, Tokens},
    config::Problems,
};

/// The clients of one process. None of them connects before it is used, so a server that is down is no reason not to
/// start.
#[derive(Clone)]
pub struct Clients {
    /// How Kafka is reached.
    pub kafka: KafkaConfig,
    /// Asks the cluster.
    pub cluster: Cluster,
    /// The schema registry.
    pub registry: Arc<Registry>,
    /// Schemas by their ids, each fetched once.
    pub schemas: Arc<SchemaCache>,
    /// Postgres.
    pub database: Database,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// Tokens of instances and of those who ask them.
    pub(crate) tokens: Option<Arc<Reloaded<Tokens>>>,
}

impl Clients {
    /// Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(app: &App) -> Result<Self> {
        let config = &app.config;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::default());
        let registry = Arc::new(Registry::new(&config.registry).map_err(Problems::one)?);
        let database = config.postgres.connector().build();
        let tokens = config.http.token_file.as_deref().map(Tokens::open).transpose().map_err(Problems)?;
        Ok(Self {
            cluster: Cluster::new(&config.kafka).map_err(|error| Problems::one(error.to_string()))?,
            schemas: Arc::new(SchemaCache::new(registry.clone(), clock.clone())),
            registry,
            kafka: config.kafka.clone(),
            database: database.map_err(|error| Problems::one(format!("postgres: {error}")))?,
            clock,
            tokens: tokens.map(Arc::new),
        })
    }

    /// A producer, which keeps the order of everybody who shares it.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn producer(&self) -> Result<Producer> {
        Producer::new(&self.kafka).map_err(|error| Problems::one(error.to_string()).into())
    }
}
