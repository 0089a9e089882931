//! What the standard variables say.

use std::time::Duration;

use headwater::spi::Sampler;
use opentelemetry::KeyValue;
use opentelemetry_sdk::{
    Resource,
    resource::{EnvResourceDetector, TelemetryResourceDetector},
};

use super::{error::OtlpError, transport::OtlpTransport};

/// Spans that wait at most: about a kilobyte each. The specification's 2,048 is full within a blink here.
const QUEUE: usize = 16_384;
const BATCH: usize = 512;
const DELAY: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(30);
/// Links of a span at most: a batch's span has one for each of its records.
const LINKS: u32 = 10_000;

/// How spans are sampled, and where they go.
#[derive(Clone, Debug)]
pub struct OtlpConfig {
    pub(super) sampler: Sampler,
    /// Nothing where no back end is named.
    pub(super) exports: Option<Exports>,
}

/// How spans are sent.
#[derive(Clone, Debug)]
pub(super) struct Exports {
    pub(super) resource: Resource,
    pub(super) queue: usize,
    pub(super) batch: usize,
    pub(super) delay: Duration,
    pub(super) timeout: Duration,
    /// Where the environment does not say.
    pub(super) links: Option<u32>,
    pub(super) transport: OtlpTransport,
}

impl OtlpConfig {
    /// Reads the standard variables. Spans are exported where one of them names an endpoint, or `OTEL_TRACES_EXPORTER` is
    /// `otlp`. `version` and `instance` are this program's, unless `OTEL_RESOURCE_ATTRIBUTES` says otherwise.
    ///
    /// # Errors
    /// Every variable that makes no sense, by its name.
    pub fn from_env(version: &'static str, instance: String) -> Result<Self, Vec<OtlpError>> {
        Self::read(|name| std::env::var(name).ok().filter(|value| !value.is_empty()), version, instance)
    }

