//! `headwater dlq`: letters are found, sent back, discarded and edited. The tests put them into the table themselves.

mod cut_letter;

use std::{collections::BTreeMap, os::unix::fs::PermissionsExt as _, process::Command, time::Duration};

use headwater::spi::DeadLetter;
use headwater_connectors::kafka::{Cluster, TopicSpec};
use headwater_tests::{ForeignClient, Payments, Process, Space, eventually, full};
use serde_json::Value as Json;
use sqlx::AssertSqlSafe;

use crate::{PROGRAM, space};

const SOON: Duration = Duration::from_secs(30);
const MAIL: Option<&str> = Some("ann@example.org");

/// Letters of a space's groups, and the way to their topics.
struct LetterTable {
    space: Space,
    foreign: ForeignClient,
    payments: Payments,
}

impl LetterTable {
    /// A space with its topics, schemas and tables.
    async fn new(name: &str) -> Self {
        Self::with(name, "").await
    }

    /// The same with this configuration.
    async fn with(name: &str, config: &str) -> Self {
        let space = space(name).await;
        std::fs::write(space.dir.join("headwater.toml"), config).expect("the configuration is written");
        let (code, out, err) = Process::run(PROGRAM, &space, &["topology", "apply"], &[], "").await;
        assert_eq!(code, 0, "topology apply: {out}\n{err}");
        // A partition that has just been made has its leader a little later.
        let cluster = Cluster::new(&space.kafka()).expect("valid");
        for (group, partition) in ["send-receipt", "fulfil-order"].iter().flat_map(|g| (0..6).map(move |n| (g, n))) {
            let topic = format!("{}.{group}.redrive", space.name);
            let leads = async || cluster.watermarks(&topic, partition).await.is_ok();
            eventually("the partition has a leader", SOON, leads).await;
        }
        let (foreign, payments) =
            (ForeignClient::new(&space), Payments::register(&space, &space.topic("foreign")).await);
        Self { space, foreign, payments }
    }

    fn group(&self, name: &str) -> String {
        format!("{}.{name}", self.space.name)
    }

    fn topic(&self) -> String {
        self.group("send-receipt.redrive")
    }

    /// Open letters `from..to` of a group, a second apart, each of an event of its own; their partition is 8.
    async fn letters(&self, group: &str, kind: &str, (from, to): (i64, i64), value: &[u8]) {
        let sql = format!(
            "insert into headwater.dead_letters (id, consumer_group, processor, event_id, event_type, kind, message, \
             detail, fingerprint, attempts, redrive_count, origin_topic, origin_partition, origin_offset, \
             origin_timestamp, key, value, headers, correlation_id, first_failed_at, dead_lettered_at) \
             select {ID}, $1, $6, 'e-' || n, 'payment.completed', $2, 'it broke', 'it broke: here', 'f-' || $2, 5, 1, \
             'events.payment', 8, n, to_timestamp(1700000000.123), convert_to('o-' || n, 'UTF8'), $3, \
             jsonb_build_array(jsonb_build_object('name', 'ce_id', 'text', 'e-' || n), \
             jsonb_build_object('name', 'ce_correlationid', 'text', 'c-' || n)), 'c-' || n, \
             to_timestamp(1700000000), to_timestamp(1700000100 + n) from generate_series($4, $5 - 1) as s (n)",
            ID = id_of("n"),
        );
        let insert = sqlx::query(AssertSqlSafe(sql))
            .bind(self.group(group))
            .bind(kind)
            .bind(value)
            .bind(from)
            .bind(to)
            .bind(group);
        insert.execute(&self.space.pool).await.expect("letters");
    }

    /// What a command prints, having ended with this code: standard output and standard error.
    async fn says(&self, expected: i32, args: &[&str]) -> (String, String) {
        let (code, out, err) = Process::run(PROGRAM, &self.space, &[&["dlq"], args].concat(), &[], "").await;
        assert_eq!(code, expected, "{args:?}: {out}\n{err}");
        (out, err)
    }

    /// The objects that a command prints with `--json`, having ended with this code.
    async fn lines(&self, expected: i32, args: &[&str]) -> Vec<Json> {
        let (out, _) = self.says(expected, &[args, &["--json"]].concat()).await;
        out.lines().map(|line| serde_json::from_str(line).expect("json")).collect()
    }

