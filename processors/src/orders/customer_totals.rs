//! Sums up what each customer has paid.

use headwater::{Result, State, on_event};
use headwater_schemas::{CustomerTotalled, PaymentCompleted};
use serde::{Deserialize, Serialize};

/// A customer's payments so far.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Total {
    payments: i64,
    cents: i64,
}

impl State for Total {
    const NAME: &'static str = "totals";
}

/// Every payment changes its customer's total.
#[on_event("payment.completed")]
pub fn customer_totals(total: &mut Total, payment: PaymentCompleted) -> Result<CustomerTotalled> {
    total.payments += 1;
    total.cents = total.cents.saturating_add(payment.amount_cents);
    Ok(CustomerTotalled { customer_id: payment.customer_id, payments: total.payments, total_cents: total.cents })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orders::warehouse::tests::payment;

    /// Red when a payment is not counted, or its amount not added.
    #[test]
    fn payments_are_summed_up() {
        let mut total = Total::default();
        let one = payment();
        let wanted = |payments| CustomerTotalled {
            customer_id: one.customer_id.clone(),
            payments,
            total_cents: payments * one.amount_cents,
        };
        assert_eq!(customer_totals(&mut total, one.clone()).expect("pure"), wanted(1));
        assert_eq!(customer_totals(&mut total, one.clone()).expect("pure"), wanted(2));
    }
}
