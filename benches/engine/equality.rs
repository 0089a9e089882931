//! Whether contenders do the same work: equal records on the topics, equal rows in the tables.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    message::Headers as _,
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{ground::PARTITIONS, place::Place};

const LIMIT: Duration = Duration::from_secs(30);

/// Where the partitions of a topic end.
pub(crate) struct Ends(Vec<i64>);

impl Ends {
    /// Each partition with the offset that comes next.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (i32, i64)> {
        (0..).zip(self.0.iter().copied())
    }
}

/// Records by key and partition: value and headers, byte for byte.
pub(crate) type Records = BTreeMap<(Vec<u8>, i32), Vec<(Vec<u8>, Headers)>>;
type Headers = Vec<(String, Option<Vec<u8>>)>;

/// Where a topic ends now.
pub(crate) fn ends(place: &Place, topic: &str) -> Result<Ends> {
    let consumer: BaseConsumer = place.consumer().create()?;
    let end = |partition| Ok(consumer.fetch_watermarks(topic, partition, LIMIT)?.1);
    Ok(Ends((0..PARTITIONS).map(end).collect::<Result<_>>()?))
}

/// What was written since.
pub(crate) fn since(place: &Place, topic: &str, before: &Ends) -> Result<Records> {
    let now = ends(place, topic)?;
    let consumer: BaseConsumer = place.consumer().create()?;
    let mut list = TopicPartitionList::new();
    let mut left = 0;
    for ((partition, from), to) in (0..).zip(&before.0).zip(&now.0) {
        list.add_partition_offset(topic, partition, Offset::Offset(*from))?;
        left += to - from;
    }
    consumer.assign(&list)?;
    let (mut records, deadline) = (Records::new(), Instant::now() + LIMIT);
    while left > 0 {
        ensure!(Instant::now() < deadline, "{left} records of {topic} could not be read within {LIMIT:?}");
        let Some(message) = consumer.poll(Duration::from_millis(100)) else { continue };
        let message = message?;
        let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
        let headers = headers.map(|header| (header.key.to_owned(), header.value.map(<[u8]>::to_vec))).collect();
        let key = (message.key().unwrap_or_default().to_vec(), message.partition());
        records.entry(key).or_default().push((message.payload().unwrap_or_default().to_vec(), headers));
        left -= 1;
    }
    Ok(records)
}

/// Without the header that differs where spans are made: each names its own.
pub(crate) fn without_trace(mut records: Records) -> Records {
    let headers = records.values_mut().flatten().map(|(_, headers)| headers);
    headers.for_each(|headers| headers.retain(|(name, _)| name != "traceparent"));
    records
}

/// Fails with the first difference.
pub(crate) fn same_records(reference: &Records, other: &Records) -> Result<()> {
    for (key, wanted) in reference {
        let (name, found) = (String::from_utf8_lossy(&key.0), other.get(key));
        ensure!(found == Some(wanted), "the receipt of {name} is {found:?}, and by hand {wanted:?}");
    }
    ensure!(reference.len() == other.len(), "{} receipts, and by hand {}", other.len(), reference.len());
    Ok(())
}

/// Fails with the number of rows that differ.
pub(crate) async fn same_rows(database: &str, reference: &str, other: &str, rows: u64) -> Result<()> {
    let mut conn = PgConnection::connect(database).await?;
    let sql = format!(
        "select (select count(*) from {reference}), (select count(*) from (table {reference} except table {other}) a), \
         (select count(*) from (table {other} except table {reference}) a)"
    );
    let (found, missing, odd) = sqlx::query_as::<_, (i64, i64, i64)>(AssertSqlSafe(sql))
        .fetch_one(&mut conn)
        .await
        .context("comparing tables")?;
    ensure!(u64::try_from(found)? == rows, "{found} rows of {rows} payments by hand");
    ensure!(missing == 0 && odd == 0, "{missing} rows are missing and {odd} differ from those written by hand");
    Ok(())
}
