//! What every contender finds: topics, schemas, tables, and the payments.

use std::{
    ops::Range,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Result, ensure};
use axum::Router;
use headwater::{
    Payload, Sink, TraceContext,
    spi::{
        codec::{Encoder, WriterSchema},
        first_headers,
    },
};
use headwater_benches::payment;
use headwater_connectors::{
    kafka::{Cluster, KafkaConfig, TopicSpec},
    postgres,
    store::local::StateConfig,
};
use headwater_dev::Endpoints;
use headwater_schemas::{PaymentCompleted, ReceiptRequested};
use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
    producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    place::{Place, subject},
    state::Counted,
};

/// Partitions of every topic.
pub(crate) const PARTITIONS: i32 = 6;
/// Who sends the payments.
const SOURCE: &str = "//till";
const FLUSH: Duration = Duration::from_mins(2);

/// The servers, and what was prepared on them.
pub(crate) struct Ground {
    /// Where spans go.
    pub(crate) back_end: String,
    _back_end: JoinSet<()>,
    data: PathBuf,
    endpoints: Endpoints,
    database: postgres::Database,
    cluster: Cluster,
    payment_schema: u32,
    /// Payments on the topic.
    payments: u64,
    /// Bytes of memory for keyed state, where it is not the default.
    pub(crate) cache: usize,
    /// Places given out.
    places: u32,
}

impl Ground {
    /// Makes topics, registers schemas and runs the migrations.
    pub(crate) async fn prepare(data: &Path, endpoints: Endpoints) -> Result<Self> {
        let kafka = KafkaConfig { bootstrap: endpoints.kafka_bootstrap.clone(), ..KafkaConfig::default() };
        let cluster = Cluster::new(&kafka)?;
        let database = postgres::Config::new(&endpoints.database_url).build()?;
        postgres::migrate(&database).await?;
        let mut tasks = JoinSet::new();
        let back_end = swallow(&mut tasks).await?;
        let mut ground = Self {
            back_end,
            _back_end: tasks,
            data: data.to_owned(),
            endpoints,
            database,
            cluster,
            payment_schema: 0,
            payments: 0,
            cache: StateConfig::default().cache_bytes,
            places: 0,
        };
        ground.topics(&["events.payment", "events.receipt", "loop.receipt", "events.count", "streams.count"]).await?;
        let registry = ground.at("", 0).schemas()?;
        ground.payment_schema = registry.register(&subject::<PaymentCompleted>(), PaymentCompleted::SCHEMA).await?;
        registry.register(&subject::<ReceiptRequested>(), ReceiptRequested::SCHEMA).await?;
        registry.register(&subject::<Counted>(), Counted::SCHEMA).await?;
        Ok(ground)
    }

    async fn topics(&self, names: &[&str]) -> Result<()> {
        let spec = |name: &&str| TopicSpec {
            name: (*name).to_owned(),
            partitions: PARTITIONS,
            replication: 1,
            config: Vec::new(),
        };
        let specs: Vec<_> = names.iter().map(spec).collect();
        self.cluster.apply(&specs).await?;
        Ok(())
    }

    fn at(&self, name: &str, records: u64) -> Place {
        let Endpoints { kafka_bootstrap, schema_registry_url, database_url, .. } = self.endpoints.clone();
        Place {
            kafka: kafka_bootstrap,
            registry: schema_registry_url,
            database: database_url,
            topic: "events.payment".to_owned(),
            output: "loop.receipt".to_owned(),
            group: name.to_owned(),
            table: name.replace('-', "_"),
            state: self.data.join("kept").join(name),
            cache: self.cache,
            records,
        }
    }

    /// A place where nobody was before: a new group that reads every payment, without state.
    pub(crate) fn next(&mut self) -> Place {
        self.places += 1;
        self.at(&format!("bench-{}", self.places), self.payments)
    }

    /// The same with an empty table.
    pub(crate) async fn fresh(&mut self) -> Result<Place> {
        let place = self.next();
        let schema = WriterSchema::parse(self.payment_schema, PaymentCompleted::SCHEMA, &[])?;
        postgres::PostgresSink::apply_table(&self.database, &sink(&place.table), &schema).await?;
        Ok(place)
    }

    /// Removes a place's table, and lets the database write down what it has put off.
    pub(crate) async fn clear(&self, place: &Place) -> Result<()> {
        let mut conn = PgConnection::connect(&place.database).await?;
        sqlx::query(AssertSqlSafe(format!("drop table {}", place.table))).execute(&mut conn).await?;
        sqlx::query("checkpoint").execute(&mut conn).await?;
        Ok(())
    }

