//! Traces as a back end shows them: whole conversations, sampled alike everywhere, whatever the back end does.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use headwater_tests::{Answer, ConsumedRecord, Kind, Otlp, Process, Space, Trace, eventually, quiet_stack};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use sqlx::AssertSqlSafe;

use crate::{
    PROGRAM,
    failure::retry::{applied, faults, own_warehouse_beside},
};

const SOON: Duration = Duration::from_mins(1);
const MAIL: Option<&str> = Some("a@example.org");
/// Of this test alone: others read `events.order` too.
const TRACE: &str = "6f1d3a9c2b7e4805913c5d7e8fa0b246";
const PRODUCER: &str = "00f067aa0ba902b7";

/// A space on a stack where the shared topics hold what these tests send alone: every record of every other test would be
/// a span here.
async fn space(name: &str) -> Space {
    Space::new(quiet_stack(env!("CARGO_TARGET_TMPDIR")), name).await
}

/// The groups as they are run; their spans go to the receiver over this protocol.
fn run(space: &Space, otlp: &Otlp, protocol: &str, name: &str, groups: &[&str], more: &[(&str, &str)]) -> Process {
    let args: Vec<&str> = ["run"].into_iter().chain(groups.iter().flat_map(|group| ["--group", group])).collect();
    Process::start(PROGRAM, space, name, &args, &[&otlp.env(protocol), more].concat())
}

/// A trace's id and the span that began it, of a record without headers, made here from the contract's words.
fn derived(topic: &str, seen: &ConsumedRecord) -> (String, String) {
    let namespace = uuid::Uuid::from_u128(0x98f0_eb0e_3dd1_573a_ae72_a93d_7cf6_d360);
    let name = format!("{topic}/{}/{}/{}", seen.place.0, seen.place.1, seen.timestamp_ms);
    let id = uuid::Uuid::new_v5(&namespace, name.as_bytes());
    let hash = Sha256::digest(format!("kafka://{topic}\n{id}"));
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    (hex[..32].to_owned(), hex[32..48].to_owned())
}

/// Waits until a trace looks like this, and gives it.
async fn looks(otlp: &Otlp, id: &str, outline: &str) -> Trace {
    otlp.shows(id, outline, SOON, |trace| trace.outline() == outline).await
}

/// A payment that says its trace and one that says nothing, over four groups in two processes, one of which speaks
/// gRPC and the other HTTP: each is one trace from its producer to its rows.
/// Red when a span's parent is another than the record's `traceparent`, a record without one has another trace in each group,
/// a published record names the trace's old span, `write` links to nothing, or one of the protocols is not spoken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_trace_leads_from_the_producer_over_all_groups_to_the_rows() {
    let (space, otlp) = (space("traced").await, Otlp::start().await);
    let (topic, foreign, payments) = applied(&space, 1, "").await;
    let named = [("OTEL_SERVICE_NAME", "till"), ("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment.name=test")];
    let mut first = run(&space, &otlp, "grpc", "first", &["fulfil-order", "orders-sink"], &named);
    let mut second = run(&space, &otlp, "http/protobuf", "second", &["send-receipt", "receipts-sink"], &[]);
    let parent = format!("00-{TRACE}-{PRODUCER}-01");
    let headers = [("ce_id", "till-7"), ("ce_source", "//till"), ("traceparent", &parent)];
    foreign.send(&topic, Some("traced-1"), Some(&payments.value("traced-1", 1, MAIL)), &headers);
    foreign.send(&topic, Some("traced-2"), Some(&payments.value("traced-2", 1, MAIL)), &[]);
    foreign.flush();
    let (says_nothing, begins) = derived(&topic, &foreign.read(&topic)[1]);
    let name = &space.name;
    let expected = format!(
        "process {topic} [{name}.fulfil-order]\n\
         \x20 send events.order\n\
         \x20   process events.order [{name}.orders-sink]\n\
         process {topic} [{name}.send-receipt]\n\
         \x20 send events.receipt\n\
         \x20   process events.receipt [{name}.receipts-sink]\n"
    );
    for (id, producer, order) in [(TRACE, PRODUCER, "traced-1"), (&says_nothing, &begins, "traced-2")] {
        let trace = looks(&otlp, id, &expected).await;
        assert!(trace.roots().iter().all(|root| root.parent == producer), "{trace}");
        for (topic, table) in [("events.order", "orders"), ("events.receipt", "receipts")] {
            let (sent, stored) =
                (trace.named(&format!("send {topic}"))[0], trace.named(&format!("process {topic}"))[0]);
            let seen = foreign.read(topic).into_iter().find(|seen| seen.key.as_deref() == Some(order.as_bytes()));
            assert_eq!(seen.expect("it is published").headers["traceparent"], format!("00-{id}-{}-01", sent.span_id));
            eventually("its batch links to it", SOON, async || otlp.linking(stored).len() == 1).await;
            let write = otlp.linking(stored).remove(0);
            assert_eq!((write.name.as_str(), write.kind), (format!("write {table}").as_str(), Kind::Client));
            assert!(stored.time.1 > write.time.0, "it ends when its row is committed");
        }
    }
    attributes(&otlp.trace(TRACE), &topic, name);
    assert_eq!(otlp.protocols(), ["grpc", "http/protobuf"].into());
    for process in [&mut first, &mut second] {
        assert!(process.stop().await.success(), "{}", process.log());
    }
}

