//! `headwater groups` and `headwater offsets`: what is seen of groups from outside, and moving those that are stopped.

use std::time::Duration;

use headwater::Time;
use headwater_tests::{ForeignClient, Payments, Process, Proxy, Side, Space, eventually, patience};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer as _},
};
use serde_json::Value as Json;

use crate::{PROGRAM, space};

const SOON: Duration = Duration::from_secs(30);
const SINK: &str = "[sinks.paid]\nevent = \"payment.completed\"\ntable = \"paid\"\nmode = \"insert\"\n";

/// Of the space's own topic, as the sink stores them.
const EPOCHS: &str = "select sum(owner_epoch)::bigint from headwater.consumer_offsets where topic like '%-payments'";
const OFFSETS: &str = "select sum(next_offset)::bigint from headwater.consumer_offsets where topic like '%-payments'";

/// Binds the space's own topic of two partitions to payments, with a sink that has a row for each reading.
async fn ready(space: &Space) -> (String, ForeignClient, Payments) {
    let topic = space.topic("payments");
    space.create_topics(&[&topic], 2).await;
    let config = format!("[topics.\"{topic}\"]\ntype = \"payment.completed\"\n{SINK}");
    std::fs::write(space.dir.join("headwater.toml"), config).expect("the configuration is written");
    let (code, out, err) = Process::run(PROGRAM, space, &["topology", "apply"], &[], "").await;
    assert_eq!(code, 0, "topology apply: {out}\n{err}");
    (topic.clone(), ForeignClient::new(space), Payments::register(space, &topic).await)
}

/// What a command prints, having ended well.
async fn prints(space: &Space, args: &[&str]) -> String {
    let (code, out, err) = Process::run(PROGRAM, space, args, &[], "").await;
    assert_eq!(code, 0, "{args:?}: {out}\n{err}");
    out
}

/// The objects that a command prints with `--json`.
async fn lines(space: &Space, args: &[&str]) -> Vec<Json> {
    let out = prints(space, &[args, &["--json"]].concat()).await;
    out.lines().map(|line| serde_json::from_str(line).expect("json")).collect()
}

/// What a command says that ends with this code.
async fn refuses(space: &Space, args: &[&str], expected: i32) -> String {
    let (code, out, err) = Process::run(PROGRAM, space, args, &[], "").await;
    assert_eq!(code, expected, "{args:?}: {out}\n{err}");
    err
}

/// The sum of a field over the lines about a topic; each must have it.
fn sum(lines: &[Json], topic: &str, field: &str) -> i64 {
    let of: Vec<&Json> = lines.iter().filter(|line| line["topic"] == topic).collect();
    assert!(!of.is_empty(), "nothing of {topic} in {lines:?}");
    of.iter().map(|line| line[field].as_i64().unwrap_or_else(|| panic!("no {field} in {line}"))).sum()
}

async fn state(space: &Space, group: &str) -> Json {
    lines(space, &["groups", group]).await.remove(0)
}

