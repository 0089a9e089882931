//! The spans of records: what they are called, what they hang on, and for which records there are any.

use std::collections::HashSet;

use opentelemetry::trace::{SpanKind, Status};
use opentelemetry_sdk::trace::{
    InMemorySpanExporter, Sampler as SdkSampler, SdkTracerProvider, SimpleSpanProcessor, SpanData,
};

use crate::{
    pipeline::{policy::Policy, settings::Order},
    telemetry::spans::{Sampler, Tracing, current_trace},
    wire::trace_context::TraceContext,
    worker::tests::*,
};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A tracing whose spans can be looked at.
struct Back {
    spans: InMemorySpanExporter,
    provider: SdkTracerProvider,
    sampler: Sampler,
}

impl Back {
    fn sampling(name: &str, argument: &str) -> Self {
        let spans = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder()
            .with_sampler(SdkSampler::ParentBased(Box::new(SdkSampler::AlwaysOn)))
            .with_span_processor(SimpleSpanProcessor::new(spans.clone()))
            .build();
        Self { spans, provider, sampler: Sampler::parse(name, argument).expect("a sampler") }
    }

    fn driver(&self, pipeline: Pipeline, settings: GroupSettings) -> Driver {
        Driver::traced(pipeline, settings, &Tracing::new(&self.provider, self.sampler))
    }

    fn all(&self) -> Vec<SpanData> {
        self.spans.get_finished_spans().expect("spans")
    }

    /// The only span of this name.
    fn one(&self, name: &str) -> SpanData {
        let mut all: Vec<SpanData> = self.all().into_iter().filter(|span| span.name == name).collect();
        assert_eq!(all.len(), 1, "{name} in {:?}", self.names());
        all.remove(0)
    }

    fn names(&self) -> Vec<String> {
        self.all().iter().map(|span| span.name.to_string()).collect()
    }
}

fn attribute(span: &SpanData, name: &str) -> String {
    let found = span.attributes.iter().filter(|kv| kv.key.as_str() == name).collect::<Vec<_>>();
    assert_eq!(found.len(), 1, "{name} of {}", span.name);
    found[0].value.to_string()
}

fn context(headers: &Headers) -> TraceContext {
    TraceContext::parse(headers.get("traceparent").flatten().expect("a trace")).expect("valid")
}

fn with_parent(parent: &str) -> Headers {
    Headers::from_iter([("traceparent", Some(parent.as_bytes())), ("tracestate", Some(b"v=1"))])
}

/// Red when a span hangs on another than its cause, has another kind or name, misses an attribute, or what is
/// published names another span than that of its sending.
#[test]
fn a_record_is_processed_in_a_span_and_what_it_emits_is_sent_in_another() {
    let back = Back::sampling("parentbased_always_on", "");
    let pipeline = Pipeline::default()
        .on("play", with(Failing::default(), fail))
        .event::<Pong>()
        .sink("pongs", Sink::of::<Pong>("pongs").key("id"));
    let mut driver = back.driver(pipeline, GroupSettings::default());
    driver.send_with(ping("a", 1), with_parent(PARENT));
    let (process, send, store) =
        (back.one("process events.net"), back.one("send events.answer"), back.one("process events.answer"));
    assert_eq!(process.span_context.trace_id().to_string(), &PARENT[3..35]);
    assert_eq!((process.parent_span_id.to_string().as_str(), process.parent_span_is_remote), (&PARENT[36..52], true));
    assert_eq!(send.parent_span_id, process.span_context.span_id());
    assert_eq!(store.parent_span_id, send.span_context.span_id());
    assert_eq!(
        [&process.span_kind, &send.span_kind, &store.span_kind],
        [&SpanKind::Consumer, &SpanKind::Producer, &SpanKind::Consumer]
    );
    let pong = driver.emitted::<Pong>().remove(0);
    for (name, value) in [
        ("messaging.system", "kafka"),
        ("messaging.operation.name", "process"),
        ("messaging.operation.type", "process"),
        ("messaging.destination.name", "events.answer"),
        ("messaging.destination.partition.id", &place("a").to_string()),
        ("messaging.kafka.offset", "0"),
        ("messaging.consumer.group.name", "pongs"),
        ("messaging.message.id", &pong.meta.id),
        ("messaging.message.conversation_id", &pong.meta.correlation_id),
        ("headwater.causation_id", pong.meta.causation_id.as_deref().expect("a cause")),
        ("headwater.attempt", "0"),
    ] {
        assert_eq!(attribute(&store, name), value, "{name}");
    }
    assert_eq!(attribute(&send, "messaging.operation.type"), "send");
    assert_eq!(attribute(&send, "messaging.message.id"), pong.meta.id);
    let published = context(&driver.records("events.answer")[0].headers);
    assert_eq!(published.span_id, send.span_context.span_id().to_bytes());
    assert_eq!(driver.records("events.answer")[0].headers.get("tracestate"), Some(Some(&b"v=1"[..])));
    assert_eq!(back.all().len(), 3, "{:?}", back.names());
}

