//! Fulfils an order when its payment completes.

use headwater::{Event, Result, on_event};
use headwater_schemas::{OrderFulfilled, PaymentCompleted};

use crate::orders::warehouse::Warehouse;

/// Reserves a paid order's goods with the warehouse and announces that the order is fulfilled.
///
/// The event's id is the reservation's idempotency key, so running this twice reserves once. `fulfilled_at` is the
/// payment event's time: the warehouse's answer has none, and a second run emits the same bytes.
#[on_event("payment.completed")]
pub async fn fulfil_order(warehouse: Warehouse, payment: Event<PaymentCompleted>) -> Result<OrderFulfilled> {
    let reservation = warehouse.reserve(&payment.meta.id, &payment.data).await?;
    let Event { meta, data } = payment;
    Ok(OrderFulfilled {
        order_id: data.order_id,
        payment_id: data.payment_id,
        customer_id: data.customer_id,
        amount_cents: data.amount_cents,
        currency: data.currency,
        reservation,
        fulfilled_at: meta.time,
    })
}

#[cfg(test)]
mod tests {
    use headwater::{Failure, Payload, Time};

    use super::*;
    use crate::orders::warehouse::tests::{Answers, event, payment};

    /// Red when a field is taken from another one, the reservation from the request, or the time from the clock.
    #[tokio::test]
    async fn a_reserved_order_is_fulfilled_at_the_payments_event_time() {
        let http = Answers::with(201, r#"{"reservation": "r1"}"#);
        let at = Time::from_millis(1_767_225_700_000);
        let order =
            fulfil_order(Warehouse::new(http, "http://warehouse"), event("event-1", at)).await.expect("an order");
        let wanted = OrderFulfilled {
            order_id: "o1".to_owned(),
            payment_id: "p1".to_owned(),
            customer_id: "c1".to_owned(),
            amount_cents: 1_250,
            currency: "EUR".to_owned(),
            reservation: "r1".to_owned(),
            fulfilled_at: at,
        };
        assert_eq!(order, wanted);
        assert_eq!(order.key(), payment().key(), "payment and order share a partition key");
    }

    /// Red when the key is the payment's or the order's id, or differs from one call to the next.
    #[tokio::test]
    async fn running_twice_asks_under_one_key_and_emits_the_same() {
        let http = Answers::with(201, r#"{"reservation": "r1"}"#);
        let warehouse = Warehouse::new(http.clone(), "http://warehouse");
        let at = Time::from_millis(0);
        let first = fulfil_order(warehouse.clone(), event("event-1", at)).await.expect("an order");
        let second = fulfil_order(warehouse, event("event-1", at)).await.expect("an order");
        assert_eq!(first, second);
        let keys: Vec<_> = http.asked().into_iter().flat_map(|request| request.headers).collect();
        assert_eq!(keys, [("Idempotency-Key", "event-1".to_owned()), ("Idempotency-Key", "event-1".to_owned())]);
    }

    /// Red when a warehouse that is down loses the order, or counts as a rejection.
    #[tokio::test]
    async fn an_order_waits_for_a_warehouse_that_is_down() {
        let warehouse = Warehouse::new(Answers::with(503, ""), "http://warehouse");
        let outcome = fulfil_order(warehouse, event("event-1", Time::from_millis(0))).await;
        let Err(Failure::Retry(cause)) = outcome else { panic!("{outcome:?}") };
        assert_eq!(cause.message(), "the warehouse answered 503");
    }
}