    async fn count(&self, condition: &str) -> i64 {
        self.space.count(&format!("select count(*) from headwater.dead_letters where {condition}")).await
    }

    /// The event ids on a topic, with how often each is there.
    fn sent(&self, topic: &str) -> BTreeMap<String, usize> {
        let mut ids = BTreeMap::new();
        for seen in self.foreign.read(topic) {
            *ids.entry(seen.headers["ce_id"].clone()).or_default() += 1;
        }
        ids
    }
}

/// A letter's id as SQL, from its number.
fn id_of(n: &str) -> String {
    format!("('00000000-0000-0000-0000-' || lpad(({n})::text, 12, '0'))::uuid")
}

fn id(n: i64) -> String {
    format!("00000000-0000-0000-0000-{n:012}")
}

fn ids(range: std::ops::Range<i64>) -> BTreeMap<String, usize> {
    range.map(|n| (format!("e-{n}"), 1)).collect()
}

/// Fifty letters of two makes, with the value that a foreign client wrote.
/// Red when a make is counted with the other, the value is not decoded or not the one that was produced, `--raw` changes
/// a byte, a filter is left out, or a wrong group is another exit code than wrong usage.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn letters_are_counted_by_make_and_shown_with_everything() {
    let post = LetterTable::new("dlq_shown").await;
    let value = post.payments.value("o-1", 990, MAIL);
    post.letters("send-receipt", "rejected", (0, 30), &value).await;
    post.letters("send-receipt", "decode", (30, 50), b"\0\0\0\0\x63\x1b[2J").await;
    post.letters("fulfil-order", "exhausted", (50, 51), &value).await;

    let makes = post.lines(0, &["groups", "send-receipt"]).await;
    let counts: Vec<_> = makes.iter().map(|make| (make["kind"].as_str(), make["open"].as_i64())).collect();
    assert_eq!(counts, [(Some("rejected"), Some(30)), (Some("decode"), Some(20))]);
    let (all, _) = post.says(0, &["groups"]).await;
    assert_eq!(all.lines().count(), 4, "{all}");
    let listed = post.lines(0, &["list", &post.group("send-receipt"), "--kind", "decode", "--limit", "7"]).await;
    let offsets: Vec<_> = listed.iter().filter_map(|letter| letter["offset"].as_i64()).collect();
    assert_eq!(offsets, [49, 48, 47, 46, 45, 44, 43], "the newest first");
    let (_, more) = post.says(0, &["list", "--limit", "7", "--since", "2023-11-14T22:15:10Z"]).await;
    assert!(more.contains("7 of 41"), "{more}");

    let shown = post.lines(0, &["show", &id(3)]).await.remove(0);
    let sha = "select encode(sha256(value), 'hex') from headwater.dead_letters where origin_offset = 3";
    let sha: String = sqlx::query_scalar(sha).fetch_one(&post.space.pool).await.expect("a hash");
    assert_eq!((&shown["value"]["sha256"], &shown["value"]["bytes"]), (&sha.into(), &value.len().into()));
    assert_eq!(shown["value"]["data"]["amount_cents"], 990, "{shown}");
    assert_eq!((&shown["correlation_id"], &shown["key"]["text"]), (&"c-3".into(), &"o-3".into()));
    let raw = Command::new(PROGRAM).args(["dlq", "show", &id(3), "--raw"]).envs(post.space.env()).output();
    assert!(raw.expect("it runs").stdout == value, "the very bytes");
    let (text, _) = post.says(0, &["show", &id(40)]).await;
    assert!(text.contains("schema id 99 is not in the schema registry") && text.contains("9 bytes"), "{text}");
    for part in ["5 attempts", "events.payment/8 offset 40", "f-decode", "c-40", "it broke: here"] {
        assert!(text.contains(part), "{part} is missing: {text}");
    }

    let (_, wrong) = post.says(2, &["list", "send-reciept"]).await;
    assert!(wrong.contains("did you mean `send-receipt`?"), "{wrong}");
    let (_, none) = post.says(1, &["show", &id(99)]).await;
    assert!(none.contains("there is no dead letter"), "{none}");
    let away =
        [("HEADWATER__POSTGRES__URL", "postgres://127.0.0.1:1/x"), ("HEADWATER__POSTGRES__CONNECT_TIMEOUT", "1s")];
    let (code, _, err) = Process::run(PROGRAM, &post.space, &["dlq", "groups"], &away, "").await;
    assert!(code == 1 && err.contains("127.0.0.1:1"), "{err}");
}