/// Red when a hop keeps the context of the hop before, leaves the trace, or a failed attempt looks like a success.
#[test]
fn each_hop_is_sent_in_a_span_of_its_own_in_the_same_trace() {
    let back = Back::sampling("parentbased_always_on", "");
    let settings = GroupSettings { ladder: ladder(&[1]), ..GroupSettings::default() };
    let mut driver = back.driver(Pipeline::default().on("play", with(Failing::first(2), fail)), settings);
    driver.send(ping("a", 1)).advance(2 * SECOND);
    let letter = driver.letters("play").remove(0);
    let tracing = Tracing::new(&back.provider, back.sampler);
    let (record, span) = letter.traced(letter.redriven(), &tracing);
    drop(span);
    driver.send_record(record);
    let chain = [
        "process events.net",
        "send play.retry.1s",
        "process play.retry.1s",
        "send play.dlq",
        "send play.redrive",
        "process play.redrive",
        "send events.answer",
    ];
    let spans = back.all();
    let of = |name: &str| spans.iter().find(|span| span.name == name).unwrap_or_else(|| panic!("{:?}", back.names()));
    for pair in chain.windows(2) {
        assert_eq!(of(pair[1]).parent_span_id, of(pair[0]).span_context.span_id(), "{pair:?}");
    }
    for (topic, name) in [("play.retry.1s", chain[1]), ("play.dlq", chain[3]), ("play.redrive", chain[4])] {
        let sent = context(&driver.records(topic)[0].headers);
        assert_eq!(sent.span_id, of(name).span_context.span_id().to_bytes(), "{topic}");
    }
    let derived = TraceContext::derived("kafka://events.net", attribute(of(chain[0]), "messaging.message.id").as_str());
    assert!(spans.iter().all(|span| span.span_context.trace_id().to_bytes() == derived.trace_id));
    for (name, attempt, status) in [
        (chain[0], "0", Status::error("failure 1")),
        (chain[2], "1", Status::error("failure 2")),
        (chain[5], "0", Status::Unset),
    ] {
        assert_eq!((attribute(of(name), "headwater.attempt").as_str(), &of(name).status), (attempt, &status));
    }
    assert_eq!(attribute(of(chain[2]), "error.type"), "exhausted");
}

/// Red when a record that nobody can read makes no span, or its letter leaves the trace.
#[test]
fn a_record_that_nobody_can_read_is_seen_too() {
    let back = Back::sampling("parentbased_always_on", "");
    let mut driver =
        back.driver(Pipeline::default().on("play", with(Failing::default(), fail)), GroupSettings::default());
    driver.send_record(raw("events.net", Some(b"junk"), with_parent(PARENT)));
    let process = back.one("process events.net");
    assert_eq!(
        (attribute(&process, "error.type").as_str(), &PARENT[36..52]),
        ("decode", &*process.parent_span_id.to_string())
    );
    assert_eq!(back.one("send play.dlq").parent_span_id, process.span_context.span_id());
}

