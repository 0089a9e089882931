//! A producer that leaves no gaps: of what it is given, what stands on a partition is always a prefix, whatever fails.
//!
//! librdkafka keeps an idempotent producer's records in order, but lets later ones stand where an earlier one was refused or
//! given up. Here none is given up: while the broker is away records wait in the producer, and a call that fails of it is
//! followed by one that waits for them first. What is refused takes the producer with it, and all that was sent behind.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use headwater::Outgoing;
use rdkafka::{
    ClientConfig,
    error::RDKafkaErrorCode as Code,
    producer::{Producer as _, PurgeConfig, ThreadedProducer},
};

use super::{
    core::{
        batch_size::BatchBytes,
        fault::{BatchError, BatchErrors, Fault},
        partition_counts::{Asked, Counts, FixedCounts},
        reports::{Reports, Sent},
    },
    idempotent::Names,
};
use crate::kafka::{
    config::KafkaConfig,
    consumer::membership::lease::Held,
    error::KafkaError,
    librdkafka::{self, bootstrap::Bootstrap},
};

/// How long to wait for room in a full queue before trying again.
const QUEUE_FULL_WAIT: Duration = Duration::from_millis(1);
/// Between two looks whether the producer has failed while records are waited for.
const FLUSH: Duration = Duration::from_millis(200);
/// Between two questions how many partitions a topic has, while nobody answers.
const COUNT_WAIT: Duration = Duration::from_millis(200);
/// After so many records it is asked again whether the rest may be published.
const STRETCH: usize = 16;

type Client = ThreadedProducer<Reports>;

/// A producer of one call at a time, without gaps.
pub struct GaplessProducer {
    settings: ClientConfig,
    batches: BatchBytes,
    patience: Duration,
    max_bytes: u32,
    counts: Counts,
    fixed: FixedCounts,
    bootstrap: Bootstrap,
    client: Option<Arc<Client>>,
}

impl GaplessProducer {
    /// A producer for this cluster. Does not connect yet.
    ///
    /// # Errors
    /// When the configuration cannot work.
    pub fn new(config: &KafkaConfig) -> Result<Self, KafkaError> {
        Ok(Self {
            settings: config.producer_in_order()?,
            batches: BatchBytes::new(config.producer.batch_bytes),
            patience: config.producer.delivery_timeout,
            max_bytes: config.max_record_bytes,
            counts: Counts::default(),
            fixed: FixedCounts::default(),
            bootstrap: Bootstrap::new(&config.bootstrap),
            client: None,
        })
    }

    /// From now on records for these topics which name no partition go where their key has one of so many.
    pub fn fix_counts(&mut self, topics: impl IntoIterator<Item = String>, count: i32) {
        self.fixed.fix(topics, count);
    }

    /// Publishes these records in this order, at once, and waits for every acknowledgement, at most
    /// `kafka.producer.delivery_timeout`; says where they stand. Dropping the future, as an error, does not take back what
    /// was handed over: records of the next call stand behind it.
    ///
    /// # Errors
    /// Records that are refused, or may not be published any more, or any one where the broker does not answer. Of each partition those up to some record
    /// stand there, or may yet; none behind it.
    pub async fn send(&mut self, records: &[&Outgoing], held: &Held) -> Result<Sent, BatchErrors> {
        if records.is_empty() {
            return Ok(Sent::default());
        }
        let deadline = Instant::now() + self.patience;
        let client = self.client().map_err(|why| failed(0, why))?;
        // What an earlier call has left comes first: its fate was not known, and is of no interest any more.
        if !flushed(&client, deadline).await {
            return Err(self.away(0));
        }
        self.count(&client, records, deadline).await?;
        let attempt = client.context().begin(records.len());
        let stopped = self.hand_over((&client, held), records, attempt, deadline).await;
        let is_flushed = flushed(&client, deadline).await;
        let faults = client.context().faults();
        let mut faults: Vec<_> = faults.into_iter().map(|(index, code)| (index, Fault::of(code))).collect();
        faults.extend(stopped.err());
        if is_flushed && self.batches.narrow(&faults, |index| records[index]) {
            // Nothing of it is under way any more: all of it again, from the first on.
            self.let_go();
            return Box::pin(self.send(records, held)).await;
        }
        if !faults.is_empty() {
            return Err(self.refused(&client, faults, records));
        }
        if !is_flushed || client.context().left() > 0 {
            return Err(self.away(0));
        }
        Ok(client.context().take_sent())
    }