    /// What points `headwater` at these servers.
    pub(crate) fn variables(&self) -> Vec<(String, String)> {
        let Endpoints { kafka_bootstrap, schema_registry_url, database_url, warehouse_url } = &self.endpoints;
        let state = self.data.join("state").display().to_string();
        let settings = [
            ("PREFIX", "memory."),
            ("DIR", &state),
            ("HTTP__ADDR", "127.0.0.1:0"),
            ("KAFKA__BOOTSTRAP", kafka_bootstrap),
            ("REGISTRY__URL", schema_registry_url),
            ("POSTGRES__URL", database_url),
            ("WAREHOUSE__URL", warehouse_url),
            ("TOPOLOGY__REPLICATION", "1"),
            ("TOPOLOGY__MIN_INSYNC_REPLICAS", "1"),
        ];
        settings.map(|(name, value)| (format!("HEADWATER__{name}"), value.to_owned())).into()
    }

    /// Rows that the orders pipeline has written.
    pub(crate) async fn orders(&self) -> Result<i64> {
        let mut conn = PgConnection::connect(&self.endpoints.database_url).await?;
        let sql = "select (select count(*) from orders) + (select count(*) from receipts)";
        Ok(sqlx::query_scalar(sql).fetch_one(&mut conn).await?)
    }

    /// Fills the topic up to so many payments, with the headers that an event of ours has or with none, each of an order of
    /// its own.
    pub(crate) async fn fill(&mut self, payments: u64, bare: bool) -> Result<()> {
        self.fill_with(payments, bare, |number| format!("order-{number:09}")).await
    }

    /// The same, where a function says the order of each, which is its key.
    pub(crate) async fn fill_with(
        &mut self,
        payments: u64,
        bare: bool,
        order: impl Fn(u64) -> String + Send + 'static,
    ) -> Result<()> {
        let (from, schema, place) = (self.payments, self.payment_schema, self.at("", 0));
        tokio::task::spawn_blocking(move || fill(&place, schema, from..payments, bare, order)).await??;
        self.payments = payments.max(from);
        Ok(())
    }
}

/// Takes spans and forgets them: gives the address of a tracing back end that costs next to nothing.
async fn swallow(tasks: &mut JoinSet<()>) -> Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    let url = format!("http://{}", listener.local_addr()?);
    // It never ends of itself.
    tasks.spawn(async move { drop(axum::serve(listener, Router::new().fallback(async || ())).await) });
    Ok(url)
}

/// The sink of every contender.
pub(crate) fn sink(table: &str) -> Sink {
    Sink::of::<PaymentCompleted>(table).key("payment_id")
}

fn fill(place: &Place, schema: u32, numbers: Range<u64>, bare: bool, order: impl Fn(u64) -> String) -> Result<()> {
    let encoder = Encoder::new(schema, PaymentCompleted::SCHEMA)?;
    let mut settings = place.client();
    settings
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("compression.type", "lz4")
        .set("linger.ms", "20")
        .set("batch.size", "1000000");
    let producer: ThreadedProducer<DefaultProducerContext> = settings.create()?;
    for number in numbers {
        let mut payment = payment();
        payment.payment_id = format!("pay-{number:09}");
        payment.order_id = order(number);
        payment.customer_id = format!("customer-{:04}", number % 1_000);
        let value = encoder.encode(&payment)?;
        let mut record = BaseRecord::to(&place.topic).key(payment.key()).payload(&value);
        if !bare {
            record.headers = Some(headers(&payment));
        }
        while let Err((error, same)) = producer.send(record) {
            ensure!(error == KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), error);
            record = same;
            std::thread::sleep(Duration::from_millis(5));
        }
    }
    Ok(producer.flush(FLUSH)?)
}

fn headers(payment: &PaymentCompleted) -> OwnedHeaders {
    // As long as a real id, which is a UUID.
    let id = format!("{:0>36}", payment.payment_id);
    let trace = TraceContext::derived(SOURCE, &id);
    let headers = first_headers(&id, SOURCE, PaymentCompleted::TYPE, payment.key(), payment.completed_at, &trace);
    headers.iter().fold(OwnedHeaders::new(), |all, (key, value)| all.insert(Header { key, value }))
}
