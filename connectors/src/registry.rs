//! The schema registry port, over Confluent's API; also spoken by Apicurio under `/apis/ccompat/v7`.
//!
//! Nothing is cached here, errors least of all: what the registry says once is remembered by the engine, and an outage
//! is asked again. (`schema_registry_converter`'s free functions cache nothing; its decoders do, and are not used.)

mod config;
mod failure;
mod session;

use headwater::spi::{BoxFuture, SchemaError, SchemaText, Schemas};
use reqwest::{Method, StatusCode};
use schema_registry_converter::schema_registry_common::{RawRegisteredSchema, RegisteredReference, SrCall};
use serde_json::json;

pub use config::{RegistryConfig, RegistryUrls, addresses_in};
pub use failure::RegistryError;

use self::{
    failure::CallFailure,
    session::{Call, Session},
};

/// A schema registry.
#[derive(Clone, Debug)]
pub struct Registry {
    session: Session,
}

/// Schemas that one schema may refer to at most, and theirs with them.
const MAX_REFERENCES: usize = 256;

impl Registry {
    /// A client for this registry. Does not connect yet.
    ///
    /// # Errors
    /// A sentence for people, when an address is none or a file cannot be read.
    pub fn new(config: &RegistryConfig) -> Result<Self, String> {
        Ok(Self { session: Session::new(config)? })
    }

    /// Asks for something that everybody may ask who has a login.
    ///
    /// # Errors
    /// `Credentials` when the registry does not let us in, or one of us does not trust the other; `Outage` when it does not answer.
    pub async fn reach(&self) -> Result<(), RegistryError> {
        let types = Call::Plain { method: &Method::GET, path: &["schemas", "types"], query: None, body: None };
        match self.session.ask(types).await {
            Ok(_) => Ok(()),
            Err(failure) => failure.admission(),
        }
    }

    /// Registers a schema, if the subject does not hold it yet, and gives its id.
    ///
    /// # Errors
    /// `Unknown` with the registry's reason when it refuses the schema; `Outage` when it does not answer properly.
    pub async fn register(&self, subject: &str, schema: &str) -> Result<u32, SchemaError> {
        let (what, body) = (format!("subject {subject}"), supplied(schema));
        let registered = self.session.ask(Call::Converter(SrCall::PostNew(subject, &body))).await;
        id_in(registered.map_err(|failure| refusal(failure, &what))?.id, &what)
    }

    /// Sets a subject's compatibility level, `FULL_TRANSITIVE` for one; also before its first version.
    ///
    /// # Errors
    /// `Unknown` with the registry's reason when it refuses; `Outage` when it does not answer properly.
    pub async fn set_compatibility(&self, subject: &str, level: &str) -> Result<(), SchemaError> {
        let body = json!({ "compatibility": level }).to_string();
        let path = ["config", subject];
        let asked = Call::Plain { method: &Method::PUT, path: &path, query: None, body: Some(&body) };
        let Err(failure) = self.session.ask(asked).await else { return Ok(()) };
        let what = format!("subject {subject}: compatibility {level}");
        match failure.status() {
            Some(status @ (StatusCode::UNPROCESSABLE_ENTITY | StatusCode::BAD_REQUEST | StatusCode::NOT_FOUND)) => {
                let reason = failure.said().map_or_else(|| status.to_string(), |said| said.message.clone());
                Err(SchemaError::Unknown(format!("{what}: {reason}")))
            }
            _ => Err(failure.outage(&what)),
        }
    }

    /// The id of the newest schema of a subject.
    ///
    /// # Errors
    /// `Unknown` when the subject has none; `Outage` when the registry does not answer properly.
    pub async fn latest(&self, subject: &str) -> Result<u32, SchemaError> {
        let what = format!("subject {subject}");
        id_in(self.ask(SrCall::GetLatest(subject), &what).await?.id, &what)
    }

    async fn fetch(&self, id: u32) -> Result<SchemaText, SchemaError> {
        let what = format!("schema id {id}");
        let found = self.ask(SrCall::GetById(id), &what).await?;
        if let Some(other) = found.schema_type.as_deref().filter(|kind| *kind != "AVRO") {
            return Err(SchemaError::Unknown(format!("{what} is no Avro schema but {other}")));
        }
        let schema = text_in(found.schema, &what)?;
        Ok(SchemaText { schema, references: self.references(found.references.unwrap_or_default()).await? })
    }

