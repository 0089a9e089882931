//! Several members of one group: draining, losing, taking over.

use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use headwater::spi::{Control, Source, SourceEvent};
use headwater_connectors::kafka::{Assignor, ConsumerConfig, KafkaConfig};

use crate::harness::{Broker, PATIENCE, Reader, broker, partition, record};

fn with(broker: &Broker, assignor: Assignor, drain: Duration) -> KafkaConfig {
    let consumer = ConsumerConfig { assignor, drain, ..broker.config.consumer.clone() };
    KafkaConfig { consumer, ..broker.config.clone() }
}

async fn fill_all(broker: &Broker, partitions: i32, count: usize) {
    let each = |p: i32| (0..count).map(move |n| record("t", Some(p), &n.to_string()));
    let records: Vec<_> = (0..partitions).flat_map(each).collect();
    broker.producer().send(&records).await.unwrap();
}

async fn revoked(reader: &mut Reader) -> Vec<headwater::TopicPartition> {
    match reader.event().await {
        SourceEvent::Revoked(names) => names,
        other => panic!("revoked expected, not {other:?}"),
    }
}

/// The first member drains and the second takes over; `at` is where it must go on.
async fn hands_over(assignor: Assignor, at: i64) {
    let broker = broker(&[("t", 4)]);
    fill_all(&broker, 4, 10).await;
    let config = with(&broker, assignor, Duration::from_secs(20));
    let mut first = broker.join_with(&config, "t", headwater_connectors::kafka::Start::Earliest, None);
    first.read(40).await;
    let mut second = broker.join_with(&config, "t", headwater_connectors::kafka::Start::Earliest, None);
    let leaving = revoked(&mut first).await;
    // Not before the engine has let go: what is in flight is still being finished.
    let early = tokio::time::timeout(Duration::from_millis(500), second.assigned()).await;
    assert!(early.is_err(), "assigned while the first member drained: {early:?}");
    for name in &leaving {
        first.commit("t", name.partition, 6);
    }
    first.source.control(Control::Released(leaving.clone()));
    let taken = second.assigned().await;
    assert!(taken.iter().all(|name| leaving.contains(name)), "{taken:?} of {leaving:?}");
    second.begin(&taken);
    second.read(taken.len() * usize::try_from(10 - at).unwrap()).await;
    for name in &taken {
        assert_eq!(second.offsets()[&name.partition], (at..10).collect::<Vec<_>>(), "{name}");
    }
    // The first one may have got some back.
    first.source.control(Control::Close);
    second.close().await;
}

/// Red when the revoke callback does not wait for `Released`, or commits before it instead of after it.
#[tokio::test]
async fn a_cooperative_rebalance_drains_and_commits_what_leaves() {
    hands_over(Assignor::CooperativeSticky, 6).await;
}

/// Red when the eager protocol is served with incremental calls. The mock, unlike a broker, takes no commit while others
/// join, so that the position of the revoke callback does not arrive.
#[tokio::test]
async fn an_eager_rebalance_drains_everything() {
    hands_over(Assignor::Range, 0).await;
}

/// Red when the drain has no deadline: a stuck handler would hold up the whole group.
#[tokio::test]
async fn a_drain_that_does_not_end_is_cut_off() {
    let broker = broker(&[("t", 2)]);
    let config = with(&broker, Assignor::CooperativeSticky, Duration::from_secs(1));
    let mut first = broker.join_with(&config, "t", headwater_connectors::kafka::Start::Earliest, None);
    let names = first.assigned().await;
    first.begin(&names);
    let mut second = broker.join_with(&config, "t", headwater_connectors::kafka::Start::Earliest, None);
    let leaving = revoked(&mut first).await;
    let since = Instant::now();
    assert_eq!(second.assigned().await, leaving);
    assert!(since.elapsed() >= Duration::from_millis(800), "cut off after {:?}", since.elapsed());
    second.close().await;
    first.close().await;
}

