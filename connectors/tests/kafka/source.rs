//! One member: where it begins, what it commits, how it pauses, what stops it.

use std::time::{Duration, Instant};

use headwater::spi::{Control, Source, SourceEvent, StartFrom};
use headwater_connectors::kafka::{ConsumerConfig, KafkaConfig, Start};
use rdkafka::{bindings::rd_kafka_resp_err_t as Error, types::RDKafkaApiKey};

use crate::harness::{PATIENCE, broker, partition, record};

const QUIET: Duration = Duration::from_millis(400);

/// Red when `Begin` does not seek. (Two things hold records back before it: assigned partitions are paused within the
/// callback, and what comes of a partition that is not begun is dropped; `partition.rs` tests the second.)
#[tokio::test]
async fn delivers_nothing_before_the_engine_says_where_to_begin() {
    let broker = broker(&[("t", 1)]);
    broker.fill("t", 10).await;
    let mut reader = broker.join("t").from(StartFrom::Offset(4));
    let names = reader.assigned().await;
    assert_eq!(names, [partition("t", 0)]);
    reader.read_nothing(QUIET).await;
    reader.begin(&names);
    reader.read(6).await;
    assert_eq!(reader.values(), ["4", "5", "6", "7", "8", "9"]);
    reader.close().await;
}

/// Red when positions that wait for the next commit are not committed at close, or when `Begin{Committed}` does not read
/// them: reading would go on at 3, or at the 10 that librdkafka has delivered.
#[tokio::test]
async fn goes_on_at_what_the_engine_declared_durable_and_no_further() {
    let broker = broker(&[("t", 1)]);
    broker.fill("t", 10).await;
    let consumer = ConsumerConfig { commit_interval: Duration::from_secs(60), ..broker.config.consumer.clone() };
    let config = KafkaConfig { consumer, ..broker.config.clone() };
    let mut reader = broker.join_with(&config, "t", Start::Earliest, None);
    reader.read(10).await;
    reader.commit("t", 0, 3);
    tokio::time::sleep(QUIET).await;
    reader.commit("t", 0, 5);
    reader.close().await;
    let mut reader = broker.join("t");
    reader.read(5).await;
    assert_eq!(reader.values(), ["5", "6", "7", "8", "9"]);
    reader.close().await;
}

/// Red when closing waits for the broker: a stop would hang in an outage.
#[tokio::test]
async fn closes_in_time_while_the_broker_is_down() {
    let broker = broker(&[("t", 1)]);
    broker.fill("t", 10).await;
    // Far longer than closing may take: librdkafka gives up on a commit only then.
    let consumer = ConsumerConfig { session_timeout: Duration::from_secs(60), ..broker.config.consumer.clone() };
    let config = KafkaConfig { consumer, ..broker.config.clone() };
    let mut reader = broker.join_with(&config, "t", Start::Earliest, None);
    reader.read(10).await;
    broker.mock.broker_down(-1).unwrap();
    reader.commit("t", 0, 5);
    let since = Instant::now();
    reader.close().await;
    assert!(since.elapsed() < Duration::from_secs(15), "closed after {:?}", since.elapsed());
}

/// Red when batches carry another number than their `Begin`, or a new start keeps records of the one before.
#[tokio::test]
async fn a_partition_can_be_started_again_elsewhere() {
    let broker = broker(&[("t", 1)]);
    broker.fill("t", 100).await;
    let mut reader = broker.join("t");
    reader.read(100).await;
    let before = reader.start;
    reader.records.clear();
    reader.from = StartFrom::Offset(42);
    reader.begin(&[partition("t", 0)]);
    while reader.records.len() < 58 {
        if let SourceEvent::Records(batch) = reader.next().await {
            assert_eq!(batch.start, before + 1);
            reader.records.extend(batch.records);
        }
    }
    assert_eq!(reader.offsets()[&0], (42..100).collect::<Vec<_>>());
    reader.close().await;
}

/// Red when the place that `latest` stood for is not committed at once: the record produced while nobody read is lost.
#[tokio::test]
async fn latest_is_decided_once_for_a_fresh_group() {
    let broker = broker(&[("t", 2)]);
    broker.fill("t", 5).await;
    let mut reader = broker.join_from("t", Start::Latest);
    let names = reader.assigned().await;
    reader.begin(&names);
    reader.read_nothing(QUIET).await;
    reader.close().await;
    broker.producer().send(&[record("t", Some(0), "new"), record("t", Some(1), "too")]).await.unwrap();
    let mut reader = broker.join_from("t", Start::Latest);
    reader.read(2).await;
    let mut values = reader.values();
    values.sort();
    assert_eq!(values, ["new", "too"]);
    reader.close().await;
}

