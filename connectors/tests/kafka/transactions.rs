//! Transactions against the mock cluster. It keeps no offsets of transactions, shows aborted records and does not look at
//! generations, so what is seen of those is seen on a real broker, and here what a client makes of each answer.

use std::time::{Duration, Instant};

use headwater::spi::{Control, Outgoing, Position, Source as _};
use headwater_connectors::kafka::{KafkaConfig, Membership, ProducerConfig, TransactionError, TransactionalProducer};
use rdkafka::types::{RDKafkaApiKey as Api, RDKafkaRespErr as Answer};

use crate::harness::{Broker, Reader, broker, partition, record};

fn transactions(broker: &Broker, id: &str) -> TransactionalProducer {
    let producer = ProducerConfig { transaction_timeout: Duration::from_secs(4), ..ProducerConfig::default() };
    TransactionalProducer::new(&KafkaConfig { producer, ..broker.config.clone() }, id).unwrap()
}

/// A member that has read the topic's ten records, and what it has to commit.
async fn member(broker: &Broker) -> (Reader, Membership, Vec<Position>) {
    broker.fill("in", 10).await;
    let mut reader = broker.join_silently(&["in"]);
    reader.read(10).await;
    let membership = reader.source.membership();
    (reader, membership, vec![Position { partition: partition("in", 0), next: 10 }])
}

async fn values(broker: &Broker, topic: &str, count: usize) -> Vec<String> {
    let mut reader = broker.join_with(&broker.config, topic, headwater_connectors::kafka::Start::Earliest, None);
    reader.read(count).await;
    let values = reader.values();
    reader.read_nothing(Duration::from_millis(300)).await;
    reader.close().await;
    values
}

/// Red when a commit does not say where its records stand, or a number is not taken modulo the partitions.
#[tokio::test]
async fn a_commit_says_where_its_records_stand() {
    let broker = broker(&[("in", 1), ("out", 2), ("log", 1)]);
    let (reader, membership, offsets) = member(&broker).await;
    assert!(membership.generation().is_some());
    let mut transactions = transactions(&broker, "a");
    let records: Vec<_> = (0..1_000).map(|n| record("out", Some(n), &n.to_string())).collect();
    let sent = transactions.commit(&records, &offsets, &membership).await.unwrap();
    assert_eq!((sent.next_offset("out", 0), sent.next_offset("out", 1)), (Some(500), Some(500)));
    assert_eq!((sent.next_offset("out", 2), sent.next_offset("log", 0)), (None, None));
    let sent = transactions.commit(&[record("log", Some(0), "x")], &offsets, &membership).await.unwrap();
    assert_eq!(sent.places().collect::<Vec<_>>(), [("log", 0, 1)]);
    transactions.commit::<Outgoing>(&[], &offsets, &membership).await.unwrap();
    assert_eq!(transactions.commit::<Outgoing>(&[], &[], &membership).await.unwrap().places().count(), 0);
    reader.close().await;
}

/// Red when a refused record is an error without its place, or the producer is left within a transaction by it.
#[tokio::test]
async fn after_a_refused_record_the_next_commit_works() {
    let mut broker = broker(&[("in", 1), ("out", 1)]);
    broker.config.max_record_bytes = 1_000_000;
    let (reader, membership, offsets) = member(&broker).await;
    let mut transactions = transactions(&broker, "a");
    let mut records: Vec<_> = (0..10).map(|n| record("out", Some(0), &n.to_string())).collect();
    records[7].value = Some(vec![b'x'; 2_000_000]);
    match transactions.commit(&records, &offsets, &membership).await {
        Err(TransactionError::Refused { index: 7, why }) => assert!(why.contains("kafka.max_record_bytes"), "{why}"),
        other => panic!("{other:?}"),
    }
    records.remove(7);
    transactions.commit(&records, &offsets, &membership).await.unwrap();
    reader.close().await;
}