/// Red when a filter is left out, a dry run sends, another group gets something, a letter is sent again that is on its way,
/// a parked one is sent without its name, or key, value, partition or headers differ from what the letter says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_redrive_sends_what_is_meant_to_the_failing_group_alone() {
    let post = LetterTable::new("dlq_redrive").await;
    let value = post.payments.value("o-1", 990, MAIL);
    post.letters("send-receipt", "rejected", (0, 30), &value).await;
    post.letters("send-receipt", "decode", (30, 50), b"poison").await;
    post.letters("fulfil-order", "rejected", (50, 60), &value).await;
    let parked =
        format!("update headwater.dead_letters set status = 'parked', redrive_count = 4 where id = {}", id_of("0"));
    sqlx::query(AssertSqlSafe(parked)).execute(&post.space.pool).await.expect("parked");
    let redrive = |more: &[&'static str]| [&["redrive", "send-receipt"], more].concat();

    let planned = post.lines(0, &redrive(&["--kind", "rejected", "--dry-run"])).await;
    assert_eq!((&planned[0]["letters"], &planned[1]["planned"]), (&29.into(), &29.into()));
    let (text, _) = post.says(0, &redrive(&["--dry-run"])).await;
    assert!(text.contains("49 letters would go to"), "{text}");
    assert_eq!((post.count("status = 'redriven'").await, post.sent(&post.topic()).len()), (0, 0));

    let (text, begun) =
        post.says(0, &redrive(&["--fingerprint", "f-rejected", "--since", "2023-11-14T22:15:05Z"])).await;
    assert!(
        begun.contains("sending 25 letters") && text.starts_with("sent 25, refused 0, left 0 in "),
        "{begun}{text}"
    );
    assert_eq!(post.sent(&post.topic()), ids(5..30));
    let seen = post.foreign.read(&post.topic());
    let offsets: Vec<_> = seen.iter().map(|seen| seen.headers["hw_origin_offset"].as_str()).collect();
    assert_eq!(offsets, (5..30).map(|n| n.to_string()).collect::<Vec<_>>(), "the oldest first");
    for seen in &seen {
        let offset = &seen.headers["hw_origin_offset"];
        assert_eq!(seen.place.0, 2, "partition 8 of 6");
        assert_eq!((seen.value.as_ref(), seen.key.as_deref()), (Some(&value), Some(format!("o-{offset}").as_bytes())));
        for (name, expected) in [
            ("ce_correlationid", format!("c-{offset}").as_str()),
            ("hw_attempt", "0"),
            ("hw_redrive_count", "2"),
            ("hw_group", &post.group("send-receipt")),
            ("hw_origin_topic", "events.payment"),
            ("hw_origin_partition", "8"),
            ("hw_origin_timestamp", "1700000000123"),
        ] {
            assert_eq!(seen.headers[name], expected, "{name}");
        }
    }
    let again = post.lines(0, &redrive(&["--fingerprint", "f-rejected", "--since", "2023-11-14T22:15:05Z"])).await;
    assert_eq!((&again[0]["sent"], &again[0]["planned"]), (&0.into(), &0.into()));
    let (_, named) = post.says(0, &["redrive", "send-receipt", "--id", &id(7)]).await;
    assert!(named.contains("is redriven already: nothing to do"), "{named}");
    assert_eq!(post.sent(&post.topic()).len(), 25, "a second redrive does nothing");

    post.lines(0, &redrive(&["--limit", "3"])).await;
    assert_eq!(post.count("status = 'redriven'").await, 28);
    post.lines(0, &redrive(&[])).await;
    assert_eq!(post.count("status = 'parked'").await, 1);
    let (_, other) = post.says(1, &["redrive", "send-receipt", "--id", &id(50)]).await;
    assert!(other.contains("has no dead letter"), "{other}");
    post.lines(0, &["redrive", "send-receipt", "--id", &id(0)]).await;
    assert_eq!(post.sent(&post.topic()), ids(0..50));
    assert_eq!((post.count("status = 'open'").await, post.sent(&post.group("fulfil-order.redrive")).len()), (10, 0));
}

