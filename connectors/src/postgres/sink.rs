//! A sink group's committer: rows and offsets in one transaction.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use headwater::{
    CommitError, Committed, Sink, TopicPartition, Unit,
    codec::WriterSchema,
    ports::{BoxFuture, Committer, From as Start},
};
use sqlx::{Connection, PgConnection};

use super::{
    batch::Batch,
    config::Database,
    error::PostgresError,
    layout::Layout,
    offsets::{Fences, Offsets},
    sql::{TableName, quote},
    table::{self, Found, Table},
    topic_ids::{self, TopicIds},
    write::{self, Done},
};

/// How often a transaction is run that the server asks to repeat.
const TRIES: u32 = 3;
/// Schemas remembered at once; more than any topic has, and a bound.
const MAX_SCHEMAS: usize = 1_000;

/// Rows that a sink has dealt with since it was made; only what is durable counts.
#[derive(Debug, Default)]
pub struct SinkCounts {
    written: AtomicU64,
    superseded: AtomicU64,
    deleted: AtomicU64,
}

impl SinkCounts {
    /// Rows inserted or updated.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Changes left out because a later one of the same key is stored, or was in the same batch.
    pub fn superseded(&self) -> u64 {
        self.superseded.load(Ordering::Relaxed)
    }

    /// Rows deleted by a tombstone.
    pub fn deleted(&self) -> u64 {
        self.deleted.load(Ordering::Relaxed)
    }

    fn add(&self, done: Done) {
        self.written.fetch_add(done.written, Ordering::Relaxed);
        self.superseded.fetch_add(done.superseded, Ordering::Relaxed);
        self.deleted.fetch_add(done.deleted, Ordering::Relaxed);
    }
}

/// The committer of one sink group: takes any Avro record to one table, see the module's promise.
#[derive(Debug)]
pub struct PostgresSink {
    database: Database,
    offsets: Offsets,
    rows: Rows,
    counts: Arc<SinkCounts>,
    topic_ids: Option<Arc<dyn TopicIds>>,
}

impl Database {
    /// The committer of the group `group`, which writes as `sink` says.
    ///
    /// # Errors
    /// [`PostgresError::Config`] for a sink that cannot work: no key, or names that Postgres does not take.
    pub fn sink(&self, group: impl Into<String>, sink: Sink) -> Result<PostgresSink, PostgresError> {
        Ok(PostgresSink {
            database: self.clone(),
            offsets: Offsets::new(group.into()),
            rows: Rows::new(sink)?,
            counts: Arc::default(),
            topic_ids: None,
        })
    }

    /// The SQL that would make the sink's table fit rows of this schema; empty when it fits.
    ///
    /// # Errors
    /// [`PostgresError::Config`] or [`PostgresError::Refused`] for a sink that the schema cannot serve;
    /// [`PostgresError::Outage`] for what a person must change in the database (the message has the SQL), and when the
    /// server does not answer.
    pub async fn plan_table(&self, sink: &Sink, schema: &WriterSchema) -> Result<Vec<String>, PostgresError> {
        let rows = Rows::new(sink.clone())?;
        let layout = Layout::of(schema.id(), schema.schema())?;
        self.with(async |conn| {
            let found = Found::read(conn, &rows.name, &sink.key).await?;
            table::plan(sink, &rows.name, &layout, &found)
        })
        .await
    }

    /// Makes the sink's table fit rows of this schema and says by which SQL; nothing where it fits. Several processes
    /// at once do not disturb each other.
    ///
    /// # Errors
    /// As [`Database::plan_table`].
    pub async fn apply_table(&self, sink: &Sink, schema: &WriterSchema) -> Result<Vec<String>, PostgresError> {
        let rows = Rows::new(sink.clone())?;
        let layout = Layout::of(schema.id(), schema.schema())?;
        self.with(async |conn| {
            let before = Found::read(conn, &rows.name, &sink.key).await?;
            let sql = table::plan(sink, &rows.name, &layout, &before)?;
            table::fit(conn, sink, &rows.name, &[&layout]).await?;
            Ok(sql)
        })
        .await
    }
}

impl PostgresSink {
    /// What the sink has done; shared, and still there after the sink has gone.
    pub fn counts(&self) -> Arc<SinkCounts> {
        Arc::clone(&self.counts)
    }

    /// Holds the stored offsets against the ids of their topics: one that was created anew stops the group, even when it
    /// has grown past the offset. Without this only an offset beyond a topic's end is noticed, by the Kafka source.
    #[must_use]
    pub fn with_topic_ids(mut self, ids: Arc<dyn TopicIds>) -> Self {
        self.topic_ids = Some(ids);
        self
    }

