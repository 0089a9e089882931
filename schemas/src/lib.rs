//! The contracts between the product's services: Avro schemas in `avro/<event>/v1.avsc`, `v2.avsc` …, and for each
//! event one Rust type in its domain's folder, written for the newest of them.
//!
//! Only fields with defaults are added or removed (`FULL_TRANSITIVE`), a Rust field's serde default is the schema's
//! default, and every folder has its type: the tests of this crate say so for each field of each event.
//!
//! This crate knows everything of an event's shape and nothing else: not who emits or consumes it, on which topic it
//! travels, how bytes come of it, or that there is a registry.

mod customer;
mod order;
mod payment;
mod receipt;

pub use customer::{CustomerFlagged, CustomerTotalled};
pub use order::OrderFulfilled;
pub use payment::PaymentCompleted;
pub use receipt::ReceiptRequested;

use headwater::EventType;

/// Every event type of this crate, sorted by name.
pub const ALL: [EventType; 5] = [
    EventType::of::<CustomerFlagged>(),
    EventType::of::<CustomerTotalled>(),
    EventType::of::<OrderFulfilled>(),
    EventType::of::<PaymentCompleted>(),
    EventType::of::<ReceiptRequested>(),
];
