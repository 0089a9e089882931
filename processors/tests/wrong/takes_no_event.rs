//! A string is no event.
use headwater::{Pipeline, Result, on_event};

#[on_event("payment.completed")]
async fn step(_payment: String) -> Result<()> {
    Ok(())
}

fn main() {
    let _ = Pipeline::default().on("step", step);
}
