//! The queue of finished spans, and the thread that sends them.

use std::{
    sync::{
        Arc,
        mpsc::{SyncSender, sync_channel},
    },
    thread,
    time::{Duration, Instant},
};

use headwater::spi::SpanCounts;
use opentelemetry::Context;
use opentelemetry_sdk::{
    Resource,
    error::{OTelSdkError, OTelSdkResult},
    trace::{Span, SpanData, SpanExporter as _, SpanProcessor},
};
use tokio::{
    runtime,
    sync::mpsc::{self, Receiver, Sender},
    time::timeout,
};

use super::{config::Exports, error::OtlpError, transport::Exporter};
use crate::http::reload::ReloadingClient;

/// How long a flush may take that names no time.
const FLUSH: Duration = Duration::from_secs(5);

/// Where ended spans go.
#[derive(Debug)]
pub(super) struct Queue {
    spans: Sender<SpanData>,
    asks: Sender<FlushRequest>,
    counts: Arc<SpanCounts>,
}

/// What the thread is asked to do with all that waits now.
#[derive(Debug)]
struct FlushRequest {
    /// When it gives up.
    by: Instant,
    ends: bool,
    done: SyncSender<()>,
}

impl Queue {
    /// Starts the thread.
    ///
    /// # Errors
    /// What the exporter does not take, such as an endpoint that is none.
    pub(super) fn start(exports: Exports, counts: Arc<SpanCounts>) -> Result<Self, OtlpError> {
        let (spans, spans_out) = mpsc::channel(exports.queue);
        let (asks, asks_out) = mpsc::channel(4);
        let (built, was_built) = sync_channel(1);
        let thread_counts = Arc::clone(&counts);
        let run = move || {
            // gRPC wants a runtime where it is built as well as where it sends.
            let runtime =
                runtime::Builder::new_current_thread().enable_all().build().map_err(|error| error.to_string());
            let exporter = runtime.and_then(|runtime| {
                let _inside = runtime.enter();
                let (transport, resource) = (exports.transport.clone(), exports.resource.clone());
                let files: Vec<_> = transport.tls.files().collect();
                let exporter = ReloadingClient::new("otlp", files, move || transport.exporter(&resource))?;
                Ok((runtime, exporter))
            });
            match exporter {
                Ok((runtime, exporter)) => {
                    let _ = built.send(Ok(()));
                    let mut work = SpanSender { exporter, exports, counts: thread_counts, down: false };
                    runtime.block_on(work.run(spans_out, asks_out));
                }
                Err(why) => _ = built.send(Err(why)),
            }
        };
        let spawned = thread::Builder::new().name("otlp".to_owned()).spawn(run);
        spawned.map_err(|error| OtlpError(format!("no thread for spans: {error}")))?;
        match was_built.recv() {
            Ok(Ok(())) => Ok(Self { spans, asks, counts }),
            Ok(Err(why)) => Err(OtlpError(format!("spans cannot be exported, check OTEL_EXPORTER_OTLP_…: {why}"))),
            Err(_) => Err(OtlpError("the thread for spans ended at once".to_owned())),
        }
    }

    fn ask(&self, wait: Duration, ends: bool) -> OTelSdkResult {
        let (done, is_done) = sync_channel(1);
        let asked = self.asks.try_send(FlushRequest { by: Instant::now() + wait, ends, done });
        asked.map_err(|_| OTelSdkError::AlreadyShutdown)?;
        // A little longer, for the thread to count what it drops.
        is_done.recv_timeout(wait + Duration::from_millis(200)).map_err(|_| OTelSdkError::Timeout(wait))
    }
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        if self.spans.try_send(span).is_err() {
            self.counts.dropped(1);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.ask(FLUSH, false)
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.ask(timeout, true)
    }

    /// The exporter was given it when it was built.
    fn set_resource(&mut self, _: &Resource) {}
}

/// What the thread works with.
struct SpanSender {
    exporter: ReloadingClient<Exporter>,
    exports: Exports,
    counts: Arc<SpanCounts>,
    /// Whether the back end took nothing last.
    down: bool,
}

impl SpanSender {
    /// Sends what has gathered every now and then, a full batch at once, until it is told to end.
    async fn run(&mut self, mut spans: Receiver<SpanData>, mut asks: Receiver<FlushRequest>) {
        let mut batch = Vec::with_capacity(self.exports.batch);
        loop {
            let gather = async {
                while batch.len() < self.exports.batch {
                    let room = self.exports.batch - batch.len();
                    if spans.recv_many(&mut batch, room).await == 0 {
                        break;
                    }
                }
            };
            let asked = tokio::select! {
                biased;
                ask = asks.recv() => ask,
                _ = timeout(self.exports.delay, gather) => {
                    self.send(&mut batch, self.exports.timeout).await;
                    continue;
                }
            };
            let Some(ask) = asked else { return };
            self.flush(&mut batch, &mut spans, &ask).await;
            let _ = ask.done.send(());
            if ask.ends {
                return;
            }
        }
    }

    /// Sends all that waits now. At the end what is left over is lost.
    async fn flush(&mut self, batch: &mut Vec<SpanData>, spans: &mut Receiver<SpanData>, ask: &FlushRequest) {
        if ask.ends {
            spans.close();
        }
        let mut left = spans.len();
        loop {
            while batch.len() < self.exports.batch && left > 0 {
                left -= 1;
                batch.extend(spans.try_recv().ok());
            }
            let wait = ask.by.saturating_duration_since(Instant::now());
            if batch.is_empty() || wait.is_zero() {
                break;
            }
            self.send(batch, wait.min(self.exports.timeout)).await;
        }
        if ask.ends {
            self.counts.dropped((batch.len() + spans.len()) as u64);
        }
    }

    async fn send(&mut self, batch: &mut Vec<SpanData>, wait: Duration) {
        if batch.is_empty() {
            return;
        }
        let count = batch.len() as u64;
        let batch = std::mem::replace(batch, Vec::with_capacity(self.exports.batch));
        let exporter = self.exporter.current();
        let (by, peer) = (Instant::now() + wait, exporter.peer());
        let failed = match timeout(wait, exporter.spans.export(batch)).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some(format!("no answer within {wait:?}")),
        };
        match failed {
            None => {
                self.counts.exported(count);
                if std::mem::take(&mut self.down) {
                    tracing::info!("the trace back end takes spans again");
                }
            }
            Some(error) => {
                self.counts.dropped(count);
                if !std::mem::replace(&mut self.down, true) {
                    let left = by.saturating_duration_since(Instant::now());
                    let error = timeout(left, exporter.reason(error.clone())).await.unwrap_or(error);
                    tracing::warn!(peer, error, "the trace back end takes no spans; they are dropped until it does");
                }
            }
        }
    }
}