    /// What a schema refers to, dependencies first and each once.
    async fn references(&self, of: Vec<RegisteredReference>) -> Result<Vec<String>, SchemaError> {
        enum Step {
            Visit(RegisteredReference),
            Leave(String),
        }
        let mut seen = std::collections::HashSet::new();
        let mut texts = Vec::new();
        let mut steps: Vec<Step> = of.into_iter().rev().map(Step::Visit).collect();
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
            let call = SrCall::GetBySubjectAndVersion(&reference.subject, reference.version);
            let found = self.ask(call, &what).await?;
            steps.push(Step::Leave(text_in(found.schema, &what)?));
            steps.extend(found.references.unwrap_or_default().into_iter().rev().map(Step::Visit));
        }
        Ok(texts)
    }

    /// Confluent's registry finds a schema however it is written, Apicurio only by its text unless it is told to normalise;
    /// and Confluent's, told so, no longer finds one that was registered as it is.
    async fn find(&self, subject: &str, schema: &str) -> Result<u32, SchemaError> {
        let (what, body) = (format!("subject {subject}"), supplied(schema));
        match self.ask(SrCall::PostForVersion(subject, &body), &what).await {
            Ok(found) => id_in(found.id, &what),
            Err(SchemaError::Unknown(why)) => {
                self.find_normalised(subject, &body).await?.ok_or(SchemaError::Unknown(why))
            }
            Err(outage) => Err(outage),
        }
    }

    /// The id of a schema that means the same, if the subject has one. What the registry refuses it does not have.
    async fn find_normalised(&self, subject: &str, body: &str) -> Result<Option<u32>, SchemaError> {
        let path = ["subjects", subject];
        let query = Some("normalize=true");
        let asked = Call::Plain { method: &Method::POST, path: &path, query, body: Some(body) };
        match self.session.ask(asked).await {
            Ok(found) => Ok(found.id),
            Err(failure) if failure.status().is_some() => Ok(None),
            Err(failure) => Err(failure.outage(&format!("subject {subject}"))),
        }
    }

    /// Asks for something that the registry may not have.
    async fn ask(&self, call: SrCall<'_>, what: &str) -> Result<RawRegisteredSchema, SchemaError> {
        self.session.ask(Call::Converter(call)).await.map_err(|failure| verdict(failure, what))
    }
}

/// A schema as the registry takes it.
fn supplied(schema: &str) -> String {
    json!({ "schema": schema, "schemaType": "AVRO" }).to_string()
}

fn id_in(id: Option<u32>, what: &str) -> Result<u32, SchemaError> {
    id.ok_or_else(|| SchemaError::Outage(format!("schema registry: no id in its answer ({what})")))
}

fn text_in(schema: Option<String>, what: &str) -> Result<String, SchemaError> {
    schema.ok_or_else(|| SchemaError::Outage(format!("schema registry: no schema in its answer ({what})")))
}

/// The registry knows no such thing, or does not answer properly.
fn verdict(failure: CallFailure, what: &str) -> SchemaError {
    match failure.said() {
        // 40401 subject, 40402 version, 40403 schema; a plain 404 comes from something else on that address.
        Some(said) if (40_401..=40_499).contains(&said.error_code) => {
            SchemaError::Unknown(format!("{what} is not in the schema registry: {}", said.message))
        }
        _ => failure.outage(what),
    }
}

/// The registry refuses what it was given, with its reason, or does not answer properly.
fn refusal(failure: CallFailure, what: &str) -> SchemaError {
    match failure.said() {
        // 409 and 422xx: incompatible or invalid.
        Some(said) if matches!(said.error_code, 409 | 422) || (40_000..=42_999).contains(&said.error_code) => {
            SchemaError::Unknown(format!("{what}: the schema registry refuses: {}", said.message))
        }
        _ => failure.outage(what),
    }
}

impl Schemas for Registry {
    fn by_id(&self, id: u32) -> BoxFuture<'_, Result<SchemaText, SchemaError>> {
        Box::pin(self.fetch(id))
    }

    fn id_of<'a>(&'a self, subject: &'a str, schema: &'a str) -> BoxFuture<'a, Result<u32, SchemaError>> {
        Box::pin(self.find(subject, schema))
    }
}
