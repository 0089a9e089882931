//! `dev --demo`: the orders pipeline at work.

mod payments;

mod failures;
mod orders;

use anyhow::Result;
use headwater_runtime::{App, Clients, Demo};

/// Payments that become orders and receipts, and payments that fail.
pub(crate) struct OrdersDemo;

impl Demo for OrdersDemo {
    // It need not wait long for its retries.
    const SETTINGS: &'static [(&'static str, &'static str)] = &[("defaults.retry", "1s,2s")];

    async fn show(app: &App, clients: &Clients) -> Result<()> {
        orders::show(app, clients).await?;
        failures::show(app, clients).await
    }
}
