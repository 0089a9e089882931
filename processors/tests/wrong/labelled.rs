//! What the label says of a signature, each at its own place.
use headwater::{Any, Emit, Event, Result, on_event};
use headwater_schemas::PaymentCompleted;

#[on_event("payment.")]
async fn empty_segment(_event: Event<Any>) -> Result<()> {
    Ok(())
}

#[on_event("payment.completed")]
async fn nothing() -> Result<()> {
    Ok(())
}

#[on_event("payment.completed")]
async fn reference(_payment: &PaymentCompleted) -> Result<()> {
    Ok(())
}

#[on_event("payment.completed")]
async fn no_result(_payment: PaymentCompleted) {}

#[on_event("payment.completed")]
fn not_async(_payment: PaymentCompleted) -> Result<()> {
    Ok(())
}

#[on_event("payment.completed")]
async fn async_with_state(_count: &mut u64, _payment: PaymentCompleted) -> Result<()> {
    Ok(())
}

#[on_event("payment.completed")]
async fn generic<T: Emit + Default>(_payment: PaymentCompleted) -> Result<T> {
    Ok(T::default())
}

#[on_event("payment.completed")]
async fn impl_dependency(_clock: impl Fn() -> u64 + Send, _payment: PaymentCompleted) -> Result<()> {
    Ok(())
}

#[on_event("payment.completed")]
async fn other_error(_payment: PaymentCompleted) -> std::result::Result<(), std::io::Error> {
    Ok(())
}

#[on_event("payment.completed")]
async fn hidden_output(_payment: PaymentCompleted) -> Result<impl std::fmt::Debug> {
    Ok(String::new())
}

fn main() {}
