//! Records as the broker takes them: how large, and to which partition.

use std::time::{Duration, Instant};

use headwater::{Headers, spi::Outgoing};
use headwater_connectors::kafka::{
    Cluster, Compression, GaplessProducer, HEADER_ROOM, KafkaSource, Producer, PublishPermit, SourceConfig, Start,
    Subscription, TopicSpec, TransactionError, TransactionalProducer,
};
use headwater_tests::{ForeignClient, Space, eventually, patience};

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

/// Red when the producer has no room for a record of exactly its source's limit and its headers, or names
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
    let read = ForeignClient::new(&space).read(&retry);
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
    space.delete_topic(&topic).await;
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
    let places: Vec<_> = ForeignClient::new(&space).read(&topic).into_iter().map(|seen| seen.place).collect();
    assert_eq!(places, [(1, 0)]);
}

/// A topic takes less than a batch, and one record is too large for it: that one is named, and all others arrive, in order, within
/// a transaction and without one.
/// Red when a refused batch is tried the same way again and again, or never in smaller ones, by any of the three; when what was sent
/// behind it is not sent again; when a producer that failed for good is kept; or when what librdkafka keeps behind a record
/// that was refused alone is waited for (`purge` left out in `producer/core/flush.rs`): in order as long as
/// a delivery may take, and in a transaction until its time is over, each time anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fits_passes_a_topic_that_takes_less_than_a_batch() {
    let space = space("narrow").await;
    let passes = tokio::time::timeout(patience(Duration::from_mins(2)), what_fits_passes(&space));
    passes.await.expect("it comes to an end");
}

async fn what_fits_passes(space: &Space) {
    const LARGE: usize = 777;
    let mut kafka = space.kafka();
    kafka.producer.compression = Compression::None;
    let value = |n: usize| [format!("{n:04}").into_bytes(), noise(if n == LARGE { 9_000 } else { 200 })].concat();
    let arrived = |topic: &str| -> Vec<usize> {
        let seen = ForeignClient::new(space).read(topic).into_iter();
        seen.filter_map(|seen| std::str::from_utf8(&seen.value?[..4]).ok()?.parse().ok()).collect()
    };
    let all_but_one = |count: usize| -> Vec<usize> { (0..count).filter(|n| *n != LARGE).collect() };
    let expected = all_but_one(2_000);
    for name in ["plain", "ordered", "atomic"] {
        limited(space, &space.topic(name), 4_000, 1).await;
    }
    let all = |name: &str, count: usize| -> Vec<Outgoing> {
        (0..count).map(|n| record(&space.topic(name), 0, value(n), 0)).collect()
    };

    let plain = all("plain", 2_000);
    let errors = Producer::new(&kafka).expect("a producer").send(&plain).await.expect_err("one is too large").0;
    assert!(errors.len() == 1 && errors[0].index == LARGE && errors[0].permanent, "{errors:?}");
    let mut last = arrived(&space.topic("plain"));
    assert!(last.ends_with(&expected[expected.len() - 1_000..]), "what stands last is in order");
    last.sort_unstable();
    last.dedup();
    assert_eq!(last, expected);

    let mut ordered = GaplessProducer::new(&kafka).expect("a producer");
    let records = all("ordered", 2_000);
    let mut refs: Vec<&Outgoing> = records.iter().collect();
    // Whether others are on their way behind it is chance.
    for _ in 0..5 {
        let began = Instant::now();
        let errors = ordered.send(&refs, &PublishPermit::unconditional()).await.expect_err("one is too large").0;
        assert!(began.elapsed() < kafka.producer.delivery_timeout, "what stands behind it is not waited for");
        assert!(errors.iter().any(|error| error.index == LARGE && error.permanent), "{errors:?}");
    }
    refs.remove(LARGE);
    ordered.send(&refs, &PublishPermit::unconditional()).await.expect("the others fit");
    assert!(arrived(&space.topic("ordered")).ends_with(&expected));

    let group = SourceConfig {
        group: space.topic("group"),
        instance: None,
        subscription: Subscription { topics: vec![space.topic("atomic")], patterns: Vec::new() },
        start: Start::Earliest,
        commits: false,
        assignor: None,
        client_id: None,
    };
    let membership = KafkaSource::join(&kafka, group).expect("a member").membership();
    let mut transactions = TransactionalProducer::new(&kafka, &space.topic("id")).expect("a producer");
    // So many that one may be refused before the last is handed over; whether it is, is chance.
    let mut records = all("atomic", 9_999);
    match transactions.commit(&records, &[], &membership).await {
        Err(TransactionError::Refused { index: LARGE, why }) => assert!(why.contains("max.message.bytes"), "{why}"),
        other => panic!("{other:?}"),
    }
    records.remove(LARGE);
    transactions.commit(&records, &[], &membership).await.expect("the others fit");
    assert_eq!(arrived(&space.topic("atomic")), all_but_one(9_999));
}
