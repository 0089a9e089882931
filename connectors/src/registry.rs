//! The schema registry port, over Confluent's API; also spoken by Apicurio under `/apis/ccompat/v7`.
//!
//! Nothing is cached here, errors least of all: what the registry says once is remembered by the engine, and an outage
//! is asked again. (`schema_registry_converter`'s free functions cache nothing; its decoders do, and are not used.)

use std::{error::Error as _, time::Duration};

use headwater::spi::{BoxFuture, SchemaError, SchemaText, Schemas};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url, header::CONTENT_TYPE};
use schema_registry_converter::{
    async_impl::schema_registry::{SrSettings, get_referenced_schema, get_schema_by_id, perform_sr_call, post_schema},
    error::SRCError,
    schema_registry_common::{RawError, RawRegisteredSchema, RegisteredSchema, SchemaType, SrCall, SuppliedSchema},
};
use serde::Deserialize;
use serde_json::json;

use crate::{
    http::{describe, proxies::Proxies},
    units::{Secret, duration},
};

/// Where the registry is.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfig {
    /// Its base address, with a path where it has one; user and password may stand in it.
    pub url: Secret,
    /// The user, where it wants one.
    pub user: Option<String>,
    /// The user's password.
    pub password: Option<Secret>,
    /// How long one answer may take.
    #[serde(with = "duration")]
    pub timeout: Duration,
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self { url: Secret::new("http://127.0.0.1:8081"), user: None, password: None, timeout: Duration::from_secs(5) }
    }
}

/// A schema registry.
#[derive(Clone, Debug)]
pub struct Registry {
    settings: SrSettings,
    client: Client,
    proxies: Proxies,
    /// Without user and password.
    url: Url,
    user: Option<(String, Option<Secret>)>,
}

/// Media type of Confluent's API.
const JSON: &str = "application/vnd.schemaregistry.v1+json";
/// Schemas that one schema may refer to at most, and theirs with them.
const MAX_REFERENCES: usize = 256;

impl Registry {
    /// A client for this registry. Does not connect yet.
    ///
    /// # Errors
    /// A sentence for people, when the address is none.
    pub fn new(config: &RegistryConfig) -> Result<Self, String> {
        let problem = "registry.url must be an address such as http://127.0.0.1:8081";
        let mut url = Url::parse(config.url.expose()).map_err(|error| format!("{problem}: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
            return Err(problem.to_owned());
        }
        let user = config.user.clone().or_else(|| (!url.username().is_empty()).then(|| decoded(url.username())));
        let password = config.password.clone().or_else(|| url.password().map(|text| Secret::new(decoded(text))));
        // Neither can fail: the URL has a host.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_query(None);
        url.set_fragment(None);
        let base = url.as_str().trim_end_matches('/').to_owned();
        let mut builder = SrSettings::new_builder(base);
        builder.set_timeout(config.timeout);
        if let Some(user) = &user {
            builder.set_basic_authorization(user, password.as_ref().map(Secret::expose));
        }
        let (way, proxies) = Proxies::of_environment().map_err(|error| error.0)?;
        let settings = builder.build_with(way).map_err(|error| error.error)?;
        let (way, _) = Proxies::of_environment().map_err(|error| error.0)?;
        let client = way.timeout(config.timeout).build().map_err(|error| describe(error).0)?;
        Ok(Self { settings, client, proxies, url, user: user.map(|user| (user, password)) })
    }

    /// Registers a schema, if the subject does not hold it yet, and gives its id.
    ///
    /// # Errors
    /// `Unknown` with the registry's reason when it refuses the schema; `Outage` when it does not answer properly.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32, SchemaError> {
        let supplied = SuppliedSchema::new(None, SchemaType::Avro, schema.to_owned());
        let registered = post_schema(&self.settings, subject.to_owned(), supplied).await;
        registered.map(|schema| schema.id).map_err(|error| self.refusal(&error, &format!("subject {subject}")))
    }

    /// Sets a subject's compatibility level, `FULL_TRANSITIVE` for one; also before its first version.
    ///
    /// # Errors
    /// `Unknown` with the registry's reason when it refuses; `Outage` when it does not answer properly.
    pub async fn set_compatibility(&self, subject: &str, level: &str) -> Result<(), SchemaError> {
        let url = self.at(&["config", subject]);
        let answer = self.send(self.client.put(url).body(json!({ "compatibility": level }).to_string())).await?;
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let reason = answer.json::<RawError>().await.map_or_else(|_| status.to_string(), |error| error.message);
        match status {
            StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND => {
                Err(SchemaError::Unknown(format!("subject {subject}: compatibility {level}: {reason}")))
            }
            _ => Err(self.trouble(format!("{status}: {reason}"))),
        }
    }

    /// The id of the newest schema of a subject.
    ///
    /// # Errors
    /// `Unknown` when the subject has none; `Outage` when the registry does not answer properly.
    pub async fn latest(&self, subject: &str) -> Result<u32, SchemaError> {
        let what = format!("subject {subject}");
        let found = perform_sr_call(&self.settings, SrCall::GetLatest(subject)).await;
        self.id_in(found.map_err(|error| self.verdict(&error, &what))?.id, &what)
    }

    async fn fetch(&self, id: u32) -> Result<SchemaText, SchemaError> {
        let what = format!("schema id {id}");
        let schema = get_schema_by_id(id, &self.settings).await.map_err(|error| self.verdict(&error, &what))?;
        if schema.schema_type != SchemaType::Avro {
            return Err(SchemaError::Unknown(format!("{what} is no Avro schema but {:?}", schema.schema_type)));
        }
        let references = self.references(&schema).await?;
        Ok(SchemaText { schema: schema.schema, references })
    }

