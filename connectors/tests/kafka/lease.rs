//! Who publishes at least once, and whether it may: on the mock cluster, whose coordinator answers what a test wants.

use std::time::{Duration, Instant};

use headwater::spi::{CommitError, CommitOutcome, Committer, Outgoing, SourceEvent, Unit};
use headwater_connectors::{
    AtLeastOnceCommitter,
    kafka::{GaplessProducer, KafkaConfig, ProducerConfig},
};
use rdkafka::{bindings::rd_kafka_resp_err_t as Error, types::RDKafkaApiKey};

use crate::harness::{Broker, Reader, broker, record};

/// A member that has read a record, and who publishes for it.
async fn member(broker: &Broker) -> (Reader, AtLeastOnceCommitter) {
    broker.fill("in", 1).await;
    let mut reader = broker.join("in");
    reader.read(1).await;
    let publisher = AtLeastOnceCommitter::new(broker.producer()).under(reader.source.lease());
    (reader, publisher)
}

fn unit(value: &str) -> Unit {
    Unit { outgoing: vec![record("out", Some(0), value)], ..Unit::default() }
}

/// What is published, in the end.
async fn published(broker: &Broker) -> Vec<String> {
    let mut last = AtLeastOnceCommitter::new(broker.producer());
    assert_eq!(last.commit(&unit("end")).await.unwrap(), CommitOutcome::Done);
    let mut reader = broker.join("out");
    while reader.values().last().is_none_or(|value| value != "end") {
        reader.read(reader.records.len() + 1).await;
    }
    let mut values = reader.values();
    values.pop();
    reader.close().await;
    values
}

/// Red when nobody asks the coordinator for a proof, or one counts that it refuses.
#[tokio::test]
async fn nothing_is_published_before_the_coordinator_knows_the_member() {
    let broker = broker(&[("in", 1), ("out", 1)]);
    let (reader, mut publisher) = member(&broker).await;
    let refusals = [Error::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS; 4];
    assert_eq!(publisher.commit(&unit("0")).await.unwrap(), CommitOutcome::Done);
    // So that the last proof is too old.
    tokio::time::sleep(Duration::from_millis(1_600)).await;
    broker.mock.request_errors(RDKafkaApiKey::OffsetCommit, &refusals);
    let (one, early) = (unit("1"), async { tokio::time::sleep(Duration::from_millis(1_200)).await });
    tokio::select! {
        early = publisher.commit(&one) => panic!("published without a proof: {early:?}"),
        () = early => {}
    }
    assert_eq!(publisher.commit(&unit("2")).await.unwrap(), CommitOutcome::Done, "once the coordinator agrees");
    reader.close().await;
    assert_eq!(published(&broker).await, ["0", "2"]);
}

/// Fails where the question for a proof waits for the commit interval: nothing is published any more once that is longer than
/// a proof is good.
#[tokio::test]
async fn a_proof_does_not_wait_for_the_commit_interval() {
    let mut broker = broker(&[("in", 1), ("out", 1)]);
    broker.config.consumer.commit_interval = Duration::from_hours(1);
    let (mut reader, mut publisher) = member(&broker).await;
    // The interval begins.
    reader.commit("in", 0, 1);
    for n in ["0", "1", "2"] {
        // So that the last proof is too old.
        tokio::time::sleep(Duration::from_millis(1_600)).await;
        assert_eq!(publisher.commit(&unit(n)).await.unwrap(), CommitOutcome::Done);
    }
    reader.close().await;
    assert_eq!(published(&broker).await, ["0", "1", "2"]);
}

/// librdkafka repeats a commit that the coordinator could not do just then, here after minutes, and those that are sent
/// meanwhile are answered first. Fails where an answer counts as one to the oldest commit.
#[tokio::test]
async fn a_commit_whose_answer_stays_away_holds_up_no_later_proof() {
    let mut broker = broker(&[("in", 1), ("out", 1)]);
    for name in ["retry.backoff.ms", "retry.backoff.max.ms"] {
        broker.config.properties.insert(name.to_owned(), "200000".to_owned());
    }
    let (reader, mut publisher) = member(&broker).await;
    assert_eq!(publisher.commit(&unit("0")).await.unwrap(), CommitOutcome::Done);
    tokio::time::sleep(Duration::from_millis(1_600)).await;
    broker.mock.request_errors(RDKafkaApiKey::OffsetCommit, &[Error::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT]);
    let since = Instant::now();
    while publisher.commit(&unit("1")).await.is_err() {}
    assert!(since.elapsed() < Duration::from_secs(20), "proven after {:?}", since.elapsed());
    // From then on at once.
    tokio::time::sleep(Duration::from_millis(1_600)).await;
    assert_eq!(publisher.commit(&unit("2")).await.unwrap(), CommitOutcome::Done);
    reader.close().await;
    assert_eq!(published(&broker).await, ["0", "1", "2"]);
}

