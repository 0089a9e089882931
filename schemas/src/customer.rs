//! Events of customers, on `events.customer`.

mod flagged;
mod totalled;

pub use flagged::CustomerFlagged;
pub use totalled::CustomerTotalled;
