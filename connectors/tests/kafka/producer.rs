//! The producer: every record ends as delivered or as an error, never as neither.

use std::time::Duration;

use headwater::{
    Headers,
    spi::{Outgoing, partition_for},
};
use headwater_connectors::kafka::{CloseError, ProducerConfig};

use crate::harness::{broker, record};

/// Red when one refused record fails its neighbours, or its error is not reported with its index.
#[tokio::test]
async fn one_oversize_record_of_a_thousand_is_one_error_with_its_index() {
    let mut broker = broker(&[("t", 1)]);
    broker.config.max_record_bytes = 1_000_000;
    let mut records: Vec<_> = (0..1_000).map(|n| record("t", Some(0), &n.to_string())).collect();
    records[417].value = Some(vec![b'x'; 2_000_000]);
    let errors = broker.producer().send(&records).await.unwrap_err();
    assert_eq!(errors.0.len(), 1, "{errors}");
    let error = &errors.0[0];
    assert_eq!((error.index, error.permanent), (417, true));
    for part in ["2000000 bytes", "topic t", "kafka.max_record_bytes (now 1000000)"] {
        assert!(error.reason.contains(part), "{part} is missing in: {}", error.reason);
    }
    let mut reader = broker.join("t");
    reader.read(999).await;
    let expected: Vec<String> = (0..1_000).filter(|n| *n != 417).map(|n| n.to_string()).collect();
    assert_eq!(reader.values(), expected);
    reader.close().await;
}

/// Red when the partitioner is librdkafka's default (CRC32): Java's clients would look for the key elsewhere.
#[tokio::test]
async fn keys_go_to_the_partition_that_java_chooses() {
    let broker = broker(&[("t", 6)]);
    let keys: Vec<String> = ["o1", "o2", "o42", "cus-000123", "4bf92f35-77b3-5da6-a3ce-929d0e0e4736", "Zürich", "🦀"]
        .map(str::to_owned)
        .into_iter()
        .chain((0..50).map(|n| format!("key-{n}")))
        .collect();
    let records: Vec<_> =
        keys.iter().map(|key| Outgoing { key: Some(key.clone().into_bytes()), ..record("t", None, key) }).collect();
    broker.producer().send(&records).await.unwrap();
    let mut reader = broker.join("t");
    reader.read(keys.len()).await;
    for read in &reader.records {
        let key = read.key.as_deref().unwrap();
        assert_eq!(read.partition, partition_for(key, 6), "{}", String::from_utf8_lossy(key));
    }
    reader.close().await;
}

/// Red when null and empty are mixed up, or headers change their order or are merged by name.
#[tokio::test]
async fn nulls_empties_and_repeated_headers_survive() {
    let broker = broker(&[("t", 1)]);
    let mut headers = Headers::default();
    headers.push("a", Some(b"1"));
    headers.push("b", None);
    headers.push("a", Some(b""));
    headers.push("ünïcode", Some(&[0, 255]));
    let sent = [
        Outgoing { topic: "t".into(), partition: Some(0), key: None, value: None, headers: headers.clone() },
        Outgoing {
            topic: "t".into(),
            partition: Some(0),
            key: Some(vec![]),
            value: Some(vec![]),
            headers: Headers::default(),
        },
    ];
    broker.producer().send(&sent).await.unwrap();
    let mut reader = broker.join("t");
    reader.read(2).await;
    let read: Vec<_> = reader.records.iter().map(|r| (r.key.clone(), r.value.clone(), r.headers.clone())).collect();
    assert_eq!(read, [(None, None, headers), (Some(vec![]), Some(vec![]), Headers::default())]);
    reader.close().await;
}

/// Red when a full queue is an error, or a record is lost in it.
#[tokio::test]
async fn a_full_queue_waits_for_room() {
    let broker = broker(&[("t", 1)]);
    let config = ProducerConfig { queue_records: 10, ..ProducerConfig::default() };
    let records: Vec<_> = (0..500).map(|n| record("t", Some(0), &n.to_string())).collect();
    broker.producer_with(config).send(&records).await.unwrap();
    let mut reader = broker.join("t");
    reader.read(500).await;
    assert_eq!(reader.offsets()[&0], (0..500).collect::<Vec<_>>());
    reader.close().await;
}

/// Red when `close` does not say what was left, or the batch never ends: a record would be neither delivered nor failed.
#[tokio::test]
async fn closing_while_the_broker_is_down_reports_every_record() {
    let broker = broker(&[("t", 1)]);
    let producer = broker.producer();
    producer.send(&[record("t", Some(0), "before")]).await.unwrap();
    broker.mock.broker_down(-1).unwrap();
    let records: Vec<_> = (0..20).map(|n| record("t", Some(0), &n.to_string())).collect();
    let (sent, closed) = tokio::join!(producer.send(&records), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        producer.close(Duration::from_secs(1)).await
    });
    assert_eq!(closed, Err(CloseError(20)));
    let errors = sent.unwrap_err();
    assert_eq!(errors.0.iter().map(|e| e.index).collect::<Vec<_>>(), (0..20).collect::<Vec<_>>());
    assert!(errors.0.iter().all(|e| !e.permanent && e.reason.contains("closed")), "{errors}");
    let after = producer.send(&records[..1]).await.unwrap_err();
    assert!(after.0[0].reason.contains("closed"), "{after}");
}

