//! A stateless function must be async.
use headwater::{Pipeline, Result};
use headwater_schemas::PaymentCompleted;

fn step(_payment: PaymentCompleted) -> Result<()> {
    Ok(())
}

fn main() {
    let _ = Pipeline::default().on("step", step);
}