/// A sink and a processor are run, refused a reset while they run, stopped, reset to each kind of place, and run again.
/// Red when active members are not looked for (the sink) or the broker's refusal is swallowed (the processor), `--dry-run`
/// moves something, offsets are set in Kafka alone, or counts are of the whole log.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_group_is_reset_and_reads_again_what_was_said() {
    let space = space("offsets_reset").await;
    let (topic, foreign, payments) = ready(&space).await;
    let on = topic.as_str();
    let send = |from: usize, to: usize| {
        for n in from..to {
            let order = format!("of-{n}");
            foreign.send(on, Some(&order), Some(&payments.value(&order, 1, Some("a@example.org"))), &[]);
        }
        foreign.flush();
    };
    let start =
        |name: &str| Process::start(PROGRAM, &space, name, &["run", "--group", "paid", "--group", "send-receipt"], &[]);
    let paid = async || space.count("select count(*) from paid where order_id like 'of-%'").await;
    let receipts = || {
        let seen = foreign.read("events.receipt").into_iter();
        seen.filter(|seen| seen.headers.get("ce_subject").is_some_and(|subject| subject.contains("of-"))).count()
    };

    assert_eq!(state(&space, "paid").await["state"], "never started");
    let mut first = start("first");
    send(0, 10);
    eventually("all are stored", SOON, async || paid().await == 10).await;
    eventually("all have receipts", SOON, async || receipts() == 10).await;
    let between = Time::now();
    for group in ["paid", "send-receipt"] {
        let state = state(&space, group).await;
        assert_eq!(
            (&state["state"], state["members"].as_array().map(Vec::len)),
            (&"running".into(), Some(1)),
            "{state}"
        );
        let why = refuses(&space, &["offsets", "reset", group, "--to", "earliest"], 1).await;
        let instance = state["members"][0]["instance"].as_str().expect("a static member");
        assert!(why.contains("has members") && why.contains(instance), "{why}");
        assert_eq!(sum(&lines(&space, &["offsets", "show", group]).await, on, "lag"), 0);
    }
    let members = prints(&space, &["groups", "paid", "--verbose"]).await;
    assert!(members.contains(&format!("{on} 0-1")), "{members}");
    assert!(first.stop().await.success(), "{}", first.log());
    for group in ["paid", "send-receipt"] {
        eventually("it is stopped", SOON, async || state(&space, group).await["state"] == "stopped").await;
    }
    tokio::time::sleep(Duration::from_millis(50)).await;
    send(10, 14);
    assert_eq!(sum(&lines(&space, &["offsets", "show", "paid"]).await, on, "lag"), 4);

    let before = (space.count(EPOCHS).await, lines(&space, &["offsets", "show", "paid"]).await);
    let back = ["offsets", "reset", "paid", "--to", "earliest", "--topic", on];
    let planned = lines(&space, &[&back[..], &["--dry-run"]].concat()).await;
    assert_eq!((sum(&planned, on, "again"), sum(&planned, on, "skipped")), (10, 0));
    assert_eq!(before, (space.count(EPOCHS).await, lines(&space, &["offsets", "show", "paid"]).await));

    let done = lines(&space, &back).await;
    assert_eq!((sum(&done, on, "again"), sum(&done, on, "to"), done.len()), (10, 0, 2));
    assert_eq!((space.count(OFFSETS).await, space.count(EPOCHS).await), (0, before.0 + 2));
    assert_eq!(foreign.committed(&format!("{}.paid", space.name), on, 2), [0, 0], "kafka has the copy");
    let full = format!("{}.send-receipt", space.name);
    let done = lines(&space, &["offsets", "reset", &full, "--to", "latest", "--topic", on]).await;
    assert_eq!((sum(&done, on, "again"), sum(&done, on, "skipped")), (0, 4));

    let mut second = start("second");
    eventually("the sink reads all again", SOON, async || paid().await == 24).await;
    send(14, 15);
    eventually("and what comes", SOON, async || paid().await == 25 && receipts() == 11).await;
    assert!(second.stop().await.success(), "{}", second.log());
    for group in ["paid", "send-receipt"] {
        eventually("it is stopped", SOON, async || state(&space, group).await["state"] == "stopped").await;
        let place = ["offsets", "reset", group, "--topic", on, "--to"];
        let done = lines(&space, &[&place[..], &[&between.to_string()]].concat()).await;
        assert_eq!((sum(&done, on, "again"), sum(&done, on, "skipped")), (5, 0), "{group}");
        let later = lines(&space, &[&place[..], &["2999-01-01T00:00:00Z"]].concat()).await;
        assert_eq!((sum(&later, on, "again"), sum(&later, on, "skipped")), (0, 5), "{group}");
    }
}

/// A member joins while the command waits for the database, after it has asked who is in the group: nothing is moved under it.
/// Fails where the members are not asked for again before anything is committed (`reset`): Postgres takes what Kafka would refuse.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_that_a_member_joins_meanwhile_changes_nothing() {
    let space = space("offsets_joined").await;
    let (topic, _, _) = ready(&space).await;
    let mut proxy = Proxy::postgres(&space.database_url).await;
    proxy.watch(Side::Before, &["consumer_offsets"]);
    let address = proxy.address().to_owned();
    let slow = [("HEADWATER__POSTGRES__URL", address.as_str()), ("HEADWATER__POSTGRES__CONNECT_TIMEOUT", "2m")];
    let args = ["offsets", "reset", "paid", "--to", "latest"];
    let mut reset = Box::pin(Process::run(PROGRAM, &space, &args, &slow, ""));
    let held = tokio::select! {
        held = proxy.next(patience(SOON)) => held.expect("the offsets are asked for"),
        (code, out, err) = &mut reset => panic!("{code}: {out}\n{err}"),
    };
    let member: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &space.endpoints.kafka_bootstrap)
        .set("group.id", format!("{}.paid", space.name))
        .create()
        .expect("a consumer");
    member.subscribe(&[&topic]).expect("subscribed");
    let has_joined = async || {
        let _ = member.poll(Duration::ZERO);
        member.assignment().is_ok_and(|assigned| assigned.count() == 2)
    };
    eventually("it has joined", SOON, has_joined).await;
    proxy.unwatch();
    held.pass();
    let (code, _, err) = reset.await;
    assert!(code == 1 && err.contains("has just joined"), "{code}: {err}");
    assert_eq!(space.count("select count(*) from headwater.consumer_offsets").await, 0);
}

