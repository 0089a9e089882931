use serde::{Deserialize, Serialize};

use super::{catalogue::KeyFormat, *};
use crate::{
    event::Event,
    failure::Result,
    pipeline::sink::Sink,
    processor::{input::Any, matching},
};

#[derive(Serialize, Deserialize)]
struct Ping {
    id: String,
}

impl Payload for Ping {
    const TYPE: &'static str = "net.ping";
    const SCHEMA: &'static str =
        r#"{"type":"record","name":"Ping","namespace":"headwater.net","fields":[{"name":"id","type":"string"}]}"#;

    fn key(&self) -> &str {
        &self.id
    }
}

async fn echo(ping: Ping) -> Result<Ping> {
    Ok(ping)
}

async fn audit(_: Event<Any>) -> Result<()> {
    Ok(())
}

/// Red when a problem stops the search for others, or one of these checks is dropped.
#[test]
fn every_mistake_is_named_at_once() {
    let pipeline = Pipeline::default()
        .on("echo", echo)
        .on("Audit", matching("net.*", audit))
        .on("any", audit)
        .on("typed", matching("net.*", echo))
        .sink("table", Sink::of::<Ping>("pings"))
        .sink("table", Sink { event: "net.pong".to_owned(), ..Sink::of::<Ping>("pongs").key("id") });
    let problems = pipeline.problems().join("\n");
    for part in [
        "`echo` takes `net.ping`",
        "`Audit` cannot",
        "`any` takes any",
        "`typed` takes one",
        "needs `key`",
        "two groups",
        "`net.pong`",
    ] {
        assert!(problems.contains(part), "{part} is missing in:\n{problems}");
    }
}

/// Red when a processor that matches its own output is accepted, or the permission has no effect.
#[test]
fn a_loop_is_refused_unless_it_is_allowed() {
    let pipeline = Pipeline::default().on("echo", echo);
    assert_eq!(pipeline.problems().len(), 1);
    assert_eq!(pipeline.allow_loop("echo").problems(), Vec::<String>::new());
}

/// Red when what a group owns may be taken for events, or events for dead letters.
#[test]
fn no_topic_is_two_things() {
    let pings = || Sink::of::<Ping>("pings").key("id");
    for (name, refused) in [("events", true), ("events.pings", true), ("eventsx", false)] {
        let problems = Pipeline::default().event::<Ping>().sink(name, pings()).problems();
        assert_eq!(problems.iter().any(|why| why.contains("`events.*`")), refused, "{name}: {problems:?}");
    }
    let facts = EventType { name: "dlq.ping", ..EventType::of::<Ping>() };
    let why = Catalogue::default().add(facts).expect_err("the topic would be `events.dlq`");
    assert!(why.contains("dead letters"), "{why}");
}

/// Red when the prefix is not put before the group, or a pattern without a domain reads single topics.
#[test]
fn groups_have_their_names_under_the_prefix() {
    let groups = Pipeline::default().on("audit", matching("*", audit)).groups("shop.");
    assert_eq!((groups[0].name.as_str(), groups[0].id.as_str()), ("audit", "shop.audit"));
    assert!(groups[0].subscription.all_events);
}

/// Red when a part of the other pipeline is lost, or two groups of one name pass.
#[test]
fn two_pipelines_make_one() {
    let binding = Binding { event_type: "net.pong".to_owned(), key: KeyFormat::default() };
    let audits = Pipeline::default()
        .on("audit", matching("net.*", audit))
        .bind("pongs", binding)
        .policy("audit", Policy::new().order(Order::Partition));
    let echoes = Pipeline::default().on("echo", echo).allow_loop("echo");
    let both = echoes.clone().merge(audits.clone());
    assert_eq!(both.problems(), Vec::<String>::new());
    let groups = both.groups("");
    assert_eq!(groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>(), ["audit", "echo", DEAD_LETTERS]);
    assert_eq!(groups[0].policy.order, Some(Order::Partition));
    assert_eq!(both.catalogue().bindings().map(|(topic, _)| topic).collect::<Vec<_>>(), ["pongs"]);
    assert!(both.catalogue().get("net.ping").is_some());
    let twice = both.merge(audits).problems();
    assert_eq!(twice, ["two groups are named `audit`: give each its own name"]);
    let wrong = Pipeline::default().on("Loud", echo).allow_loop("Loud");
    assert_eq!(Pipeline::default().merge(wrong.clone()).problems(), wrong.problems());
}
