//! Orders: a payment becomes an order, a receipt and the customer's totals.
//!
//! It never knows who asks for the pipeline, nor where the warehouse is.

mod customer_totals;
mod flag_big_spender;
mod fulfil_order;
mod send_receipt;

mod warehouse;

pub use customer_totals::customer_totals;
pub use flag_big_spender::flag_big_spender;
pub use fulfil_order::fulfil_order;
pub use send_receipt::send_receipt;
pub use warehouse::Warehouse;

use headwater::{BreakerSettings, BreakerWindow, KeyedBy, Pipeline, Policy, Sink, with};
use headwater_schemas::{CustomerFlagged, CustomerTotalled, OrderFulfilled, ReceiptRequested};

/// Every processor and sink of the pipeline, in one place.
pub fn pipeline(warehouse: Warehouse) -> Pipeline {
    Pipeline::default()
        .on("fulfil-order", with(warehouse, fulfil_order))
        .policy("fulfil-order", Policy::new().breaker("warehouse", warehouse_breaker()))
        .on("send-receipt", send_receipt)
        .on("flag-big-spender", flag_big_spender.keyed_by(|payment| payment.customer_id.clone()))
        .on("customer-totals", customer_totals.keyed_by(|payment| payment.customer_id.clone()))
        .sink("orders-sink", Sink::of::<OrderFulfilled>("orders").key("order_id"))
        .sink("receipts-sink", Sink::of::<ReceiptRequested>("receipts").key("payment_id"))
        .sink("flagged-customers-sink", Sink::of::<CustomerFlagged>("flagged_customers").key("customer_id"))
        .sink("customer-totals-sink", Sink::of::<CustomerTotalled>("customer_totals").key("customer_id"))
}

/// A few orders that the warehouse fails are theirs to retry; nearly all of its latest calls are its own outage. Few are
/// looked at, since under order `partition` a group makes few: one a partition and attempt, beside those under way.
fn warehouse_breaker() -> BreakerSettings {
    BreakerSettings { window: BreakerWindow::Calls(20), failure_rate: 0.8, ..BreakerSettings::default() }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path, sync::Arc, time::Duration};

    use headwater::Driver;

    use super::warehouse::tests::{Answers, answer, payment};
    use super::*;

    /// Files of the folder that are no processor.
    const OTHERS: [&str; 1] = ["warehouse"];

    /// Red when the line `.on("send-receipt", send_receipt)` is missing, or has another name.
    #[test]
    fn every_file_is_registered() {
        let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/orders");
        let mut files: Vec<_> = fs::read_dir(src)
            .expect("the sources")
            .map(|entry| entry.expect("an entry").path().file_stem().expect("a name").to_string_lossy().into_owned())
            .filter(|name| !OTHERS.contains(&name.as_str()))
            .map(|name| name.replace('_', "-"))
            .collect();
        files.sort();
        let mut registered: Vec<_> = answered()
            .groups("")
            .into_iter()
            .filter(|group| group.work.is_processor())
            .map(|group| group.name)
            .collect();
        registered.sort();
        assert_eq!(registered, files, "one file, one `.on` in `pipeline`, named alike");
    }

    /// Red when a sink has no key, or takes an event that no processor names.
    #[test]
    fn the_pipeline_has_no_problem() {
        assert_eq!(answered().problems(), Vec::<String>::new());
    }

    /// Red when a processor or a sink is not registered, or the sink of one takes the other's event.
    #[test]
    fn a_payment_becomes_an_order_a_receipt_and_a_row_of_each() {
        let mut driver = Driver::new(answered());
        driver.send(payment());
        let orders = driver.emitted::<OrderFulfilled>();
        let receipts = driver.emitted::<ReceiptRequested>();
        assert_eq!((orders.len(), receipts.len()), (1, 1));
        assert_eq!((orders[0].reservation.as_str(), receipts[0].email.as_str()), ("r1", "ann@example.org"));
        assert_eq!(orders[0].meta.source, "headwater/fulfil-order");
        assert!(orders[0].meta.causation_id.is_some());
        assert_eq!(orders[0].meta.causation_id, receipts[0].meta.causation_id);
        let stored = |sink| driver.rows(sink).iter().map(|row| row.meta.event_type.clone()).collect::<Vec<_>>();
        assert_eq!(stored("orders-sink"), ["order.fulfilled"]);
        assert_eq!(stored("receipts-sink"), ["receipt.requested"]);
    }

    /// Red when 503 rejects, or a call after a failure goes by another key.
    #[test]
    fn an_order_is_fulfilled_once_the_warehouse_is_back() {
        let down = || answer(503, "");
        let http = Answers::of(vec![down(), down(), answer(201, r#"{"reservation": "r1"}"#)]);
        let mut driver = Driver::new(of(http.clone()));
        driver.send(payment());
        assert_eq!(driver.emitted::<OrderFulfilled>().len(), 0);
        driver.advance(Duration::from_secs(60));
        assert_eq!(driver.emitted::<OrderFulfilled>().len(), 1);
        let mut keys: Vec<_> = http.asked().into_iter().flat_map(|request| request.headers).collect();
        assert_eq!(keys.len(), 3);
        keys.dedup();
        assert_eq!(keys.len(), 1, "{keys:?}");
    }

    fn answered() -> Pipeline {
        of(Answers::with(201, r#"{"reservation": "r1"}"#))
    }

    fn of(http: Arc<Answers>) -> Pipeline {
        pipeline(Warehouse::new(http, "http://warehouse"))
    }
}
