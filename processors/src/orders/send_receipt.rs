//! Asks for a receipt when a payment completes.

use headwater::{OrReject, Result, on_event};
use headwater_schemas::{PaymentCompleted, ReceiptRequested};

/// Every completed payment with an e-mail address asks for a receipt; one without is rejected.
#[on_event("payment.completed")]
pub async fn send_receipt(payment: PaymentCompleted) -> Result<ReceiptRequested> {
    Ok(ReceiptRequested {
        email: payment.email.or_reject("payment has no e-mail address")?,
        order_id: payment.order_id,
        payment_id: payment.payment_id,
    })
}

#[cfg(test)]
mod tests {
    use headwater::Failure;

    use super::*;
    use crate::orders::warehouse::tests::payment;

    /// Red when order and payment are swapped, or the address is left out.
    #[tokio::test]
    async fn a_payment_with_an_address_asks_for_a_receipt() {
        let receipt = send_receipt(payment()).await.expect("a receipt");
        let wanted = ReceiptRequested {
            payment_id: "p1".to_owned(),
            order_id: "o1".to_owned(),
            email: "ann@example.org".to_owned(),
        };
        assert_eq!(receipt, wanted);
    }

    /// Red when a missing address asks for a retry, or for a receipt to nobody.
    #[tokio::test]
    async fn a_payment_without_an_address_is_rejected() {
        let Err(Failure::Reject(cause)) = send_receipt(PaymentCompleted { email: None, ..payment() }).await else {
            panic!("not rejected")
        };
        assert_eq!(cause.message(), "payment has no e-mail address");
    }
}
