//! The demo's second part: a retry that succeeds, a rejection, an exhausted record and its way back, each read back from
//! broker and database.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use headwater::{
    http::{Http, Request},
    spi::{Outgoing, Span},
};
use headwater_connectors::{
    kafka::Subscription,
    postgres::{LetterActions, LetterFilter, Letters, SendOutcome, Status, StoredLetter, Summary},
};
use headwater_runtime::{App, Clients, Output, TopicReader};
use headwater_schemas::PaymentCompleted;
use sqlx::{Connection, PgConnection};

use super::payments::{LOOK, payment, produce};
use crate::warehouse::WarehouseConfig;

/// Makes three payments fail, each in its way, and shows what became of them.
pub(super) async fn show(app: &App, clients: &Clients) -> Result<()> {
    let letters = Letters::of(&clients.database);
    let warehouse = Warehouse::of(app)?;
    let mut database = PgConnection::connect(&app.database_url()?).await?;
    let [flaky, silent, doomed] = ["flaky", "silent", "doomed"].map(payment);
    let silent = PaymentCompleted { email: None, ..silent };

    warehouse.fail(&format!(r#"{{"status":503,"first":1,"order_id":"{}"}}"#, flaky.order_id)).await?;
    produce(clients, &[flaky.clone(), silent.clone()]).await?;
    let retried = retried(app, clients, &flaky.order_id).await?;
    order(&mut database, &flaky.order_id).await?;
    let rejected = letter(app, &letters, "send-receipt", &silent.order_id, Status::Open).await?;

    warehouse.fail(&format!(r#"{{"status":503,"order_id":"{}"}}"#, doomed.order_id)).await?;
    produce(clients, std::slice::from_ref(&doomed)).await?;
    let exhausted = letter(app, &letters, "fulfil-order", &doomed.order_id, Status::Open).await?;
    warehouse.mend().await?;
    redrive(app, clients, &letters, &exhausted).await?;
    let correlation = order(&mut database, &doomed.order_id).await?;
    let resolved = letter(app, &letters, "fulfil-order", &doomed.order_id, Status::Resolved).await?;
    database.close().await?;

    let stored = letters.get(exhausted.id).await?.context("the letter is kept")?;
    ensure!(stored.letter.correlation_id == correlation, "the order of {} began another conversation", doomed.order_id);
    let mut out = Output::new();
    out.line("\nthree payments failed, each in its way:")?;
    out.line(format_args!("  {}  {retried}; then fulfilled, and a row of orders", flaky.order_id))?;
    line(&mut out, &silent.order_id, &rejected)?;
    line(&mut out, &doomed.order_id, &exhausted)?;
    out.line(format_args!(
        "  {}  sent back with `dlq redrive`: fulfilled in the same conversation {correlation}; its letter is {}",
        doomed.order_id,
        resolved.status.name()
    ))?;
    out.flush()?;
    Ok(())
}

fn line(out: &mut Output, order: &str, letter: &Summary) -> Result<()> {
    let Summary { group, kind, message, attempts, id, .. } = letter;
    out.line(format_args!("  {order}  {group}, attempt {attempts}: {kind}, {message}; dead letter {id}"))?;
    Ok(())
}

/// What stands of an order on the first retry topic.
async fn retried(app: &App, clients: &Clients, order: &str) -> Result<String> {
    let topic = format!("{}fulfil-order.retry.1s", app.prefix());
    let subscription = Subscription { topics: vec![topic.clone()], patterns: Vec::new() };
    let mut reader = TopicReader::open(clients, subscription, true).await?;
    loop {
        for record in reader.next().await? {
            if record.key.as_deref() != Some(order.as_bytes()) {
                continue;
            }
            let header = |name| record.headers.get(name).flatten().map(String::from_utf8_lossy).unwrap_or_default();
            let text = format!("attempt {}: {}; waited on {topic}", header("hw_attempt"), header("hw_error_message"));
            reader.close().await;
            return Ok(text);
        }
    }
}

/// The correlation id of an order's row, once it is there.
async fn order(database: &mut PgConnection, order: &str) -> Result<String> {
    loop {
        let row = sqlx::query_scalar("select hw_correlation_id from orders where order_id = $1").bind(order);
        if let Some(correlation) = row.fetch_optional(&mut *database).await? {
            return Ok(correlation);
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// A group's dead letter of an order, once it is there and has come so far.
async fn letter(app: &App, letters: &Letters, group: &str, order: &str, status: Status) -> Result<Summary> {
    let group = Some(format!("{}{group}", app.prefix()));
    let filter = LetterFilter { group, statuses: vec![status], ..LetterFilter::default() };
    loop {
        for summary in letters.page(&filter, None, true, 100).await? {
            let stored = letters.get(summary.id).await?;
            if stored.is_some_and(|stored| stored.letter.key.as_deref() == Some(order.as_bytes())) {
                return Ok(summary);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// As `headwater dlq redrive` does it.
async fn redrive(app: &App, clients: &Clients, letters: &Letters, letter: &Summary) -> Result<()> {
    let producer = clients.producer()?;
    let send = async |stored: &[StoredLetter]| {
        let redriven = |stored: &StoredLetter| stored.letter.traced(stored.letter.redriven(), app.tracing());
        let (records, _spans): (Vec<Outgoing>, Vec<Option<Span>>) = stored.iter().map(redriven).unzip();
        match producer.send(&records).await {
            Ok(()) => vec![SendOutcome::Sent; records.len()],
            Err(errors) => vec![SendOutcome::Unsent(errors.to_string()); records.len()],
        }
    };
    let done = LetterActions::of(letters).redrive(std::slice::from_ref(letter), &[Status::Open], send).await?;
    ensure!(done.sent == [letter.id], "the letter was not sent back: {done:?}");
    Ok(())
}

/// The stand-in's faults.
struct Warehouse {
    http: Arc<dyn Http>,
    url: String,
}

impl Warehouse {
    fn of(app: &App) -> Result<Self> {
        let warehouse: WarehouseConfig = app.deps().section()?;
        Ok(Self { http: app.deps().http(), url: format!("{}/faults", warehouse.url()) })
    }

    async fn fail(&self, faults: &str) -> Result<()> {
        self.ask("PUT", faults.as_bytes().to_vec()).await
    }

    async fn mend(&self) -> Result<()> {
        self.ask("DELETE", Vec::new()).await
    }

    async fn ask(&self, method: &'static str, body: Vec<u8>) -> Result<()> {
        let request = Request { method, url: self.url.clone(), headers: Vec::new(), body };
        let answer = self.http.send(request).await?;
        ensure!(answer.status < 300, "the warehouse answered {} to {method} /faults", answer.status);
        Ok(())
    }
}
