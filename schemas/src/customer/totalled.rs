//! `customer.totalled`, on `events.customer`.

use headwater::Payload;
use serde::{Deserialize, Serialize};

/// What a customer has paid so far.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomerTotalled {
    /// The customer.
    pub customer_id: String,
    /// How many payments.
    pub payments: i64,
    /// How much, in hundredths, whatever the currency.
    pub total_cents: i64,
}

impl Payload for CustomerTotalled {
    const TYPE: &'static str = "customer.totalled";
    const SCHEMA: &'static str = include_str!("../../avro/customer.totalled/v1.avsc");

    fn key(&self) -> &str {
        &self.customer_id
    }
}