/// Red when a batch that the broker refuses as a whole is not tried in smaller ones, or all of its records are refused.
#[tokio::test]
async fn a_refused_batch_is_tried_in_smaller_ones() {
    let broker = broker(&[("in", 1), ("out", 1)]);
    let (reader, membership, offsets) = member(&broker).await;
    let mut transactions = transactions(&broker, "a");
    transactions.begin().await.unwrap();
    broker.mock.request_errors(Api::Produce, &[Answer::RD_KAFKA_RESP_ERR_MSG_SIZE_TOO_LARGE]);
    let records: Vec<_> = (0..10).map(|n| record("out", Some(0), &n.to_string())).collect();
    transactions.commit(&records, &offsets, &membership).await.unwrap();
    // The mock ends when a group has members with different assignors.
    reader.close().await;
    assert_eq!(values(&broker, "out", 10).await, (0..10).map(|n| n.to_string()).collect::<Vec<_>>());
}

/// Red when the process whose id was taken goes on, or is told that nobody knows what became of its transaction; the mock
/// itself shuts nobody out.
#[tokio::test]
async fn who_was_shut_out_by_another_process_is_told_so() {
    let broker = broker(&[("in", 1), ("out", 1)]);
    let (reader, membership, offsets) = member(&broker).await;
    for (call, answer) in [
        (Api::AddPartitionsToTxn, Answer::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH),
        (Api::TxnOffsetCommit, Answer::RD_KAFKA_RESP_ERR_INVALID_PRODUCER_EPOCH),
        (Api::EndTxn, Answer::RD_KAFKA_RESP_ERR_PRODUCER_FENCED),
    ] {
        let mut transactions = transactions(&broker, "same");
        transactions.begin().await.unwrap();
        broker.mock.request_errors(call, &[answer]);
        match transactions.commit(&[record("out", Some(0), "late")], &offsets, &membership).await {
            Err(TransactionError::Taken(why)) => assert!(why.contains("`same`") && why.contains("instance"), "{why}"),
            other => panic!("{call:?}: {other:?}"),
        }
        let outcome = transactions.commit::<Outgoing>(&[], &offsets, &membership).await;
        assert!(outcome.is_err(), "it goes on: {outcome:?}");
    }
    reader.close().await;
}

/// Red when an answer that says that the member is none is taken for something that passes, when offsets of partitions
/// that are not assigned go out, or when a closed source still gives a membership.
#[tokio::test]
async fn who_is_no_member_is_fenced() {
    let broker = broker(&[("in", 1), ("out", 1)]);
    let (mut reader, membership, offsets) = member(&broker).await;
    let mut transactions = transactions(&broker, "a");
    let records = [record("out", Some(0), "x")];
    for answer in [
        Answer::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
        Answer::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID,
        Answer::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID,
    ] {
        broker.mock.request_errors(Api::TxnOffsetCommit, &[answer]);
        let outcome = transactions.commit(&records, &offsets, &membership).await;
        assert!(matches!(outcome, Err(TransactionError::Fenced(_))), "{answer:?}: {outcome:?}");
    }
    broker.mock.request_errors(Api::TxnOffsetCommit, &[Answer::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS]);
    let outcome = transactions.commit(&records, &offsets, &membership).await;
    assert!(matches!(outcome, Err(TransactionError::Aborted(_))), "{outcome:?}");
    let others = [Position { partition: partition("out", 0), next: 1 }];
    match transactions.commit(&records, &others, &membership).await {
        Err(TransactionError::Fenced(why)) => assert!(why.contains("out/0 is not assigned"), "{why}"),
        other => panic!("{other:?}"),
    }
    transactions.commit(&records, &offsets, &membership).await.unwrap();
    reader.source.control(Control::Close);
    reader.close().await;
    assert_eq!(membership.generation(), None);
    match transactions.commit(&records, &offsets, &membership).await {
        Err(TransactionError::Fenced(why)) => assert!(why.contains("closed"), "{why}"),
        other => panic!("{other:?}"),
    }
}

