//! An event is taken by value.
use headwater::{Pipeline, Result};
use headwater_schemas::PaymentCompleted;

async fn step(_payment: &PaymentCompleted) -> Result<()> {
    Ok(())
}

fn main() {
    let _ = Pipeline::default().on("step", step);
}
