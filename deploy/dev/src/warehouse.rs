//! A stand-in for somebody's warehouse: it reserves stock over HTTP, idempotently, and fails on request.
//!
//! - `POST /reservations` with `Idempotency-Key` and a JSON body that has `order_id` → 201 `{"reservation": …}`, the
//!   same answer for the same key;
//! - `PUT /faults` with [`Faults`], `DELETE /faults`;
//! - `GET /reservations` → every reservation with the number of calls per key.
//!
//! State is in memory and goes with it, but a key's reservation is derived from the key: it is the same ever after.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Result;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{post, put};
use axum::{Json, Router};
use serde::Deserialize;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::http_server::Server;
use crate::ports::Ports;

/// Enough for a load test with a million orders, at about 200 bytes each.
const KEYS: usize = 3_000_000;
const ID_BYTES: usize = 256;
const BODY_BYTES: usize = 64 * 1024;
const DELAY_MS: u64 = 600_000;

/// The running warehouse.
#[derive(Debug)]
pub(crate) struct Warehouse {
    server: Server,
}

impl Warehouse {
    /// Starts it, empty and without faults.
    ///
    /// # Errors
    /// When no port can be bound.
    pub(crate) async fn launch(ports: &mut Ports) -> Result<Self> {
        let routes = Router::new()
            .route("/reservations", post(reserve).get(list))
            .route("/faults", put(set_faults).delete(clear_faults))
            .layer(DefaultBodyLimit::max(BODY_BYTES))
            .with_state(Shared::default());
        Ok(Self { server: Server::launch("warehouse", routes, ports).await? })
    }

    /// Its base address.
    pub(crate) fn url(&self) -> String {
        self.server.url()
    }

    /// Stops it.
    pub(crate) async fn stop(self) {
        self.server.stop().await;
    }
}

type Shared = Arc<Mutex<Stock>>;

#[derive(Debug, Default)]
struct Stock {
    by_key: HashMap<Box<str>, Calls>,
    faults: Option<Faults>,
    /// Calls of each order since the faults were set; counted only where they ask for `first`.
    calls_of_order: HashMap<Box<str>, u32>,
}

/// What happened under one key.
#[derive(Debug)]
struct Calls {
    order_id: Box<str>,
    /// All of them, also those that failed.
    calls: u32,
    reserved: bool,
}

/// Which calls fail, and how. Every field is optional; those that are given must all hold.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Faults {
    /// The status to answer with, 400 to 599. Left out it is 503, but beside `delay_ms` it means: late, but right.
    status: Option<u16>,
    /// The part of all orders that it hits, 0 to 1, by hash of the order; 1 when left out.
    ratio: Option<f64>,
    /// How long an answer takes.
    delay_ms: Option<u64>,
    /// Only the first so many calls of each order, counted from the `PUT` on.
    first: Option<u32>,
    /// Only this order.
    order_id: Option<String>,
}

impl Faults {
    fn check(&self) -> Result<(), String> {
        if self.status.is_some_and(|status| !(400..600).contains(&status)) {
            return Err("status must be from 400 to 599".to_owned());
        }
        if self.ratio.is_some_and(|ratio| !(0.0..=1.0).contains(&ratio)) {
            return Err("ratio must be from 0 to 1".to_owned());
        }
        if self.delay_ms.is_some_and(|delay| delay > DELAY_MS) {
            return Err(format!("delay_ms must be at most {DELAY_MS}"));
        }
        Ok(())
    }

    /// `calls` includes the present one.
    fn hits(&self, order: &str, calls: u32) -> bool {
        self.order_id.as_deref().is_none_or(|only| only == order)
            && self.first.is_none_or(|first| calls <= first)
            && self.ratio.is_none_or(|ratio| fraction(order) < ratio)
    }

    fn answer(&self) -> Option<StatusCode> {
        let status = self.status.or_else(|| self.delay_ms.is_none().then_some(503))?;
        StatusCode::from_u16(status).ok()
    }
}

#[derive(Debug, Deserialize)]
struct Reservation {
    order_id: String,
}

