//! `customer.flagged`, on `events.customer`.

use headwater::Payload;
use serde::{Deserialize, Serialize};

/// A customer has spent a lot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomerFlagged {
    /// The customer.
    pub customer_id: String,
    /// How much, in hundredths, whatever the currency.
    pub total_cents: i64,
}

impl Payload for CustomerFlagged {
    const TYPE: &'static str = "customer.flagged";
    const SCHEMA: &'static str = include_str!("../../avro/customer.flagged/v1.avsc");

    fn key(&self) -> &str {
        &self.customer_id
    }
}