/// Red when an outage shorter than the delivery time-out fails a batch, or changes the order.
#[tokio::test]
async fn a_short_outage_is_ridden_out_in_order() {
    let broker = broker(&[("t", 1)]);
    let producer = broker.producer();
    producer.send(&[record("t", Some(0), "0")]).await.unwrap();
    broker.mock.broker_down(-1).unwrap();
    let records: Vec<_> = (1..100).map(|n| record("t", Some(0), &n.to_string())).collect();
    let (sent, ()) = tokio::join!(producer.send(&records), async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        broker.mock.broker_up(-1).unwrap();
    });
    sent.unwrap();
    let mut reader = broker.join("t");
    reader.read(100).await;
    assert_eq!(reader.values(), (0..100).map(|n| n.to_string()).collect::<Vec<_>>());
    reader.close().await;
}

/// Red when a missing topic is reported as anything but what to do about it.
#[tokio::test]
async fn a_missing_topic_is_named_with_the_command_that_creates_it() {
    let broker = broker(&[("t", 1)]);
    let errors = broker.producer().send(&[record("nowhere", None, "x")]).await.unwrap_err();
    assert_eq!(errors.0[0].reason, "topic nowhere does not exist: run `headwater topology apply`");
    assert!(!errors.0[0].permanent);
}

/// Red when a partition's number is taken as it is (a topic with fewer partitions refuses it), or when a batch's records
/// change their order because some of them wait for the count.
#[tokio::test]
async fn a_partition_beyond_the_topics_count_is_taken_modulo() {
    let broker = broker(&[("three", 3), ("two", 2)]);
    let records: Vec<_> = (0..60)
        .map(|n| record(if n % 7 == 0 { "two" } else { "three" }, Some(n % 6), &n.to_string()))
        .chain([record("three", Some(-1), "60")])
        .collect();
    broker.producer().send(&records).await.unwrap();
    for (topic, count) in [("three", 3), ("two", 2)] {
        let sent: Vec<_> = records.iter().filter(|sent| *sent.topic == *topic).collect();
        let mut reader = broker.join(topic);
        reader.read(sent.len()).await;
        for partition in 0..count {
            let read: Vec<_> =
                reader.records.iter().filter(|r| r.partition == partition).map(|r| r.value.clone()).collect();
            let there = |sent: &&&Outgoing| sent.partition.unwrap().rem_euclid(count) == partition;
            let sent: Vec<_> = sent.iter().filter(there).map(|sent| sent.value.clone()).collect();
            assert_eq!(read, sent, "{topic}/{partition}");
        }
        reader.close().await;
    }
}

/// Red when a topic that is missing fails its neighbours, for ever or for good.
#[tokio::test]
async fn a_record_with_a_partition_of_a_missing_topic_fails_alone_until_the_topic_is_there() {
    let broker = broker(&[("t", 1)]);
    let producer = broker.producer();
    let records = [record("t", Some(5), "a"), record("late", Some(5), "x"), record("t", Some(5), "b")];
    let errors = producer.send(&records).await.unwrap_err();
    assert_eq!(errors.0.len(), 1, "{errors}");
    assert_eq!((errors.0[0].index, errors.0[0].permanent), (1, false));
    assert_eq!(errors.0[0].reason, "topic late does not exist: run `headwater topology apply`");
    broker.mock.create_topic("late", 2, 1).unwrap();
    producer.send(&records[1..2]).await.unwrap();
    let mut reader = broker.join("t");
    reader.read(2).await;
    assert_eq!(reader.values(), ["a", "b"]);
    reader.close().await;
}

/// Red when an outage just when a topic's partitions are to be counted is an error at once, or one that never ends.
#[tokio::test]
async fn an_outage_before_the_partitions_are_counted_is_ridden_out_or_is_an_error() {
    let broker = broker(&[("t", 1), ("u", 1)]);
    let config = ProducerConfig { delivery_timeout: Duration::from_secs(6), ..ProducerConfig::default() };
    let producer = broker.producer_with(config);
    broker.mock.broker_down(-1).unwrap();
    let records = [record("t", Some(3), "0"), record("t", Some(3), "1")];
    let (sent, ()) = tokio::join!(producer.send(&records), async {
        tokio::time::sleep(Duration::from_secs(3)).await;
        broker.mock.broker_up(-1).unwrap();
    });
    sent.unwrap();
    broker.mock.broker_down(-1).unwrap();
    let errors = producer.send(&[record("u", Some(3), "2")]).await.unwrap_err();
    assert!(!errors.0[0].permanent && errors.0[0].reason.contains("cannot be counted"), "{errors}");
    let (sent, closed) = tokio::join!(
        async { tokio::time::timeout(Duration::from_secs(4), producer.send(&[record("u", Some(3), "3")])).await },
        async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            producer.close(Duration::from_secs(1)).await
        }
    );
    closed.unwrap();
    let errors = sent.expect("the batch has ended").unwrap_err();
    assert!(errors.0[0].reason.contains("closed"), "{errors}");
}