/// Red when a commit for a partition that is no longer ours goes out: it would move the new owner's offset back.
#[tokio::test]
async fn a_late_commit_of_a_partition_that_left_is_dropped() {
    let broker = broker(&[("t", 2)]);
    fill_all(&broker, 2, 10).await;
    let mut first = broker.join("t");
    first.read(20).await;
    let mut second = broker.join("t");
    let leaving = revoked(&mut first).await;
    first.source.control(Control::Released(leaving.clone()));
    let taken = second.assigned().await;
    second.commit("t", taken[0].partition, 9);
    tokio::time::sleep(Duration::from_millis(300)).await;
    first.commit("t", taken[0].partition, 2);
    tokio::time::sleep(Duration::from_millis(300)).await;
    second.close().await;
    first.close().await;
    let mut third = broker.join("t");
    third.read(11).await;
    assert_eq!(third.offsets()[&taken[0].partition], [9]);
    third.close().await;
}

/// Red when only what is assigned for the first time reaches the queue of records: the partition would stand still for
/// ever. Red as well when what was fetched of it before is delivered after it has come back.
#[tokio::test]
async fn a_partition_that_comes_back_is_read_on() {
    let broker = broker(&[("t", 2)]);
    fill_all(&broker, 2, 500).await;
    let mut first = broker.join("t");
    first.read(1_000).await;
    // On the broker before anybody joins: the mock, unlike a real one, refuses commits while members join, and one may join
    // anew between the callback and its commit. Both are in one commit, or that of partition 0 is the later one.
    first.commit("t", 1, 100);
    first.commit("t", 0, 100);
    broker.commits("t", 100, "").await;
    let mut second = broker.join("t");
    let leaving = revoked(&mut first).await;
    first.source.control(Control::Released(leaving.clone()));
    assert_eq!(second.assigned().await, leaving);
    second.close().await;
    first.records.clear();
    assert_eq!(first.assigned().await, leaving);
    first.begin(&leaving);
    first.read(400).await;
    assert_eq!(first.offsets()[&leaving[0].partition], (100..500).collect::<Vec<_>>());
    fill_all(&broker, 2, 10).await;
    first.read(420).await;
    first.close().await;
}

/// Red when librdkafka goes on by itself with what stays through a rebalance (`halt_all`): where the log's end was seen, it skips
/// the record that comes next.
#[tokio::test]
async fn what_stays_through_a_rebalance_is_read_on() {
    let broker = broker(&[("t", 2)]);
    fill_all(&broker, 2, 10).await;
    let mut first = broker.join("t");
    first.read(20).await;
    first.read_nothing(Duration::from_millis(500)).await;
    let mut second = broker.join("t");
    let leaving = revoked(&mut first).await;
    fill_all(&broker, 2, 10).await;
    first.source.control(Control::Released(leaving.clone()));
    assert_eq!(second.assigned().await, leaving);
    first.read(30).await;
    assert_eq!(first.offsets()[&(1 - leaving[0].partition)], (0..20).collect::<Vec<_>>());
    second.close().await;
    first.close().await;
}

/// Red when dropping a source without closing it leaves its thread in the group.
#[tokio::test]
async fn a_dropped_source_leaves_the_group() {
    let broker = broker(&[("t", 2)]);
    let mut first = broker.join("t");
    assert_eq!(first.assigned().await.len(), 2);
    drop(first);
    let mut second = broker.join("t");
    let since = Instant::now();
    let mut names = second.assigned().await;
    while names.len() < 2 {
        names.extend(second.assigned().await);
    }
    names.sort();
    assert_eq!(names, [partition("t", 0), partition("t", 1)]);
    assert!(since.elapsed() < PATIENCE);
    second.close().await;
}

/// Red when a member joins before it is asked what there is, since its group cannot work yet: it would be given partitions, and
/// hold them. Red as well when it does not join then, or one that is never asked keeps its thread.
#[tokio::test]
async fn a_member_joins_once_it_is_asked() {
    let broker = broker(&[("t", 2)]);
    let mut second = broker.idle("t");
    let dropped = broker.idle("t");
    let closed = dropped.closed();
    let mut first = broker.join("t");
    assert_eq!(first.assigned().await.len(), 2);
    let quiet = tokio::time::timeout(Duration::from_secs(2), first.event()).await;
    assert!(quiet.is_err(), "somebody else has joined: {quiet:?}");
    assert!(second.next(false).now_or_never().is_none());
    assert_eq!(revoked(&mut first).await.len(), 1);
    drop(dropped);
    tokio::time::timeout(PATIENCE, closed.wait()).await.unwrap();
}
