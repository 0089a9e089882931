//! How the back end is reached: over which protocol, at which address, trusting whom.
//!
//! It never knows what a span is. Headers are the exporter's own business, and are in no message.

use std::time::Duration;

use opentelemetry_otlp::{
    SpanExporter, WithHttpConfig as _, WithTonicConfig as _,
    tonic_types::transport::{Certificate, ClientTlsConfig, Identity},
};
use opentelemetry_sdk::Resource;
use reqwest::{Client, Url};

use crate::{
    http::{describe, proxies::Proxies},
    security::tls::{self, TlsConfig},
};

/// Of one request. Source: OpenTelemetry's specification, `OTEL_EXPORTER_OTLP_TIMEOUT`.
const TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may take to find out why there is no connection.
const DIAGNOSIS: Duration = Duration::from_secs(2);

/// How the back end is reached.
#[derive(Clone, Debug)]
pub(super) struct OtlpTransport {
    is_grpc: bool,
    /// Nothing where the exporter's own default holds, this machine.
    endpoint: Option<String>,
    is_encrypted: bool,
    pub(super) tls: TlsConfig,
    timeout: Duration,
}

impl OtlpTransport {
    /// Reads the standard variables; what is said of traces goes before what is said of all signals.
    ///
    /// # Errors
    /// Every variable that makes no sense, and every file that cannot be read, by the variable's name.
    pub(super) fn read(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, Vec<String>> {
        let either = |name: &str| {
            let names = [format!("OTEL_EXPORTER_OTLP_TRACES_{name}"), format!("OTEL_EXPORTER_OTLP_{name}")];
            names.into_iter().find_map(|name| variable(&name).map(|value| (name, value)))
        };
        let mut problems = Vec::new();
        let endpoint = either("ENDPOINT");
        if let Some((name, url)) = &endpoint
            && Url::parse(url).is_err()
            && Url::parse(&format!("https://{url}")).is_err()
        {
            problems.push(format!("{name}: not an address such as https://collector:4318"));
        }
        let (ca, cert, key) = (either("CERTIFICATE"), either("CLIENT_CERTIFICATE"), either("CLIENT_KEY"));
        let file = |set: &Option<(String, String)>| set.as_ref().map(|(_, file)| file.into());
        let tls = TlsConfig { ca: file(&ca), cert: file(&cert), key: file(&key) };
        let trusted = TlsConfig { ca: tls.ca.clone(), ..TlsConfig::default() };
        problems.extend(ca.iter().flat_map(|(name, _)| trusted.problems(name)));
        match (&cert, &key) {
            (Some((cert, _)), Some(_)) => problems.extend(TlsConfig { ca: None, ..tls.clone() }.problems(cert)),
            (None, None) => {}
            (Some((set, _)), None) | (None, Some((set, _))) => problems.push(format!(
                "{set}: OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY go together"
            )),
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let millis = either("TIMEOUT").and_then(|(_, text)| text.parse().ok());
        let insecure = either("INSECURE").is_some_and(|(_, value)| value.eq_ignore_ascii_case("true"));
        let endpoint = endpoint.map(|(_, url)| url);
        let is_encrypted = endpoint.as_ref().is_some_and(|url| match url.split_once("://") {
            Some((scheme, _)) => scheme.eq_ignore_ascii_case("https"),
            None => !insecure,
        });
        Ok(Self {
            is_grpc: either("PROTOCOL").is_some_and(|(_, protocol)| protocol == "grpc"),
            endpoint,
            is_encrypted,
            tls,
            timeout: millis.map_or(TIMEOUT, Duration::from_millis),
        })
    }

    /// An exporter with what the files hold now. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// What the exporter does not take, such as an endpoint that is none.
    pub(super) fn exporter(&self, resource: &Resource) -> Result<Exporter, String> {
        use opentelemetry_sdk::trace::SpanExporter as _;

        let (mut spans, client) = if self.is_grpc { (self.grpc()?, None) } else { self.http()? };
        spans.set_resource(resource);
        Ok(Exporter { spans, client, endpoint: self.endpoint.as_ref().and_then(|url| Url::parse(url).ok()) })
    }

    fn grpc(&self) -> Result<SpanExporter, String> {
        let mut builder = SpanExporter::builder().with_tonic();
        if self.is_encrypted {
            let mut trust = ClientTlsConfig::new();
            trust = match &self.tls.ca {
                Some(file) => trust.ca_certificate(Certificate::from_pem(tls::read(file)?)),
                None => trust.with_enabled_roots(),
            };
            if let (Some(cert), Some(key)) = (&self.tls.cert, &self.tls.key) {
                trust = trust.identity(Identity::from_pem(tls::read(cert)?, tls::read(key)?));
            }
            builder = builder.with_tls_config(trust);
        }
        builder.build().map_err(|error| error.to_string())
    }

    fn http(&self) -> Result<(SpanExporter, Option<Client>), String> {
        let client = Proxies::of_environment().and_then(|(builder, _)| {
            let builder = self.tls.apply(builder)?;
            builder.timeout(self.timeout).build().map_err(describe)
        });
        let client = client.map_err(|error| error.0)?;
        let exporter = SpanExporter::builder().with_http().with_http_client(client.clone()).build();
        Ok((exporter.map_err(|error| error.to_string())?, Some(client)))
    }
}

/// What sends spans.
#[derive(Debug)]
pub(super) struct Exporter {
    pub(super) spans: SpanExporter,
    /// What it sends by, over HTTP.
    client: Option<Client>,
    endpoint: Option<Url>,
}

impl Exporter {
    /// Where spans go, for people.
    pub(super) fn peer(&self) -> String {
        self.endpoint.as_ref().map_or_else(|| "localhost".to_owned(), |url| url.origin().ascii_serialization())
    }

    /// What is wrong. Over HTTP the exporter keeps the reason to itself where there is no connection: it is asked for once more.
    pub(super) async fn reason(&self, error: String) -> String {
        let (Some(client), Some(url)) = (&self.client, &self.endpoint) else { return error };
        if !error.contains("network error") {
            return error;
        }
        match client.head(url.clone()).timeout(DIAGNOSIS).send().await {
            Err(asked) => describe(asked).0,
            Ok(_) => error,
        }
    }
}
