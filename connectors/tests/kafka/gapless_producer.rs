//! The producer that leaves no gaps, on the mock cluster.

use std::{
    sync::atomic::AtomicBool,
    time::{Duration, Instant},
};

use headwater::spi::Outgoing;
use headwater_connectors::kafka::{ChangelogReader, GaplessProducer, KafkaConfig, ProducerConfig, PublishPermit};

use crate::harness::{Broker, broker, record};

fn numbered(count: usize) -> Vec<Outgoing> {
    (0..count).map(|n| Outgoing { key: Some(b"k".to_vec()), ..record("log", Some(0), &n.to_string()) }).collect()
}

fn gapless_producer(broker: &Broker) -> GaplessProducer {
    let producer = ProducerConfig { delivery_timeout: Duration::from_millis(1_500), ..ProducerConfig::default() };
    GaplessProducer::new(&KafkaConfig { producer, ..broker.config.clone() }).unwrap()
}

/// The values that stand on the partition, and what the header of the last of them says.
async fn values(broker: &Broker) -> (Vec<String>, Option<Vec<u8>>) {
    let reader = ChangelogReader::new(&broker.config, "g").unwrap();
    let reading = move || {
        let mut values = Vec::new();
        let each = |_: &_, _: &[u8], value: Option<&[u8]>, _| {
            values.push(String::from_utf8_lossy(value.unwrap_or_default()).into_owned());
        };
        let wants = [(crate::harness::partition("log", 0), None)];
        let ends = reader.read_with_header(Some(c"said"), &wants, &AtomicBool::new(false), each, |_| {}).unwrap();
        (values, ends.into_iter().next().and_then(|end| end.header))
    };
    tokio::task::spawn_blocking(reading).await.unwrap()
}

/// Red when what stands behind a record that is too large is sent: its input would count as passed, and that of the refused as well.
/// Red as well when the producer is of no use afterwards.
#[tokio::test]
async fn nothing_stands_behind_a_refused_record() {
    let mut broker = broker(&[("log", 1)]);
    broker.config.max_record_bytes = 1_000_000;
    let mut producer = gapless_producer(&broker);
    let mut records = numbered(10);
    records[7].value = Some(vec![b'x'; 2_000_000]);
    let errors =
        producer.send(&records.iter().collect::<Vec<_>>(), &PublishPermit::unconditional()).await.unwrap_err().0;
    assert!(errors.len() == 1 && errors[0].index == 7 && errors[0].permanent, "{errors:?}");
    assert_eq!(values(&broker).await.0, ["0", "1", "2", "3", "4", "5", "6"]);
    records.remove(7);
    let sent = producer.send(&records.iter().collect::<Vec<_>>(), &PublishPermit::unconditional()).await.unwrap();
    assert_eq!(sent.next_offset("log", 0), Some(16));
}

/// Red when what was sent before an outage is given up, and what comes later stands in its place; or when the group does not
/// hear of the outage in time.
#[tokio::test]
async fn after_an_outage_what_was_sent_before_stands_first() {
    let broker = broker(&[("log", 1)]);
    let mut producer = gapless_producer(&broker);
    let first = numbered(5);
    producer.send(&[&first[0]], &PublishPermit::unconditional()).await.unwrap();
    broker.mock.broker_down(1).unwrap();
    let began = Instant::now();
    let errors =
        producer.send(&first[1..].iter().collect::<Vec<_>>(), &PublishPermit::unconditional()).await.unwrap_err().0;
    assert!(errors.len() == 1 && !errors[0].permanent && errors[0].reason.contains("broker may be down"), "{errors:?}");
    assert!(began.elapsed() < Duration::from_secs(10));
    assert!(producer.settle().await.is_err());
    broker.mock.broker_up(1).unwrap();
    let again = &numbered(7)[1..];
    let deadline = Instant::now() + crate::harness::PATIENCE;
    while producer.send(&again.iter().collect::<Vec<_>>(), &PublishPermit::unconditional()).await.is_err() {
        assert!(Instant::now() < deadline, "it goes on by itself");
    }
    let (values, _) = values(&broker).await;
    assert_eq!(values[..5], ["0", "1", "2", "3", "4"], "what was sent before");
    assert_eq!(values[values.len() - 6..], ["1", "2", "3", "4", "5", "6"]);
}

/// Red when the header that was asked for is not that of the last record which has one, or one that has none takes it away.
#[tokio::test]
async fn the_header_of_the_last_record_is_read_with_a_changelog() {
    let broker = broker(&[("log", 1)]);
    let mut producer = gapless_producer(&broker);
    let mut records = numbered(300);
    for (n, record) in records.iter_mut().enumerate() {
        record.headers.push_text("said", &n.to_string());
    }
    producer.send(&records.iter().collect::<Vec<_>>(), &PublishPermit::unconditional()).await.unwrap();
    let (read, said) = values(&broker).await;
    assert_eq!((read.len(), said.as_deref()), (300, Some(&b"299"[..])));
    let silent = numbered(300);
    producer.send(&silent.iter().collect::<Vec<_>>(), &PublishPermit::unconditional()).await.unwrap();
    let (read, said) = values(&broker).await;
    assert!(read.len() == 600 && said.is_some());
}
