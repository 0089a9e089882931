//! The demo's payments, as any client produces them.

use std::time::Duration;

use anyhow::{Context, Result};
use headwater::{
    EventType, Headers, Payload, Time,
    spi::{Outgoing, Schemas as _, codec::Encoder, topic_of},
};
use headwater_runtime::Clients;
use headwater_schemas::PaymentCompleted;
use uuid::Uuid;

/// How often it is looked what became of them.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// A payment that no other demo has.
pub(super) fn payment(name: &str) -> PaymentCompleted {
    let run = Uuid::new_v4().simple().to_string();
    PaymentCompleted {
        payment_id: format!("payment-{}-{name}", &run[..8]),
        order_id: format!("order-{}-{name}", &run[..8]),
        customer_id: format!("customer-{name}"),
        amount_cents: 1_250,
        currency: "EUR".to_owned(),
        email: Some(format!("customer-{name}@example.org")),
        completed_at: Time::now(),
    }
}

/// As any client does it: key, Avro value, no headers.
pub(super) async fn produce(clients: &Clients, payments: &[PaymentCompleted]) -> Result<()> {
    let facts = EventType::of::<PaymentCompleted>();
    let topic = topic_of(facts.name);
    let subject = format!("{topic}-headwater.payment.PaymentCompleted");
    let id = clients.registry.id_of(&subject, facts.schema).await?;
    let encoder = Encoder::new(id, facts.schema)?;
    let record = |payment: &PaymentCompleted| {
        Ok(Outgoing {
            topic: topic.as_str().into(),
            partition: None,
            key: Some(payment.key().as_bytes().to_vec()),
            value: Some(encoder.encode(payment)?),
            headers: Headers::default(),
        })
    };
    let records = payments.iter().map(record).collect::<Result<Vec<_>>>()?;
    clients.producer()?.send(&records).await.context("cannot produce the demo's payments")
}
