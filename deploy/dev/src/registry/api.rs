//! The routes of Confluent's API, and its error codes.

use std::sync::{Arc, PoisonError, RwLock};

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, Query, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Faults;
use super::compat::Level;
use super::schema::Reference;
use super::store::{ApiError, Store};

const BODY_BYTES: usize = 1024 * 1024;
const CONTENT_TYPE: &str = "application/vnd.schemaregistry.v1+json";

/// Every route. Bodies are JSON whatever their content type says.
pub(crate) fn routes(store: Arc<Store>, faults: Arc<RwLock<Faults>>) -> Router {
    Router::new()
        .route("/", get(|| async { Answer(json!({})) }))
        .route("/mode", get(|| async { Answer(json!({ "mode": "READWRITE" })) }))
        .route("/schemas/types", get(|| async { Answer(json!(["AVRO"])) }))
        .route("/schemas/ids/{id}", get(schema_by_id))
        .route("/schemas/ids/{id}/versions", get(versions_by_id))
        .route("/subjects", get(subjects))
        .route("/subjects/{subject}", post(lookup))
        .route("/subjects/{subject}/versions", get(versions).post(register))
        .route("/subjects/{subject}/versions/{version}", get(version))
        .route("/config", get(level).put(set_level))
        .route("/config/{subject}", get(subject_level).put(set_subject_level))
        .route("/compatibility/subjects/{subject}/versions", post(compatibility_of_subject))
        .route("/compatibility/subjects/{subject}/versions/{version}", post(compatibility))
        .fallback(|| async { failure(StatusCode::NOT_FOUND, 404, "no such route") })
        .layer(from_fn_with_state(faults, fail_on_request))
        .layer(DefaultBodyLimit::max(BODY_BYTES))
        .with_state(store)
}

type Registry = State<Arc<Store>>;
type Outcome = Result<Answer, ApiError>;

/// A JSON answer in the registry's content type.
struct Answer(Value);

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, CONTENT_TYPE)], self.0.to_string()).into_response()
    }
}

#[derive(Debug, Deserialize)]
struct SubmittedSchema {
    schema: String,
    #[serde(default, rename = "schemaType")]
    schema_type: Option<String>,
    #[serde(default)]
    references: Option<Vec<Reference>>,
}

impl SubmittedSchema {
    /// Clients also write that there are none as `null`.
    fn references(&self) -> &[Reference] {
        self.references.as_deref().unwrap_or_default()
    }

    fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let submitted: Self = serde_json::from_slice(body).map_err(|error| ApiError::BadSchema(error.to_string()))?;
        match submitted.schema_type.as_deref() {
            None | Some("AVRO") => Ok(submitted),
            Some(other) => Err(ApiError::BadSchema(format!("schema type {other} is not supported, only AVRO"))),
        }
    }
}

async fn subjects(State(store): Registry) -> Answer {
    let catalog = store.read();
    let with_versions = catalog.subjects.iter().filter(|(_, subject)| !subject.versions.is_empty());
    Answer(with_versions.map(|(name, _)| name.as_str()).collect())
}

async fn versions(State(store): Registry, Path(subject): Path<String>) -> Outcome {
    let count = store.read().versions(&subject)?.len();
    Ok(Answer((1..=count).collect()))
}

async fn version(State(store): Registry, Path((subject, version)): Path<(String, String)>) -> Outcome {
    let (version, id) = store.read().version(&subject, &version)?;
    described(&store, &subject, version, id)
}

async fn lookup(State(store): Registry, Path(subject): Path<String>, body: Bytes) -> Outcome {
    let submitted = SubmittedSchema::parse(&body)?;
    let catalog = store.read();
    catalog.versions(&subject)?;
    let parsed = catalog.parse_new(&submitted.schema, submitted.references())?;
    let identity = parsed.identity(submitted.references()).map_err(ApiError::BadSchema)?;
    let (version, id) = catalog.lookup(&subject, &identity)?;
    described(&store, &subject, version, id)
}

async fn register(State(store): Registry, Path(subject): Path<String>, body: Bytes) -> Outcome {
    let submitted = SubmittedSchema::parse(&body)?;
    let id = on_disk(move || store.register(&subject, &submitted.schema, submitted.references())).await?;
    Ok(Answer(json!({ "id": id })))
}

async fn schema_by_id(State(store): Registry, Path(id): Path<String>) -> Outcome {
    let catalog = store.read();
    let source = id.parse().ok().and_then(|id: u32| catalog.schemas.get(&id)).ok_or(ApiError::NoSchema)?;
    let mut answer = json!({ "schema": source.schema });
    if !source.references.is_empty() {
        answer["references"] = json!(source.references);
    }
    Ok(Answer(answer))
}

async fn versions_by_id(State(store): Registry, Path(id): Path<String>) -> Outcome {
    let catalog = store.read();
    let id = id.parse().ok().filter(|id: &u32| catalog.schemas.contains_key(id)).ok_or(ApiError::NoSchema)?;
    let places = catalog.subjects.iter().flat_map(|(name, subject)| {
        let numbered = (1..).zip(&subject.versions).filter(|(_, other)| **other == id);
        numbered.map(move |(version, _): (u32, _)| json!({ "subject": name, "version": version }))
    });
    Ok(Answer(places.collect()))
}

async fn level(State(store): Registry) -> Answer {
    Answer(json!({ "compatibilityLevel": store.read().compatibility }))
}

