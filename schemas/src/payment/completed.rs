//! `payment.completed`, on `events.payment`.

use headwater::{Payload, Time};
use serde::{Deserialize, Serialize};

/// A customer's payment for an order went through.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentCompleted {
    /// The payment.
    pub payment_id: String,
    /// The order that it pays for.
    pub order_id: String,
    /// Who paid.
    pub customer_id: String,
    /// How much, in hundredths of the currency's unit.
    pub amount_cents: i64,
    /// ISO 4217, three letters.
    pub currency: String,
    /// Where the receipt goes, if anywhere.
    #[serde(default)]
    pub email: Option<String>,
    /// When the payment went through.
    pub completed_at: Time,
}

impl Payload for PaymentCompleted {
    const TYPE: &'static str = "payment.completed";
    const SCHEMA: &'static str = include_str!("../../avro/payment.completed/v1.avsc");

    fn key(&self) -> &str {
        &self.order_id
    }
}
