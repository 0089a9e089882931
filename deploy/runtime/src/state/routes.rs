//! `/v1/state` and below.

use std::sync::Arc;

use axum::{
    Json, Router,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
    routing::get,
};
use serde::Deserialize;
use serde_json::json;

use super::{
    answer::{InstanceStats, KeyAnswer, ListAnswer, RefusalKind, StateError},
    instance_client::FORWARDED,
    query::{Hop, ListQuery},
    reader::StateReader,
};

type Answer<T> = Result<Json<T>, StateError>;

/// What may be asked of a store.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StoreParameters {
    /// One key, also one that a path cannot have.
    key: Option<String>,
    prefix: Option<String>,
    limit: Option<usize>,
    /// Which partitions another instance wants.
    partitions: Option<String>,
}

/// The routes under which state is read.
pub(crate) fn routes(reading: StateReader) -> Router {
    Router::new()
        .route("/v1/state", get(stats))
        .route("/v1/state/{group}/{store}", get(ask))
        .route("/v1/state/{group}/{store}/{key}", get(one))
        .with_state(Arc::new(reading))
}

impl IntoResponse for StateError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, Json(json!({"error": self.text}))).into_response()
    }
}

impl From<PathRejection> for StateError {
    fn from(rejection: PathRejection) -> Self {
        RefusalKind::Wrong.because(rejection.body_text().to_lowercase())
    }
}

impl From<QueryRejection> for StateError {
    fn from(rejection: QueryRejection) -> Self {
        RefusalKind::Wrong.because(rejection.body_text().to_lowercase())
    }
}

async fn stats(State(reading): State<Arc<StateReader>>) -> Answer<InstanceStats> {
    Ok(Json(reading.stats().await?))
}

async fn one(
    State(reading): State<Arc<StateReader>>,
    headers: HeaderMap,
    path: Result<Path<(String, String, String)>, PathRejection>,
) -> Answer<KeyAnswer> {
    let Path((group, store, key)) = path?;
    found(&reading, &group, &store, &key, hop(&headers)).await
}

async fn ask(
    State(reading): State<Arc<StateReader>>,
    headers: HeaderMap,
    path: Result<Path<(String, String)>, PathRejection>,
    query: Result<Query<StoreParameters>, QueryRejection>,
) -> Result<Response, StateError> {
    let (Path((group, store)), Query(question)) = (path?, query?);
    if let Some(key) = question.key {
        return Ok(found(&reading, &group, &store, &key, hop(&headers)).await?.into_response());
    }
    let store = reading.known().store(&group, &store)?;
    let asked = ListQuery::new(question.prefix, question.limit)?;
    let asked = match question.partitions {
        Some(partitions) => asked.of(&partitions)?,
        None => asked,
    };
    let entries = reading.list(store, &asked, hop(&headers)).await?;
    let listed = ListAnswer { group: store.group.clone(), store: store.name.to_owned(), entries };
    Ok(Json(listed).into_response())
}

async fn found(reading: &StateReader, group: &str, store: &str, key: &str, hop: Hop) -> Answer<KeyAnswer> {
    let store = reading.known().store(group, store)?;
    let mut entries = reading.find(store, key, hop).await?;
    if entries.len() > 1 {
        let partitions: Vec<String> = entries.iter().map(|entry| entry.partition.to_string()).collect();
        let text =
            format!("partitions {} each have one: say which with `?prefix={key}&partitions=N`", partitions.join(", "));
        return Err(RefusalKind::Wrong.because(text));
    }
    let Some(entry) = entries.pop() else { return Err(RefusalKind::Unknown.because("there is none")) };
    Ok(Json(KeyAnswer { group: store.group.clone(), store: store.name.to_owned(), entry }))
}

fn hop(headers: &HeaderMap) -> Hop {
    if headers.contains_key(FORWARDED) { Hop::Forwarded } else { Hop::First }
}