/// What the spans of the payment with headers say.
fn attributes(trace: &Trace, topic: &str, prefix: &str) {
    let of = |name: &str, parent: &str| trace.named(name).into_iter().find(|s| s.parent == parent).expect("a span");
    let group = format!("{prefix}.fulfil-order");
    let process = trace.named(&format!("process {topic}")).into_iter();
    let process =
        process.into_iter().find(|s| s.get("messaging.consumer.group.name") == &json!(group)).expect("a span");
    let send = of("send events.order", &process.span_id);
    let stored = of("process events.order", &send.span_id);
    assert_eq!((process.kind, send.kind, stored.kind), (Kind::Consumer, Kind::Producer, Kind::Consumer));
    for (span, operation, destination) in
        [(process, "process", topic), (send, "send", "events.order"), (stored, "process", "events.order")]
    {
        for (name, value) in [
            ("messaging.system", "kafka"),
            ("messaging.operation.name", operation),
            ("messaging.operation.type", operation),
            ("messaging.destination.name", destination),
            ("messaging.message.conversation_id", "till-7"),
        ] {
            assert_eq!(span.get(name), value, "{name} of {}", span.name);
        }
    }
    assert_eq!(process.get("messaging.message.id"), "till-7");
    assert_eq!(
        (process.get("messaging.destination.partition.id"), process.get("messaging.kafka.offset")),
        (&json!("0"), &json!(0))
    );
    assert_eq!((process.get("headwater.attempt"), process.get("headwater.causation_id")), (&json!(0), &json!(null)));
    assert_eq!(
        (stored.get("headwater.causation_id"), send.get("headwater.causation_id")),
        (&json!("till-7"), &json!("till-7"))
    );
    assert_eq!(stored.get("messaging.message.id"), send.get("messaging.message.id"));
    assert_eq!(process.resource["service.name"], "till");
    assert_eq!(process.resource["deployment.environment.name"], "test");
    let receipt = trace.named("send events.receipt")[0];
    assert_eq!(receipt.resource["service.name"], "headwater");
    let instance = |name: &str| process.resource[name].as_str().is_some_and(|text| !text.is_empty());
    assert!(instance("service.instance.id") && instance("service.version"), "{:?}", process.resource);
}

/// Ids of the letters that are in this state.
async fn letters(space: &Space, status: &str) -> Vec<String> {
    let sql = format!(
        "select id::text from headwater.dead_letters where status = '{status}' and origin_topic = '{}'",
        space.topic("payments")
    );
    sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(&space.pool).await.expect("letters")
}

