//! The label is not the argument's event.
use headwater::{Event, Result, on_event};
use headwater_schemas::PaymentCompleted;

#[on_event("payment.complete")]
async fn step(_payment: Event<PaymentCompleted>) -> Result<()> {
    Ok(())
}

#[on_event("payment.*")]
async fn any(_payment: PaymentCompleted) -> Result<()> {
    Ok(())
}

fn main() {}
