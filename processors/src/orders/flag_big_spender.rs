//! Announces customers who spend a lot.

use headwater::{Result, State, on_event};
use headwater_schemas::{CustomerFlagged, PaymentCompleted};
use serde::{Deserialize, Serialize};

/// Whoever has paid this much in all is a big spender, hundredths.
const LIMIT_CENTS: i64 = 100_000;

/// What is remembered about one customer.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spend {
    total_cents: i64,
    flagged: bool,
}

impl State for Spend {
    const NAME: &'static str = "spend";
}

/// Announces a customer once, when the total first reaches the limit.
#[on_event("payment.completed")]
pub fn flag_big_spender(spend: &mut Spend, payment: PaymentCompleted) -> Result<Option<CustomerFlagged>> {
    spend.total_cents = spend.total_cents.saturating_add(payment.amount_cents);
    if spend.flagged || spend.total_cents < LIMIT_CENTS {
        return Ok(None);
    }
    spend.flagged = true;
    Ok(Some(CustomerFlagged { customer_id: payment.customer_id, total_cents: spend.total_cents }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::orders::warehouse::tests::payment;

    /// Red when the limit itself is not enough, or a customer is announced again.
    #[test]
    fn a_customer_is_announced_once() {
        let mut spend = Spend::default();
        let mut pay = |amount_cents| {
            let flagged = flag_big_spender(&mut spend, PaymentCompleted { amount_cents, ..payment() }).expect("pure");
            flagged.map(|flagged| (flagged.customer_id, flagged.total_cents))
        };
        assert_eq!(pay(LIMIT_CENTS - 1), None);
        assert_eq!(pay(1), Some((payment().customer_id, LIMIT_CENTS)));
        assert_eq!(pay(LIMIT_CENTS), None);
    }
}