/// The same for a group whose offsets travel in transactions, before and after its first.
/// Red when such a source does not commit where it starts: what came while nobody read is skipped; or, once a transaction has
/// committed an offset, the other partitions are read from the beginning of their logs.
#[tokio::test]
async fn latest_is_decided_once_for_a_group_whose_offsets_travel_in_transactions() {
    let broker = broker(&[("t", 2)]);
    broker.fill("t", 5).await;
    broker.producer().send(&[record("t", Some(1), "old")]).await.unwrap();
    let join = || broker.join_silently_from(&["t"], Start::Latest);
    let mut reader = join();
    let names = reader.assigned().await;
    reader.begin(&names);
    broker.commits("t", 5, "").await;
    reader.read_nothing(QUIET).await;
    reader.close().await;
    broker.producer().send(&[record("t", Some(0), "new")]).await.unwrap();
    let mut reader = join();
    reader.read(1).await;
    reader.read_nothing(QUIET).await;
    assert_eq!(reader.values(), ["new"]);
    reader.close().await;
    // What a transaction would.
    let mut reader = broker.join("t");
    reader.read(1).await;
    reader.commit("t", 0, 6);
    reader.close().await;
    broker.producer().send(&[record("t", Some(1), "too")]).await.unwrap();
    let mut reader = join();
    reader.read(1).await;
    reader.read_nothing(QUIET).await;
    assert_eq!(reader.values(), ["too"]);
    reader.close().await;
}

/// Red when a partition without an offset of a group that has others is begun by the policy: its first records are lost.
#[tokio::test]
async fn what_appears_later_is_read_from_its_beginning() {
    let broker = broker(&[("t", 2)]);
    broker.fill("t", 5).await;
    let mut reader = broker.join("t");
    reader.read(5).await;
    reader.commit("t", 0, 5);
    reader.close().await;
    broker.producer().send(&[record("t", Some(1), "first of partition 1")]).await.unwrap();
    let mut reader = broker.join_from("t", Start::Latest);
    reader.read(1).await;
    assert_eq!(reader.values(), ["first of partition 1"]);
    reader.close().await;
}

/// Red when only the first pattern is subscribed to, or names are forgotten beside patterns.
#[tokio::test]
async fn names_and_several_patterns_are_read_together() {
    let topics = ["t", "p.1", "p.2", "q.1", "other"];
    let broker = broker(&topics.map(|topic| (topic, 1)));
    for topic in topics {
        broker.fill(topic, 1).await;
    }
    let mut reader = broker.join_these(&["t"], &[r"^p\..*", r"^q\..*"], Start::Earliest);
    reader.read(4).await;
    reader.read_nothing(QUIET).await;
    let expected: Vec<_> = ["p.1", "p.2", "q.1", "t"].map(|topic| (topic.to_owned(), 0)).into();
    assert_eq!(reader.places(), expected);
    reader.close().await;
}

const OWN: [&str; 2] = ["g.redrive", "g.retry.1s"];

/// Red when `latest` is taken for the group's own topics too: what waits there, be it from before the first start, would
/// be skipped, at once or (when their end is committed) after a restart.
#[tokio::test]
async fn what_a_group_owns_is_read_from_its_beginning_whatever_the_start() {
    for from in [StartFrom::Committed, StartFrom::Policy] {
        let broker = broker(&[("t", 1), (OWN[0], 1), (OWN[1], 1), ("gg.redrive", 1)]);
        for topic in ["t", OWN[0], OWN[1], "gg.redrive"] {
            broker.fill(topic, 2).await;
        }
        let join = || broker.join_these(&["t", OWN[0], "gg.redrive"], &[r"^g\.retry\..*"], Start::Latest).from(from);
        let own: Vec<_> = OWN.iter().flat_map(|topic| (0..2).map(|offset| ((*topic).to_owned(), offset))).collect();
        for _ in 0..2 {
            let mut reader = join();
            reader.read(4).await;
            reader.read_nothing(QUIET).await;
            assert_eq!(reader.places(), own, "{from:?}");
            reader.close().await;
        }
    }
}

