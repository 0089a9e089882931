//! A string is nothing that can be emitted.
use headwater::{Pipeline, Result, on_event};
use headwater_schemas::PaymentCompleted;

#[on_event("payment.completed")]
async fn step(_payment: PaymentCompleted) -> Result<String> {
    Ok(String::new())
}

fn main() {
    let _ = Pipeline::default().on("step", step);
}
