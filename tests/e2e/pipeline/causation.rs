//! Correlation and causation over a pipeline of several hops.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use headwater_tests::{ConsumedRecord, ForeignClient, Process, eventually};
use sqlx::Row as _;

use crate::space;

const PROGRAM: &str = env!("CARGO_BIN_EXE_headwater-of-hops");
const SOON: Duration = Duration::from_mins(1);

/// One event becomes twelve more over four hops that fan out; on the way two are retried, and two are dead letters
/// and sent back. Over all topics and rows there is one correlation id, and the causation ids are one tree without orphans.
/// Red when an event's correlation is its cause's id, its cause is the conversation's first event, or a retry or redrive
/// takes another id.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn four_hops_a_retry_and_a_redrive_are_one_conversation_and_one_tree_of_causes() {
    let space = space("hops").await.without_warehouse();
    let config = "[groups.again]\nretry = [\"300ms\"]\n\
                  [sinks.ended]\nevent = \"hop.ended\"\ntable = \"ended\"\nkey = \"id\"\n";
    std::fs::write(space.dir.join("headwater.toml"), config).expect("the configuration is written");
    let run = async |args: &[&str], input: &str| {
        let (code, out, err) = Process::run(PROGRAM, &space, args, &[], input).await;
        assert_eq!(code, 0, "{args:?}: {out}\n{err}");
    };
    run(&["topology", "apply"], "").await;
    let closed = space.dir.join("closed");
    std::fs::write(&closed, "").expect("written");
    let mut process = Process::start(PROGRAM, &space, "run", &["run"], &[]);
    run(&["produce", "hop.begun"], "{\"id\": \"hop\"}").await;
    let letters = async |status: &str| {
        let sql = "select count(*) from headwater.dead_letters where processor = 'pass' and status";
        space.count(&format!("{sql} = '{status}'")).await
    };
    eventually("two are dead letters", SOON, async || letters("open").await == 2).await;
    std::fs::remove_file(closed).expect("removed");
    run(&["dlq", "redrive", "pass"], "").await;
    eventually("both are resolved", SOON, async || letters("resolved").await == 2).await;
    eventually("four have ended", SOON, async || space.count("select count(*) from ended").await == 4).await;

    let (foreign, name) = (ForeignClient::new(&space), &space.name);
    let events = foreign.read("events.hop");
    let ids: BTreeSet<&str> = events.iter().map(|seen| seen.headers["ce_id"].as_str()).collect();
    let causes: BTreeMap<&str, Option<&str>> = events.iter().map(|seen| (id(seen), cause(seen))).collect();
    assert_eq!((events.len(), ids.len()), (13, 13), "1 begins, 2 are split, 2 tried, 4 passed, 4 ended");
    let root = id(events.iter().find(|seen| cause(seen).is_none()).expect("one has no cause"));
    let mut generations = vec![BTreeSet::from([root])];
    while let Some(parents) = generations.last().filter(|last| !last.is_empty()) {
        let of = |cause: &Option<&str>| cause.is_some_and(|cause| parents.contains(cause));
        generations.push(causes.iter().filter(|(_, cause)| of(cause)).map(|(id, _)| *id).collect());
    }
    assert_eq!(generations.iter().map(BTreeSet::len).collect::<Vec<_>>(), [1, 2, 2, 4, 4, 0], "a tree of all");
    for (topic, count) in [("again.retry.300ms", 2), ("pass.dlq", 2), ("pass.redrive", 2)] {
        let hops = foreign.read(&format!("{name}.{topic}")).into_iter().filter(|seen| seen.value.is_some());
        let hops: Vec<ConsumedRecord> = hops.collect();
        assert_eq!(hops.len(), count, "on {topic}");
        assert!(hops.iter().all(|seen| causes.get(id(seen)) == Some(&cause(seen))), "on {topic} each is who it was");
        assert!(hops.iter().all(|seen| seen.headers["ce_correlationid"] == root), "on {topic}");
    }
    // An event that begins a conversation need not say so.
    let conversation =
        |seen: &ConsumedRecord| seen.headers.get("ce_correlationid").cloned().unwrap_or_else(|| id(seen).to_owned());
    assert!(events.iter().all(|seen| conversation(seen) == root), "one conversation");
    let sql = "select hw_event_id, hw_causation_id, hw_correlation_id from ended union all \
               select event_id, null, correlation_id from headwater.dead_letters where processor = 'pass'";
    for row in sqlx::query(sql).fetch_all(&space.pool).await.expect("rows") {
        let cause = causes.get(row.get::<&str, _>(0)).expect("an event of the tree");
        assert!(row.get::<Option<&str>, _>(1).is_none_or(|said| Some(said) == *cause));
        assert_eq!(row.get::<&str, _>(2), root);
    }
    assert!(process.stop().await.success(), "{}", process.log());
}

fn id(seen: &ConsumedRecord) -> &str {
    &seen.headers["ce_id"]
}

fn cause(seen: &ConsumedRecord) -> Option<&str> {
    seen.headers.get("ce_causationid").map(String::as_str)
}