/// Red when what was committed of the group's own topics makes it look like one under way: its inputs would be read from
/// their beginning although `latest` was asked for.
#[tokio::test]
async fn a_group_that_has_read_only_its_own_topics_is_still_fresh() {
    let broker = broker(&[("t", 1), (OWN[0], 1)]);
    broker.fill("t", 5).await;
    broker.fill(OWN[0], 3).await;
    let mut reader = broker.join(OWN[0]);
    reader.read(3).await;
    reader.commit(OWN[0], 0, 2);
    reader.close().await;
    let mut reader = broker.join_these(&["t", OWN[0]], &[], Start::Latest);
    reader.read(1).await;
    reader.read_nothing(QUIET).await;
    broker.producer().send(&[record("t", Some(0), "new")]).await.unwrap();
    reader.read(2).await;
    assert_eq!(reader.places(), [(OWN[0].to_owned(), 2), ("t".to_owned(), 5)]);
    reader.close().await;
}

/// Red when `Policy` reads what was committed for lag tools, or `Start::At` is not looked up.
#[tokio::test]
async fn the_start_policy_holds_when_the_store_has_no_offset() {
    let broker = broker(&[("t", 1)]);
    broker.fill("t", 4).await;
    let mut reader = broker.join("t");
    reader.read(4).await;
    reader.commit("t", 0, 4);
    reader.close().await;
    let mut reader = broker.join("t").from(StartFrom::Policy);
    reader.read(4).await;
    assert_eq!(reader.values(), ["0", "1", "2", "3"]);
    reader.close().await;
}

/// What librdkafka resets without a reason is a false start: the topic is the same.
/// Red when the source stops for it, goes on from the beginning, or loses what is under way.
#[tokio::test]
async fn a_false_start_is_begun_again_by_itself() {
    let broker = broker(&[("t", 1)]);
    broker.fill("t", 10).await;
    let mut reader = broker.join("t");
    reader.read(10).await;
    broker.mock.request_errors(RDKafkaApiKey::Fetch, &[Error::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE]);
    reader.read_nothing(QUIET).await;
    broker.fill("t", 10).await;
    reader.read(20).await;
    reader.read_nothing(QUIET).await;
    assert_eq!(reader.offsets()[&0], (0..20).collect::<Vec<_>>());
    reader.close().await;
}

/// Red when an offset beyond the log's end is begun all the same (librdkafka would go back to the beginning).
#[tokio::test]
async fn an_offset_beyond_the_end_stops_the_source_and_says_what_to_do() {
    let broker = broker(&[("t", 1)]);
    broker.fill("t", 10).await;
    let mut reader = broker.join("t").from(StartFrom::Offset(11));
    let reason = reader.failure().await;
    for part in ["t/0", "ends at offset 10", "group g", "offsets reset g --topic t --partition 0", "created anew"] {
        assert!(reason.contains(part), "{part} is missing in: {reason}");
    }
}

/// Red when `Pause` or `Resume` does nothing, or when what was read before the pause is skipped after it.
#[tokio::test]
async fn a_paused_partition_is_silent_and_goes_on_where_it_stopped() {
    let broker = broker(&[("t", 1)]);
    broker.fill("t", 10).await;
    let mut reader = broker.join("t");
    reader.read(10).await;
    reader.source.control(Control::Pause(vec![partition("t", 0)]));
    // Longer than a round, so that the thread has paused.
    reader.read_nothing(Duration::from_millis(100)).await;
    broker.fill("t", 10).await;
    reader.read_nothing(QUIET).await;
    reader.source.control(Control::Resume(vec![partition("t", 0)]));
    reader.read(20).await;
    assert_eq!(reader.offsets()[&0], (0..20).collect::<Vec<_>>());
    reader.close().await;
}

/// Red when the brokers' threads are not woken: librdkafka notices a partition that goes on up to a second later.
#[tokio::test]
async fn a_partition_flows_as_soon_as_it_may() {
    let broker = broker(&[("t", 1)]);
    broker.fill("t", 10).await;
    let mut reader = broker.join("t");
    let names = reader.assigned().await;
    let since = Instant::now();
    reader.begin(&names);
    reader.read(10).await;
    assert!(since.elapsed() < Duration::from_millis(500), "{:?}", since.elapsed());
    reader.close().await;
}