async fn set_level(State(store): Registry, body: Bytes) -> Outcome {
    change_level(store, None, &body).await
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Options {
    #[serde(rename = "defaultToGlobal")]
    default_to_global: bool,
    verbose: bool,
}

async fn subject_level(State(store): Registry, Path(subject): Path<String>, Query(options): Query<Options>) -> Outcome {
    let catalog = store.read();
    let own = catalog.subjects.get(&subject).and_then(|subject| subject.compatibility);
    let level = own.or(options.default_to_global.then_some(catalog.compatibility));
    level.map(|level| Answer(json!({ "compatibilityLevel": level }))).ok_or(ApiError::NoLevel(subject))
}

async fn set_subject_level(State(store): Registry, Path(subject): Path<String>, body: Bytes) -> Outcome {
    change_level(store, Some(subject), &body).await
}

async fn change_level(store: Arc<Store>, subject: Option<String>, body: &[u8]) -> Outcome {
    #[derive(Deserialize)]
    struct LevelRequest {
        compatibility: Level,
    }
    let wanted: LevelRequest = serde_json::from_slice(body).map_err(|error| ApiError::BadLevel(error.to_string()))?;
    on_disk(move || store.set_level(subject.as_deref(), wanted.compatibility)).await?;
    Ok(Answer(json!({ "compatibility": wanted.compatibility })))
}

async fn compatibility(
    State(store): Registry,
    Path((subject, version)): Path<(String, String)>,
    Query(options): Query<Options>,
    body: Bytes,
) -> Outcome {
    let submitted = SubmittedSchema::parse(&body)?;
    let catalog = store.read();
    let (_, id) = catalog.version(&subject, &version)?;
    let parsed = catalog.parse_new(&submitted.schema, submitted.references())?;
    Ok(compatible(catalog.incompatibility(&subject, &parsed, &[id])?, options.verbose))
}

/// Against the versions that the subject's level compares a new one with; a subject without any refuses nothing.
async fn compatibility_of_subject(
    State(store): Registry,
    Path(subject): Path<String>,
    Query(options): Query<Options>,
    body: Bytes,
) -> Outcome {
    let submitted = SubmittedSchema::parse(&body)?;
    let catalog = store.read();
    let parsed = catalog.parse_new(&submitted.schema, submitted.references())?;
    let why = catalog.incompatibility(&subject, &parsed, catalog.compared(&subject))?;
    Ok(compatible(why, options.verbose))
}

fn compatible(why: Option<String>, verbose: bool) -> Answer {
    let mut answer = json!({ "is_compatible": why.is_none() });
    if verbose {
        answer["messages"] = json!(why.into_iter().collect::<Vec<_>>());
    }
    Answer(answer)
}

fn described(store: &Store, subject: &str, version: u32, id: u32) -> Outcome {
    let catalog = store.read();
    let source = catalog.schemas.get(&id).ok_or(ApiError::NoSchema)?;
    let mut answer = json!({ "subject": subject, "version": version, "id": id, "schema": source.schema });
    if !source.references.is_empty() {
        answer["references"] = json!(source.references);
    }
    Ok(Answer(answer))
}

/// Runs a change on a thread that may block. It is carried through also when the caller goes away meanwhile.
async fn on_disk<T: Send + 'static>(
    change: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let done = tokio::task::spawn_blocking(change).await;
    done.unwrap_or_else(|error| Err(ApiError::Disk(format!("the change was not carried through: {error}"))))
}

async fn fail_on_request(State(faults): State<Arc<RwLock<Faults>>>, request: Request, next: Next) -> Response {
    let path = request.uri().path();
    let id = path.strip_prefix("/schemas/ids/").and_then(|rest| rest.split('/').next()).and_then(|id| id.parse().ok());
    let fails = {
        let faults = faults.read().unwrap_or_else(PoisonError::into_inner);
        faults.all || id.is_some_and(|id: u32| faults.ids.contains(&id))
    };
    if fails {
        return failure(StatusCode::SERVICE_UNAVAILABLE, 503, "failing because a test asked for it");
    }
    next.run(request).await
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        use StatusCode as S;
        match self {
            Self::NoSubject(subject) => failure(S::NOT_FOUND, 40401, &format!("subject '{subject}' not found")),
            Self::NoVersion(version) => failure(S::NOT_FOUND, 40402, &format!("version {version} not found")),
            Self::NoSchema => failure(S::NOT_FOUND, 40403, "schema not found"),
            Self::NoLevel(subject) => {
                failure(S::NOT_FOUND, 40408, &format!("subject '{subject}' has no compatibility level of its own"))
            }
            Self::BadSchema(why) => failure(S::UNPROCESSABLE_ENTITY, 42201, &format!("invalid Avro schema: {why}")),
            Self::BadVersion(version) => failure(
                S::UNPROCESSABLE_ENTITY,
                42202,
                &format!("'{version}' is neither a version from 1 on nor latest"),
            ),
            Self::BadLevel(why) => {
                failure(S::UNPROCESSABLE_ENTITY, 42203, &format!("invalid compatibility level: {why}"))
            }
            Self::BadSubject => {
                failure(S::UNPROCESSABLE_ENTITY, 42208, "a subject is 1 to 512 bytes without control characters")
            }
            Self::Incompatible(why) => {
                let message = format!("schema being registered is incompatible with an earlier schema: {why}");
                failure(S::CONFLICT, 409, &message)
            }
            Self::Full(why) => failure(S::INSUFFICIENT_STORAGE, 50001, why),
            Self::Disk(why) => failure(S::INTERNAL_SERVER_ERROR, 50001, &why),
        }
    }
}

fn failure(status: StatusCode, code: u32, message: &str) -> Response {
    (status, Answer(json!({ "error_code": code, "message": message }))).into_response()
}
