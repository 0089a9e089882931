//! How the cluster is told to keep less of a partition.

use headwater::TopicPartition;
use rdkafka::{
    TopicPartitionList,
    admin::AdminOptions,
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
};

use super::topics::{ANSWER, Cluster, outage};
use crate::kafka::{
    consumer::partition,
    diagnosis::rights::{ResourceNames, Right, lacking},
    error::KafkaError,
};

/// Lets every record before these offsets go, for good.
///
/// # Errors
/// [`KafkaError::Outage`] when a broker does not answer within 15 s: then some may be gone; [`KafkaError::Refused`] when
/// there is no such partition or offset, we may not, or the topic's `cleanup.policy` has no `delete`.
pub async fn delete_records_before(cluster: &Cluster, places: &[(TopicPartition, i64)]) -> Result<(), KafkaError> {
    if places.is_empty() {
        return Ok(());
    }
    let list = partition::list_at(places.iter().map(|(name, before)| (name, *before)))?;
    let options = AdminOptions::new().request_timeout(Some(ANSWER)).operation_timeout(Some(ANSWER));
    let answer = cluster.admin().delete_records(&list, &options).await.map_err(|error| outage(&error))?;
    refusal(&answer).map_or(Ok(()), Err)
}

fn refusal(answer: &TopicPartitionList) -> Option<KafkaError> {
    answer.elements().iter().find_map(|element| {
        let error = element.error().err()?;
        let name = TopicPartition::new(element.topic(), element.partition());
        Some(refused(&name, &error))
    })
}

fn refused(name: &TopicPartition, error: &ClientError) -> KafkaError {
    let what = format!("records of {name} cannot be deleted");
    match error.rdkafka_error_code() {
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
            KafkaError::Refused(format!("there is no partition {name}"))
        }
        Some(Code::OffsetOutOfRange) => KafkaError::Refused(format!("{what}: its log does not reach so far")),
        Some(Code::PolicyViolation) => {
            KafkaError::Refused(format!("{what}: set its cleanup.policy to compact,delete and its retention.ms to -1"))
        }
        Some(code) if let Some(why) = lacking(code, Right::Delete, ResourceNames::topic(&name.topic)) => {
            KafkaError::Refused(why)
        }
        _ => KafkaError::Outage(format!("{what}: the kafka cluster does not answer: {error}")),
    }
}
