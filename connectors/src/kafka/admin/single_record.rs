//! Reading one record where it stands, for who knows its place.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use headwater::{TopicPartition, spi::Record};
use rdkafka::{
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
};

use super::admin_clients::Logs;
use crate::kafka::{
    config::KafkaConfig,
    consumer::partition,
    credentials,
    diagnosis::rights::{ResourceNames, Right, lacking},
    error::KafkaError,
    librdkafka::{fetch::FetchQueue, live_clients::ClientHandle},
};

/// How long the cluster may take, the largest record included.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long one question to the brokers may take.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a round waits for records.
const ROUND: Duration = Duration::from_millis(100);

/// The record at this offset, if its topic still holds it; under this group's name, but in no group.
///
/// # Errors
/// [`KafkaError::Outage`] when the cluster does not answer within 20 s; [`KafkaError::Refused`] when there is no such
/// partition, or we may not read it.
pub async fn record_at(
    config: &KafkaConfig,
    group: &str,
    place: &TopicPartition,
    offset: i64,
) -> Result<Option<Record>, KafkaError> {
    let settings = config.changelog_reader(group)?;
    let place = place.clone();
    let read = move || {
        let built = credentials::create(&settings, Logs);
        let consumer: ClientHandle<BaseConsumer<Logs>> =
            built.map_err(|error| KafkaError::Config(format!("cannot build a kafka consumer: {error}")))?;
        let (low, high) = consumer
            .fetch_watermarks(&place.topic, place.partition, ANSWER)
            .map_err(|error| unread(&place, error.rdkafka_error_code().unwrap_or(Code::Fail)))?;
        if (low..high).contains(&offset) { one(&consumer, &place, offset) } else { Ok(None) }
    };
    let read = tokio::task::spawn_blocking(read).await;
    read.unwrap_or_else(|error| Err(KafkaError::Outage(format!("the record could not be read: {error}"))))
}

fn one(consumer: &BaseConsumer<Logs>, place: &TopicPartition, offset: i64) -> Result<Option<Record>, KafkaError> {
    let without = || KafkaError::Outage("there is no memory to read a record".to_owned());
    let queue = FetchQueue::new(consumer.client()).ok_or_else(without)?;
    if !queue.attach(consumer.client(), place) {
        return Err(without());
    }
    let away = |error: ClientError| unread(place, error.rdkafka_error_code().unwrap_or(Code::Fail));
    consumer.assign(&partition::list_at([(place, offset)])?).map_err(away)?;
    let (deadline, mut trouble) = (Instant::now() + PATIENCE, Code::OperationTimedOut);
    while Instant::now() < deadline {
        while queue.has_events() {
            if let Some(Err(error)) = consumer.poll(Duration::ZERO) {
                trouble = error.rdkafka_error_code().unwrap_or(trouble);
            }
        }
        for message in queue.take(consumer.client(), ROUND) {
            match message.error() {
                // Behind it, or where it stood, is nothing.
                Some((Code::PartitionEOF | Code::AutoOffsetReset | Code::OffsetOutOfRange, _)) => return Ok(None),
                Some((code, _)) => trouble = code,
                None if message.offset() < offset => {}
                None => {
                    let is_it = message.offset() == offset;
                    return Ok(is_it.then(|| message.record(&Arc::clone(&place.topic))));
                }
            }
        }
    }
    Err(unread(place, trouble))
}

fn unread(place: &TopicPartition, code: Code) -> KafkaError {
    match code {
        Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition => {
            KafkaError::Refused(format!("there is no partition {place} any more"))
        }
        code if let Some(why) = lacking(code, Right::Read, ResourceNames::topic(&place.topic)) => {
            KafkaError::Refused(why)
        }
        code => KafkaError::Outage(format!("{place} cannot be read: the kafka cluster does not answer: {code}")),
    }
}
