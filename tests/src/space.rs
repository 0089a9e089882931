//! What one test owns: names, a database, the way to the servers.

use std::{path::PathBuf, time::Duration};

use headwater_connectors::{
    kafka::{Cluster, KafkaConfig, TopicSpec},
    postgres,
};
use headwater_dev::Endpoints;
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection, PgPool, postgres::PgPoolOptions};

use crate::{eventually, stack::SharedStack};

/// One test's own names and database on the shared stack.
#[derive(Clone)]
pub struct Space {
    /// The test's name, and what its topics, groups and database begin with.
    pub name: String,
    /// The servers.
    pub endpoints: Endpoints,
    /// The test's own database.
    pub database_url: String,
    /// Its connection.
    pub pool: PgPool,
    /// A folder of its own.
    pub dir: PathBuf,
}

impl Space {
    /// A fresh space for a test of this name: a-z, 0-9 and `_`.
    ///
    /// # Panics
    /// When the database cannot be made.
    pub async fn new(stack: &SharedStack, name: &str) -> Self {
        let endpoints = stack.endpoints.clone();
        let mut admin = PgConnection::connect(&endpoints.database_url).await.expect("the database answers");
        let create = format!("create database \"{name}\"");
        sqlx::query(AssertSqlSafe(create)).execute(&mut admin).await.expect("a new database");
        let (server, _) = endpoints.database_url.rsplit_once('/').expect("the url names a database");
        let database_url = format!("{server}/{name}");
        let pool = PgPoolOptions::new().max_connections(4).connect(&database_url).await.expect("the database answers");
        let dir = stack.data.parent().unwrap_or(&stack.data).join("spaces").join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a folder");
        Self { name: name.to_owned(), endpoints, database_url, pool, dir }
    }

    /// The same space with another name before its groups.
    #[must_use]
    pub fn named(&self, name: &str) -> Self {
        Self { name: format!("{}-{name}", self.name), ..self.clone() }
    }

    /// The same space for a program that knows no warehouse, and would refuse a setting of one.
    #[must_use]
    pub fn without_warehouse(mut self) -> Self {
        self.endpoints.warehouse_url.clear();
        self
    }

    /// A topic's name in this space.
    pub fn topic(&self, suffix: &str) -> String {
        format!("{}-{suffix}", self.name)
    }

    /// Deletes a topic, and waits until the cluster lists it no more.
    ///
    /// # Panics
    /// When the broker refuses it.
    pub async fn delete_topic(&self, topic: &str) {
        let admin: AdminClient<DefaultClientContext> =
            ClientConfig::new().set("bootstrap.servers", &self.endpoints.kafka_bootstrap).create().expect("a client");
        admin.delete_topics(&[topic], &AdminOptions::new()).await.expect("deleted");
        let cluster = Cluster::new(&self.kafka()).expect("valid");
        let is_gone = async || cluster.topics().await.is_ok_and(|all| all.iter().all(|one| one.name != topic));
        eventually("the topic is gone", Duration::from_mins(1), is_gone).await;
    }

    /// Creates topics as they are named, with this many partitions.
    ///
    /// # Panics
    /// When the broker refuses.
    pub async fn create_topics(&self, topics: &[&str], partitions: i32) {
        let spec = |name: &&str| TopicSpec { name: (*name).to_owned(), partitions, replication: 1, config: Vec::new() };
        let specs: Vec<_> = topics.iter().map(spec).collect();
        Cluster::new(&self.kafka()).expect("valid").apply(&specs).await.expect("the topics are created");
    }

    /// Runs the migrations.
    ///
    /// # Panics
    /// When they fail.
    pub async fn migrate(&self) -> postgres::Database {
        let database = postgres::Config::new(&self.database_url).build().expect("a valid url");
        postgres::migrate(&database).await.expect("migrated");
        database
    }

    /// How connectors reach Kafka; a member is given up after a few seconds.
    pub fn kafka(&self) -> KafkaConfig {
        let mut config = KafkaConfig { bootstrap: self.endpoints.kafka_bootstrap.clone(), ..KafkaConfig::default() };
        config.consumer.session_timeout = Duration::from_secs(3);
        config
    }

    /// The variables that point a process at this space.
    pub fn env(&self) -> Vec<(String, String)> {
        let pairs = [
            ("HEADWATER__KAFKA__BOOTSTRAP", self.endpoints.kafka_bootstrap.clone()),
            ("HEADWATER__KAFKA__CONSUMER__SESSION_TIMEOUT", "3s".to_owned()),
            ("HEADWATER__REGISTRY__URL", self.endpoints.schema_registry_url.clone()),
            ("HEADWATER__POSTGRES__URL", self.database_url.clone()),
            ("HEADWATER__WAREHOUSE__URL", self.endpoints.warehouse_url.clone()),
            ("HEADWATER__HTTP__ADDR", "127.0.0.1:0".to_owned()),
            ("HEADWATER__PREFIX", format!("{}.", self.name)),
            ("HEADWATER__DIR", self.dir.display().to_string()),
            ("HEADWATER__TOPOLOGY__REPLICATION", "1".to_owned()),
            ("HEADWATER__TOPOLOGY__MIN_INSYNC_REPLICAS", "1".to_owned()),
        ];
        let set = pairs.into_iter().filter(|(_, value)| !value.is_empty());
        set.map(|(name, value)| (name.to_owned(), value)).collect()
    }

    /// The one number that a query answers.
    ///
    /// # Panics
    /// When the query fails; a table that is not there yet counts as 0.
    pub async fn count(&self, sql: &str) -> i64 {
        match sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&self.pool).await {
            Ok(count) => count,
            Err(sqlx::Error::Database(e)) if e.code().as_deref() == Some("42P01") => 0,
            Err(error) => panic!("{sql}: {error}"),
        }
    }
}