/// Red when the outcome is taken for an abort, or a commit is taken before it was settled.
#[tokio::test]
async fn an_outage_ends_unsettled_and_goes_on_once_settled() {
    let broker = broker(&[("in", 1), ("out", 1)]);
    let (mut reader, membership, offsets) = member(&broker).await;
    let mut transactions = transactions(&broker, "a");
    transactions.commit(&[record("out", Some(0), "before")], &offsets, &membership).await.unwrap();
    // So that the outage comes when the record is on its topic, and not yet committed.
    broker.mock.request_errors(Api::AddOffsetsToTxn, &[Answer::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE; 1_000]);
    let since = Instant::now();
    let records = [record("out", Some(0), "x")];
    let (outcome, ()) = tokio::join!(transactions.commit(&records, &offsets, &membership), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        broker.mock.broker_down(-1).unwrap();
    });
    assert!(matches!(outcome, Err(TransactionError::OutcomeUnknown(_))), "{outcome:?}");
    assert!(since.elapsed() < Duration::from_secs(17), "{:?}", since.elapsed());
    let settled = transactions.settle().await;
    assert!(matches!(settled, Err(TransactionError::OutcomeUnknown(_))), "{settled:?}");
    broker.mock.clear_request_errors(Api::AddOffsetsToTxn);
    broker.mock.broker_up(-1).unwrap();
    match transactions.commit(&[record("out", Some(0), "x")], &offsets, &membership).await {
        Err(TransactionError::OutcomeUnknown(why)) => assert!(why.contains("settle"), "{why}"),
        other => panic!("{other:?}"),
    }
    while let Err(error) = transactions.settle().await {
        assert!(matches!(error, TransactionError::OutcomeUnknown(_)), "{error:?}");
        assert!(since.elapsed() < crate::harness::PATIENCE, "{error:?}");
    }
    // The member has lost its place in the group meanwhile, and has to join again.
    while let Err(error) = transactions.commit(&records, &offsets, &membership).await {
        assert!(matches!(error, TransactionError::Fenced(_)), "{error:?}");
        assert!(since.elapsed() < crate::harness::PATIENCE, "{error:?}");
        reader.next_within(Duration::from_millis(200)).await;
    }
    reader.close().await;
}

/// Red when nobody gives up on a call that does not come back, as librdkafka's does here at times (#5456).
#[tokio::test]
async fn offsets_without_a_coordinator_do_not_hang() {
    let broker = broker(&[("in", 1), ("out", 1)]);
    let (reader, membership, offsets) = member(&broker).await;
    let mut transactions = transactions(&broker, "a");
    transactions.begin().await.unwrap();
    broker.mock.request_errors(Api::AddOffsetsToTxn, &[Answer::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE; 1_000]);
    let since = Instant::now();
    let outcome = transactions.commit(&[record("out", Some(0), "x")], &offsets, &membership).await;
    assert!(outcome.is_err(), "{outcome:?}");
    assert!(since.elapsed() < Duration::from_secs(17), "{:?}", since.elapsed());
    broker.mock.clear_request_errors(Api::AddOffsetsToTxn);
    if matches!(outcome, Err(TransactionError::OutcomeUnknown(_))) {
        transactions.settle().await.unwrap();
    }
    transactions.commit(&[record("out", Some(0), "x")], &offsets, &membership).await.unwrap();
    reader.close().await;
}