/// Red when a letter that the broker refuses is marked, stops the others, or is no failure; or a missing topic is not said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_letter_that_cannot_be_sent_stays_open_and_is_said() {
    let post = LetterTable::new("dlq_refused").await;
    let small = TopicSpec {
        name: post.group("paid.redrive"),
        partitions: 1,
        replication: 1,
        config: vec![("max.message.bytes".to_owned(), "20000".to_owned())],
    };
    std::fs::write(
        post.space.dir.join("headwater.toml"),
        "[sinks.paid]\nevent = \"payment.completed\"\ntable = \"paid\"\nkey = \"payment_id\"\n\
         [sinks.lost]\nevent = \"payment.completed\"\ntable = \"lost\"\nkey = \"payment_id\"\n",
    )
    .expect("the configuration is written");
    Cluster::new(&post.space.kafka()).expect("valid").apply(&[small]).await.expect("a topic");
    post.letters("paid", "row", (0, 10), b"x").await;
    // What compression makes nothing of: a linear congruence's upper bytes.
    let next = |seed: &u64| Some(seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1));
    let noise: Vec<u8> =
        std::iter::successors(Some(1), next).map(|seed: u64| seed.to_be_bytes()[0]).take(40_000).collect();
    post.letters("paid", "row", (10, 11), &noise).await;
    post.letters("paid", "row", (11, 20), b"x").await;
    let (text, said) = post.says(1, &["redrive", "paid"]).await;
    assert!(text.starts_with("sent 19, refused 1, left 0 in "), "{text}");
    assert!(said.contains(&id(10)) && said.contains("max.message.bytes"), "{said}");
    assert_eq!(post.count("status = 'open' and origin_offset = 10").await, 1);
    assert_eq!(post.sent(&post.group("paid.redrive")).len(), 19);

    post.letters("lost", "row", (20, 22), b"x").await;
    let (_, said) = post.says(1, &["redrive", "lost"]).await;
    assert!(said.contains("lost.redrive does not exist: run `headwater topology apply`"), "{said}");
    let away = [("HEADWATER__KAFKA__BOOTSTRAP", "127.0.0.1:1")];
    let (code, _, err) = Process::run(PROGRAM, &post.space, &["dlq", "redrive", "lost"], &away, "").await;
    assert!(code == 1 && err.contains("the kafka cluster does not answer"), "{err}");
    assert_eq!(post.count("status = 'open' and consumer_group like '%lost'").await, 2);
}

/// A redrive is killed with kill -9 in its middle, and the rest is sent by two at once; one of them says how long it took.
/// Red when letters are marked before they are acknowledged (some are lost), the lock is left out (many are sent twice),
/// or the pause is left out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_letter_is_lost_by_a_kill_or_sent_twice_by_two() {
    let post = LetterTable::new("dlq_killed").await;
    let count = if full() { 10_000 } else { 1_500 };
    post.letters("send-receipt", "rejected", (0, count), &post.payments.value("o-1", 990, MAIL)).await;
    let args = ["dlq", "redrive", "send-receipt", "--rate", "500/s"];
    let mut first = Process::start(PROGRAM, &post.space, "first", &args, &[]);
    let middle = async || post.count("status = 'redriven'").await > count / 3;
    eventually("a third is sent", SOON, middle).await;
    first.kill().await;
    let killed = post.count("status = 'redriven'").await;
    assert!(killed < count, "it was killed too late: {killed}");
    let rest = ["redrive", "send-receipt", "--rate", "500/s"];
    let mut left = 0;
    // The server may still hold what the killed one had locked.
    for _ in 0..5 {
        let (one, two) = tokio::join!(post.lines(0, &rest), post.lines(0, &rest));
        let sent = |lines: &[Json]| lines.last().and_then(|line| line["sent"].as_i64()).expect("a summary");
        left += sent(&one) + sent(&two);
        if post.count("status = 'open'").await == 0 {
            break;
        }
    }
    assert_eq!((killed + left, post.count("status = 'redriven'").await), (count, count));
    let ids = post.sent(&post.topic());
    let twice = ids.values().filter(|times| **times == 2).count();
    assert_eq!(ids.len() as i64, count, "none is lost");
    assert!(ids.values().all(|times| *times <= 2) && twice <= 50, "at most the chunk that was under way: {twice}");
}

