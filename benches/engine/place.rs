//! Where a contender works: the servers, what on them is its own, and where its state is kept.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use clap::Args;
use headwater::{Payload, spi::Schemas as _};
use headwater_connectors::{
    registry::{Registry, RegistryConfig},
    units::Secret,
};
use headwater_schemas::{PaymentCompleted, ReceiptRequested};
use rdkafka::{ClientConfig, Message, message::BorrowedMessage};

/// Where a contender works.
#[derive(Clone, Debug, Args)]
pub(crate) struct Place {
    /// `host:port` of the broker.
    #[arg(long)]
    pub(crate) kafka: String,
    /// The schema registry's address.
    #[arg(long)]
    pub(crate) registry: String,
    /// The database's URL.
    #[arg(long)]
    pub(crate) database: String,
    /// Where the payments are.
    #[arg(long, default_value = "events.payment")]
    pub(crate) topic: String,
    /// Where a reference loop writes; the engine writes to `events.receipt`.
    #[arg(long, default_value = "loop.receipt")]
    pub(crate) output: String,
    /// The consumer group, or what the engine's begins with. A new one reads from the beginning.
    #[arg(long)]
    pub(crate) group: String,
    /// The table that a sink writes.
    #[arg(long)]
    pub(crate) table: String,
    /// The folder of its keyed state.
    #[arg(long)]
    pub(crate) state: PathBuf,
    /// Bytes of memory for its keyed state.
    #[arg(long, default_value_t = 64 << 20)]
    pub(crate) cache: usize,
    /// It ends when so many records are durable.
    #[arg(long)]
    pub(crate) records: u64,
}

impl Place {
    /// The same as arguments of a command line.
    pub(crate) fn arguments(&self) -> Vec<String> {
        let Self { kafka, registry, database, topic, output, group, table, state, cache, records } = self;
        let (state, cache, records) = (state.display().to_string(), cache.to_string(), records.to_string());
        let named = [
            ("kafka", kafka),
            ("registry", registry),
            ("database", database),
            ("topic", topic),
            ("output", output),
            ("group", group),
            ("table", table),
            ("state", &state),
            ("cache", &cache),
            ("records", &records),
        ];
        named.iter().flat_map(|(name, value)| [format!("--{name}"), (*value).clone()]).collect()
    }

    /// The schema registry.
    pub(crate) fn schemas(&self) -> Result<Registry> {
        let config = RegistryConfig { url: Secret::new(self.registry.as_str()).into(), ..RegistryConfig::default() };
        Registry::new(&config).map_err(anyhow::Error::msg)
    }

    /// The registry's ids of `payment.completed` and `receipt.requested`; not within a runtime.
    pub(crate) fn schema_ids(&self) -> Result<(u32, u32)> {
        let registry = self.schemas()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let payment = registry.id_of(&subject::<PaymentCompleted>(), PaymentCompleted::SCHEMA).await?;
            let receipt = registry.id_of(&subject::<ReceiptRequested>(), ReceiptRequested::SCHEMA).await?;
            Ok((payment, receipt))
        })
    }

    /// What every client of the references is told.
    pub(crate) fn client(&self) -> ClientConfig {
        let mut settings = ClientConfig::new();
        settings.set("bootstrap.servers", &self.kafka).set("allow.auto.create.topics", "false");
        settings
    }

    /// A consumer that reads as fast as it can.
    pub(crate) fn consumer(&self) -> ClientConfig {
        let mut settings = self.client();
        settings
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "earliest")
            .set("isolation.level", "read_committed")
            // As the engine: more than the processor's cache holds is read more slowly.
            .set("queued.max.messages.kbytes", "16384")
            // Defaults to 1,000, which idles a second when the queue was full.
            .set("fetch.queue.backoff.ms", "20");
        settings
    }
}

/// Where the schema of a type is registered.
pub(crate) fn subject<T: Payload>() -> String {
    let domain = T::TYPE.split('.').next().unwrap_or_default();
    let name: serde_json::Value = serde_json::from_str(T::SCHEMA).unwrap_or_default();
    let part = |key: &str| name[key].as_str().unwrap_or_default().to_owned();
    format!("events.{domain}-{}.{}", part("namespace"), part("name"))
}

/// The Avro bytes of a record in Confluent's wire format.
pub(crate) fn datum<'a>(message: &'a BorrowedMessage<'_>, id: u32) -> Result<&'a [u8]> {
    let value = message.payload().context("a tombstone")?;
    let (head, datum) = value.split_at_checked(5).context("a value of fewer than 5 bytes")?;
    ensure!(head[0] == 0 && head[1..] == id.to_be_bytes(), "a value of another schema");
    Ok(datum)
}