/// Red when the producer's limit has no room for the headers, or a larger record is sent to be refused by the broker.
#[tokio::test]
async fn the_largest_record_passes_with_the_headers_of_a_dead_letter() {
    let broker = broker(&[("t", 1)]);
    let largest = usize::try_from(broker.config.max_record_bytes).unwrap();
    let mut sent = record("t", Some(0), "");
    // What a source's own limit leaves of it: its frame counts there too.
    sent.value = Some((0..largest - 100).map(|n| u8::try_from(n % 251).unwrap()).collect());
    sent.headers.push("hw_error_detail", Some(&vec![b'x'; 65_000]));
    let mut larger = sent.clone();
    larger.value = Some(vec![0; largest + 1_000]);
    let producer = broker.producer();
    producer.send(std::slice::from_ref(&sent)).await.unwrap();
    let errors = producer.send(&[larger]).await.unwrap_err();
    assert!(errors.0[0].permanent && errors.0[0].reason.contains("raise kafka.max_record_bytes"), "{errors}");
    let mut reader = broker.join("t");
    reader.read(1).await;
    assert!(reader.records[0].value == sent.value && reader.records[0].headers == sent.headers);
    reader.close().await;
}

/// Red when a record that never found room is neither delivered nor an error.
#[tokio::test]
async fn a_queue_that_stays_full_while_the_broker_is_down_fails_every_record() {
    let broker = broker(&[("t", 1)]);
    let delivery_timeout = Duration::from_secs(2);
    let producer =
        broker.producer_with(ProducerConfig { queue_records: 10, delivery_timeout, ..ProducerConfig::default() });
    producer.send(&[record("t", Some(0), "before")]).await.unwrap();
    broker.mock.broker_down(-1).unwrap();
    let records: Vec<_> = (0..25).map(|n| record("t", Some(0), &n.to_string())).collect();
    let errors = tokio::time::timeout(Duration::from_secs(30), producer.send(&records)).await.unwrap().unwrap_err();
    assert_eq!(errors.0.iter().map(|e| e.index).collect::<Vec<_>>(), (0..25).collect::<Vec<_>>());
    assert!(errors.0.iter().all(|e| !e.permanent), "{errors}");
}

/// Red when records that wait for room are handed over after the producer was closed: their batch would end
/// only after the delivery time-out, and they would appear although `close` had said what was left.
#[tokio::test]
async fn closing_with_a_full_queue_reports_also_what_waits_for_room() {
    let broker = broker(&[("t", 1)]);
    let producer = broker.producer_with(ProducerConfig { queue_records: 10, ..ProducerConfig::default() });
    producer.send(&[record("t", Some(0), "before")]).await.unwrap();
    broker.mock.broker_down(-1).unwrap();
    let records: Vec<_> = (0..50).map(|n| record("t", Some(0), &n.to_string())).collect();
    let sending = async { tokio::time::timeout(Duration::from_secs(10), producer.send(&records)).await };
    let (sent, closed) = tokio::join!(sending, async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        producer.close(Duration::from_secs(1)).await
    });
    assert_eq!(closed, Err(CloseError(10)));
    let errors = sent.expect("the batch has ended").unwrap_err();
    assert_eq!(errors.0.iter().map(|e| e.index).collect::<Vec<_>>(), (0..50).collect::<Vec<_>>());
    broker.mock.broker_up(-1).unwrap();
    broker.producer().send(&[record("t", Some(0), "after")]).await.unwrap();
    let mut reader = broker.join("t");
    reader.read(2).await;
    assert_eq!(reader.values(), ["before", "after"]);
    reader.close().await;
}

const EXIT_AFTER: &str = "HEADWATER_TEST_BOOTSTRAP";

/// Red when `send` ends before the broker has acknowledged: the process is gone before its records are.
#[tokio::test]
async fn a_process_that_exits_right_after_sending_loses_nothing() {
    let records: Vec<_> = (0..1_000).map(|n| record("t", Some(0), &n.to_string())).collect();
    if let Ok(bootstrap) = std::env::var(EXIT_AFTER) {
        // The process that exits: this test again, in a child of the one below.
        let config = headwater_connectors::kafka::KafkaConfig { bootstrap, ..Default::default() };
        let sent = headwater_connectors::kafka::Producer::new(&config).unwrap().send(&records).await;
        std::process::exit(if sent.is_ok() { 0 } else { 7 });
    }
    let broker = broker(&[("t", 1)]);
    let name = "producer::a_process_that_exits_right_after_sending_loses_nothing";
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([name, "--exact"])
        .env(EXIT_AFTER, broker.mock.bootstrap_servers())
        .spawn()
        .unwrap();
    let status = tokio::task::spawn_blocking(move || child.wait()).await.unwrap().unwrap();
    assert_eq!(status.code(), Some(0));
    let mut reader = broker.join("t");
    reader.read(1_000).await;
    assert_eq!(reader.offsets()[&0], (0..1_000).collect::<Vec<_>>());
    reader.close().await;
}
