//! OTLP: finished spans to an OpenTelemetry back end such as Jaeger, over HTTP or gRPC.
//!
//! What it promises: whoever ends a span is never held up. Spans wait in a bounded queue and are sent in batches by a
//! thread of their own; what finds no room there, or what the back end does not take, is counted as dropped. An outage
//! of the back end is said once, and so is its end. At shutdown what waits is sent, within the time that is given.
//!
//! Everything is set by the variables that OpenTelemetry's specification names: `OTEL_EXPORTER_OTLP_*`, `OTEL_TRACES_*`,
//! `OTEL_BSP_*`, `OTEL_SPAN_*`, `OTEL_SERVICE_NAME`, `OTEL_RESOURCE_ATTRIBUTES`, `OTEL_SDK_DISABLED`. When a certificate file
//! changes, spans go over new connections.

mod config;
mod error;
mod queue;
mod transport;

use std::{sync::Arc, time::Duration};

use headwater::spi::{Sampler, SpanCounts, Tracing};
use opentelemetry_sdk::trace::{Sampler as SdkSampler, SdkTracerProvider};

pub use config::OtlpConfig;
pub use error::OtlpError;
pub use opentelemetry_sdk::trace::SdkTracer as Tracer;

use self::queue::Queue;

/// The way of spans to the back end; without one nothing is recorded, and traces travel on with the records all the same.
#[derive(Debug)]
pub struct Otlp {
    sampler: Sampler,
    provider: Option<SdkTracerProvider>,
    counts: Arc<SpanCounts>,
}

impl Otlp {
    /// Starts the thread that sends spans, where the configuration names a back end.
    ///
    /// # Errors
    /// What the exporter does not take of its configuration.
    pub fn start(config: OtlpConfig) -> Result<Self, OtlpError> {
        let counts = Arc::default();
        let OtlpConfig { sampler, exports: Some(exports) } = config else {
            return Ok(Self { sampler: config.sampler, provider: None, counts });
        };
        let resource = exports.resource.clone();
        let mut provider = SdkTracerProvider::builder()
            .with_resource(resource)
            // What has no parent is the program's own doing; of records the sampler has decided before.
            .with_sampler(SdkSampler::ParentBased(Box::new(SdkSampler::AlwaysOn)));
        if let Some(links) = exports.links {
            provider = provider.with_max_links_per_span(links);
        }
        let queue = Queue::start(exports, Arc::clone(&counts))?;
        Ok(Self { sampler, provider: Some(provider.with_span_processor(queue).build()), counts })
    }

    /// For the spans of records.
    pub fn tracing(&self) -> Tracing {
        match &self.provider {
            Some(provider) => Tracing::new(provider, self.sampler),
            None => Tracing::sampling(self.sampler),
        }
    }

    /// For the program's own spans.
    pub fn tracer(&self) -> Option<Tracer> {
        use opentelemetry::trace::TracerProvider as _;
        self.provider.as_ref().map(|provider| provider.tracer("headwater"))
    }

    /// What became of the spans.
    pub fn counts(&self) -> Arc<SpanCounts> {
        Arc::clone(&self.counts)
    }

    /// Sends what waits, for as long as this at most; blocks. What is left then is counted as dropped.
    pub fn stop(&self, timeout: Duration) {
        if let Some(Err(error)) = self.provider.as_ref().map(|provider| provider.shutdown_with_timeout(timeout)) {
            tracing::warn!(%error, "the last spans were not sent");
        }
    }
}
