//! The reference of a sink: consume, decode, and a transaction a batch on one connection, as written by hand with sqlx.
//!
//! One thread polls and decodes, the other writes, so that the server need not wait. In a transaction the offset rows
//! come first, then an upsert from arrays with the guard against older rows; what is stored is what the engine stores.

use std::{
    collections::BTreeMap,
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use apache_avro::{Schema, reader::datum::GenericDatumReader};
use headwater::{Payload, Time};
use headwater_connectors::kafka::{Cluster, KafkaConfig};
use headwater_schemas::PaymentCompleted;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, CommitMode, Consumer},
};
use sqlx::{AssertSqlSafe, Connection, PgConnection};

use crate::{
    meter::{Measurement, Meter},
    place::{self, Place},
    reference::forward::list,
    reference::timestamp::Timestamp,
    reference::wire::Cause,
};

/// Rows of a transaction at most, and how long the first waits for company: as the engine's sinks.
const ROWS: usize = 5_000;
const LINGER: Duration = Duration::from_millis(100);
const POLL: Duration = Duration::from_millis(10);
/// Batches that are read ahead.
const AHEAD: usize = 2;

struct Row {
    payment: PaymentCompleted,
    event_id: String,
    correlation_id: String,
    causation_id: Option<String>,
    time: Time,
    partition: i32,
    offset: i64,
}

/// Rows by key, each the last of its key, and how far they move each partition: from, to.
#[derive(Default)]
struct Batch {
    rows: Vec<Row>,
    moves: BTreeMap<i32, (i64, i64)>,
}

/// Writes payments into a table, until so many are committed.
pub(crate) fn run(place: &Place) -> Result<Measurement> {
    let (schema_id, _) = place.schema_ids()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let topic_id = runtime.block_on(topic_id(place))?;
    let mut conn = runtime.block_on(PgConnection::connect(&place.database))?;
    let consumer: BaseConsumer = place.consumer().create()?;
    let mut owned = runtime.block_on(own(&mut conn, place, &topic_id, &partitions(&consumer, &place.topic)?))?;
    let mut start = TopicPartitionList::new();
    for (partition, (_, next)) in &owned {
        let next = if *next < 0 { Offset::Beginning } else { Offset::Offset(*next) };
        start.add_partition_offset(&place.topic, *partition, next)?;
    }
    consumer.assign(&start)?;
    std::thread::scope(|scope| {
        let (batches_in, batches) = sync_channel(AHEAD);
        let reader = scope.spawn(|| read(place, &consumer, schema_id, batches_in));
        runtime.block_on(write_all(&mut conn, (place, &topic_id), &consumer, &mut owned, batches))?;
        // Its end is the writer's too: it counts as many records.
        let meter = reader.join().map_err(|_| anyhow::anyhow!("the reader panicked"))??;
        meter.stop(place.records)
    })
}

fn partitions(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), Duration::from_secs(10))?;
    let topic = metadata.topics().first().context("no such topic")?;
    Ok(topic.partitions().iter().map(rdkafka::metadata::MetadataPartition::id).collect())
}

/// Rows and offsets name it: a topic that is created anew has another one.
async fn topic_id(place: &Place) -> Result<String> {
    let cluster = Cluster::new(&KafkaConfig { bootstrap: place.kafka.clone(), ..KafkaConfig::default() })?;
    cluster.topic_ids(&[&place.topic]).await?.remove(&place.topic).context("a topic without an id")
}

/// Takes the next epoch of each partition and reads its offset, -1 for none.
async fn own(
    conn: &mut PgConnection,
    place: &Place,
    topic_id: &str,
    partitions: &[i32],
) -> Result<BTreeMap<i32, (i64, i64)>> {
    let rows = sqlx::query_as::<_, (i32, i64, i64)>(
        "insert into headwater.consumer_offsets as o (consumer_group, topic, partition, next_offset, owner_epoch, topic_id) \
         select $1, $2, p, -1, 1, $4 from unnest($3::int4[]) as u (p) \
         on conflict (consumer_group, topic, partition) do update set owner_epoch = o.owner_epoch + 1 \
         returning partition, owner_epoch, next_offset",
    )
    .bind(&place.group)
    .bind(&place.topic)
    .bind(partitions)
    .bind(topic_id)
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(|(partition, epoch, next)| (partition, (epoch, next))).collect())
}