/// Waits for the one letter in this state.
async fn letter(space: &Space, status: &str) -> String {
    eventually(&format!("a letter is {status}"), SOON, async || letters(space, status).await.len() == 1).await;
    letters(space, status).await.remove(0)
}

/// A command whose spans go to the receiver.
async fn command(space: &Space, otlp: &Otlp, args: &[&str], input: &str) -> String {
    let (code, out, err) = Process::run(PROGRAM, space, args, &otlp.env("http/protobuf"), input).await;
    assert_eq!(code, 0, "{out}\n{err}");
    out
}

/// A payment fails three times, is a dead letter, is sent back, fails twice more and succeeds: one trace with every
/// attempt and every hop, the letter's row and the news that it succeeded.
/// Red when a hop keeps the old `traceparent`, an attempt is a child of the first one, attempts are not counted on, a redrive
/// sends no span or begins a trace, or a failure is not said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_attempt_and_hop_of_a_redriven_payment_is_in_its_trace() {
    // Where others leave little: who reads all their orders has more spans than its queue holds.
    let (stack, space) = own_warehouse_beside(quiet_stack(env!("CARGO_TARGET_TMPDIR")), "hops_traced").await;
    let otlp = Otlp::start().await;
    let config = "[groups.fulfil-order]\nretry = [\"300ms\", \"500ms\"]\n\
                  [groups.fulfil-order.breakers.warehouse]\nwindow_calls = 10000\nminimum_calls = 10000\n";
    let (topic, foreign, payments) = applied(&space, 1, config).await;
    faults(&space, Some(json!({ "status": 500, "first": 5 }))).await;
    let groups = ["fulfil-order", "orders-sink", "dead-letters"];
    let mut process = run(&space, &otlp, "grpc", "run", &groups, &[]);
    foreign.send(&topic, Some("hops-1"), Some(&payments.value("hops-1", 1, None)), &[]);
    foreign.flush();
    let (id, begins) = derived(&topic, &foreign.read(&topic)[0]);
    let open = letter(&space, "open").await;
    command(&space, &otlp, &["dlq", "redrive", "fulfil-order", "--id", &open], "").await;
    letter(&space, "resolved").await;
    let (name, group) = (&space.name, format!("{}.fulfil-order", space.name));
    let expected = [
        format!("process {topic} [{group}] !"),
        format!("send {group}.retry.300ms"),
        format!("process {group}.retry.300ms [{group}] !"),
        format!("send {group}.retry.500ms"),
        format!("process {group}.retry.500ms [{group}] !"),
        format!("send {group}.dlq"),
        format!("process {group}.dlq [{name}.dead-letters]"),
        format!("send {group}.redrive"),
        format!("process {group}.redrive [{group}] !"),
        format!("send {group}.retry.300ms"),
        format!("process {group}.retry.300ms [{group}] !"),
        format!("send {group}.retry.500ms"),
        format!("process {group}.retry.500ms [{group}]"),
        "send events.order".to_owned(),
        format!("process events.order [{name}.orders-sink]"),
        format!("send {group}.dlq"),
        format!("process {group}.dlq [{name}.dead-letters]"),
    ];
    let depths = [0, 1, 2, 3, 4, 5, 6, 6, 7, 8, 9, 10, 11, 12, 13, 12, 13];
    let lines = expected.iter().zip(depths).map(|(line, depth)| format!("{:width$}{line}\n", "", width = 2 * depth));
    let trace = looks(&otlp, &id, &lines.collect::<String>()).await;
    assert_eq!(trace.roots()[0].parent, begins);
    let own = trace.spans.iter().filter(|span| span.get("messaging.consumer.group.name") == &json!(group));
    let attempts: Vec<_> = own.map(|span| (span.get("headwater.attempt").clone(), span.error.is_some())).collect();
    let counted = [(0, true), (1, true), (2, true), (0, true), (1, true), (2, false)];
    assert_eq!(attempts, counted.map(|(attempt, failed)| (json!(attempt), failed)));
    for span in trace.spans.iter().filter(|span| span.error.is_some()) {
        assert_eq!(span.get("error.type"), "exhausted");
        assert!(span.error.as_deref().is_some_and(|message| message.contains("500")), "{:?}", span.error);
    }
    let rows = trace.named(&format!("process {group}.dlq"));
    for row in rows {
        eventually("its batch links to it", SOON, async || otlp.linking(row).len() == 1).await;
        assert_eq!(otlp.linking(row)[0].name, "write headwater.dead_letters");
    }
    assert!(process.stop().await.success(), "{}", process.log());
    stack.stop().await.expect("stopped");
}

