//! Which topics there are, and their ids. The mock has no controller, which is asked for ids: the answer is tested end to
//! end.

use std::time::{Duration, Instant};

use headwater_connectors::kafka::{Cluster, KafkaConfig, KafkaError};
use rdkafka::bindings::rd_kafka_resp_err_t as Error;

use crate::harness::broker;

/// Red when the question has no time limit of a few seconds.
#[tokio::test]
async fn a_cluster_that_is_away_is_an_outage() {
    let config = KafkaConfig { bootstrap: "127.0.0.1:1".to_owned(), ..KafkaConfig::default() };
    let (cluster, begin) = (Cluster::new(&config).unwrap(), Instant::now());
    assert!(matches!(cluster.topic_ids(&["here"]).await, Err(KafkaError::Outage(_))));
    assert!(matches!(cluster.topic_ids(&["a\0b"]).await, Err(KafkaError::Refused(_))));
    assert!(begin.elapsed() < Duration::from_secs(10));
}

/// A broker that has just started may not know its topics yet.
/// Red when one answer without the topic is enough, or one that stays missing is asked for without end.
#[tokio::test]
async fn a_topic_is_missing_only_once_the_cluster_has_said_so_for_a_while() {
    let broker = broker(&[("t", 1)]);
    let cluster = Cluster::new(&broker.config).unwrap();
    assert_eq!(cluster.lacks("t").await, Ok(false));
    broker.mock.topic_error("t", Error::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART).unwrap();
    let told = async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        broker.mock.topic_error("t", Error::RD_KAFKA_RESP_ERR_NO_ERROR).unwrap();
    };
    let (lacks, ()) = tokio::join!(cluster.lacks("t"), told);
    assert_eq!(lacks, Ok(false));
    let began = Instant::now();
    assert_eq!(cluster.lacks("missing").await, Ok(true));
    assert!(began.elapsed() < Duration::from_secs(30));
}