async fn reserve(State(stock): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let key = headers.get("idempotency-key").and_then(|value| value.to_str().ok());
    let Some(key) = key.filter(|key| !key.is_empty() && key.len() <= ID_BYTES) else {
        return refuse(
            StatusCode::BAD_REQUEST,
            "header Idempotency-Key of 1 to 256 characters is missing: send the event's id",
        );
    };
    let order = match serde_json::from_slice::<Reservation>(&body) {
        Ok(body) if body.order_id.len() <= ID_BYTES => body.order_id,
        Ok(_) => return refuse(StatusCode::BAD_REQUEST, "order_id is longer than 256 bytes"),
        Err(error) => {
            return refuse(StatusCode::BAD_REQUEST, &format!("the body must be JSON with a text order_id: {error}"));
        }
    };
    let (answer, delay) = match lock(&stock).call(key, &order) {
        Some(verdict) => verdict,
        None => {
            return refuse(StatusCode::INSUFFICIENT_STORAGE, "the stand-in warehouse is full: start the stack anew");
        }
    };
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    match answer {
        Some(status) => refuse(status, "failing because of PUT /faults"),
        None => (StatusCode::CREATED, Json(json!({ "reservation": reservation(key) }))).into_response(),
    }
}

impl Stock {
    /// Counts the call and decides it: the failing status if any, and how long the answer takes. `None`: no room.
    ///
    /// A late answer's reservation is made before the wait, so that a caller who gave up finds it when it comes again.
    fn call(&mut self, key: &str, order: &str) -> Option<(Option<StatusCode>, Duration)> {
        if self.by_key.len() >= KEYS && !self.by_key.contains_key(key) {
            return None;
        }
        let faults = self.faults.clone().unwrap_or_default();
        let mut calls_of_order = 0;
        if faults.first.is_some() && (self.calls_of_order.len() < KEYS || self.calls_of_order.contains_key(order)) {
            let calls = self.calls_of_order.entry(order.into()).or_default();
            *calls = calls.saturating_add(1);
            calls_of_order = *calls;
        }
        let hit = self.faults.is_some() && faults.hits(order, calls_of_order);
        let answer = if hit { faults.answer() } else { None };
        let delay = if hit { faults.delay_ms.unwrap_or(0) } else { 0 };
        let calls = self.by_key.entry(key.into()).or_insert_with(|| Calls {
            order_id: order.into(),
            calls: 0,
            reserved: false,
        });
        calls.calls = calls.calls.saturating_add(1);
        calls.reserved |= answer.is_none();
        Some((answer, Duration::from_millis(delay)))
    }
}

async fn list(State(stock): State<Shared>) -> Json<Value> {
    let stock = lock(&stock);
    let reservations = stock.by_key.iter().filter(|(_, calls)| calls.reserved);
    let rows = reservations.map(
        |(key, of)| json!({ "reservation": reservation(key), "order_id": of.order_id, "key": key, "calls": of.calls }),
    );
    Json(rows.collect())
}

async fn set_faults(State(stock): State<Shared>, body: Bytes) -> Response {
    let faults = serde_json::from_slice::<Faults>(&body).map_err(|error| error.to_string());
    match faults.and_then(|faults| faults.check().map(|()| faults)) {
        Err(error) => refuse(StatusCode::BAD_REQUEST, &error),
        Ok(faults) => {
            let mut stock = lock(&stock);
            stock.calls_of_order.clear();
            stock.faults = Some(faults);
            StatusCode::NO_CONTENT.into_response()
        }
    }
}

async fn clear_faults(State(stock): State<Shared>) -> StatusCode {
    let mut stock = lock(&stock);
    stock.calls_of_order.clear();
    stock.faults = None;
    StatusCode::NO_CONTENT
}

fn refuse(status: StatusCode, message: &str) -> Response {
    (status, Json(json!({ "error": message }))).into_response()
}

fn reservation(key: &str) -> String {
    let digest = Sha256::digest(key.as_bytes());
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("res-{hex}")
}

/// Where an order lies between 0 and 1, alike for ever.
fn fraction(order: &str) -> f64 {
    let digest = Sha256::digest(order.as_bytes());
    let (low, high) = (u32::from(digest[0]), u32::from(digest[1]));
    f64::from(high << 8 | low) / 65_536.0
}

/// No code panics while it holds the lock, and each change is whole in itself.
fn lock(stock: &Shared) -> MutexGuard<'_, Stock> {
    stock.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
