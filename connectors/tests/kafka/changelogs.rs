//! Reading changelogs on the mock cluster, which knows neither isolation nor compaction: places, ends, and what is missing.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use headwater::{TopicPartition, spi::Outgoing};
use headwater_connectors::kafka::{
    ChangelogError, ChangelogProgress, ChangelogReader, KafkaConfig, KafkaError, ReadOutcome, stable_offsets,
};

use crate::harness::{Broker, broker, partition, record};

type Outcome = Result<Vec<(TopicPartition, ReadOutcome)>, ChangelogError>;

/// Reads, and gives back what was handed over: partition, key, value and offset of each record, and the last progress.
async fn read(
    config: &KafkaConfig,
    wants: Vec<(TopicPartition, Option<i64>)>,
) -> (Outcome, Vec<Read>, ChangelogProgress) {
    let reader = ChangelogReader::new(config, "g").unwrap();
    let reading = move || {
        let (mut records, mut last) = (Vec::new(), ChangelogProgress { done: 0, total: 0 });
        let each = |name: &TopicPartition, key: &[u8], value: Option<&[u8]>, offset| {
            let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
            records.push((name.partition, text(key), value.map(text), offset));
        };
        let outcome = reader.read(&wants, &AtomicBool::new(false), each, |progress| last = progress);
        (outcome, records, last)
    };
    tokio::task::spawn_blocking(reading).await.unwrap()
}

type Read = (i32, String, Option<String>, i64);

/// Key and value are the number; every tenth record deletes.
async fn fill(broker: &Broker, number: i32, count: usize) {
    let one = |n: usize| Outgoing {
        key: Some(format!("k{n}").into_bytes()),
        value: (!n.is_multiple_of(10)).then(|| format!("v{n}").into_bytes()),
        ..record("log", Some(number), "")
    };
    broker.producer().send(&(0..count).map(one).collect::<Vec<_>>()).await.unwrap();
}

/// Red when a partition is not read to its end, from another place than its own, or a tombstone is an empty value.
#[tokio::test]
async fn every_partition_is_read_from_its_place_to_its_end() {
    let broker = broker(&[("log", 4)]);
    for (number, count) in [(0, 3_000), (1, 100), (2, 50)] {
        fill(&broker, number, count).await;
    }
    let wants = vec![
        (partition("log", 0), None),
        (partition("log", 1), Some(40)),
        (partition("log", 2), Some(50)),
        (partition("log", 3), Some(0)),
    ];
    let (outcome, records, progress) = read(&broker.config, wants).await;
    let ends = [3_000, 100, 50, 0];
    let expected: Vec<_> = (0..4).zip(ends).map(|(n, end)| (partition("log", n), ReadOutcome::End(end))).collect();
    assert_eq!(outcome.unwrap(), expected);
    assert_eq!(progress, ChangelogProgress { done: 3_060, total: 3_060 });
    let mut offsets: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    for (number, key, value, offset) in records {
        assert_eq!(key, format!("k{offset}"));
        assert_eq!(value, (offset % 10 != 0).then(|| format!("v{offset}")));
        offsets.entry(number).or_default().push(offset);
    }
    let expected = BTreeMap::from([(0, (0..3_000).collect::<Vec<_>>()), (1, (40..100).collect())]);
    assert_eq!(offsets, expected);
}

/// Red when a place that the log does not have is read as another one, or fails its neighbours.
#[tokio::test]
async fn a_place_beyond_the_end_is_out_of_range() {
    let broker = broker(&[("log", 2)]);
    fill(&broker, 0, 10).await;
    fill(&broker, 1, 10).await;
    let wants = vec![(partition("log", 0), Some(11)), (partition("log", 1), Some(5))];
    let (outcome, records, _) = read(&broker.config, wants).await;
    let expected = [
        (partition("log", 0), ReadOutcome::OutOfRange { low: 0, high: 10 }),
        (partition("log", 1), ReadOutcome::End(10)),
    ];
    assert_eq!(outcome.unwrap(), expected);
    assert_eq!(records.len(), 5);
}

/// A broker that has just become the leader may tell an end that is old.
/// Red when an end before the place is believed at once: what was kept would be thrown away.
#[tokio::test]
async fn an_end_before_the_place_is_looked_at_again() {
    let broker = broker(&[("log", 1)]);
    fill(&broker, 0, 10).await;
    let later = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        fill(&broker, 0, 5).await;
    };
    let ((outcome, records, _), ()) = tokio::join!(read(&broker.config, vec![(partition("log", 0), Some(12))]), later);
    assert_eq!((outcome.unwrap(), records.len()), (vec![(partition("log", 0), ReadOutcome::End(15))], 3));
}

/// Red when a topic that stays missing is waited for as a broker that is down is.
#[tokio::test]
async fn a_missing_changelog_is_refused() {
    let broker = broker(&[("log", 1)]);
    let (outcome, ..) = read(&broker.config, vec![(partition("missing", 0), None)]).await;
    let error = outcome.unwrap_err();
    assert!(matches!(&error, ChangelogError::Kafka(KafkaError::Refused(why)) if why.contains("missing/0")), "{error}");
}

/// Red when a partition without a leader is taken for a missing one, at once or after as long as a missing one is asked for.
#[tokio::test]
async fn a_changelog_without_a_leader_is_waited_for() {
    let broker = broker(&[("log", 1)]);
    fill(&broker, 0, 10).await;
    broker.mock.partition_leader("log", 0, None).unwrap();
    let mut reading = Box::pin(read(&broker.config, vec![(partition("log", 0), None)]));
    let early = tokio::time::timeout(Duration::from_secs(14), &mut reading).await;
    assert!(early.is_err(), "{:?}", early.map(|(outcome, ..)| outcome));
    broker.mock.partition_leader("log", 0, Some(1)).unwrap();
    let (outcome, records, _) = reading.await;
    assert_eq!((outcome.unwrap(), records.len()), (vec![(partition("log", 0), ReadOutcome::End(10))], 10));
}

/// Red when reading does not end once it is cancelled, be it while the broker is down.
#[tokio::test]
async fn reading_can_be_cancelled_while_the_broker_is_down() {
    let broker = broker(&[("log", 1)]);
    fill(&broker, 0, 10).await;
    broker.mock.broker_down(-1).unwrap();
    let reader = ChangelogReader::new(&broker.config, "g").unwrap();
    let cancelled = std::sync::Arc::new(AtomicBool::new(false));
    let flag = cancelled.clone();
    let wants = [(partition("log", 0), None)];
    let reading = tokio::task::spawn_blocking(move || reader.read(&wants, &flag, |_, _, _, _| {}, |_| {}));
    tokio::time::sleep(Duration::from_millis(300)).await;
    let since = Instant::now();
    cancelled.store(true, Ordering::Relaxed);
    assert_eq!(reading.await.unwrap(), Err(ChangelogError::Cancelled));
    assert!(since.elapsed() < Duration::from_secs(10), "{:?}", since.elapsed());
}

/// Red when the offsets are not in the order of the question, or none is zero.
#[tokio::test]
async fn committed_offsets_are_read_in_order() {
    let broker = broker(&[("t", 1), ("other", 1)]);
    broker.fill("t", 10).await;
    let mut reader = broker.join("t");
    reader.read(10).await;
    reader.commit("t", 0, 7);
    broker.commits("t", 7, "").await;
    let offsets = stable_offsets(&broker.config, "g", &[partition("other", 0), partition("t", 0)]).await.unwrap();
    assert_eq!(offsets, [None, Some(7)]);
    reader.close().await;
}