    /// Waits for what earlier calls have left, at most `kafka.producer.delivery_timeout`.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub async fn settle(&self) -> Result<(), BatchErrors> {
        let Some(client) = &self.client else { return Ok(()) };
        if flushed(client, Instant::now() + self.patience).await { Ok(()) } else { Err(self.away(0)) }
    }

    /// Takes back what earlier calls have left, as far as it is not on its way.
    pub fn abandon(&mut self) {
        if let Some(client) = self.client.take_if(|client| client.in_flight_count() > 0) {
            // Closing one blocks.
            tokio::task::spawn_blocking(move || drop(client));
        }
    }

    fn client(&mut self) -> Result<Arc<Client>, String> {
        if let Some(client) = &self.client {
            return Ok(Arc::clone(client));
        }
        let client = self
            .batches
            .applied(&self.settings)
            .create_with_context(Reports::default())
            .map_err(|error| error.to_string())?;
        Ok(Arc::clone(self.client.insert(Arc::new(client))))
    }

    /// Hands records over up to the first that is not taken.
    async fn hand_over(
        &self,
        (client, held): (&Client, &Held),
        records: &[&Outgoing],
        attempt: usize,
        deadline: Instant,
    ) -> Result<(), (usize, Fault)> {
        let mut names = Names::default();
        for (index, record) in records.iter().enumerate() {
            let refused = |fault| (index, fault);
            if index % STRETCH == 0 {
                held.stands().await.map_err(|why| refused(Fault::Closed(why)))?;
            }
            let topic = names.of(&record.topic).map_err(|error| refused(Fault::Client(error.into())))?;
            let partition = match record.partition {
                Some(number) => self.counts.place(&record.topic, number),
                None => self.fixed.place(record),
            };
            let number = Reports::numbered(attempt, index);
            while let Err(code) =
                librdkafka::produce::produce_numbered(client.client(), topic, record, partition, number)
            {
                match code {
                    Code::QueueFull if Instant::now() < deadline && client.context().faults().is_empty() => {
                        tokio::time::sleep(QUEUE_FULL_WAIT).await;
                        held.stands().await.map_err(|why| refused(Fault::Closed(why)))?;
                    }
                    Code::MessageSizeTooLarge => return Err(refused(Fault::Oversize)),
                    code => return Err(refused(Fault::of(code))),
                }
            }
        }
        Ok(())
    }

    /// Learns how many partitions those topics have whose partition a record names.
    async fn count(&self, client: &Arc<Client>, records: &[&Outgoing], deadline: Instant) -> Result<(), BatchErrors> {
        for (index, record) in records.iter().enumerate() {
            while record.partition.is_some() && self.counts.get(&record.topic).is_none() {
                let (asked, topic) = (Arc::clone(client), Arc::clone(&record.topic));
                let answer = tokio::task::spawn_blocking(move || Counts::ask(asked.client(), &topic)).await;
                match answer.map_err(|error| failed(index, error.to_string()))? {
                    Asked::Count(count) => self.counts.keep(&record.topic, count),
                    Asked::Refused(error) => {
                        let error = Fault::Client(error).describe(index, record, self.max_bytes);
                        return Err(BatchErrors(vec![error]));
                    }
                    Asked::Nobody if Instant::now() < deadline => tokio::time::sleep(COUNT_WAIT).await,
                    Asked::Nobody => return Err(self.away(index)),
                }
            }
        }
        Ok(())
    }

    /// Records have failed; a producer that can do nothing any more is let go.
    fn refused(&mut self, client: &Client, faults: Vec<(usize, Fault)>, records: &[&Outgoing]) -> BatchErrors {
        if client.client().fatal_error().is_some() {
            self.let_go();
        }
        let another = faults.iter().filter(|(_, fault)| fault.is_of_another_topic());
        another.for_each(|(index, _)| self.counts.forget(&records[*index].topic));
        let describe = |(index, fault): (usize, Fault)| fault.describe(index, records[index], self.max_bytes);
        BatchErrors(faults.into_iter().map(describe).collect())
    }

    fn let_go(&mut self) {
        let client = self.client.take();
        // Closing one blocks.
        tokio::task::spawn_blocking(move || drop(client));
    }

    fn away(&self, index: usize) -> BatchErrors {
        if let Some(client) = &self.client {
            self.bootstrap.again(client.client());
        }
        failed(index, format!("no acknowledgement within {:?}: the broker may be down", self.patience))
    }
}

/// Waits until every record has its fate; whether that is so.
async fn flushed(client: &Arc<Client>, deadline: Instant) -> bool {
    if client.in_flight_count() == 0 {
        return true;
    }
    let client = Arc::clone(client);
    let flush = move || loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let flushed = librdkafka::transactions::flush(client.client(), left.min(FLUSH));
        if flushed || left.is_zero() {
            return flushed;
        }
        if client.client().fatal_error().is_some() {
            // librdkafka keeps what came back behind a record that was refused, and sends it no more.
            client.purge(PurgeConfig::default().queue());
        }
    };
    tokio::task::spawn_blocking(flush).await.unwrap_or(false)
}

fn failed(index: usize, reason: String) -> BatchErrors {
    BatchErrors(vec![BatchError { index, reason, permanent: false }])
}
