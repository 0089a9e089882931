//! Events of receipts, on `events.receipt`.

mod requested;

pub use requested::ReceiptRequested;
