//! A back end for traces: it takes spans over OTLP, by gRPC and by HTTP, and tells what it has.

use std::{
    collections::{BTreeSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use axum::{Router, body::Bytes, extract::State, http::StatusCode, routing::post};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
    trace_service_server::{TraceService, TraceServiceServer},
};
use prost::Message as _;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tonic::{Request, Response, Status};

use crate::polling::patience;

mod span;
mod trace;

pub use span::{Kind, Span};
pub use trace::Trace;

/// The most spans that are kept; the oldest make room.
const SPANS: usize = 50_000;

/// How requests are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The spans are taken.
    Taken,
    /// It cannot take them now: HTTP 503, gRPC `UNAVAILABLE`.
    Unavailable,
    /// No answer before the next [`Otlp::answer`].
    Silence,
}

/// A receiver on one free port for both protocols; it closes when it is dropped.
pub struct Otlp {
    url: String,
    shared: Shared,
    _server: JoinSet<()>,
}

#[derive(Clone)]
struct Shared {
    answer: watch::Sender<Answer>,
    taken: Arc<Mutex<ReceivedSpans>>,
}

#[derive(Default)]
struct ReceivedSpans {
    spans: VecDeque<Span>,
    protocols: BTreeSet<&'static str>,
}

impl Otlp {
    /// A receiver that takes spans.
    ///
    /// # Panics
    /// When no port can be had.
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let url = format!("http://{}", listener.local_addr().expect("an address"));
        let shared = Shared { answer: watch::Sender::new(Answer::Taken), taken: Arc::default() };
        let grpc = TraceServiceServer::new(shared.clone());
        let router = Router::new()
            .route("/v1/traces", post(over_http))
            .route_service("/opentelemetry.proto.collector.trace.v1.TraceService/Export", grpc)
            .with_state(shared.clone());
        let mut server = JoinSet::new();
        server.spawn(async move { axum::serve(listener, router).await.expect("it serves") });
        Self { url, shared, _server: server }
    }

    /// Its base URL, `http://…`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The variables that have a program send every span here soon, over `http/protobuf` or `grpc`.
    pub fn env<'a>(&'a self, protocol: &'a str) -> [(&'a str, &'a str); 3] {
        [
            ("OTEL_EXPORTER_OTLP_ENDPOINT", &self.url),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", protocol),
            ("OTEL_BSP_SCHEDULE_DELAY", "100"),
        ]
    }

    /// From now on requests are answered so.
    pub fn answer(&self, answer: Answer) {
        self.shared.answer.send_replace(answer);
    }

    /// The protocols that spans have come by.
    pub fn protocols(&self) -> BTreeSet<&'static str> {
        self.shared.taken().protocols.clone()
    }

    /// The spans that these words choose, in the order of their coming.
    pub fn find(&self, mut chosen: impl FnMut(&Span) -> bool) -> Vec<Span> {
        self.shared.taken().spans.iter().filter(|span| chosen(span)).cloned().collect()
    }

    /// What has come of a trace, by its id in hex.
    pub fn trace(&self, id: &str) -> Trace {
        Trace::new(id, self.find(|span| span.trace_id == id))
    }

    /// The spans of other traces, or of its own, that link to this one.
    pub fn linking(&self, to: &Span) -> Vec<Span> {
        self.find(|span| span.links.iter().any(|(trace, id)| (trace, id) == (&to.trace_id, &to.span_id)))
    }

    /// Waits until a trace is what is expected, and gives it.
    ///
    /// # Panics
    /// After `limit`; the message says what never held and draws the trace.
    pub async fn shows(&self, id: &str, what: &str, limit: Duration, holds: impl Fn(&Trace) -> bool) -> Trace {
        let begin = std::time::Instant::now();
        loop {
            let trace = self.trace(id);
            if holds(&trace) {
                return trace;
            }
            assert!(begin.elapsed() < patience(limit), "after {limit:?} this does not hold: {what}\n{trace}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Shared {
    /// No code panics while it holds the lock.
    fn taken(&self) -> MutexGuard<'_, ReceivedSpans> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps what a request brings; `false` when it is to be refused.
    async fn take(&self, protocol: &'static str, request: ExportTraceServiceRequest) -> bool {
        let mut answers = self.answer.subscribe();
        let answer = answers.wait_for(|answer| *answer != Answer::Silence).await;
        if !answer.is_ok_and(|answer| *answer == Answer::Taken) {
            return false;
        }
        let mut taken = self.taken();
        taken.protocols.insert(protocol);
        taken.spans.extend(span::read(request));
        let over = taken.spans.len().saturating_sub(SPANS);
        taken.spans.drain(..over);
        true
    }
}

/// OTLP/HTTP in binary protobuf. Source: OpenTelemetry Protocol 1.x, section "OTLP/HTTP".
async fn over_http(State(shared): State<Shared>, body: Bytes) -> Result<Vec<u8>, StatusCode> {
    let request = ExportTraceServiceRequest::decode(body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let taken = shared.take("http/protobuf", request).await;
    taken.then(|| ExportTraceServiceResponse::default().encode_to_vec()).ok_or(StatusCode::SERVICE_UNAVAILABLE)
}

#[tonic::async_trait]
impl TraceService for Shared {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let taken = self.take("grpc", request.into_inner()).await;
        taken
            .then(|| Response::new(ExportTraceServiceResponse::default()))
            .ok_or_else(|| Status::unavailable("told to refuse"))
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::{
        KeyValue,
        trace::{Span as _, SpanKind, Status, TraceContextExt as _, Tracer as _, TracerProvider as _},
    };
    use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
    use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};

    use super::*;

    /// A parent with a failed child that links to it, as OpenTelemetry's own exporter sends them.
    fn send(exporter: SpanExporter) {
        let resource = Resource::builder_empty().with_attribute(KeyValue::new("service.name", "till")).build();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter).with_resource(resource).build();
        let tracer = provider.tracer("test");
        let parent = tracer.span_builder("send t").with_kind(SpanKind::Producer).start(&tracer);
        let context = opentelemetry::Context::new().with_span(parent);
        let mut child = tracer.start_with_context("process t", &context);
        child.set_attribute(KeyValue::new("messaging.kafka.offset", 7));
        child.add_link(context.span().span_context().clone(), Vec::new());
        child.set_status(Status::error("it broke"));
        child.end();
        context.span().end();
        // What a receiver refuses is the exporter's to say.
        let _ = provider.shutdown();
    }

    /// Red when one of the protocols is not served, a parent, link, status, attribute or resource is not read, or spans are
    /// taken while they are to be refused.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn takes_what_opentelemetrys_exporter_sends_over_both_protocols() {
        headwater_connectors::tls::install_provider();
        for protocol in ["grpc", "http/protobuf"] {
            let otlp = Otlp::start().await;
            let exporter = || match protocol {
                "grpc" => SpanExporter::builder().with_tonic().with_endpoint(otlp.url()).build().expect("valid"),
                _ => {
                    let endpoint = format!("{}/v1/traces", otlp.url());
                    SpanExporter::builder().with_http().with_endpoint(endpoint).build().expect("valid")
                }
            };
            otlp.answer(Answer::Unavailable);
            send(exporter());
            assert!(otlp.find(|_| true).is_empty(), "{protocol} is refused");
            otlp.answer(Answer::Taken);
            send(exporter());
            let spans = otlp.find(|_| true);
            let trace = otlp.trace(&spans[0].trace_id);
            assert_eq!((trace.outline().as_str(), otlp.protocols()), ("send t\n  process t !\n", [protocol].into()));
            let (parent, child) = (trace.roots().remove(0), trace.named("process t").remove(0));
            assert_eq!((parent.kind, child.kind), (Kind::Producer, Kind::Internal));
            assert_eq!((child.get("messaging.kafka.offset"), child.error.as_deref()), (&7.into(), Some("it broke")));
            assert_eq!(parent.resource["service.name"], "till");
            assert_eq!(otlp.linking(parent).len(), 1);
        }
    }
}
