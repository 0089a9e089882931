//! The ids of topics. The mock has no controller, which is the one that is asked: the answer is tested end to end.

use std::time::{Duration, Instant};

use headwater_connectors::kafka::{Cluster, KafkaConfig, KafkaError};

/// Red when the question has no time limit of a few seconds.
#[tokio::test]
async fn a_cluster_that_is_away_is_an_outage() {
    let config = KafkaConfig { bootstrap: "127.0.0.1:1".to_owned(), ..KafkaConfig::default() };
    let (cluster, begin) = (Cluster::new(&config).unwrap(), Instant::now());
    assert!(matches!(cluster.topic_ids(&["here"]).await, Err(KafkaError::Outage(_))));
    assert!(matches!(cluster.topic_ids(&["a\0b"]).await, Err(KafkaError::Refused(_))));
    assert!(begin.elapsed() < Duration::from_secs(10));
}