/// Red when a commit that failed for good is taken for an abort.
#[tokio::test]
async fn a_commit_is_asked_about_again_and_otherwise_unsettled() {
    let broker = broker(&[("in", 1), ("out", 1)]);
    let (reader, membership, offsets) = member(&broker).await;
    let mut transactions = transactions(&broker, "a");
    let records = [record("out", Some(0), "x")];
    for passing in [
        Answer::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
        Answer::RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS,
        // The connection is cut.
        Answer::RD_KAFKA_RESP_ERR__TRANSPORT,
    ] {
        broker.mock.request_errors(Api::EndTxn, &[passing]);
        transactions.commit(&records, &offsets, &membership).await.unwrap();
    }
    for last in [Answer::RD_KAFKA_RESP_ERR_INVALID_TXN_STATE, Answer::RD_KAFKA_RESP_ERR_UNKNOWN_PRODUCER_ID] {
        broker.mock.request_errors(Api::EndTxn, &[last]);
        let outcome = transactions.commit(&records, &offsets, &membership).await;
        assert!(matches!(outcome, Err(TransactionError::OutcomeUnknown(_))), "{last:?}: {outcome:?}");
        transactions.settle().await.unwrap();
    }
    transactions.commit(&records, &offsets, &membership).await.unwrap();
    reader.close().await;
}

/// Red when a commit is asked about without an end.
#[tokio::test]
async fn a_commit_that_does_not_end_is_unsettled() {
    let broker = broker(&[("in", 1), ("out", 1)]);
    let (reader, membership, offsets) = member(&broker).await;
    let mut transactions = transactions(&broker, "a");
    transactions.begin().await.unwrap();
    broker.mock.request_errors(Api::EndTxn, &[Answer::RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS; 10_000]);
    let since = Instant::now();
    let outcome = transactions.commit(&[record("out", Some(0), "x")], &offsets, &membership).await;
    assert!(matches!(outcome, Err(TransactionError::OutcomeUnknown(_))), "{outcome:?}");
    assert!(since.elapsed() < Duration::from_secs(17), "{:?}", since.elapsed());
    broker.mock.clear_request_errors(Api::EndTxn);
    transactions.settle().await.unwrap();
    transactions.commit(&[record("out", Some(0), "y")], &offsets, &membership).await.unwrap();
    reader.close().await;
}

/// Red when a transaction that was dropped half-way is gone on with.
#[tokio::test]
async fn a_commit_that_was_dropped_has_to_be_settled() {
    let broker = broker(&[("in", 1), ("out", 1)]);
    let (reader, membership, offsets) = member(&broker).await;
    let mut transactions = transactions(&broker, "a");
    transactions.begin().await.unwrap();
    broker.mock.request_errors(Api::EndTxn, &[Answer::RD_KAFKA_RESP_ERR_CONCURRENT_TRANSACTIONS; 5]);
    let records = [record("out", Some(0), "x")];
    let dropped = tokio::time::timeout(Duration::from_millis(50), transactions.commit(&records, &offsets, &membership));
    assert!(dropped.await.is_err());
    let outcome = transactions.commit(&records, &offsets, &membership).await;
    assert!(matches!(outcome, Err(TransactionError::OutcomeUnknown(_))), "{outcome:?}");
    transactions.settle().await.unwrap();
    transactions.commit(&records, &offsets, &membership).await.unwrap();
    reader.close().await;
}

/// Red when a source whose offsets travel in transactions commits a position itself, at its end too.
#[tokio::test]
async fn a_silent_source_commits_nothing() {
    let broker = broker(&[("in", 1)]);
    let (mut reader, ..) = member(&broker).await;
    reader.commit("in", 0, 7);
    reader.note("in", Some("waits"));
    tokio::time::sleep(Duration::from_millis(300)).await;
    reader.close().await;
    assert_eq!(broker.committed("in").await, (None, String::new()));
}

/// Red when the group's own assignor is not used: the configured one evens out what each member has.
#[tokio::test]
async fn a_group_with_an_assignor_of_its_own_uses_it() {
    let broker = broker(&[("in", 3), ("other", 3)]);
    let (mut first, mut second) = (broker.join_silently(&["in", "other"]), broker.join_silently(&["in", "other"]));
    let (one, two) = tokio::join!(first.assigned(), second.assigned());
    for names in [one, two] {
        let numbers = |topic: &str| -> Vec<i32> {
            names.iter().filter(|name| &*name.topic == topic).map(|name| name.partition).collect()
        };
        assert_eq!(numbers("in"), numbers("other"), "{names:?}");
    }
    first.close().await;
    second.close().await;
}
