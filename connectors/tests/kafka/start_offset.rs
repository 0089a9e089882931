//! Where a new group starts: one decision for all members and partitions, and what cannot be asked holds up nothing else.

use std::time::{Duration, Instant};

use headwater_connectors::kafka::Start;

use crate::harness::{Broker, broker, brokers, partition, record};

const QUIET: Duration = Duration::from_millis(400);

/// Of two members that start a group together the one with the lowest partition decides before its engine begins anything,
/// and what it decides holds for the other too.
/// Fails where a member waits for its engine before it decides: the other one's could not begin either.
#[tokio::test]
async fn a_new_group_starts_at_one_place_whichever_member_begins_first() {
    let broker = broker(&[("t", 2)]);
    broker.fill("t", 5).await;
    let join = || broker.join_silently_from(&["t"], Start::Latest);
    let (mut one, mut other) = (join(), join());
    let (names, others) = tokio::join!(one.assigned(), other.assigned());
    assert_eq!((names.len(), others.len()), (1, 1));
    broker.commits("t", 5, "").await;
    broker.producer().send(&[record("t", Some(0), "new"), record("t", Some(1), "new")]).await.unwrap();
    other.begin(&others);
    one.begin(&names);
    other.read(1).await;
    one.read(1).await;
    assert_eq!((one.values(), other.values()), (vec!["new".to_owned()], vec!["new".to_owned()]));
    other.close().await;
    one.close().await;
}

/// A topic has no leader when a group starts at its inputs' ends; the group goes on at that end once there is one again, also
/// as another process.
/// Fails where the error of one topic is every partition's: nothing begins.
#[tokio::test]
async fn a_topic_without_a_leader_holds_up_no_other_and_starts_where_it_stood() {
    for silent in [true, false] {
        let broker = broker(&[("t", 1), ("u", 1)]);
        broker.fill("t", 5).await;
        broker.fill("u", 5).await;
        broker.mock.partition_leader("u", 0, None).unwrap();
        let join = || match silent {
            true => broker.join_silently_from(&["t", "u"], Start::Latest),
            false => broker.join_these(&["t", "u"], &[], Start::Latest),
        };
        let mut reader = join();
        let names = reader.assigned().await;
        assert_eq!(names, [partition("t", 0), partition("u", 0)]);
        reader.begin(&names);
        broker.commits("t", 5, "").await;
        broker.producer().send(&[record("t", Some(0), "new")]).await.unwrap();
        reader.read(1).await;
        reader.close().await;
        let (place, mark) = broker.committed("u").await;
        assert!(place == Some(0) && mark.starts_with("begins where its log stood at 1"), "{place:?} {mark:?}");

        let mut reader = join();
        // Nobody has committed that it was read.
        reader.read(1).await;
        broker.mock.partition_leader("u", 0, Some(1)).unwrap();
        broker.commits("u", 5, "").await;
        broker.producer().send(&[record("u", Some(0), "too")]).await.unwrap();
        reader.read(2).await;
        reader.read_nothing(QUIET).await;
        assert_eq!(reader.values().last().unwrap(), "too");
        reader.close().await;
    }
}

/// A cluster in which another broker leads all of topic `u` than leads topic `t`.
fn two_leaders() -> Broker {
    let broker = brokers(2, &[("t", 1), ("u", 6)]);
    (0..6).for_each(|number| broker.mock.partition_leader("u", number, Some(2)).unwrap());
    broker
}

/// The leader of one topic does not answer when its partitions and those of another topic begin: the others are read at once,
/// and its own once it is back.
/// Red when a round waits for every log that it has asked (`WAIT` in `log_bounds.rs` as long as `ANSWER`), or logs are asked
/// for one after the other: each of the six would take five seconds, in which the polling thread does nothing else.
#[tokio::test]
async fn a_leader_that_does_not_answer_holds_up_no_other_partition() {
    let broker = two_leaders();
    broker.fill("t", 5).await;
    let mut reader = broker.join_these(&["t", "u"], &[], Start::Earliest);
    let names = reader.assigned().await;
    assert_eq!(names.len(), 7);
    broker.mock.broker_down(2).unwrap();
    let since = Instant::now();
    reader.begin(&names);
    reader.read(5).await;
    // Those that cannot begin are asked for again meanwhile.
    for count in 6..10 {
        broker.producer().send(&[record("t", Some(0), "new")]).await.unwrap();
        reader.read(count).await;
        reader.commit("t", 0, count as i64);
        broker.commits("t", count as i64, "").await;
    }
    assert!(since.elapsed() < Duration::from_secs(5), "read after {:?}", since.elapsed());
    broker.mock.broker_up(2).unwrap();
    broker.fill("u", 3).await;
    reader.read(12).await;
    reader.close().await;
}
