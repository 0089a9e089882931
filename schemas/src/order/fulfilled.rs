//! `order.fulfilled`, on `events.order`.

use headwater::{Payload, Time};
use serde::{Deserialize, Serialize};

/// The warehouse has reserved the goods of a paid order.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderFulfilled {
    /// The order.
    pub order_id: String,
    /// The payment that paid for it.
    pub payment_id: String,
    /// Who paid.
    pub customer_id: String,
    /// How much was paid, in hundredths of the currency's unit.
    pub amount_cents: i64,
    /// ISO 4217, three letters.
    pub currency: String,
    /// The warehouse's name for the reserved goods.
    pub reservation: String,
    /// When the order counts as fulfilled.
    pub fulfilled_at: Time,
}

impl Payload for OrderFulfilled {
    const TYPE: &'static str = "order.fulfilled";
    const SCHEMA: &'static str = include_str!("../../avro/order.fulfilled/v1.avsc");

    fn key(&self) -> &str {
        &self.order_id
    }
}
