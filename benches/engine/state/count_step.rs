//! The step that counts, and what it emits.

use anyhow::{Context, Result};
use apache_avro::{Schema, reader::datum::GenericDatumReader};
use headwater::{KeyedBy as _, Payload, Pipeline, State};
use headwater_schemas::PaymentCompleted;
use serde::{Deserialize, Serialize};

/// The name of the step, and so of its group.
pub(super) const STEP: &str = "count";

/// What is kept of an order.
#[derive(Default, Serialize, Deserialize)]
pub(crate) struct Count {
    payments: i64,
}

impl State for Count {
    const NAME: &'static str = "counts";
}

/// An order has been paid for once more.
#[derive(Serialize, Deserialize)]
pub(crate) struct Counted {
    order_id: String,
    payments: i64,
}

impl Payload for Counted {
    const TYPE: &'static str = "count.changed";
    const SCHEMA: &'static str = r#"{"type": "record", "name": "Counted", "namespace": "headwater.count", "fields": [
        {"name": "order_id", "type": "string"}, {"name": "payments", "type": "long"}]}"#;

    fn key(&self) -> &str {
        &self.order_id
    }
}

/// Counts the payments of each order.
// A step may fail.
#[expect(clippy::unnecessary_wraps)]
fn count(count: &mut Count, payment: PaymentCompleted) -> headwater::Result<Counted> {
    count.payments += 1;
    Ok(Counted { order_id: payment.order_id, payments: count.payments })
}

/// The one step.
pub(crate) fn pipeline() -> Pipeline {
    Pipeline::default().on(STEP, count.co_partitioned())
}

/// Reads the count from an event's value.
pub(super) fn read(value: &[u8]) -> Result<i64> {
    thread_local! {
        static SCHEMA: Schema = Schema::parse_str(Counted::SCHEMA).unwrap_or(Schema::Null);
    }
    SCHEMA.with(|schema| {
        let mut datum = value.get(5..).context("a value of fewer than 5 bytes")?;
        let counted: Counted = GenericDatumReader::builder(schema).build()?.read_deser(&mut datum)?;
        Ok(counted.payments)
    })
}
