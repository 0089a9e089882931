//! Clients of what happens exactly once: the producer of transactions, and who reads changelogs back.

use std::time::Duration;

use rdkafka::ClientConfig;

use super::{KafkaConfig, millis};
use crate::kafka::error::KafkaError;

/// Records of a transaction wait for company no longer: the whole of it is handed over at once.
const LINGER: Duration = Duration::from_millis(50);

impl KafkaConfig {
    /// Settings for a producer of transactions with this id. What a transaction cannot deliver in its own time is not
    /// delivered at all, so records wait no longer than that.
    ///
    /// # Errors
    /// When [`problems`](Self::problems) has any.
    pub(crate) fn transactional(&self, id: &str) -> Result<ClientConfig, KafkaError> {
        let timeout = self.producer.transaction_timeout;
        let mut client = self.producer()?;
        // A request that outlives its transaction helps nobody, and librdkafka refuses to wait so long for one.
        let socket =
            client.get("socket.timeout.ms").and_then(|text| text.parse().ok()).map_or(timeout, Duration::from_millis);
        client
            .set("socket.timeout.ms", millis(socket.min(timeout)))
            .set("transactional.id", id)
            .set("linger.ms", millis(self.producer.linger.min(LINGER)))
            .set("transaction.timeout.ms", millis(timeout))
            .set("message.timeout.ms", millis(self.producer.delivery_timeout.min(timeout)));
        Ok(client)
    }

    /// Settings for a reader of whole partitions that is in no group and is told where each of them ends.
    ///
    /// # Errors
    /// When [`problems`](Self::problems) has any.
    pub(crate) fn changelog_reader(&self, group: &str) -> Result<ClientConfig, KafkaError> {
        // librdkafka wants a group's name of every consumer that assigns; nothing is ever committed under it.
        let mut client = self.consumer(group, None)?;
        client
            .set("enable.partition.eof", "true")
            // A place that the log does not have is said, instead of another one being read.
            .set("auto.offset.reset", "error");
        Ok(client)
    }
}
