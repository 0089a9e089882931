//! What the engine costs, always beside what it is measured against in the same run: a ratio, never an absolute time.
//!
//! What is here knows no server: the bench `engine`, which needs some, keeps that to itself.

pub mod avro_baseline;
pub mod hot_path;

use headwater::Time;
use headwater_schemas::PaymentCompleted;

/// A payment of the usual size: about 90 bytes of Avro.
pub fn payment() -> PaymentCompleted {
    PaymentCompleted {
        payment_id: "pay-000000042".to_owned(),
        order_id: "order-000000042".to_owned(),
        customer_id: "customer-0007".to_owned(),
        amount_cents: 12_990,
        currency: "EUR".to_owned(),
        email: Some("ann@example.org".to_owned()),
        completed_at: Time::from_millis(1_767_225_600_000),
    }
}
