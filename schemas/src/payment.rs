//! Events of payments, on `events.payment`.

mod completed;

pub use completed::PaymentCompleted;