/// Red when a unit that was begun before its partitions were lost is published after all, although the group has
/// given some back; or one that is begun before the engine knows of it. Red as well when nothing is published afterwards.
#[tokio::test]
async fn what_a_member_held_when_it_lost_its_place_is_dropped() {
    let broker = broker(&[("in", 1), ("out", 1)]);
    let (mut reader, mut publisher) = member(&broker).await;
    tokio::time::sleep(Duration::from_millis(1_600)).await;
    broker.mock.request_errors(RDKafkaApiKey::OffsetCommit, &[Error::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS; 20]);
    broker.mock.request_errors(RDKafkaApiKey::Heartbeat, &[Error::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]);
    let held = publisher.commit(&unit("held")).await;
    assert!(matches!(&held, Err(CommitError::Outage(why)) if why.contains("other members")), "{held:?}");
    broker.mock.clear_request_errors(RDKafkaApiKey::OffsetCommit);
    let unheard = publisher.commit(&unit("unheard")).await;
    assert!(matches!(&unheard, Err(CommitError::Outage(_))), "{unheard:?}");
    let lost = reader.event().await;
    assert!(matches!(&lost, SourceEvent::Lost(_)), "{lost:?}");
    let names = reader.assigned().await;
    reader.begin(&names);
    assert_eq!(publisher.commit(&unit("anew")).await.unwrap(), CommitOutcome::Done);
    reader.close().await;
    assert_eq!(published(&broker).await, ["anew"]);
}

/// Records of which a queue of ten has no room for two; fewer than are handed over before it is asked again anyway.
fn twelve() -> Vec<Outgoing> {
    (0..12).map(|n| record("out", Some(0), &n.to_string())).collect()
}

fn of_ten() -> ProducerConfig {
    ProducerConfig { queue_records: 10, ..ProducerConfig::default() }
}

/// The broker takes nothing while the member loses its place, and everything afterwards.
async fn lose_while_nothing_is_taken(broker: &Broker, reader: &mut Reader) {
    broker.mock.request_errors(RDKafkaApiKey::Heartbeat, &[Error::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID]);
    let lost = reader.event().await;
    assert!(matches!(&lost, SourceEvent::Lost(_)), "{lost:?}");
    broker.mock.clear_request_errors(RDKafkaApiKey::Produce);
}

/// The broker takes nothing of what is produced, and asks for it again.
fn take_nothing(broker: &Broker) {
    let away = [Error::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION; 1_000];
    broker.mock.request_errors(RDKafkaApiKey::Produce, &away);
}

/// What waited for room in the producer when its partitions were lost is dropped. Fails where a record is handed over after
/// that wait without the question whether it may be (`HandOver::next` in `producer/core/hand_over.rs`).
#[tokio::test]
async fn what_waits_for_room_when_its_partitions_are_lost_is_dropped() {
    let broker = broker(&[("in", 1), ("out", 1)]);
    let (mut reader, _) = member(&broker).await;
    let mut publisher = AtLeastOnceCommitter::new(broker.producer_with(of_ten())).under(reader.source.lease());
    assert_eq!(publisher.commit(&unit("first")).await.unwrap(), CommitOutcome::Done);
    take_nothing(&broker);
    let unit = Unit { outgoing: twelve(), ..Unit::default() };
    let (held, ()) = tokio::join!(publisher.commit(&unit), lose_while_nothing_is_taken(&broker, &mut reader));
    assert!(matches!(&held, Err(CommitError::Outage(why)) if why.contains("other members")), "{held:?}");
    let names = reader.assigned().await;
    reader.begin(&names);
    reader.close().await;
    assert_eq!(published(&broker).await, ["first", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
}

/// The same of the producer without gaps. Fails where `HandOver::next` does not ask again after the wait.
#[tokio::test]
async fn what_waits_for_room_without_gaps_is_dropped_too() {
    let broker = broker(&[("in", 1), ("out", 1)]);
    let (mut reader, _) = member(&broker).await;
    let mut producer = GaplessProducer::new(&KafkaConfig { producer: of_ten(), ..broker.config.clone() }).unwrap();
    let held = reader.source.lease().permit().unwrap();
    producer.send(&[&record("out", Some(0), "first")], &held).await.unwrap();
    take_nothing(&broker);
    let records = twelve();
    let records: Vec<&Outgoing> = records.iter().collect();
    let (sent, ()) = tokio::join!(producer.send(&records, &held), lose_while_nothing_is_taken(&broker, &mut reader));
    let errors = sent.unwrap_err().0;
    assert!(errors.len() == 1 && errors[0].index == 10 && errors[0].reason.contains("other members"), "{errors:?}");
    let names = reader.assigned().await;
    reader.begin(&names);
    reader.close().await;
    assert_eq!(published(&broker).await, ["first", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]);
}
