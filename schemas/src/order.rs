//! Events of orders, on `events.order`.

mod fulfilled;

pub use fulfilled::OrderFulfilled;