fn read(place: &Place, consumer: &BaseConsumer, schema_id: u32, batches: SyncSender<Batch>) -> Result<Meter> {
    let schema = Schema::parse_str(PaymentCompleted::SCHEMA)?;
    let reader = GenericDatumReader::builder(&schema).build()?;
    let (mut meter, mut count) = (None, 0);
    let (mut batch, mut began) = (Batch::default(), Instant::now());
    while count < place.records {
        if let Some(message) = consumer.poll(POLL) {
            let message = message?;
            meter.get_or_insert_with(Meter::start);
            if batch.rows.is_empty() {
                began = Instant::now();
            }
            let mut datum = place::datum(&message, schema_id)?;
            let payment = reader.read_deser(&mut datum)?;
            batch.add(payment, &Cause::read(&message)?, message.partition(), message.offset())?;
            count += 1;
        }
        let due = batch.rows.len() == ROWS || count == place.records || began.elapsed() >= LINGER;
        if due && !batch.rows.is_empty() {
            // A writer that failed says why itself.
            if batches.send(std::mem::take(&mut batch).sorted()).is_err() {
                break;
            }
        }
    }
    meter.context("nothing to read")
}

impl Batch {
    fn add(&mut self, payment: PaymentCompleted, cause: &Cause<'_>, partition: i32, offset: i64) -> Result<()> {
        self.moves.entry(partition).or_insert((offset, offset)).1 = offset + 1;
        self.rows.push(Row {
            payment,
            event_id: cause.id.as_ref().to_owned(),
            correlation_id: cause.correlation_id().to_owned(),
            causation_id: cause.causation_id.map(str::to_owned),
            time: Time::parse(&cause.time).context("a header ce_time that is no time")?,
            partition,
            offset,
        });
        Ok(())
    }

    /// By key, so that everybody locks rows in the same order; of a key only the last.
    fn sorted(mut self) -> Self {
        self.rows.sort_by(|a, b| a.payment.payment_id.cmp(&b.payment.payment_id));
        self.rows.dedup_by(|later, kept| {
            let same = later.payment.payment_id == kept.payment.payment_id;
            if same {
                std::mem::swap(later, kept);
            }
            same
        });
        self
    }
}

/// Commits every batch, then tells Kafka for tools that look at the lag.
async fn write_all(
    conn: &mut PgConnection,
    (place, topic_id): (&Place, &str),
    consumer: &BaseConsumer,
    owned: &mut BTreeMap<i32, (i64, i64)>,
    batches: Receiver<Batch>,
) -> Result<()> {
    let sql = upsert(&place.table);
    // Nothing else runs on this thread: to wait here holds up nobody.
    while let Ok(batch) = batches.recv() {
        let mut tx = conn.begin().await?;
        advance(&mut tx, place, owned, &batch.moves).await?;
        write(&mut tx, (place, topic_id), &sql, &batch.rows).await?;
        tx.commit().await?;
        let next: BTreeMap<i32, i64> = batch.moves.iter().map(|(partition, (_, to))| (*partition, *to)).collect();
        for (partition, to) in &next {
            if let Some((_, stored)) = owned.get_mut(partition) {
                *stored = *to;
            }
        }
        consumer.commit(&list(&place.topic, &next)?, CommitMode::Async)?;
    }
    Ok(())
}