    async fn start_all(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Start>, CommitError> {
        let ids = topic_ids::of(self.topic_ids.as_deref(), partitions).await?;
        let offsets = &mut self.offsets;
        Ok(self.database.with(async |conn| offsets.start(conn, partitions, ids.as_ref()).await).await?)
    }

    async fn commit_unit(&mut self, unit: &Unit) -> Result<Committed, CommitError> {
        let mut tries = 0;
        let outcome = loop {
            tries += 1;
            let (offsets, rows) = (&mut self.offsets, &mut self.rows);
            match self.database.with(async |conn| attempt(conn, offsets, rows, unit).await).await {
                Err(PostgresError::Repeat(why)) if tries < TRIES => tracing::debug!(why, "transaction repeated"),
                Err(PostgresError::Refused(why)) => {
                    return Err(CommitError::Refused(format!(
                        "a row cannot go into `{}`: {why}",
                        self.rows.sink.table
                    )));
                }
                outcome => break outcome,
            }
        };
        if matches!(outcome, Err(PostgresError::Outage(_))) {
            // Perhaps somebody has changed the table: it is looked at again.
            self.rows.table = None;
        }
        let (fences, done) = outcome?;
        self.offsets.settle(&fences, &unit.positions);
        self.counts.add(done);
        let fenced: Vec<TopicPartition> =
            unit.positions.iter().map(|p| &p.to.partition).filter(|p| fences.fenced.contains(*p)).cloned().collect();
        Ok(if fenced.is_empty() { Committed::Done } else { Committed::Fenced(fenced) })
    }
}

impl Committer for PostgresSink {
    fn atomic(&self) -> bool {
        true
    }

    fn start<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<Start>, CommitError>> {
        Box::pin(self.start_all(partitions))
    }

    fn commit<'a>(&'a mut self, unit: &'a Unit) -> BoxFuture<'a, Result<Committed, CommitError>> {
        Box::pin(self.commit_unit(unit))
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        self.offsets.forget(partitions);
    }
}

/// One try at a unit: all of it, or nothing.
async fn attempt(
    conn: &mut PgConnection,
    offsets: &Offsets,
    rows: &mut Rows,
    unit: &Unit,
) -> Result<(Fences, Done), PostgresError> {
    // Changing a table takes a lock that a transaction which holds rows must not wait for.
    rows.prepare(conn, unit).await?;
    let mut tx = conn.begin().await?;
    let fences = offsets.advance(&mut tx, &unit.positions).await?;
    let mut done = Done::default();
    if !fences.moved.is_empty() {
        done = rows.write(&mut tx, unit, &fences).await?;
        tx.commit().await?;
    } else {
        tx.rollback().await?;
    }
    Ok((fences, done))
}

/// How a sink's rows are written, and what is known of its table.
#[derive(Debug)]
struct Rows {
    sink: Sink,
    name: TableName,
    layouts: HashMap<u32, Arc<Layout>>,
    /// The table, once it fits every schema in `layouts`.
    table: Option<Table>,
}

impl Rows {
    fn new(sink: Sink) -> Result<Self, PostgresError> {
        if let Some(problem) = sink.problem() {
            return Err(PostgresError::Config(problem));
        }
        sink.key.iter().try_for_each(|key| quote(key).map(drop))?;
        let name = TableName::parse(&sink.table)?;
        Ok(Self { sink, name, layouts: HashMap::new(), table: None })
    }

    /// Knows every schema of the unit, and sees to it that the table fits them.
    async fn prepare(&mut self, conn: &mut PgConnection, unit: &Unit) -> Result<(), PostgresError> {
        if self.layouts.len() > MAX_SCHEMAS {
            self.layouts.clear();
            self.table = None;
        }
        let mut new = HashMap::new();
        for data in unit.rows.iter().filter_map(|row| row.data.as_ref()) {
            let id = data.schema.id();
            if !self.layouts.contains_key(&id) && !new.contains_key(&id) {
                new.insert(id, Arc::new(Layout::of(id, data.schema.schema())?));
            }
        }
        if self.table.is_some() && new.is_empty() {
            return Ok(());
        }
        let mut layouts: Vec<&Layout> = self.layouts.values().chain(new.values()).map(Arc::as_ref).collect();
        layouts.sort_unstable_by_key(|layout| layout.id);
        let none = Layout::default();
        if layouts.is_empty() {
            // Tombstones alone: a table that is there must still have the columns that guard its rows.
            layouts.push(&none);
        }
        self.table = table::fit(conn, &self.sink, &self.name, &layouts).await?;
        // Only now: a schema that the table cannot serve must not stand in the way of the others.
        self.layouts.extend(new);
        Ok(())
    }

    async fn write(&self, conn: &mut PgConnection, unit: &Unit, fences: &Fences) -> Result<Done, PostgresError> {
        let known = |partition: &TopicPartition| unit.positions.iter().any(|p| p.to.partition == *partition);
        if let Some(row) = unit.rows.iter().find(|row| !known(&row.record.place())) {
            return Err(PostgresError::Config(format!("a row of {} has no offset in its unit", row.record.place())));
        }
        let ours = unit.rows.iter().filter(|row| !fences.fenced.contains(&row.record.place()));
        let batch = Batch::of(ours, &self.sink, self.table.as_ref(), &self.layouts)?;
        write::run(conn, &self.sink, &self.name, self.table.as_ref(), &batch).await
    }
}
