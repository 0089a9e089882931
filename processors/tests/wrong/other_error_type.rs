//! The error must be the framework's.
use headwater::Pipeline;
use headwater_schemas::PaymentCompleted;

async fn step(_payment: PaymentCompleted) -> Result<(), std::io::Error> {
    Ok(())
}

fn main() {
    let _ = Pipeline::default().on("step", step);
}
