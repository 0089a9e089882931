//! Partitions that are assigned: where reading of them begins.

use std::time::Duration;

use headwater::ports::{Control, Fetched, From, Source as _};
use headwater_connectors::kafka::{Assignor, KafkaConfig, KafkaSource, SourceConfig, Start, Subscription};
use headwater_tests::{Foreign, Proxy, Side};
use tokio::time::timeout;

use crate::space;

const SOON: Duration = Duration::from_secs(30);

/// PITFALLS 45. What is asked of a broker may be answered late, and librdkafka then goes where the answer says, over the
/// place that it was told meanwhile. So nothing is asked where partitions are assigned: it has no place to look up.
/// Red when partitions are assigned at their beginning or end, at their committed offset, or before they are paused (the
/// last for a log that does not begin at 0).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_assignment_asks_for_no_offset_that_could_come_late() {
    let space = space("assigned").await;
    let topic = space.topic("late");
    space.create_topics(&[&topic], 4).await;
    let foreign = Foreign::new(&space);
    (0..40).for_each(|n| foreign.send(&topic, Some(&n.to_string()), Some(b"x"), &[]));
    foreign.flush();
    for assignor in [Assignor::Range, Assignor::CooperativeSticky] {
        let mut proxy = Proxy::kafka(&space.endpoints.kafka_bootstrap).await;
        let kafka = KafkaConfig { bootstrap: proxy.address().to_owned(), ..space.kafka() };
        proxy.watch(Side::Before, &["ListOffsets", &topic]);
        let mut source =
            KafkaSource::join(&kafka, source(&space.topic(assignor_name(assignor)), &topic, assignor)).expect("joins");
        let names = loop {
            match timeout(SOON, source.next(true)).await.expect("the partitions are assigned") {
                Fetched::Assigned(names) if !names.is_empty() => break names,
                Fetched::Assigned(_) | Fetched::Connected(_) => {}
                other => panic!("assigned expected, not {other:?}"),
            }
        };
        // An assignment that looks its places up does so at once, and again every 500 ms.
        assert!(proxy.next(Duration::from_secs(1)).await.is_none(), "{assignor:?}: the assignment asks for offsets");
        proxy.unwatch();
        for (start, partition) in (1..).zip(names) {
            source.control(Control::Begin { partition, from: From::Offset(1), start });
        }
        let mut read = 0;
        while read < 40 - 4 {
            match timeout(SOON, source.next(true)).await.expect("records come") {
                Fetched::Records(batch) => read += batch.records.len(),
                Fetched::Connected(Ok(())) => {}
                other => panic!("records expected, not {other:?}"),
            }
        }
        source.control(Control::Close);
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
