//! A producer that leaves no gaps: of what it is given, what stands on a partition is always a prefix, whatever fails.
//!
//! librdkafka keeps an idempotent producer's records in order, but lets later ones stand where an earlier one was refused or
//! given up. Here none is given up: while the broker is away records wait in the producer, and a call that fails of it is
//! followed by one that waits for them first. What is refused takes the producer with it, and all that was sent behind.

use std::{sync::Arc, time::Instant};

use headwater::spi::Outgoing;
use rdkafka::producer::Producer as _;

use super::core::{
    Core, ProducerClient,
    flush::flush,
    partition_counts::ask_aside,
    produce_error::{BatchError, BatchErrors, ProduceError},
    reports::{EndOffsets, Reports},
};
use crate::kafka::{config::KafkaConfig, consumer::membership::lease::PublishPermit, error::KafkaError};

type Client = ProducerClient<Reports>;

/// A producer of one call at a time, without gaps.
pub struct GaplessProducer {
    core: Core,
    client: Option<Arc<Client>>,
}

impl GaplessProducer {
    /// A producer for this cluster. Does not connect yet.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(config: &KafkaConfig) -> Result<Self, KafkaError> {
        let core = Core::new(config, config.producer_in_order()?, config.producer.delivery_timeout);
        Ok(Self { core, client: None })
    }

    /// From now on records for these topics which name no partition go where their key has one of so many.
    pub fn fix_counts(&mut self, topics: impl IntoIterator<Item = String>, count: i32) {
        self.core.fix_counts(topics, count);
    }

    /// Publishes these records in this order, at once, and waits for every acknowledgement, at most
    /// `kafka.producer.delivery_timeout`; says where they stand. Dropping the future, as an error, does not take back what
    /// was handed over: records of the next call stand behind it.
    ///
    /// # Errors
    /// Records that are refused, or may not be published any more, or any one where the broker does not answer. Of each partition those up to some record
    /// stand there, or may yet; none behind it.
    pub async fn send(&mut self, records: &[&Outgoing], permit: &PublishPermit) -> Result<EndOffsets, BatchErrors> {
        if records.is_empty() {
            return Ok(EndOffsets::default());
        }
        let deadline = Instant::now() + self.core.patience;
        let client = self.client().map_err(failed)?;
        // What an earlier call has left comes first: its fate was not known, and is of no interest any more.
        if !self.flushed(&client, deadline).await {
            return Err(self.away());
        }
        self.count(&client, records, deadline).await?;
        let attempt = client.context().begin(records.len());
        let handed_over = self.core.hand_over(permit).all_numbered(&client, records, attempt, deadline).await;
        let is_flushed = self.flushed(&client, deadline).await;
        let errors = client.context().errors();
        let mut errors: Vec<_> = errors.into_iter().map(|(index, code)| (index, ProduceError::of(code))).collect();
        errors.extend(handed_over.err());
        if is_flushed && self.core.narrow(&errors, records) {
            // Nothing of it is under way any more: all of it again, from the first on.
            self.let_go();
            return Box::pin(self.send(records, permit)).await;
        }
        if !errors.is_empty() {
            return Err(self.refused(&client, errors, records));
        }
        if !is_flushed || client.context().left() > 0 {
            return Err(self.away());
        }
        Ok(client.context().take_end_offsets())
    }

    /// Waits for what earlier calls have left, at most `kafka.producer.delivery_timeout`.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn settle(&self) -> Result<(), BatchErrors> {
        let Some(client) = &self.client else { return Ok(()) };
        if self.flushed(client, Instant::now() + self.core.patience).await { Ok(()) } else { Err(self.away()) }
    }

    /// Takes back what earlier calls have left, as far as it is not on its way.
    pub fn abandon(&mut self) {
        if self.client.as_ref().is_some_and(|client| client.in_flight_count() > 0) {
            self.let_go();
        }
    }

    fn client(&mut self) -> Result<Arc<Client>, String> {
        if let Some(client) = &self.client {
            return Ok(Arc::clone(client));
        }
        let client = self.core.client(Reports::default())?;
        Ok(Arc::clone(self.client.insert(Arc::new(client))))
    }

    /// Learns how many partitions those topics have whose partition a record names.
    async fn count(&self, client: &Arc<Client>, records: &[&Outgoing], deadline: Instant) -> Result<(), BatchErrors> {
        for (index, record) in self.core.uncounted(records) {
            let ask = || ask_aside(client, &record.topic);
            let counted = self.core.count(client.client(), &record.topic, deadline, ask).await;
            counted.map_err(|error| self.core.errors(vec![(index, error)], records))?;
        }
        Ok(())
    }

    /// Records have failed; a producer that can do nothing any more is let go.
    fn refused(&mut self, client: &Client, errors: Vec<(usize, ProduceError)>, records: &[&Outgoing]) -> BatchErrors {
        if client.client().fatal_error().is_some() {
            self.let_go();
        }
        self.core.recount(&errors, records);
        self.core.errors(errors, records)
    }

    fn let_go(&mut self) {
        let client = self.client.take();
        // Closing one blocks.
        tokio::task::spawn_blocking(move || drop(client));
    }

    /// Waits until every record has its fate; whether that is so.
    async fn flushed(&self, client: &Arc<Client>, deadline: Instant) -> bool {
        if client.in_flight_count() == 0 {
            return true;
        }
        let own = Arc::clone(client);
        let flush = move || flush(&own, deadline, || own.client().fatal_error().is_some());
        self.core.wait(client.client(), tokio::task::spawn_blocking(flush)).await.unwrap_or(false)
    }

    fn away(&self) -> BatchErrors {
        failed(format!("no acknowledgement within {:?}: the broker may be down", self.core.patience))
    }
}

fn failed(reason: String) -> BatchErrors {
    BatchErrors(vec![BatchError { index: 0, reason, permanent: false }])
}