/// An edited letter is another event of the same trace and conversation, caused by the old one; a line that is produced
/// begins a trace. Red when either has no span of its sending, or the edited one another trace or cause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_letter_goes_on_in_the_trace_of_the_old() {
    let (space, otlp) = (space("edit_traced").await, Otlp::start().await);
    let (topic, foreign, payments) = applied(&space, 1, "").await;
    let mut process =
        run(&space, &otlp, "http/protobuf", "run", &["send-receipt", "receipts-sink", "dead-letters"], &[]);
    foreign.send(
        &topic,
        Some("edit-1"),
        Some(&payments.value("edit-1", 1, None)),
        &[("ce_id", "old"), ("ce_source", "//till")],
    );
    foreign.flush();
    let old = letter(&space, "open").await;
    let shown = command(&space, &otlp, &["dlq", "show", &old, "--json"], "").await;
    let mut value = serde_json::from_str::<serde_json::Value>(&shown).expect("json")["value"]["data"].take();
    value["email"] = json!("a@example.org");
    command(&space, &otlp, &["dlq", "edit", &old, "--value", "-"], &value.to_string()).await;
    let hash: String = Sha256::digest("//till\nold").iter().map(|byte| format!("{byte:02x}")).collect();
    let (name, group) = (&space.name, format!("{}.send-receipt", space.name));
    let expected = format!(
        "process {topic} [{group}] !\n\
         \x20 send {group}.dlq\n\
         \x20   process {group}.dlq [{name}.dead-letters]\n\
         \x20   send {group}.redrive\n\
         \x20     process {group}.redrive [{group}]\n\
         \x20       send {group}.dlq\n\
         \x20         process {group}.dlq [{name}.dead-letters]\n\
         \x20       send events.receipt\n\
         \x20         process events.receipt [{name}.receipts-sink]\n"
    );
    let trace = looks(&otlp, &hash[..32], &expected).await;
    let edited = trace.named(&format!("process {group}.redrive"))[0];
    assert_ne!(edited.get("messaging.message.id"), "old");
    assert_eq!(
        (edited.get("headwater.causation_id"), edited.get("messaging.message.conversation_id")),
        (&json!("old"), &json!("old"))
    );

    let line = json!({ "payment_id": "edit-2", "order_id": "edit-2", "email": "a@example.org" });
    command(&space, &otlp, &["produce", "receipt.requested"], &line.to_string()).await;
    let stored = || otlp.find(|span| span.name == "process events.receipt" && span.trace_id != trace.id);
    let begun = || stored().into_iter().map(|span| otlp.trace(&span.trace_id));
    let expected = format!("send events.receipt\n  process events.receipt [{name}.receipts-sink]\n");
    eventually("it begins a trace", SOON, async || begun().any(|trace| trace.outline() == expected)).await;
    assert!(process.stop().await.success(), "{}", process.log());
}

const COUNT: usize = 200;
/// Low halves of trace ids: a quarter of all would sample the one, and not the other.
const LOW: &str = "00000000000000000000000000000001";
const HIGH: &str = "0000000000000000ffffffffffffffff";

