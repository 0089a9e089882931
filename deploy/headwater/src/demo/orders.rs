//! The demo's first part: sample payments as a foreign client produces them, and what became of them, read back from broker
//! and database.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};
use headwater::{Meta, Payload, spi::topic_of};
use headwater_connectors::kafka::Subscription;
use headwater_runtime::{App, Clients, Output, RecordDecoder, TopicReader};
use headwater_schemas::{OrderFulfilled, PaymentCompleted, ReceiptRequested};
use sqlx::{Connection, PgConnection};

use super::payments::{LOOK, payment, produce};

const PAYMENTS: i64 = 6;
/// How long the payments may take through processors and sinks.
const PATIENCE: Duration = Duration::from_secs(60);
/// What the demo looks for, by topic.
const TYPES: [&str; 3] = [PaymentCompleted::TYPE, OrderFulfilled::TYPE, ReceiptRequested::TYPE];

/// Produces the payments, waits for their rows, and prints what became of them.
pub(super) async fn show(app: &App, clients: &Clients) -> Result<()> {
    let topics = TYPES.map(topic_of).into();
    let subscription = Subscription { topics, patterns: Vec::new() };
    // From now on: what earlier demos left is not shown.
    let mut reader = TopicReader::open(clients, subscription, false).await?;
    let payments = payments();
    produce(clients, &payments).await?;
    let shown = tokio::time::timeout(PATIENCE, async {
        let events = events(app, clients, &mut reader, &payments).await?;
        let rows = rows(app, &payments, &events).await?;
        print(&payments, &events, &rows)
    });
    let shown = shown.await.unwrap_or_else(|_| bail!("the demo's payments were not through within {PATIENCE:?}"));
    reader.close().await;
    shown
}

fn payments() -> Vec<PaymentCompleted> {
    // The last customer spends a lot.
    let cents = |number| if number == PAYMENTS { 120_000 } else { 1_250 * number };
    let number = |number: i64| PaymentCompleted { amount_cents: cents(number), ..payment(&number.to_string()) };
    (1..=PAYMENTS).map(number).collect()
}

/// The events of each type by order, as they stand on the broker.
type Events = BTreeMap<(String, String), Meta>;

/// Reads until every payment, its order and its receipt were seen.
async fn events(
    app: &App,
    clients: &Clients,
    reader: &mut TopicReader,
    payments: &[PaymentCompleted],
) -> Result<Events> {
    let mut decoder = RecordDecoder::new(clients, app.pipeline().catalogue());
    let mut events = Events::new();
    while events.len() < TYPES.len() * payments.len() {
        for record in reader.next().await? {
            let key = record.key.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
            let Some(payment) = payments.iter().find(|payment| payment.order_id == key) else { continue };
            let seen = decoder.decode(&record).await;
            let meta = seen.meta.map_err(anyhow::Error::msg)?;
            events.insert((meta.event_type.clone(), payment.order_id.clone()), meta);
        }
    }
    Ok(events)
}

/// A row of `orders` or `receipts`, as far as the demo prints it.
#[derive(Debug)]
struct Row {
    order_id: String,
    what: String,
    event_id: String,
    correlation_id: String,
    causation_id: String,
}

/// The demo's rows of both tables, once all are there.
struct Rows {
    orders: Vec<Row>,
    receipts: Vec<Row>,
    totals: Vec<CustomerTotal>,
    flagged: Vec<CustomerTotal>,
}

/// A row of `customer_totals` or `flagged_customers`: whose it is, how many payments, and how much.
type CustomerTotal = (String, i64, i64);