/// Red when the time that sending takes is not made up for (slower), the last chunk does not wait (faster), or everything
/// is sent at once. A slow machine may be slower than it should, but never faster.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rate_is_kept() {
    let post = LetterTable::new("dlq_rate").await;
    let count = if full() { 10_000 } else { 600 };
    post.letters("send-receipt", "rejected", (0, count), &post.payments.value("o-1", 990, MAIL)).await;
    let done = post.lines(0, &["redrive", "send-receipt", "--rate", "500/s"]).await.remove(0);
    let rate = count as f64 / done["seconds"].as_f64().expect("seconds");
    assert!(rate <= 525.0, "{rate}/s");
    assert!(!full() || rate >= 475.0, "{rate}/s");
    assert_eq!((&done["sent"], &done["left"]), (&count.into(), &0.into()));
}

/// Red when letters go without having been named or `--yes`, or a row goes, or one that was sent back is given up.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_discarded_letter_is_kept_with_its_note() {
    let post = LetterTable::new("dlq_discarded").await;
    post.letters("send-receipt", "rejected", (0, 10), b"x").await;
    post.letters("send-receipt", "decode", (10, 15), b"x").await;
    post.says(0, &["redrive", "send-receipt", "--id", &id(9)]).await;
    let by_kind = ["discard", "--group", "send-receipt", "--kind", "decode"];
    let (_, said) = post.says(2, &by_kind).await;
    assert!(said.contains("5 letters would be discarded"), "{said}");
    let (_, said) = post.says(2, &["discard"]).await;
    assert!(said.contains("say which"), "{said}");
    assert_eq!(post.count("status = 'discarded'").await, 0);
    let done = post.lines(0, &[&by_kind[..], &["--yes", "--note", "test data"]].concat()).await;
    assert_eq!((done.len(), post.count("status = 'discarded' and note = 'test data'").await), (5, 5));
    let (text, said) = post.says(1, &["discard", &id(0), &id(9), &id(99)]).await;
    assert!(text.contains("discarded 1, not discarded 2") && said.contains("it is redriven"), "{text}{said}");
    assert_eq!((post.count("true").await, post.count("status = 'discarded'").await), (15, 6));
    let (text, _) = post.says(0, &["show", &id(12)]).await;
    assert!(text.contains("test data"), "{text}");
}

