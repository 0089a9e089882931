//! Partitions that are assigned: where reading of them begins.

use std::time::Duration;

use headwater::{
    TopicPartition,
    spi::{Control, Source as _, SourceEvent, StartFrom},
};
use headwater_connectors::kafka::{Assignor, KafkaConfig, KafkaSource, SourceConfig, Start, Subscription};
use headwater_tests::{ForeignClient, Proxy, Side};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    producer::Producer as _,
};
use tokio::time::timeout;

use crate::space;

const SOON: Duration = Duration::from_secs(30);

/// What is asked of a broker may be answered late, and librdkafka then goes where the answer says, over the
/// place that it was told meanwhile. So nothing is asked where partitions are assigned: it has no place to look up.
/// Red when partitions are assigned at their beginning or end, at their committed offset, or before they are paused (the
/// last for a log that does not begin at 0).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_assignment_asks_for_no_offset_that_could_come_late() {
    let space = space("assigned").await;
    let topic = space.topic("late");
    space.create_topics(&[&topic], 4).await;
    let foreign = ForeignClient::new(&space);
    (0..40).for_each(|n| foreign.send(&topic, Some(&n.to_string()), Some(b"x"), &[]));
    foreign.flush();
    for assignor in [Assignor::Range, Assignor::CooperativeSticky] {
        let mut proxy = Proxy::kafka(&space.endpoints.kafka_bootstrap).await;
        let kafka = KafkaConfig { bootstrap: proxy.address().to_owned(), ..space.kafka() };
        proxy.watch(Side::Before, &["ListOffsets", &topic]);
        let mut source =
            KafkaSource::join(&kafka, source(&space.topic(assignor_name(assignor)), &topic, assignor)).expect("joins");
        let names = assigned(&mut source).await;
        // An assignment that looks its places up does so at once, and again every 500 ms.
        assert!(proxy.next(Duration::from_secs(1)).await.is_none(), "{assignor:?}: the assignment asks for offsets");
        proxy.unwatch();
        for (start, partition) in (1..).zip(names) {
            source.control(Control::Begin { partition, from: StartFrom::Offset(1), start });
        }
        let mut read = 0;
        while read < 40 - 4 {
            match timeout(SOON, source.next(true)).await.expect("records come") {
                SourceEvent::Records(batch) => read += batch.records.len(),
                SourceEvent::Connected(Ok(())) => {}
                other => panic!("records expected, not {other:?}"),
            }
        }
        source.control(Control::Close);
    }
}

/// A new group commits where its partitions begin before it reads them.
/// Fails where each partition has a commit of its own, for whose answer the polling thread waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_that_begin_together_are_committed_together() {
    let space = space("together").await;
    let (topic, group) = (space.topic("many"), space.topic("group"));
    space.create_topics(&[&topic], 12).await;
    let foreign = ForeignClient::new(&space);
    (0..40).for_each(|n| foreign.send(&topic, Some(&n.to_string()), Some(b"x"), &[]));
    foreign.flush();
    let mut proxy = Proxy::kafka(&space.endpoints.kafka_bootstrap).await;
    let kafka = KafkaConfig { bootstrap: proxy.address().to_owned(), ..space.kafka() };
    proxy.watch(Side::Before, &["OffsetCommit", &group]);
    let mut source = KafkaSource::join(&kafka, source(&group, &topic, Assignor::Range)).expect("joins");
    for (start, partition) in (1..).zip(assigned(&mut source).await) {
        source.control(Control::Begin { partition, from: StartFrom::Committed, start });
    }
    let (mut commits, mut read) = (0, 0);
    while read < 40 {
        tokio::select! {
            held = proxy.next(SOON) => {
                held.expect("where the group starts is committed, or a record comes").pass();
                commits += 1;
            }
            fetched = source.next(true) => match fetched {
                SourceEvent::Records(batch) => read += batch.records.len(),
                SourceEvent::Connected(Ok(())) => {}
                other => panic!("records expected, not {other:?}"),
            }
        }
    }
    // The thread takes up the work before it has been told of all partitions, and before all logs have answered.
    assert!((1..=6).contains(&commits), "{commits} commits for 12 partitions");
    source.control(Control::Close);
}

/// Another member decides where a new group starts while this one asks where the logs end.
/// Fails where the member commits what it has found without looking again: the record that came in between is skipped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_that_was_overtaken_takes_what_another_has_decided() {
    let space = space("overtaken").await;
    let (topic, group) = (space.topic("one"), space.topic("group"));
    space.create_topics(&[&topic], 1).await;
    let foreign = ForeignClient::new(&space);
    (0..5).for_each(|_| foreign.send(&topic, None, Some(b"old"), &[]));
    foreign.flush();
    let other = foreign.transactional(&space.topic("other"));
    let mut proxy = Proxy::kafka(&space.endpoints.kafka_bootstrap).await;
    let kafka = KafkaConfig { bootstrap: proxy.address().to_owned(), ..space.kafka() };
    proxy.watch(Side::Before, &["ListOffsets", &topic]);
    let config = SourceConfig { start: Start::Latest, ..source(&group, &topic, Assignor::Range) };
    let mut source = KafkaSource::join(&kafka, config).expect("joins");
    for (start, partition) in (1..).zip(assigned(&mut source).await) {
        source.control(Control::Begin { partition, from: StartFrom::Committed, start });
    }
    let held = proxy.next(SOON).await.expect("it asks where the log ends");
    // In a transaction that names no member, since this group has one.
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &space.endpoints.kafka_bootstrap)
        .set("group.id", &group)
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&topic, 0, Offset::Offset(5)).expect("an offset");
    other.begin_transaction().expect("begins");
    let metadata = consumer.group_metadata().expect("a group");
    other.send_offsets_to_transaction(&list, &metadata, SOON).expect("is taken");
    other.commit_transaction(SOON).expect("commits");
    foreign.send(&topic, None, Some(b"new"), &[]);
    foreign.flush();
    proxy.unwatch();
    held.pass();
    loop {
        match timeout(SOON, source.next(true)).await.expect("the record comes") {
            SourceEvent::Records(batch) if batch.records.is_empty() => {}
            SourceEvent::Records(batch) => {
                let offsets: Vec<_> = batch.records.iter().map(|record| record.offset).collect();
                break assert_eq!(offsets, [5]);
            }
            SourceEvent::Connected(Ok(())) => {}
            other => panic!("records expected, not {other:?}"),
        }
    }
    source.control(Control::Close);
}

/// The partitions of the first assignment.
async fn assigned(source: &mut KafkaSource) -> Vec<TopicPartition> {
    loop {
        match timeout(SOON, source.next(true)).await.expect("the partitions are assigned") {
            SourceEvent::Assigned(names) if !names.is_empty() => return names,
            SourceEvent::Assigned(_) | SourceEvent::Connected(_) => {}
            other => panic!("assigned expected, not {other:?}"),
        }
    }
}

const fn assignor_name(assignor: Assignor) -> &'static str {
    match assignor {
        Assignor::Range => "range",
        Assignor::CooperativeSticky => "sticky",
    }
}

fn source(group: &str, topic: &str, assignor: Assignor) -> SourceConfig {
    SourceConfig {
        group: group.to_owned(),
        instance: None,
        subscription: Subscription { topics: vec![topic.to_owned()], patterns: Vec::new() },
        start: Start::Earliest,
        commits: true,
        assignor: Some(assignor),
        client_id: None,
    }
}
