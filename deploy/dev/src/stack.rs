//! The stack as a whole: started together, stopped in order.

use std::fs::{File, OpenOptions, TryLockError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tokio::sync::watch;

use crate::endpoints::{Endpoints, remove_endpoints};
use crate::kafka::{self, Kafka};
use crate::ports::Ports;
use crate::postgres::{self, PgBouncer, Postgres};
use crate::registry::Registry;
use crate::security::ServerSecurity;
use crate::warehouse::Warehouse;

/// Which Kafka to use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum KafkaChoice {
    /// One node of Apache Kafka that the stack starts.
    #[default]
    Apache,
    /// A cluster that is running, as `host:port[,host:port…]`.
    At(String),
}

/// Which PostgreSQL to use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PostgresChoice {
    /// A private cluster that the stack starts from the installed server binaries, else from fetched ones.
    #[default]
    Auto,
    /// A database that is there, as `postgres://…`.
    At(String),
}

/// Which schema registry to use.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum RegistryChoice {
    /// The small one of this crate, in this process.
    #[default]
    Auto,
    /// The base address of a running one that speaks Confluent's API.
    At(String),
}

/// What to start, and where it keeps its data.
#[derive(Debug, Clone)]
pub struct StackConfig {
    /// The folder that everything lives in; made when it is not there. One stack at a time uses it.
    pub data: PathBuf,
    /// Which Kafka.
    pub kafka: KafkaChoice,
    /// Which PostgreSQL.
    pub postgres: PostgresChoice,
    /// Which schema registry.
    pub registry: RegistryChoice,
    /// Where Kafka's jars (55 MB), and PostgreSQL (60 MB) when none is installed, are kept for every stack of this user.
    /// As root PostgreSQL is kept in `/var/cache/headwater` when the user that it runs as cannot enter this folder.
    pub cache: PathBuf,
    /// Quicker to start and to notice the dead, but neither fast under load nor safe against a power cut.
    pub for_tests: bool,
    /// For Kafka and PostgreSQL, where the stack starts them, to ask who calls, with a pooler before PostgreSQL; without,
    /// everybody on this machine may do everything.
    pub security: Option<ServerSecurity>,
}

impl StackConfig {
    /// Everything started by the stack itself under `data`, with what is fetched in the user's cache
    /// folder (`$XDG_CACHE_HOME/headwater` or `~/.cache/headwater`).
    #[must_use]
    pub fn new(data: impl Into<PathBuf>) -> Self {
        let cache = std::env::var_os("XDG_CACHE_HOME").filter(|value| !value.is_empty()).map(PathBuf::from);
        let cache = cache.or_else(|| std::env::home_dir().map(|home| home.join(".cache")));
        Self {
            data: data.into(),
            kafka: KafkaChoice::default(),
            postgres: PostgresChoice::default(),
            registry: RegistryChoice::default(),
            cache: cache.unwrap_or_else(std::env::temp_dir).join("headwater"),
            for_tests: false,
            security: None,
        }
    }
}

/// A running stack. [`stop`](Self::stop) ends it in order; dropping it ends it at once.
#[derive(Debug)]
pub struct Stack {
    data: PathBuf,
    endpoints: Endpoints,
    kafka: Option<Kafka>,
    postgres: Option<Postgres>,
    pooler: Option<PgBouncer>,
    registry: Option<Registry>,
    warehouse: Warehouse,
    /// Held for our life; the operating system frees it even when we are killed.
    _lock: File,
}

impl Stack {
    /// Starts everything and returns when all of it is ready: 6 to 15 s, more the first time, for downloads.
    /// Removes an old `endpoints.env` first; writing the new one is the caller's, who may have lines to add
    /// ([`Endpoints::pairs`], [`write_endpoints`](crate::write_endpoints)).
    ///
    /// # Errors
    /// When `cancel` becomes true or its sender goes, when another stack uses the folder, when something is not
    /// installed (with the command that installs it) or does not start (with the end of its log). Whatever was started
    /// has ended then, or ends at once.
    pub async fn start(config: StackConfig, mut cancel: watch::Receiver<bool>) -> Result<Self> {
        tokio::select! {
            stack = Self::start_all(config) => stack,
            _ = cancel.wait_for(|cancelled| *cancelled) => bail!("stopped while starting"),
        }
    }

    /// Where everything listens.
    #[must_use]
    pub fn endpoints(&self) -> &Endpoints {
        &self.endpoints
    }

    /// The stack's own broker, for tests that stop, freeze or kill it; `None` when it was given from outside.
    pub fn kafka(&mut self) -> Option<&mut Kafka> {
        self.kafka.as_mut()
    }

    /// The stack's own database server; `None` when it was given from outside.
    pub fn postgres(&mut self) -> Option<&mut Postgres> {
        self.postgres.as_mut()
    }

    /// The pooler before the stack's own database server; `None` without [`StackConfig::security`].
    #[must_use]
    pub fn pooler(&self) -> Option<&PgBouncer> {
        self.pooler.as_ref()
    }

    /// The stack's own registry, for tests that make it fail; `None` when it was given from outside.
    #[must_use]
    pub fn registry(&self) -> Option<&Registry> {
        self.registry.as_ref()
    }