/// Red when two groups decide differently, the decision is another than OpenTelemetry's, a producer's own is
/// overruled, or a record that is not recorded makes a span or loses its trace.
#[test]
fn the_trace_id_alone_decides_what_is_recorded() {
    let back = Back::sampling("parentbased_traceidratio", "0.25");
    let failing = Failing::default();
    let pipeline = Pipeline::default().on("a", with(failing.clone(), fail)).on("b", with(failing.clone(), fail));
    let mut driver = back.driver(pipeline, GroupSettings::default());
    (0..200).for_each(|n| _ = driver.send(ping(&format!("k{n}"), n)));
    let below = |trace: &[u8; 16]| u64::from_be_bytes(trace[8..].try_into().expect("eight")) >> 1 < 1 << 61;
    let wanted: HashSet<[u8; 16]> = failing.seen().iter().map(|meta| meta.trace.trace_id).filter(below).collect();
    assert!((20..90).contains(&wanted.len()), "{}", wanted.len());
    for group in ["a", "b"] {
        let of_group = |span: &&SpanData| {
            span.name == "process events.net" && attribute(span, "messaging.consumer.group.name") == group
        };
        let spans = back.all();
        let traces: Vec<_> =
            spans.iter().filter(of_group).map(|span| span.span_context.trace_id().to_bytes()).collect();
        assert_eq!(
            (traces.len(), traces.into_iter().collect::<HashSet<_>>()),
            (wanted.len(), wanted.clone()),
            "{group}"
        );
    }
    for record in driver.records("events.answer") {
        let context = context(&record.headers);
        assert_eq!(context.is_sampled(), wanted.contains(&context.trace_id));
    }
    let before = back.all().len();
    driver.send_with(ping("mute", 1), with_parent(&PARENT.replace("-01", "-00")));
    assert_eq!(back.all().len(), before, "the producer records nothing");
    let answer = driver.records("events.answer").into_iter().rfind(|record| record.key.as_deref() == Some(b"mute"));
    assert_eq!(context(&answer.expect("an answer").headers).to_string(), PARENT.replace("-01", "-00"));
    driver.send_with(ping("loud", 1), with_parent(PARENT));
    assert!(back.all().len() > before, "the producer records it");
}

/// Red when a processor's log lines or own spans do not find the trace of its record, or find one after it.
#[test]
fn a_processor_works_within_its_record_s_trace() {
    async fn look(seen: Arc<Mutex<Vec<String>>>, ping: Event<Ping>) -> Result<()> {
        let here = |seen: &Mutex<Vec<String>>| {
            let current = current_trace().expect("a trace");
            seen.lock().unwrap().push(format!("{} {}", current.trace_id(), current.span_id()));
        };
        here(&seen);
        tokio::task::yield_now().await;
        here(&seen);
        assert_eq!(current_trace().map(|t| t.trace_id().to_string()), Some(ping.meta.trace.trace_id_hex()));
        Ok(())
    }
    for sampler in ["always_on", "always_off"] {
        let (back, seen) = (Back::sampling(sampler, ""), Arc::new(Mutex::default()));
        let mut driver =
            back.driver(Pipeline::default().on("look", with(Arc::clone(&seen), look)), GroupSettings::default());
        driver.send_with(ping("a", 1), with_parent(PARENT));
        let span = back.all().first().map_or(PARENT[36..52].to_owned(), |span| span.span_context.span_id().to_string());
        let line = format!("{} {span}", &PARENT[3..35]);
        assert_eq!(*seen.lock().unwrap(), [line.clone(), line], "{sampler}");
        assert_eq!(current_trace(), None);
    }
}

/// Red when an attempt at a record that has waited in the group's state is named by where that is kept, or hangs on another
/// cause than the first.
#[test]
fn attempts_under_the_order_key_are_those_of_one_place() {
    let back = Back::sampling("parentbased_always_on", "");
    let policy = Policy::new().order(Order::Key);
    let pipeline = Pipeline::default().on("play", with(Failing::first(2), fail)).policy("play", policy);
    let mut driver = back.driver(pipeline, GroupSettings::default());
    driver.send_with(ping("a", 1), with_parent(PARENT)).advance(11 * SECOND);
    let attempts: Vec<SpanData> = back.all().into_iter().filter(|span| span.name == "process events.net").collect();
    let of = |name| attempts.iter().map(|span| attribute(span, name)).collect::<Vec<_>>();
    assert_eq!(of("headwater.attempt"), ["0", "1", "2"], "{:?}", back.names());
    assert_eq!(of("messaging.kafka.offset"), ["0", "0", "0"]);
    assert!(attempts.iter().all(|span| span.parent_span_id.to_string() == PARENT[36..52]));
}