async fn rows(app: &App, payments: &[PaymentCompleted], events: &Events) -> Result<Rows> {
    let mut database = PgConnection::connect(&app.database_url()?).await?;
    let ids: Vec<String> = payments.iter().map(|payment| payment.order_id.clone()).collect();
    let customers: Vec<String> = payments.iter().map(|payment| payment.customer_id.clone()).collect();
    let paid: Vec<String> =
        events.values().filter(|meta| meta.event_type == PaymentCompleted::TYPE).map(|meta| meta.id.clone()).collect();
    loop {
        let orders = table(
            &mut database,
            "select order_id, reservation, hw_event_id, hw_correlation_id, hw_causation_id \
             from orders where order_id = any($1) order by order_id",
            &ids,
        );
        let orders = orders.await?;
        let receipts = table(
            &mut database,
            "select order_id, email, hw_event_id, hw_correlation_id, hw_causation_id \
             from receipts where order_id = any($1) order by order_id",
            &ids,
        );
        let receipts = receipts.await?;
        let totals: Vec<CustomerTotal> = sqlx::query_as(
            "select customer_id, payments, total_cents from customer_totals \
             where hw_causation_id = any($1) order by customer_id",
        )
        .bind(&paid)
        .fetch_all(&mut database)
        .await?;
        let flagged: Vec<CustomerTotal> = sqlx::query_as(
            "select customer_id, 0::int8, total_cents from flagged_customers \
             where customer_id = any($1) order by customer_id",
        )
        .bind(&customers)
        .fetch_all(&mut database)
        .await?;
        if [orders.len(), receipts.len(), totals.len()] == [ids.len(); 3] && !flagged.is_empty() {
            database.close().await?;
            return Ok(Rows { orders, receipts, totals, flagged });
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn table(database: &mut PgConnection, sql: &'static str, ids: &[String]) -> Result<Vec<Row>> {
    let rows: Vec<(String, String, String, String, String)> = sqlx::query_as(sql).bind(ids).fetch_all(database).await?;
    let row = |(order_id, what, event_id, correlation_id, causation_id)| Row {
        order_id,
        what,
        event_id,
        correlation_id,
        causation_id,
    };
    Ok(rows.into_iter().map(row).collect())
}

fn print(payments: &[PaymentCompleted], events: &Events, rows: &Rows) -> Result<()> {
    let mut out = Output::new();
    out.line(format_args!("\n{} payments without headers were produced; what became of them:", payments.len()))?;
    out.line("\ntable orders")?;
    for row in &rows.orders {
        out.line(format_args!("  {}  reservation {}  event {}", row.order_id, row.what, row.event_id))?;
    }
    out.line("\ntable receipts")?;
    for row in &rows.receipts {
        out.line(format_args!("  {}  e-mail {}  event {}", row.order_id, row.what, row.event_id))?;
    }
    out.line("\ntable customer_totals, from state that is kept by customer")?;
    for (customer, payments, cents) in &rows.totals {
        out.line(format_args!("  {customer}  {payments} payments, {cents} cents in all"))?;
    }
    out.line("\ntable flagged_customers: who has spent 100000 cents")?;
    for (customer, _, cents) in &rows.flagged {
        out.line(format_args!("  {customer}  {cents} cents when that was reached"))?;
    }
    if let Some(payment) = payments.first() {
        tree(&mut out, &payment.order_id, events, rows)?;
    }
    out.flush()?;
    Ok(())
}

/// One payment with everything that it caused: events from the broker, rows from the database.
fn tree(out: &mut Output, order: &str, events: &Events, rows: &Rows) -> Result<()> {
    let event = |event_type: &str| {
        let meta = events.get(&(event_type.to_owned(), order.to_owned()));
        meta.with_context(|| format!("no {event_type} of {order} was read back"))
    };
    let payment = event(PaymentCompleted::TYPE)?;
    out.line(format_args!("\nthe causation tree of {order}"))?;
    out.line(format_args!("  correlation id {}", payment.correlation_id))?;
    out.line(format_args!("  trace id       {}", payment.trace.trace_id_hex()))?;
    out.line(place(payment, "  "))?;
    for (event_type, table, rows) in
        [(OrderFulfilled::TYPE, "orders", &rows.orders), (ReceiptRequested::TYPE, "receipts", &rows.receipts)]
    {
        let meta = event(event_type)?;
        let row = rows.iter().find(|row| row.order_id == order).with_context(|| format!("{table} has no {order}"))?;
        let whole = meta.causation_id.as_ref() == Some(&payment.id)
            && row.event_id == meta.id
            && row.causation_id == payment.id
            && [&meta.correlation_id, &row.correlation_id] == [&payment.correlation_id; 2]
            && meta.trace.trace_id == payment.trace.trace_id;
        anyhow::ensure!(
            whole,
            "{event_type} {} and its row in {table} do not belong to payment {}",
            meta.id,
            payment.id
        );
        let (branch, below) = if table == "orders" { ("├─", "│ ") } else { ("└─", "  ") };
        out.line(place(meta, &format!("  {branch} ")))?;
        let Row { event_id, causation_id, .. } = row;
        out.line(format_args!("  {below} └─ row of {table}: hw_event_id {event_id}, hw_causation_id {causation_id}"))?;
    }
    Ok(())
}

fn place(meta: &Meta, indent: &str) -> String {
    let (name, id, origin) = (&meta.event_type, &meta.id, &meta.origin);
    format!("{indent}{name} {id}, from {}, at {} offset {}", meta.source, origin.partition, origin.offset)
}