/// Of hundreds of payments without headers all groups of two processes record the same traces, those that the ids say; what
/// a producer has decided stays. What is not recorded goes on with its trace, and its flag says so.
/// Red when a process or a group decides by chance, a producer's decision is not kept, or a flag says something else than
/// what was recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_groups_and_processes_record_the_traces_that_the_ids_say() {
    let (space, otlp) = (space("sampled").await, Otlp::start().await);
    let (topic, foreign, payments) = applied(&space, 4, "").await;
    let quarter = [("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "0.25")];
    let groups = ["fulfil-order", "send-receipt", "orders-sink", "receipts-sink"];
    let mut processes = ["first", "second"].map(|name| run(&space, &otlp, "http/protobuf", name, &groups, &quarter));
    for process in &processes {
        let owned = format!("headwater_partitions{{group=\"{}.fulfil-order\"}}", space.name);
        // Of retry and redrive topics too: more than a first assignment of the inputs alone.
        eventually("both share the partitions", SOON, async || process.metric(&owned).await >= 4.0).await;
    }
    for n in 0..COUNT {
        let order = format!("sampled-{n}");
        foreign.send(&topic, Some(&order), Some(&payments.value(&order, 1, MAIL)), &[]);
    }
    foreign.flush();
    let decided = [(LOW, "00"), (HIGH, "01")].map(|(id, flag)| (id, format!("00-{id}-{PRODUCER}-{flag}")));
    for (id, parent) in &decided {
        let order = format!("sampled-by-{id}");
        foreign.send(&topic, Some(&order), Some(&payments.value(&order, 1, MAIL)), &[("traceparent", parent)]);
    }
    foreign.flush();
    for table in ["orders", "receipts"] {
        let stored = format!("select count(*) from {table} where order_id like 'sampled-%'");
        eventually("all are stored", SOON, async || space.count(&stored).await == 202).await;
    }
    for process in &mut processes {
        assert!(process.stop().await.success(), "{}", process.log());
    }
    let all = foreign.read(&topic);
    let all = all.iter().map(|seen| seen.trace().map_or_else(|| derived(&topic, seen).0, str::to_owned));
    let all: BTreeSet<String> = all.collect();
    let says = |id: &str| u64::from_str_radix(&id[16..], 16).expect("hex") >> 1 < 1 << 61;
    let expected: BTreeSet<String> = all.iter().filter(|id| *id == HIGH || (says(id) && *id != LOW)).cloned().collect();
    assert!((20..90).contains(&expected.len()), "about a quarter: {}", expected.len());
    for (name, group) in [
        (&*topic, "fulfil-order"),
        (&*topic, "send-receipt"),
        ("events.order", "orders-sink"),
        ("events.receipt", "receipts-sink"),
    ] {
        let (name, group) = (format!("process {name}"), json!(format!("{}.{group}", space.name)));
        let own = otlp.find(|span| span.name == name && span.get("messaging.consumer.group.name") == &group);
        let own = own.into_iter().map(|span| span.trace_id).filter(|id| all.contains(id));
        assert!(own.collect::<BTreeSet<_>>() == expected, "{group} records what the ids say");
    }
    // Which of them has which partitions is the group's business.
    let instances = otlp.find(|span| span.name.starts_with("process ")).into_iter();
    let instances: BTreeSet<_> = instances.map(|span| span.resource["service.instance.id"].to_string()).collect();
    assert_eq!(instances.len(), 2, "both processes work");
    for topic in ["events.order", "events.receipt"] {
        let own = foreign.read(topic).into_iter().filter(|seen| seen.trace().is_some_and(|id| all.contains(id)));
        let own: Vec<ConsumedRecord> = own.collect();
        assert_eq!(own.len(), COUNT + 2, "each goes on in its trace");
        for seen in own {
            let flag = if expected.contains(seen.trace().unwrap_or_default()) { "-01" } else { "-00" };
            assert!(seen.headers["traceparent"].ends_with(flag), "{:?}", seen.headers);
        }
    }
}

/// The back end does not answer, then refuses: payments go on at once, what is dropped is counted, and when it is back its
/// spans come again. What waits at a stop is sent, and a silent back end holds up no stop.
/// Red when the pipeline waits for the back end, dropped spans are not counted, or the last spans are not sent at a stop.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_back_end_that_is_down_holds_up_nothing_and_is_counted() {
    let (space, otlp) = (space("no_back_end").await, Otlp::start().await);
    let (topic, foreign, payments) = applied(&space, 1, "").await;
    let pay = |from: usize, to: usize| {
        for n in from..to {
            let order = format!("down-{n}");
            foreign.send(&topic, Some(&order), Some(&payments.value(&order, 1, None)), &[]);
        }
        foreign.flush();
    };
    let stored = async |count: i64| {
        let sql = "select count(*) from orders where order_id like 'down-%'";
        eventually("they are stored", SOON, async || space.count(sql).await == count).await;
    };
    let trace_of = |n: usize| derived(&topic, &foreign.read(&topic)[n]).0;
    let (groups, patience) = (["fulfil-order", "orders-sink"], [("OTEL_BSP_EXPORT_TIMEOUT", "500")]);
    otlp.answer(Answer::Silence);
    let mut process = run(&space, &otlp, "grpc", "run", &groups, &patience);
    pay(0, 50);
    stored(50).await;
    let dropped = async || process.metric("headwater_spans_dropped_total").await;
    eventually("what is not taken is counted", SOON, async || dropped().await >= 150.0).await;
    otlp.answer(Answer::Unavailable);
    let before = dropped().await;
    pay(50, 100);
    stored(100).await;
    eventually("what is refused is counted", SOON, async || dropped().await >= before + 150.0).await;
    assert!(otlp.trace(&trace_of(99)).spans.is_empty());
    otlp.answer(Answer::Taken);
    pay(100, 101);
    otlp.shows(&trace_of(100), "its spans come again", SOON, |trace| trace.spans.len() == 3).await;
    let exported = async || process.metric("headwater_spans_exported_total").await >= 3.0;
    eventually("they are counted", SOON, exported).await;
    assert!(process.stop().await.success(), "{}", process.log());

    let rarely = [("OTEL_BSP_SCHEDULE_DELAY", "600000")];
    for (n, answer) in [(101, Answer::Taken), (102, Answer::Silence)] {
        let mut process = run(&space, &otlp, "http/protobuf", "rarely", &groups, &rarely);
        otlp.answer(answer);
        pay(n, n + 1);
        stored(i64::try_from(n).expect("small") + 1).await;
        assert!(otlp.trace(&trace_of(n)).spans.is_empty(), "nothing is due yet");
        let begin = Instant::now();
        assert!(process.stop().await.success(), "{}", process.log());
        assert!(
            begin.elapsed() < headwater_tests::patience(Duration::from_secs(15)),
            "a stop took {:?}",
            begin.elapsed()
        );
        let sent = otlp.trace(&trace_of(n)).spans.len();
        assert_eq!(sent, if answer == Answer::Taken { 3 } else { 0 }, "what waits at the stop");
    }
}