/// What a group says that finds its topic created anew is what helps, and then the table follows the new topic: its offsets
/// begin again below those that the rows have. Red when a reset keeps the old topic's id, or an upsert goes by offsets alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sink_whose_topic_was_created_anew_goes_on_after_the_reset_that_it_names() {
    let space = space("offsets_anew").await;
    let (topic, foreign, payments) = ready(&space).await;
    let config = std::fs::read_to_string(space.dir.join("headwater.toml")).expect("the configuration is read");
    let latest =
        "[sinks.latest]\nevent = \"payment.completed\"\ntable = \"latest\"\nkey = \"order_id\"\nmode = \"upsert\"\n";
    std::fs::write(space.dir.join("headwater.toml"), config + latest).expect("the configuration is written");
    let (code, out, err) = Process::run(PROGRAM, &space, &["topology", "apply"], &[], "").await;
    assert_eq!(code, 0, "topology apply: {out}\n{err}");
    // Of both topics each order has its cents; of the first one each order is there twice, so that its offsets are higher.
    let send = |foreign: &ForeignClient, count: usize, cents: i64| {
        for n in 0..count {
            let order = format!("oa-{}", n % 10);
            foreign.send(&topic, Some(&order), Some(&payments.value(&order, cents, None)), &[]);
        }
        foreign.flush();
    };
    let groups = ["run", "--group", "paid", "--group", "latest"];
    let start = |name: &str| Process::start(PROGRAM, &space, name, &groups, &[]);
    let paid = async || space.count("select count(*) from paid where order_id like 'oa-%'").await;
    let latest = async |cents| {
        space.count(&format!("select count(*) from latest where order_id like 'oa-%' and amount_cents = {cents}")).await
    };
    let mut first = start("first");
    send(&foreign, 50, 1);
    eventually("all are stored", SOON, async || paid().await == 50 && latest(1).await == 10).await;
    assert!(first.stop().await.success(), "{}", first.log());
    drop(foreign);
    space.delete_topic(&topic).await;
    space.create_topics(&[&topic], 2).await;
    send(&ForeignClient::new(&space), 10, 2);
    let mut second = start("second");
    let command = |group: &str| format!("offsets reset {}.{group} --topic {topic} --to earliest", space.name);
    for group in ["paid", "latest"] {
        second.logs(&command(group), SOON).await;
    }
    second.stop().await;
    for group in ["paid", "latest"] {
        eventually("it has left", SOON, async || state(&space, group).await["state"] == "stopped").await;
        prints(&space, &command(group).split(' ').collect::<Vec<_>>()).await;
    }
    let mut third = start("third");
    eventually("the new topic is stored", SOON, async || paid().await == 60 && latest(2).await == 10).await;
    assert!(third.stop().await.success(), "{}", third.log());
}

/// Red when a group that never started has all before it whatever its start, an offset is taken for every partition, one that the log does not have is committed as it is, or a name that is
/// not known is another exit code than wrong usage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reset_that_cannot_be_meant_is_refused_with_what_can() {
    let space = space("offsets_refused").await;
    let (topic, foreign, payments) = ready(&space).await;
    for n in 0..20 {
        let order = format!("or-{n}");
        foreign.send(&topic, Some(&order), Some(&payments.value(&order, 1, None)), &[]);
    }
    foreign.flush();
    assert_eq!(sum(&lines(&space, &["offsets", "show", "paid"]).await, &topic, "lag"), 20);
    let late = [("HEADWATER__DEFAULTS__START", "latest")];
    let (_, out, err) = Process::run(PROGRAM, &space, &["groups", "paid", "--json"], &late, "").await;
    assert!(out.contains("\"lag\":0") && out.contains("never started"), "{out}{err}");
    let reset = |more: &'static [&'static str]| [&["offsets", "reset"][..], more].concat();
    for (arguments, part) in [
        (reset(&["piad", "--to", "earliest"]), "did you mean `paid`?"),
        (reset(&["paid", "--to", "yesterday"]), "2026-01-01T00:00:00Z"),
        (reset(&["paid", "--to", "3"]), "--partition"),
        (reset(&["paid", "--to", "3", "--partition", "1"]), "--topic"),
        (reset(&["paid", "--to", "earliest", "--topic", "events.paymnt"]), "did you mean `events.payment`?"),
    ] {
        let why = refuses(&space, &arguments, 2).await;
        assert!(why.contains(part), "{arguments:?}: {why}");
    }
    let one = ["offsets", "reset", "paid", "--topic", &topic, "--partition", "1", "--to"];
    let why = refuses(&space, &[&one[..5], &["--partition", "2", "--to", "3"]].concat(), 2).await;
    assert!(why.contains("no partition 2"), "{why}");
    let done = lines(&space, &[&one[..], &["3"]].concat()).await;
    assert_eq!((done.len(), &done[0]["to"], &done[0]["asked"]), (1, &Json::from(3), &Json::Null));
    let text = prints(&space, &[&one[..], &["999"]].concat()).await;
    let shown = lines(&space, &["offsets", "show", "paid"]).await;
    let place = shown.iter().find(|line| line["topic"] == *topic && line["partition"] == 1).expect("its line");
    assert_eq!(place["committed"], place["end"], "{place}");
    assert!(text.contains("not at 999"), "{text}");
}