/// Red when the copy is not linked, is not where its row says, or keeps the old id; when what does not fit is sent, or an
/// unchanged value is; or when the letter without a schema has none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_letter_is_a_linked_copy_with_the_new_value() {
    let post = LetterTable::new("dlq_edited").await;
    post.letters("send-receipt", "rejected", (0, 3), &post.payments.value("o-1", 990, None)).await;
    post.letters("send-receipt", "decode", (3, 4), b"poison").await;
    let shown = post.lines(0, &["show", &id(1)]).await.remove(0);
    let mut data = shown["value"]["data"].clone();
    let write = |data: &Json| std::fs::write(post.space.dir.join("value.json"), data.to_string()).expect("a file");
    let edit = |n: i64| ["edit".to_owned(), id(n), "--value".to_owned(), "value.json".to_owned()];
    let edit = async |code, n| {
        let args = edit(n);
        post.says(code, &args.each_ref().map(String::as_str)).await
    };

    write(&data);
    let (_, said) = edit(0, 1).await;
    assert!(said.contains("nothing was changed"), "{said}");
    data["amount_cents"] = "many".into();
    write(&data);
    let (_, said) = edit(1, 1).await;
    assert!(said.contains("amount_cents"), "the field is named: {said}");
    assert_eq!((post.count("status = 'open'").await, post.sent(&post.topic()).len()), (4, 0));

    data["amount_cents"] = 990.into();
    data["email"] = "bob@example.org".into();
    write(&data);
    let (text, _) = edit(0, 1).await;
    assert!(text.contains("is edited"), "{text}");
    let seen = post.foreign.read(&post.topic()).remove(0);
    assert_eq!(seen.value.as_ref(), Some(&post.payments.value("o-1", 990, Some("bob@example.org"))), "its own schema");
    assert_eq!(seen.headers["ce_id"], DeadLetter::edited_id(&id(1)));
    assert_eq!((&*seen.headers["ce_correlationid"], &*seen.headers["ce_causationid"]), ("c-1", "e-1"));
    assert!(!seen.headers.contains_key("hw_origin_topic"), "{:?}", seen.headers);
    let at_its_place = format!(
        "edited_from = {} and status = 'redriven' and origin_topic = '{}' and origin_partition = {} and origin_offset = {} \
         and origin_timestamp = timestamptz 'epoch' + {} * interval '1 millisecond'",
        id_of("1"),
        post.topic(),
        seen.place.0,
        seen.place.1,
        seen.timestamp_ms
    );
    assert_eq!(post.count(&at_its_place).await, 1);
    let (text, _) = post.says(0, &["show", &id(1)]).await;
    assert!(text.contains("has taken its place"), "{text}");
    let (_, said) = edit(1, 1).await;
    assert!(said.contains("is edited: only one that is open"), "{said}");

    // What cannot be decoded is written with the newest schema of its type.
    edit(0, 3).await;
    let editor = post.space.dir.join("editor");
    std::fs::write(&editor, "#!/bin/sh\nsed -i 's/cus-1/cus-2/' \"$2\"\n").expect("a script");
    std::fs::set_permissions(&editor, std::fs::Permissions::from_mode(0o700)).expect("it may run");
    let editor = format!("{} --wait", editor.display());
    let (code, out, err) =
        Process::run(PROGRAM, &post.space, &["dlq", "edit", &id(2)], &[("EDITOR", &editor), ("VISUAL", "")], "").await;
    assert_eq!(code, 0, "{out}{err}");
    let values: Vec<_> = post.foreign.read(&post.topic()).into_iter().filter_map(|seen| seen.value).collect();
    let customers = values.iter().filter(|value| String::from_utf8_lossy(value).contains("cus-2")).count();
    assert_eq!((values.len(), customers), (3, 1));
    assert_eq!(post.count("status = 'edited'").await, 3);
}

