//! Records as the broker takes them: how large, and to which partition.

use std::time::Duration;

use headwater::{Headers, Outgoing};
use headwater_connectors::kafka::{Cluster, Compression, HEADER_ROOM, Producer, TopicSpec};
use headwater_tests::{Foreign, Space, eventually};
use rdkafka::{
    ClientConfig,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
};

use crate::space;

const SOON: Duration = Duration::from_secs(30);
const LIMIT: usize = 2_000_000;

async fn limited(space: &Space, name: &str, limit: usize, partitions: i32) {
    let config = vec![("max.message.bytes".to_owned(), limit.to_string())];
    let spec = TopicSpec { name: name.to_owned(), partitions, replication: 1, config };
    Cluster::new(&space.kafka()).expect("valid").apply(&[spec]).await.expect("the topic is created");
}

fn record(topic: &str, partition: i32, value: Vec<u8>, header: usize) -> Outgoing {
    let mut headers = Headers::default();
    if header > 0 {
        headers.push("hw_error_detail", Some(&noise(header)));
    }
    Outgoing { topic: topic.into(), partition: Some(partition), key: None, value: Some(value), headers }
}

/// Bytes that no codec makes smaller.
fn noise(count: usize) -> Vec<u8> {
    let mut state = 88_172_645_463_325_252_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[0]
    };
    std::iter::repeat_with(&mut next).take(count).collect()
}

/// Red when a topic that does not exist fails the others, or only what a topic has of its own is read.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_message_of_each_topic_is_known() {
    let space = space("limits").await;
    let (small, plain, missing) = (space.topic("small"), space.topic("plain"), space.topic("missing"));
    limited(&space, &small, LIMIT, 1).await;
    space.create_topics(&[&plain], 1).await;
    let cluster = Cluster::new(&space.kafka()).expect("valid");
    let known = cluster.max_message_bytes(&[&small, &missing, &plain]).await.expect("the cluster answers");
    let expected = [(plain, 1_048_588), (small, LIMIT as u64)];
    assert_eq!(known.into_iter().collect::<Vec<_>>(), expected);
    assert!(cluster.max_message_bytes(&[]).await.expect("nothing is asked").is_empty());
}

/// PITFALLS 38. Red when the producer has no room for a record of exactly its source's limit and its headers, or names
/// another setting than the one that is too small.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_of_exactly_the_sources_limit_is_passed_on_with_all_its_headers() {
    let space = space("at_limit").await;
    let (source, retry) = (space.topic("source"), space.topic("retry"));
    let room = usize::try_from(HEADER_ROOM).expect("it fits");
    limited(&space, &source, LIMIT, 1).await;
    limited(&space, &retry, LIMIT + room, 3).await;
    let mut plain = space.kafka();
    plain.producer.compression = Compression::None;
    let foreign = Producer::new(&plain).expect("a producer");
    // The frame counts: found out by trying.
    let (mut fits, mut refused) = (LIMIT - 200, LIMIT);
    while refused - fits > 1 {
        let size = usize::midpoint(fits, refused);
        match foreign.send(&[record(&source, 0, noise(size), 0)]).await {
            Ok(()) => fits = size,
            Err(errors) => {
                assert!(errors.0[0].permanent && errors.0[0].reason.contains("max.message.bytes"), "{errors}");
                refused = size;
            }
        }
    }
    let producer = Producer::new(&space.kafka()).expect("a producer");
    // Name and lengths of the header count as well, and the record's own length takes a byte more.
    producer.send(&[record(&retry, 7, noise(fits), room - 30)]).await.expect("there is room");
    let errors = producer.send(&[record(&retry, 7, noise(fits), room + 1)]).await.expect_err("there is none");
    assert!(errors.0[0].reason.contains("raise the topic's max.message.bytes"), "{errors}");
    let read = Foreign::new(&space).read(&retry);
    assert_eq!((read.len(), read[0].place), (1, (1, 0)));
    assert!(read[0].value.as_deref() == Some(&noise(fits)[..]));
    for producer in [foreign, producer] {
        producer.close(Duration::from_secs(10)).await.expect("nothing is left");
    }
}

/// Red when the partitions of a topic that was created anew are not counted again: its records would fail for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_topic_created_anew_with_fewer_partitions_is_counted_again() {
    let space = space("fewer").await;
    let topic = space.topic("t");
    space.create_topics(&[&topic], 6).await;
    let producer = Producer::new(&space.kafka()).expect("a producer");
    producer.send(&[record(&topic, 5, vec![0], 0)]).await.expect("there is a partition 5");
    let admin: AdminClient<DefaultClientContext> =
        ClientConfig::new().set("bootstrap.servers", &space.endpoints.kafka_bootstrap).create().expect("a client");
    admin.delete_topics(&[&topic], &AdminOptions::new()).await.expect("deleted");
    let recreated = async || {
        let spec = TopicSpec { name: topic.clone(), partitions: 2, replication: 1, config: Vec::new() };
        let cluster = Cluster::new(&space.kafka()).expect("valid");
        let plan = cluster.apply(std::slice::from_ref(&spec)).await;
        plan.is_ok() && cluster.plan(&[spec]).await.is_ok_and(|plan| plan.is_empty())
    };
    eventually("the topic is there again", SOON, recreated).await;
    let sent = async || match producer.send(&[record(&topic, 5, vec![1], 0)]).await {
        Ok(()) => true,
        Err(errors) => {
            assert!(!errors.0[0].permanent, "{errors}");
            false
        }
    };
    eventually("the record is sent", SOON, sent).await;
    let places: Vec<_> = Foreign::new(&space).read(&topic).into_iter().map(|seen| seen.place).collect();
    assert_eq!(places, [(1, 0)]);
}
