//! Records that fail: retries, circuit breakers, and dead letters.

mod circuit_breaker;
mod dead_letters;
mod dlq;
mod key_order;
mod poison;
mod poison_flood;
pub(crate) mod retry;