/// Red when the thread waits for room instead of pausing and polling on (the member leaves the group after
/// `max.poll.interval.ms`), or when a record is lost or doubled by the pause.
#[tokio::test]
async fn an_engine_slower_than_the_poll_limit_keeps_its_partitions() {
    let broker = broker(&[("t", 1)]);
    broker.fill("t", 2_000).await;
    let consumer = ConsumerConfig {
        session_timeout: Duration::from_secs(4),
        max_poll_interval: Duration::from_secs(4),
        drain: Duration::from_millis(500),
        patience: Duration::from_millis(200),
        batch_records: 10,
        batches: 1,
        ..broker.config.consumer.clone()
    };
    let config = KafkaConfig { consumer, ..broker.config.clone() };
    let mut reader = broker.join_with(&config, "t", Start::Earliest, None);
    let names = reader.assigned().await;
    reader.begin(&names);
    // Three times the limit, taking no record.
    let slow = tokio::time::timeout(Duration::from_secs(12), reader.event()).await;
    assert!(slow.is_err(), "the group did something: {slow:?}");
    reader.read(2_000).await;
    assert_eq!(reader.offsets()[&0], (0..2_000).collect::<Vec<_>>());
    reader.close().await;
}

/// Red when a batch goes on once it is full, where more was fetched with it; or when what is left is dropped.
#[tokio::test]
async fn batches_stay_within_their_limits() {
    let broker = broker(&[("t", 1)]);
    let value = |n: usize| "v".repeat(if n < 500 { 1 } else { n % 90 });
    let records: Vec<_> = (0..1_000).map(|n| record("t", Some(0), &value(n))).collect();
    broker.producer().send(&records).await.unwrap();
    let consumer = ConsumerConfig { batch_records: 100, batch_bytes: 200, ..broker.config.consumer.clone() };
    let mut reader = broker.join_with(&KafkaConfig { consumer, ..broker.config.clone() }, "t", Start::Earliest, None);
    let (mut next, mut largest) = (0, 0);
    while next < 1_000 {
        match reader.next().await {
            SourceEvent::Assigned(names) => reader.begin(&names),
            SourceEvent::Records(batch) => {
                let without_last: usize = batch.records.iter().rev().skip(1).map(headwater::spi::Record::size).sum();
                assert!(batch.records.len() <= 100 && without_last < 200, "{} records", batch.records.len());
                largest = largest.max(batch.records.len());
                for record in batch.records {
                    assert_eq!(record.offset, next);
                    next += 1;
                }
            }
            SourceEvent::Connected(_) => {}
            other => panic!("records expected, not {other:?}"),
        }
    }
    assert!(largest > 1, "nothing came together");
    reader.close().await;
}

/// Red when an error that comes among the records is taken for one, is not told, or costs a record.
#[tokio::test]
async fn an_error_between_records_is_told_and_costs_none() {
    let broker = broker(&[("t", 2)]);
    broker.fill("t", 100).await;
    let mut reader = broker.join("t");
    reader.read(100).await;
    broker.mock.request_errors(RDKafkaApiKey::Fetch, &[Error::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED]);
    broker.fill("t", 100).await;
    let told = reader.event().await;
    let SourceEvent::Connected(Err(reason)) = told else { panic!("an error expected, not {told:?}") };
    assert!(reason.starts_with("no right to read topic \"t\": grant Read on it"), "{reason}");
    reader.read(200).await;
    assert_eq!(reader.offsets()[&0], (0..200).collect::<Vec<_>>());
    reader.close().await;
}

/// Red when a refused commit is dropped: the position would only be committed with the next one.
#[tokio::test]
async fn a_commit_that_a_rebalance_refuses_is_made_later() {
    let broker = broker(&[("t", 1)]);
    broker.fill("t", 10).await;
    let mut reader = broker.join("t");
    reader.read(10).await;
    let refusals = [Error::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS; 3];
    broker.mock.request_errors(RDKafkaApiKey::OffsetCommit, &refusals);
    reader.commit("t", 0, 7);
    reader.close().await;
    let mut reader = broker.join("t");
    reader.read(3).await;
    assert_eq!(reader.values(), ["7", "8", "9"]);
    reader.close().await;
}

