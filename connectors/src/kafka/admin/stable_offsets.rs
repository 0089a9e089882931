//! What a group has committed, transactions that are still open waited for.

use std::time::{Duration, Instant};

use headwater::TopicPartition;
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError as ClientError, KafkaResult, RDKafkaErrorCode as Code},
};

use super::admin_clients::Logs;
use crate::kafka::{
    config::{KafkaConfig, client_settings::ClientSettings},
    consumer::partition,
    credentials,
    diagnosis::rights::{ResourceNames, Right, lacking},
    error::KafkaError,
    librdkafka::live_clients::ClientHandle,
};

/// How long one question may take.
const ANSWER: Duration = Duration::from_secs(5);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);
/// How long beyond a transaction's time a coordinator may take to end it: it looks for such transactions every 10 s.
pub(crate) const SWEEP: Duration = Duration::from_secs(20);

/// The offset that `group` has committed of each of these, in their order, `None` where there is none. A transaction that
/// is under way may change them, and is waited for, as long as one may take.
///
/// # Errors
/// [`KafkaError::Outage`] when the coordinator does not answer, or a transaction does not end, within
/// `kafka.producer.transaction_timeout` and 20 s; [`KafkaError::Refused`] when we may not read them.
pub async fn stable_offsets(
    config: &KafkaConfig,
    group: &str,
    partitions: &[TopicPartition],
) -> Result<Vec<Option<i64>>, KafkaError> {
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let settings = config.consumer(group, None)?;
    let patience = config.producer.transaction_timeout + SWEEP;
    let (group, names) = (group.to_owned(), partitions.to_vec());
    let ask = move || {
        // `isolation.level=read_committed`, which every consumer of ours has, makes librdkafka ask for stable offsets.
        let consumer = outsider(&settings)?;
        patiently(&group, patience, || read(&consumer.committed_offsets(partition::list(&names), ANSWER)?, &names))
    };
    tokio::task::spawn_blocking(ask).await.map_err(|error| KafkaError::Outage(error.to_string()))?
}

/// A consumer that only asks, and is in no group: it neither subscribes nor assigns. An admin request, which could ask the
/// same, may abort the process (`kafka/librdkafka/admin.rs`).
pub(crate) fn outsider(settings: &ClientSettings) -> Result<ClientHandle<BaseConsumer<Logs>>, KafkaError> {
    let built = credentials::create(settings, Logs);
    built.map_err(|error| KafkaError::Config(format!("cannot build a kafka consumer: {error}")))
}

fn read(list: &TopicPartitionList, names: &[TopicPartition]) -> KafkaResult<Vec<Option<i64>>> {
    names
        .iter()
        .map(|name| {
            let Some(element) = list.find_partition(&name.topic, name.partition) else { return Ok(None) };
            element.error()?;
            Ok(if let Offset::Offset(next) = element.offset() { Some(next) } else { None })
        })
        .collect()
}

fn patiently<T>(group: &str, patience: Duration, ask: impl Fn() -> KafkaResult<T>) -> Result<T, KafkaError> {
    let deadline = Instant::now() + patience;
    loop {
        let error = match ask() {
            Ok(answer) => return Ok(answer),
            Err(error) => error,
        };
        if let Some(refusal) = refusal(group, &error) {
            return Err(refusal);
        }
        if Instant::now() + PAUSE > deadline {
            let waited = patience.as_secs();
            let why = match error.rdkafka_error_code() {
                Some(Code::UnstableOffsetCommit) => "a transaction on them does not end".to_owned(),
                _ => format!("its coordinator does not answer: {error}"),
            };
            return Err(KafkaError::Outage(format!(
                "the offsets of group {group} cannot be read for {waited} s: {why}"
            )));
        }
        std::thread::sleep(PAUSE);
    }
}

fn refusal(group: &str, error: &ClientError) -> Option<KafkaError> {
    let why = lacking(error.rdkafka_error_code()?, Right::Describe, ResourceNames::group(group))?;
    Some(KafkaError::Refused(format!("the offsets of group {group} cannot be read: {why}")))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    /// Red when an open transaction is an error at once, one that does not end is waited for without end, or a refusal is
    /// asked again.
    #[test]
    fn an_open_transaction_is_waited_for_so_long() {
        let fails = |code| Err::<i64, _>(ClientError::OffsetFetch(code));
        let tries = Cell::new(0);
        let ask = || {
            tries.set(tries.get() + 1);
            if tries.get() < 3 { fails(Code::UnstableOffsetCommit) } else { Ok(7) }
        };
        assert_eq!(patiently("g", Duration::from_secs(60), ask), Ok(7));
        let error = patiently("g", Duration::from_millis(250), || fails(Code::UnstableOffsetCommit)).unwrap_err();
        assert!(matches!(&error, KafkaError::Outage(why) if why.contains("does not end")), "{error}");
        tries.set(0);
        let ask = || {
            tries.set(tries.get() + 1);
            fails(Code::GroupAuthorizationFailed)
        };
        let error = patiently("g", Duration::from_secs(60), ask).unwrap_err();
        assert!(matches!(error, KafkaError::Refused(_)) && tries.get() == 1, "{error}");
    }
}
