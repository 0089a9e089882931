//! `receipt.requested`, on `events.receipt`.

use headwater::Payload;
use serde::{Deserialize, Serialize};

/// A customer is owed a receipt by e-mail.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptRequested {
    /// The payment that the receipt is for.
    pub payment_id: String,
    /// The order that it paid for.
    pub order_id: String,
    /// Where the receipt goes.
    pub email: String,
}

impl Payload for ReceiptRequested {
    const TYPE: &'static str = "receipt.requested";
    const SCHEMA: &'static str = include_str!("../../avro/receipt.requested/v1.avsc");

    fn key(&self) -> &str {
        &self.order_id
    }
}