    /// Removes `endpoints.env` and stops everything in order, Kafka and PostgreSQL side by side.
    ///
    /// # Errors
    /// When something could not be stopped; the rest was stopped nevertheless.
    pub async fn stop(self) -> Result<()> {
        let Self { data, kafka, postgres, pooler, registry, warehouse, .. } = self;
        let removed = remove_endpoints(&data).context("cannot remove endpoints.env");
        let pooler = match pooler {
            Some(pooler) => pooler.stop().await,
            None => Ok(()),
        };
        let stop_kafka = async {
            match kafka {
                Some(mut kafka) => kafka.stop().await,
                None => Ok(()),
            }
        };
        let stop_postgres = async {
            match postgres {
                Some(mut postgres) => postgres.stop().await,
                None => Ok(()),
            }
        };
        let (kafka, postgres) = tokio::join!(stop_kafka, stop_postgres);
        if let Some(registry) = registry {
            registry.stop().await;
        }
        warehouse.stop().await;
        removed.and(pooler).and(kafka).and(postgres)
    }

    async fn start_all(config: StackConfig) -> Result<Self> {
        check(&config).await?;
        let shown = config.data.display().to_string();
        std::fs::create_dir_all(&config.data).with_context(|| format!("cannot create {shown}"))?;
        let data = std::fs::canonicalize(&config.data).with_context(|| format!("cannot resolve {shown}"))?;
        let lock = lock_soon(&data).await?;
        remove_endpoints(&data).context("cannot remove an old endpoints.env")?;
        let mut ports = Ports::load(&data);
        let security = config.security.as_ref();
        let warehouse = Warehouse::launch(&mut ports).await?;
        let (registry, schema_registry_url) = match config.registry {
            RegistryChoice::At(url) => (None, url.trim_end_matches('/').to_owned()),
            RegistryChoice::Auto => {
                let registry = Registry::launch(&data, &mut ports).await?;
                let url = registry.url();
                (Some(registry), url)
            }
        };
        // PostgreSQL first, alone: beside a starting JVM both take longer on a small machine, and it takes a second.
        let (postgres, database_url) = match config.postgres {
            PostgresChoice::At(url) => (None, url),
            PostgresChoice::Auto => {
                let postgres = Postgres::launch(&data, &config.cache, config.for_tests, security, &mut ports).await?;
                let url = postgres.url();
                (Some(postgres), url)
            }
        };
        let pooler = match &postgres {
            Some(postgres) => postgres.launch_pooler(&mut ports).await?,
            None => None,
        };
        let (kafka, kafka_bootstrap) = match config.kafka {
            KafkaChoice::At(bootstrap) => (None, bootstrap),
            KafkaChoice::Apache => {
                let kafka = Kafka::launch(&data, &config.cache, config.for_tests, security, &mut ports).await?;
                let bootstrap = kafka.bootstrap();
                (Some(kafka), bootstrap)
            }
        };
        let warehouse_url = warehouse.url();
        let endpoints = Endpoints { kafka_bootstrap, schema_registry_url, database_url, warehouse_url };
        Ok(Self { data, endpoints, kafka, postgres, pooler, registry, warehouse, _lock: lock })
    }
}

/// Says everything that is missing at once, before anything is started.
async fn check(config: &StackConfig) -> Result<()> {
    let kafka = match config.kafka {
        KafkaChoice::Apache => kafka::check(&config.cache).await,
        KafkaChoice::At(_) => Ok(()),
    };
    let postgres = match config.postgres {
        PostgresChoice::Auto => postgres::check(&config.cache).await,
        PostgresChoice::At(_) => Ok(()),
    };
    let pooler = match (&config.security, &config.postgres) {
        (Some(_), PostgresChoice::Auto) => postgres::pooler_executable().map(drop),
        _ => Ok(()),
    };
    let missing: Vec<String> =
        [kafka, postgres, pooler].into_iter().filter_map(Result::err).map(|error| format!("{error:#}")).collect();
    ensure!(missing.is_empty(), "{}", missing.join("; "));
    Ok(())
}

/// Removes the data folder of a stack that is not running, and what lies outside of it for it: as root the database
/// may lie under `/var/tmp`.
///
/// # Errors
/// When a stack runs on it or something cannot be removed. A folder that is not there is no error.
pub fn remove_data(data: &Path) -> Result<()> {
    if !data.exists() {
        return Ok(());
    }
    let _lock = lock(data)?;
    postgres::remove(data)?;
    std::fs::remove_dir_all(data).with_context(|| format!("cannot remove {}", data.display()))
}

/// Waits up to two seconds for the lock: a child that is between its fork and its exec still shares the lock of an
/// owner that has just let go of it.
async fn lock_soon(data: &Path) -> Result<File> {
    for _ in 0..40 {
        match lock(data) {
            Ok(file) => return Ok(file),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
    lock(data)
}

fn lock(data: &Path) -> Result<File> {
    let path = data.join("stack.lock");
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&path);
    let file = file.with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("another stack runs on {}: stop it, or use another folder", data.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("cannot lock {}", path.display())),
    }
}
