//! An `Rc` is held over an await point.
use headwater::{Result, on_event};
use headwater_schemas::PaymentCompleted;

#[on_event("payment.completed")]
async fn step(_payment: PaymentCompleted) -> Result<()> {
    let here = std::rc::Rc::new(1);
    std::future::ready(()).await;
    drop(here);
    Ok(())
}

fn main() {}