    fn read(
        variable: impl Fn(&str) -> Option<String>,
        version: &'static str,
        instance: String,
    ) -> Result<Self, Vec<OtlpError>> {
        let mut problems = Vec::new();
        let mut refuse = |name: &str, why: String| problems.push(OtlpError(format!("{name}: {why}")));
        let sampler = variable("OTEL_TRACES_SAMPLER").map_or_else(
            || Ok(Sampler::default()),
            |name| Sampler::parse(&name, &variable("OTEL_TRACES_SAMPLER_ARG").unwrap_or_default()),
        );
        let sampler = sampler.unwrap_or_else(|why| {
            refuse("OTEL_TRACES_SAMPLER", why);
            Sampler::default()
        });
        let mut number = |name: &str, or: usize| match variable(name).map(|text| text.parse()) {
            None => or,
            Some(Ok(number)) if number > 0 => number,
            Some(_) => {
                refuse(name, "not a number above zero".to_owned());
                or
            }
        };
        let mut millis = |name: &str, or: Duration| {
            let or = usize::try_from(or.as_millis()).unwrap_or(usize::MAX);
            Duration::from_millis(number(name, or) as u64)
        };
        let (delay, timeout) = (millis("OTEL_BSP_SCHEDULE_DELAY", DELAY), millis("OTEL_BSP_EXPORT_TIMEOUT", TIMEOUT));
        let queue = number("OTEL_BSP_MAX_QUEUE_SIZE", QUEUE);
        let batch = number("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH).min(queue);
        let protocol =
            variable("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL").or_else(|| variable("OTEL_EXPORTER_OTLP_PROTOCOL"));
        if let Some(other) = protocol.filter(|protocol| !matches!(protocol.as_str(), "grpc" | "http/protobuf")) {
            refuse("OTEL_EXPORTER_OTLP_PROTOCOL", format!("`{other}` is not spoken here: write grpc or http/protobuf"));
        }
        let exporter = variable("OTEL_TRACES_EXPORTER");
        if let Some(other) = exporter.as_deref().filter(|exporter| !matches!(*exporter, "otlp" | "none")) {
            refuse("OTEL_TRACES_EXPORTER", format!("`{other}` is no exporter here: write otlp or none"));
        }
        let disabled = variable("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
        let named = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];
        let wanted = exporter.map_or_else(|| named.iter().any(|name| variable(name).is_some()), |name| name == "otlp");
        let links = variable("OTEL_SPAN_LINK_COUNT_LIMIT").is_none().then_some(LINKS);
        let transport = (wanted && !disabled).then(|| OtlpTransport::read(&variable)).transpose();
        let transport = transport.unwrap_or_else(|wrong| {
            problems.extend(wrong.into_iter().map(OtlpError));
            None
        });
        if !problems.is_empty() {
            return Err(problems);
        }
        let exports = transport.map(|transport| Exports {
            resource: resource(variable("OTEL_SERVICE_NAME"), version, instance),
            queue,
            batch,
            delay,
            timeout,
            links,
            transport,
        });
        Ok(Self { sampler, exports })
    }
}

/// Who this process is; the environment has the last word.
fn resource(name: Option<String>, version: &'static str, instance: String) -> Resource {
    let own = [
        KeyValue::new("service.name", "headwater"),
        KeyValue::new("service.version", version),
        KeyValue::new("service.instance.id", instance),
    ];
    let resource = Resource::builder_empty()
        .with_attributes(own)
        .with_detector(Box::new(TelemetryResourceDetector))
        .with_detector(Box::new(EnvResourceDetector::new()));
    match name {
        Some(name) => resource.with_service_name(name).build(),
        None => resource.build(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<OtlpConfig, Vec<OtlpError>> {
        let of = |name: &str| variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned());
        OtlpConfig::read(of, "1", "me".to_owned())
    }

    /// Red when spans go nowhere although an endpoint is named, or somewhere although they are switched off.
    #[test]
    fn spans_are_exported_where_a_back_end_is_named() {
        let exports = |variables: &[(&str, &str)]| read(variables).expect("valid").exports.is_some();
        assert!(!exports(&[]));
        assert!(exports(&[("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")]));
        assert!(exports(&[("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:4318/v1/traces")]));
        assert!(exports(&[("OTEL_TRACES_EXPORTER", "otlp")]));
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318");
        assert!(!exports(&[endpoint, ("OTEL_TRACES_EXPORTER", "none")]));
        assert!(!exports(&[endpoint, ("OTEL_SDK_DISABLED", "true")]));
    }

    /// Red when a file of certificates is not looked at before spans are sent, or is not named by its variable.
    #[test]
    fn every_certificate_that_cannot_be_used_is_named() {
        let endpoint = ("OTEL_EXPORTER_OTLP_ENDPOINT", "https://collector:4317");
        let problems = read(&[
            endpoint,
            ("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/other"),
            ("OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE", "/nowhere/ca"),
            ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/nowhere/key"),
        ]);
        let text = problems.expect_err("problems").iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for named in [
            "OTEL_EXPORTER_OTLP_TRACES_CERTIFICATE: cannot read /nowhere/ca",
            "OTEL_EXPORTER_OTLP_CLIENT_KEY: OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and",
        ] {
            assert!(text.contains(named), "{text}");
        }
        let pair =
            [("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", "/nowhere/cert"), ("OTEL_EXPORTER_OTLP_CLIENT_KEY", "/k")];
        let problems = read(&[&[endpoint][..], &pair].concat()).expect_err("problems");
        assert!(
            problems[0].to_string().starts_with("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE: cannot read /nowhere/cert")
        );
        assert!(read(&pair).is_ok(), "spans go nowhere");
    }

    /// Red when the first problem hides the others, or is not named by its variable.
    #[test]
    fn every_wrong_variable_is_named() {
        let problems = read(&[
            ("OTEL_TRACES_SAMPLER", "sometimes"),
            ("OTEL_BSP_MAX_QUEUE_SIZE", "0"),
            ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
            ("OTEL_TRACES_EXPORTER", "zipkin"),
        ]);
        let text = problems.expect_err("four problems").iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        for name in ["OTEL_TRACES_SAMPLER: `sometimes`", "OTEL_BSP_MAX_QUEUE_SIZE: ", "http/json", "zipkin"] {
            assert!(text.contains(name), "{text}");
        }
        let ratio = [("OTEL_TRACES_SAMPLER", "traceidratio"), ("OTEL_TRACES_SAMPLER_ARG", "7")];
        assert!(read(&ratio).expect_err("no ratio")[0].to_string().contains("from 0 to 1"));
    }
}