/// Commits a partition's next offset with a text, as a member of the group would.
async fn commit(space: &Space, group: &str, (topic, partition, next): (&str, i32, i64), note: &str) {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &space.endpoints.kafka_bootstrap)
        .set("group.id", group)
        .create()
        .expect("a consumer");
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, partition, Offset::Offset(next)).expect("valid");
    list.find_partition(topic, partition).expect("just added").set_metadata(note);
    let commit = tokio::task::spawn_blocking(move || consumer.commit(&list, CommitMode::Sync));
    commit.await.expect("no panic").expect("committed");
}

/// Red when the text that is committed with an offset is not shown, retries are counted as input or reset with it, another
/// group under the prefix is left out, or a database that does not answer hides everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn groups_show_what_waits_and_what_stands_still_and_why() {
    let space = space("offsets_groups").await;
    let (topic, foreign, _) = ready(&space).await;
    let group = format!("{}.send-receipt", space.name);
    // A rung that the ladder does not have (any more) is waited on as well.
    let (retry, redrive) = (format!("{group}.retry.7s"), format!("{group}.redrive"));
    space.create_topics(&[&retry, &redrive], 1).await;
    for (topic, count) in [(&topic, 5), (&retry, 3), (&redrive, 2)] {
        (0..count).for_each(|_| foreign.send(topic, Some("k"), Some(b"x"), &[]));
    }
    foreign.flush();
    let reason = "circuit `warehouse` is open";
    commit(&space, &group, (&retry, 0, 1), "").await;
    commit(&space, &group, (&topic, 1, 0), reason).await;
    commit(&space, &format!("{}.renamed", space.name), (&topic, 0, 0), "").await;

    let state = state(&space, &group).await;
    assert_eq!((&state["state"], &state["retries"], &state["redrives"]), (&"stopped".into(), &2.into(), &2.into()));
    let still = serde_json::json!([{"topic": topic, "partition": 1, "reason": reason}]);
    assert_eq!(state["standing_still"], still);
    let shown = lines(&space, &["offsets", "show", "send-receipt"]).await;
    assert_eq!(sum(&shown, &topic, "lag"), 5);
    let text = prints(&space, &["groups"]).await;
    assert!(text.contains(&format!("{topic}/1: {reason}")), "{text}");
    let stranger = text.lines().find(|line| line.contains(".renamed")).unwrap_or_default();
    assert!(stranger.contains("unknown to this pipeline"), "{text}");
    let away =
        [("HEADWATER__POSTGRES__URL", "postgres://127.0.0.1:1/x"), ("HEADWATER__POSTGRES__CONNECT_TIMEOUT", "1s")];
    let (code, out, err) = Process::run(PROGRAM, &space, &["groups"], &away, "").await;
    assert!(code == 0 && out.contains(reason) && err.contains("kafka was told last"), "{out}\n{err}");
    let (code, _, err) =
        Process::run(PROGRAM, &space, &["offsets", "reset", "paid", "--to", "latest"], &away, "").await;
    assert!(code == 1 && err.contains("nothing was changed"), "{err}");

    lines(&space, &["offsets", "reset", "send-receipt", "--to", "latest"]).await;
    let after = self::state(&space, "send-receipt").await;
    assert_eq!((&after["standing_still"], &after["lag"]), (&serde_json::json!([]), &0.into()));
    assert_eq!(after["retries"], 2, "only the inputs are reset");
}