    /// What a schema refers to, dependencies first and each once.
    async fn references(&self, schema: &RegisteredSchema) -> Result<Vec<String>, SchemaError> {
        enum Step {
            Visit(schema_registry_converter::schema_registry_common::RegisteredReference),
            Leave(String),
        }
        let mut seen = std::collections::HashSet::new();
        let mut texts = Vec::new();
        let mut steps: Vec<Step> = schema.references.iter().rev().cloned().map(Step::Visit).collect();
        while let Some(step) = steps.pop() {
            let reference = match step {
                Step::Leave(text) => {
                    texts.push(text);
                    continue;
                }
                Step::Visit(reference) => reference,
            };
            if !seen.insert((reference.subject.clone(), reference.version)) {
                continue;
            }
            if seen.len() > MAX_REFERENCES {
                let text = format!("a schema with more than {MAX_REFERENCES} references");
                return Err(SchemaError::Unknown(text));
            }
            let what = format!("subject {} version {}", reference.subject, reference.version);
            let found = get_referenced_schema(&self.settings, &reference).await;
            let found = found.map_err(|error| self.verdict(&error, &what))?;
            steps.push(Step::Leave(found.schema));
            steps.extend(found.references.into_iter().rev().map(Step::Visit));
        }
        Ok(texts)
    }

    /// Confluent's registry finds a schema however it is written, Apicurio only by its text unless it is told to normalise;
    /// and Confluent's, told so, no longer finds one that was registered as it is.
    async fn find(&self, subject: &str, schema: &str) -> Result<u32, SchemaError> {
        let what = format!("subject {subject}");
        let body = json!({ "schema": schema, "schemaType": "AVRO" }).to_string();
        match perform_sr_call(&self.settings, SrCall::PostForVersion(subject, &body)).await {
            Ok(found) => self.id_in(found.id, &what),
            Err(error) => match self.verdict(&error, &what) {
                SchemaError::Unknown(why) => {
                    self.find_normalised(subject, body).await?.ok_or(SchemaError::Unknown(why))
                }
                outage => Err(outage),
            },
        }
    }

    /// The id of a schema that means the same, if the subject has one. What the registry refuses it does not have.
    async fn find_normalised(&self, subject: &str, body: String) -> Result<Option<u32>, SchemaError> {
        let mut url = self.at(&["subjects", subject]);
        url.set_query(Some("normalize=true"));
        let answer = self.send(self.client.post(url).body(body)).await?;
        if answer.status().is_server_error() {
            return Err(self.trouble(answer.status().to_string()));
        }
        Ok(answer.json::<RawRegisteredSchema>().await.ok().and_then(|found| found.id))
    }

    async fn send(&self, request: RequestBuilder) -> Result<Response, SchemaError> {
        let mut request = request.header(CONTENT_TYPE, JSON);
        if let Some((user, password)) = &self.user {
            request = request.basic_auth(user, password.as_ref().map(Secret::expose));
        }
        request.send().await.map_err(|error| self.trouble(describe(error).0))
    }

    fn trouble(&self, text: String) -> SchemaError {
        SchemaError::Outage(format!("schema registry {}: {text}{}", self.url, self.proxies.over(self.url.as_str())))
    }

    fn id_in(&self, id: Option<u32>, what: &str) -> Result<u32, SchemaError> {
        id.ok_or_else(|| self.trouble(format!("{what}: no id in its answer")))
    }

    /// The registry knows no such thing, or does not answer properly.
    fn verdict(&self, error: &SRCError, what: &str) -> SchemaError {
        match said(error) {
            // 40401 subject, 40402 version, 40403 schema; a plain 404 comes from something else on that address.
            Some(raw) if (40_401..=40_499).contains(&raw.error_code) => {
                SchemaError::Unknown(format!("{what} is not in the schema registry: {}", raw.message))
            }
            _ => self.outage(error, what),
        }
    }

    /// The registry refuses what it was given, with its reason, or does not answer properly.
    fn refusal(&self, error: &SRCError, what: &str) -> SchemaError {
        match said(error) {
            // 409 and 422xx: incompatible or invalid.
            Some(raw) if matches!(raw.error_code, 409 | 422) || (40_000..=42_999).contains(&raw.error_code) => {
                SchemaError::Unknown(format!("{what}: the schema registry refuses: {}", raw.message))
            }
            _ => self.outage(error, what),
        }
    }

    fn outage(&self, error: &SRCError, what: &str) -> SchemaError {
        let mut causes = error.error.clone();
        let mut source = error.source();
        while let Some(cause) = source {
            causes = format!("{causes}: {cause}");
            source = cause.source();
        }
        self.trouble(format!("{what}: {causes}"))
    }

    fn at(&self, segments: &[&str]) -> Url {
        let mut url = self.url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(segments);
        }
        url
    }
}

/// What the registry itself answered, if it was the registry.
fn said(error: &SRCError) -> Option<&RawError> {
    error.source()?.downcast_ref::<RawError>().filter(|raw| raw.error_code != 0)
}

/// Undoes percent-encoding of a URL's user or password.
fn decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let escaped = (*first == b'%')
            .then(|| tail.get(..2))
            .flatten()
            .and_then(|hex| std::str::from_utf8(hex).ok())
            .and_then(|hex| u8::from_str_radix(hex, 16).ok());
        bytes.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() { &tail[2..] } else { tail };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Schemas for Registry {
    fn by_id(&self, id: u32) -> BoxFuture<'_, Result<SchemaText, SchemaError>> {
        Box::pin(self.fetch(id))
    }

    fn id_of<'a>(&'a self, subject: &'a str, schema: &'a str) -> BoxFuture<'a, Result<u32, SchemaError>> {
        Box::pin(self.find(subject, schema))
    }
}