/// Moves the offset rows, if nobody else has.
async fn advance(
    conn: &mut PgConnection,
    place: &Place,
    owned: &BTreeMap<i32, (i64, i64)>,
    moves: &BTreeMap<i32, (i64, i64)>,
) -> Result<()> {
    let known = |partition: &i32| owned.get(partition).copied().unwrap_or_default();
    let partitions: Vec<i32> = moves.keys().copied().collect();
    let (epochs, expected): (Vec<i64>, Vec<i64>) = partitions.iter().map(known).unzip();
    let next: Vec<i64> = moves.values().map(|(_, to)| *to).collect();
    let moved = sqlx::query(
        "update headwater.consumer_offsets o set next_offset = u.next \
         from unnest($3::int4[], $4::int8[], $5::int8[], $6::int8[]) as u (p, expected, next, epoch) \
         where o.consumer_group = $1 and o.topic = $2 and o.partition = u.p \
         and o.owner_epoch = u.epoch and o.next_offset = u.expected",
    )
    .bind(&place.group)
    .bind(&place.topic)
    .bind(partitions)
    .bind(expected)
    .bind(next)
    .bind(epochs)
    .execute(conn)
    .await?;
    ensure!(moved.rows_affected() == moves.len() as u64, "another owner holds a partition");
    Ok(())
}

const COLUMNS: [(&str, &str); 15] = [
    ("payment_id", "text"),
    ("order_id", "text"),
    ("customer_id", "text"),
    ("amount_cents", "int8"),
    ("currency", "text"),
    ("email", "text"),
    ("completed_at", "timestamptz"),
    ("hw_event_id", "text"),
    ("hw_correlation_id", "text"),
    ("hw_causation_id", "text"),
    ("hw_topic", "text"),
    ("hw_topic_id", "text"),
    ("hw_event_time", "timestamptz"),
    ("hw_partition", "int4"),
    ("hw_offset", "int8"),
];

fn upsert(table: &str) -> String {
    let join = |part: &dyn Fn(usize, &str, &str) -> String| {
        let parts: Vec<String> = COLUMNS.iter().enumerate().map(|(i, (name, sql))| part(i + 1, name, sql)).collect();
        parts.join(", ")
    };
    let changes = COLUMNS[1..].iter().map(|(name, _)| format!("{name} = excluded.{name}"));
    format!(
        "insert into {table} as t ({names}) select * from unnest({arrays}) as u ({names}) \
         on conflict (payment_id) do update set {changes} \
         where case when t.hw_topic = excluded.hw_topic and t.hw_topic_id <> excluded.hw_topic_id then true \
         when t.hw_topic = excluded.hw_topic and t.hw_partition = excluded.hw_partition \
         then t.hw_offset < excluded.hw_offset else coalesce(t.hw_event_time <= excluded.hw_event_time, true) end",
        names = join(&|_, name, _| name.to_owned()),
        arrays = join(&|i, _, sql| format!("${i}::{sql}[]")),
        changes = changes.collect::<Vec<_>>().join(", "),
    )
}

async fn write(conn: &mut PgConnection, (place, topic_id): (&Place, &str), sql: &str, rows: &[Row]) -> Result<()> {
    let text = |of: fn(&Row) -> &str| rows.iter().map(of).collect::<Vec<&str>>();
    let optional = |of: fn(&Row) -> Option<&str>| rows.iter().map(of).collect::<Vec<Option<&str>>>();
    let time = |of: fn(&Row) -> Time| rows.iter().map(|row| Timestamp(of(row).micros())).collect::<Vec<_>>();
    sqlx::query(AssertSqlSafe(sql))
        .bind(text(|row| &row.payment.payment_id))
        .bind(text(|row| &row.payment.order_id))
        .bind(text(|row| &row.payment.customer_id))
        .bind(rows.iter().map(|row| row.payment.amount_cents).collect::<Vec<_>>())
        .bind(text(|row| &row.payment.currency))
        .bind(optional(|row| row.payment.email.as_deref()))
        .bind(time(|row| row.payment.completed_at))
        .bind(text(|row| &row.event_id))
        .bind(text(|row| &row.correlation_id))
        .bind(optional(|row| row.causation_id.as_deref()))
        .bind(vec![place.topic.as_str(); rows.len()])
        .bind(vec![topic_id; rows.len()])
        .bind(time(|row| row.time))
        .bind(rows.iter().map(|row| row.partition).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.offset).collect::<Vec<_>>())
        .execute(conn)
        .await?;
    Ok(())
}