/// A payment fails in a sink and in a processor, each for a reason of its own; what is wrong is mended, in the table and in
/// the record, and both come back.
/// Red when a marker is not sent or not stored, a letter that fails again stays `redriven`, a redrive reaches the other
/// group, the value is not the one that was produced, or correlation or trace change on the way; also when a letter's own
/// word for its group counts, or is not counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_failed_is_mended_sent_back_and_resolved() {
    // On a topic of its own: what is wrong on `events.payment` is a letter of every other test too.
    const TOPIC: &str = "dlq_whole-payments";
    let config = format!(
        "[topics.\"{TOPIC}\"]\ntype = \"payment.completed\"\n\
         [sinks.paid]\nevent = \"payment.completed\"\ntable = \"paid\"\nkey = \"payment_id\"\n"
    );
    let post = LetterTable::with("dlq_whole", &config).await;
    post.space.create_topics(&[TOPIC], 2).await;
    let refuse = "alter table paid add constraint solvent check (amount_cents >= 0 or order_id <> 'dw-1')";
    sqlx::query(refuse).execute(&post.space.pool).await.expect("a constraint");
    let args = ["run", "--group", "paid", "--group", "send-receipt", "--group", "dead-letters"];
    let mut running = Process::start(PROGRAM, &post.space, "run", &args, &[]);
    let value = post.payments.value("dw-1", -5, None);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let headers = [("ce_id", "dw-e1"), ("ce_source", "till"), ("ce_correlationid", "talk-1"), ("traceparent", trace)];
    post.foreign.send(TOPIC, Some("dw-1"), Some(&value), &headers);
    post.foreign.flush();
    let ours = "convert_from(key, 'UTF8') = 'dw-1'";
    let is = async |group: &str, more: &str| post.count(&format!("{ours} and processor = '{group}' and {more}")).await;
    for group in ["paid", "send-receipt"] {
        eventually(&format!("{group} has its letter"), SOON, async || is(group, "status = 'open'").await == 1).await;
    }
    let letter = async |group: &str| {
        let sql = format!(
            "select id::text from headwater.dead_letters where {ours} and processor = '{group}' and edited_from is null"
        );
        let id: String = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&post.space.pool).await.expect("a letter");
        id
    };
    let (row, mail) = (letter("paid").await, letter("send-receipt").await);
    for (id, kind) in [(&row, "row"), (&mail, "rejected")] {
        let shown = post.lines(0, &["show", id]).await.remove(0);
        assert_eq!((&shown["kind"], &shown["event_id"]), (&kind.into(), &"dw-e1".into()), "{shown}");
        assert_eq!((&shown["topic"], &shown["correlation_id"]), (&TOPIC.into(), &"talk-1".into()));
        assert_eq!(shown["trace_id"], "0af7651916cd43dd8448eb211c80319c", "{shown}");
        let raw = Command::new(PROGRAM).args(["dlq", "show", id, "--raw"]).envs(post.space.env()).output();
        assert!(raw.expect("it runs").stdout == value, "the very bytes");
    }

    sqlx::query("alter table paid drop constraint solvent").execute(&post.space.pool).await.expect("mended");
    post.lines(0, &["redrive", "paid", "--id", &row]).await;
    eventually("the row's letter is resolved", SOON, async || is("paid", "status = 'resolved'").await == 1).await;
    assert_eq!(
        post.space.count(&format!("select count(*) from paid where order_id = 'dw-1' and hw_topic = '{TOPIC}'")).await,
        1
    );

    post.lines(0, &["redrive", "send-receipt", "--id", &mail]).await;
    let returned = async || is("send-receipt", "status = 'open' and redrive_count = 1").await == 1;
    eventually("what was not mended returns", SOON, returned).await;
    assert_eq!(is("paid", "status = 'resolved' and redrive_count = 1").await, 1, "the other group is not concerned");
    let mut data = post.lines(0, &["show", &mail]).await.remove(0)["value"]["data"].take();
    data["email"] = "ann@example.org".into();
    std::fs::write(post.space.dir.join("value.json"), data.to_string()).expect("a file");
    post.says(0, &["edit", &mail, "--value", "value.json"]).await;
    let copy = format!("status = 'resolved' and edited_from = '{mail}'");
    eventually("the edited copy is resolved", SOON, async || is("send-receipt", &copy).await == 1).await;
    assert_eq!(is("send-receipt", "status = 'edited'").await, 1);
    let receipts =
        || post.foreign.read("events.receipt").into_iter().filter(|seen| seen.headers["ce_correlationid"] == "talk-1");
    let receipt = receipts().next().expect("a receipt");
    assert_eq!((receipts().count(), &receipt.headers["ce_causationid"]), (1, &DeadLetter::edited_id(&mail)));
    assert!(receipt.headers["traceparent"].contains("0af7651916cd43dd8448eb211c80319c"), "{:?}", receipt.headers);

    a_planted_letter_is_its_topics(&post, &running).await;
    assert!(running.stop().await.success(), "{}", running.log());
}

/// Who may write to one group's letters says that one is another's.
async fn a_planted_letter_is_its_topics(post: &LetterTable, running: &Process) {
    let (topic, named) = (post.group("send-receipt.dlq"), post.group("paid"));
    post.foreign.send(&topic, Some("planted"), Some(b"x"), &[("hw_group", &named), ("hw_processor", "paid")]);
    post.foreign.flush();
    let planted = async |group: &str| {
        post.count(&format!("convert_from(key, 'UTF8') = 'planted' and consumer_group = '{}'", post.group(group))).await
    };
    eventually("it is the topic's", SOON, async || planted("send-receipt").await == 1).await;
    assert_eq!(planted("paid").await, 0);
    let forged = format!("headwater_headers_forged_total{{group=\"{}\"}}", post.group("dead-letters"));
    assert_eq!(running.metric(&forged).await, 1.0);
}