/// Red when a note is not committed, or only once the position moves; when one that holds is left out of a later commit;
/// or when one that an earlier member left behind is not cleared by the next, also where a store keeps the offsets.
#[tokio::test]
async fn why_a_partition_stands_still_lies_beside_its_committed_offset() {
    let broker = broker(&[("t", 1)]);
    broker.fill("t", 10).await;
    let mut reader = broker.join("t");
    reader.read(10).await;
    reader.note("t", Some("circuit `warehouse` is open"));
    broker.commits("t", 0, "circuit `warehouse` is open").await;
    reader.commit("t", 0, 5);
    broker.commits("t", 5, "circuit `warehouse` is open").await;
    reader.note("t", None);
    broker.commits("t", 5, "").await;
    reader.note("t", Some("stopped at offset 5"));
    reader.commit("t", 0, 6);
    reader.close().await;
    assert_eq!(broker.committed("t").await, (Some(6), "stopped at offset 5".to_owned()));
    for from in [StartFrom::Committed, StartFrom::Offset(6)] {
        let mut reader = broker.join("t").from(from);
        reader.read(4).await;
        broker.commits("t", 6, "").await;
        reader.note("t", Some("and again"));
        reader.close().await;
        assert_eq!(broker.committed("t").await, (Some(6), "and again".to_owned()));
    }
}

/// Red when `Connected` is not reported, is reported again and again, or an idle source does not notice the return.
#[tokio::test]
async fn says_once_that_the_broker_is_gone_and_once_that_it_is_back() {
    let broker = broker(&[("t", 1)]);
    let mut reader = broker.join("t");
    let names = reader.assigned().await;
    reader.begin(&names);
    reader.read_nothing(QUIET).await;
    broker.mock.broker_down(-1).unwrap();
    let gone = reader.next().await;
    assert!(matches!(gone, SourceEvent::Connected(Err(_))), "{gone:?}");
    assert!(reader.next_within(Duration::from_secs(3)).await.is_none());
    broker.mock.broker_up(-1).unwrap();
    let back = reader.next().await;
    assert!(matches!(back, SourceEvent::Connected(Ok(()))), "{back:?}");
    broker.fill("t", 1).await;
    reader.read(1).await;
    reader.close().await;
}

/// Red when a fence is only logged: a fenced member would poll for ever and read nothing. Red as well when a person is
/// to decide, though nobody else has the name, when the partitions are kept meanwhile, or nobody is told what is waited for.
#[tokio::test]
async fn a_fenced_instance_gives_up_its_partitions_and_may_ask_again() {
    let broker = broker(&[("t", 1)]);
    let mut reader = broker.join_with(&broker.config, "t", Start::Earliest, Some("host-0"));
    let names = reader.assigned().await;
    reader.begin(&names);
    broker.mock.request_errors(RDKafkaApiKey::Heartbeat, &[Error::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID]);
    let lost = reader.event().await;
    assert!(matches!(&lost, SourceEvent::Lost(lost) if *lost == names), "{lost:?}");
    let mut displaced = None;
    let reason = loop {
        match reader.event().await {
            SourceEvent::Failed(reason) => break reason,
            SourceEvent::Displaced(why) => displaced = Some(why),
            SourceEvent::Lost(_) => {}
            other => panic!("{other:?}"),
        }
    };
    for said in [&reason, &displaced.expect("what is waited for is said")] {
        assert!(said.contains("host-0") && said.contains("group g"), "{said}");
    }
}

/// Red when `next` gives records to an engine that asked for control events only, or loses them by a dropped future.
#[tokio::test]
async fn control_events_come_without_records_and_a_dropped_future_loses_none() {
    let broker = broker(&[("t", 1)]);
    broker.fill("t", 50).await;
    let mut reader = broker.join("t");
    let names = reader.assigned().await;
    reader.begin(&names);
    tokio::time::sleep(QUIET).await;
    assert!(tokio::time::timeout(QUIET, reader.source.next(false)).await.is_err());
    for _ in 0..100 {
        tokio::select! {
            biased;
            () = std::future::ready(()) => {}
            fetched = reader.source.next(true) => panic!("polled out of turn: {fetched:?}"),
        }
    }
    reader.read(50).await;
    assert_eq!(reader.offsets()[&0], (0..50).collect::<Vec<_>>());
    tokio::time::timeout(PATIENCE, reader.close()).await.unwrap();
}