/// The log line of a record that fails has the id of its trace, recorded or not, as text and as JSON.
/// Red when a line is written outside of its record's trace, or its format leaves the trace out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_line_of_a_failing_record_has_its_trace_id() {
    let space = space("logged_trace").await;
    let (topic, foreign, payments) = applied(&space, 1, "").await;
    for (order, format) in [("logged-1", "text"), ("logged-2", "json")] {
        let env = [("HEADWATER__LOG__FORMAT", format), ("HEADWATER_LOG", "info,headwater=debug")];
        let mut process = Process::start(PROGRAM, &space, format, &["run", "--group", "send-receipt"], &env);
        foreign.send(&topic, Some(order), Some(&payments.value(order, 1, None)), &[]);
        foreign.flush();
        let all = foreign.read(&topic);
        let (id, _) = derived(&topic, &all[all.len() - 1]);
        let lines =
            || process.log().lines().filter(|line| line.contains("e-mail")).map(str::to_owned).collect::<Vec<_>>();
        let says = |line: &String| match format {
            "json" => serde_json::from_str::<serde_json::Value>(line).is_ok_and(|line| line["trace_id"] == id),
            _ => line.contains(&format!("trace_id={id}")),
        };
        eventually("its failure is logged with its trace", SOON, async || lines().iter().any(says)).await;
        assert!(process.stop().await.success(), "{}", process.log());
    }
}
