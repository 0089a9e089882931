//! A sink group's committer: rows and offsets in one transaction.

pub(crate) mod batch;
pub(crate) mod prepared_table;
pub(crate) mod rows;
pub(crate) mod write;

pub(crate) mod fit;
pub(crate) mod table;
pub(crate) mod table_comment;

pub(crate) mod refusal;
pub(crate) mod trial;

pub(crate) mod watch;

mod connector;

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use headwater::{
    EventType, Sink, TopicPartition,
    spi::{
        BoxFuture, Catalogue, CommitError, CommitOutcome, Committer, GroupMetrics, Metric, RefusedRow, Row,
        StartFrom as Start, Unit, codec::WriterSchema,
    },
};
use tracing::{Instrument as _, Span};
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

use self::{
    fit::NewSchema,
    refusal::WriteError,
    rows::{Rows, WriteOutcome},
    table::FoundTable,
    table_comment::TableComment,
    write::WriteCounts,
};
use super::{
    columns::layout::Layout,
    database::{
        Database,
        session::{Session, Transaction},
    },
    dead_letters::DeadLetters,
    error::PostgresError,
    offsets::{
        Fences, OwnedOffsets,
        topic_ids::{self, TopicIds},
    },
};

/// How often a transaction is run that the server asks to repeat.
const TRIES: u32 = 3;

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

    fn add(&self, done: WriteCounts) {
        self.written.fetch_add(done.written, Ordering::Relaxed);
        self.superseded.fetch_add(done.superseded, Ordering::Relaxed);
        self.deleted.fetch_add(done.deleted, Ordering::Relaxed);
    }
}

/// The committer of one sink group: takes any Avro record to one table, or dead letters to theirs; see the module's
/// promise.
#[derive(Debug)]
pub struct PostgresSink {
    database: Database,
    offsets: OwnedOffsets,
    target: Target,
    counts: Arc<SinkCounts>,
    topic_ids: Option<Arc<dyn TopicIds>>,
    metrics: Option<Arc<GroupMetrics>>,
}

impl PostgresSink {
    /// The committer of the group `group`, which writes as `sink` says.
    ///
    /// # Errors
    /// [`PostgresError::Config`] for a sink that cannot work: no key, or names that Postgres does not take.
    pub fn new(database: &Database, group: impl Into<String>, sink: Sink) -> Result<Self, PostgresError> {
        Ok(Self::with_target(database, group.into(), Target::Table(Box::new(Rows::new(sink)?))))
    }

    /// The same for so many connections, each for partitions of its own. What they find out about the table, such as whose
    /// fault a refusal is, they find out together.
    ///
    /// # Errors
    /// As [`PostgresSink::new`].
    pub fn several(
        database: &Database,
        group: &str,
        sink: Sink,
        connections: usize,
    ) -> Result<Vec<Self>, PostgresError> {
        let rows = Rows::new(sink)?;
        let one = |rows| Self::with_target(database, group.to_owned(), Target::Table(Box::new(rows)));
        Ok((0..connections).map(|_| one(rows.beside())).collect())
    }

    /// The committer of the group `group`, which keeps dead letters: each row is a record of some group's dead-letter
    /// topic, a letter or the news that one has succeeded. `catalogue` knows the types of bound topics.
    ///
    /// Refuses nothing: a letter that cannot be stored is an outage that names where its record first stood.
    pub fn of_dead_letters(database: &Database, group: impl Into<String>, catalogue: Arc<Catalogue>) -> Self {
        Self::with_target(database, group.into(), Target::DeadLetters(DeadLetters::new(catalogue)))
    }

    /// What can be seen to be wrong with a sink before its first record: names that Postgres does not take, and, where the
    /// type of its events is known, a key that no row can have.
    pub fn problem_of(sink: &Sink, event: Option<&EventType>) -> Option<String> {
        let problem = |event: &EventType| {
            let schema = WriterSchema::parse(0, event.schema, &[]).map_err(|error| error.to_string())?;
            let layout = Layout::of(&schema).map_err(|error| error.to_string())?;
            table::key_problem(sink, &layout, event.key_field().as_deref()).map_or(Ok(()), Err)
        };
        let known = |event| problem(event).err().map(|why| format!("{why} (event `{}`)", event.name));
        Rows::new(sink.clone()).err().map(|error| error.to_string()).or_else(|| event.and_then(known))
    }

    /// The SQL that would make the sink's table fit rows of this schema; empty when it fits.
    ///
    /// # Errors
    /// [`PostgresError::Config`] or [`PostgresError::Refused`] for a sink that the schema cannot serve;
    /// [`PostgresError::Outage`] for what a person must change in the database (the message has the SQL), and when the
    /// server does not answer.
    pub async fn plan_table(
        database: &Database,
        sink: &Sink,
        schema: &WriterSchema,
    ) -> Result<Vec<String>, PostgresError> {
        let rows = Rows::new(sink.clone())?;
        let layout = Layout::of(schema)?;
        database
            .transaction(async |tx| {
                let found = FoundTable::read(tx, &rows.prepared.name, &sink.key).await?;
                Ok(table::plan(sink, &rows.prepared.name, &layout, &found, found.note())?.sql)
            })
            .await
    }

    /// Makes the sink's table fit rows of this schema and says by which SQL; nothing where it fits. Several processes
    /// at once do not disturb each other.
    ///
    /// # Errors
    /// As [`PostgresSink::plan_table`].
    pub async fn apply_table(
        database: &Database,
        sink: &Sink,
        schema: &WriterSchema,
    ) -> Result<Vec<String>, PostgresError> {
        let rows = Rows::new(sink.clone())?;
        let layout = Layout::of(schema)?;
        database
            .with(async |session| {
                let before = fit::look(session, &rows.prepared.name, &sink.key).await?;
                let sql = table::plan(sink, &rows.prepared.name, &layout, &before, before.note())?.sql;
                let new = NewSchema { layout: &layout, record: None };
                match fit::fit(session, sink, &rows.prepared.name, new, &mut TableComment::default()).await? {
                    Ok(()) => Ok(sql),
                    Err(unfit) => Err(PostgresError::Refused(unfit.why)),
                }
            })
            .await
    }

    fn with_target(database: &Database, group: String, target: Target) -> Self {
        Self {
            database: database.clone(),
            offsets: OwnedOffsets::new(group),
            target,
            counts: Arc::default(),
            topic_ids: None,
            metrics: None,
        }
    }

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

    /// Shows among the group's metrics what the sink has passed over.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Arc<GroupMetrics>) -> Self {
        self.metrics = Some(metrics);
        self
    }

    async fn start_all(&mut self, partitions: &[TopicPartition]) -> Result<Vec<Start>, CommitError> {
        let ids = topic_ids::of(self.topic_ids.as_deref(), partitions).await?;
        let offsets = &mut self.offsets;
        Ok(self.database.with(async |session| offsets.start(session, partitions, ids.as_ref()).await).await?)
    }

    /// The span of a unit's commit, which links to those of its records; none where none of them is recorded.
    fn span(&self, unit: &Unit) -> Span {
        let mut recorded = unit.rows.iter().map(|row| &row.meta.trace).filter(|trace| trace.is_sampled()).peekable();
        if recorded.peek().is_none() {
            return Span::none();
        }
        let table = self.target.table();
        let span = tracing::info_span!(
            parent: None,
            "write",
            otel.name = format!("write {table}"),
            otel.kind = "client",
            db.system.name = "postgresql",
            db.collection.name = table,
            db.operation.batch.size = unit.rows.len(),
        );
        recorded.for_each(|trace| span.add_link(trace.span_context()));
        span
    }

    async fn commit_unit(&mut self, unit: &Unit) -> Result<CommitOutcome, CommitError> {
        if !unit.changes.is_empty() {
            let text = "a unit with changes of state reached a table: its group needs a store";
            return Err(CommitError::Fatal(text.to_owned()));
        }
        let (mut tries, mut apart) = (0, false);
        let outcome = loop {
            tries += 1;
            let (offsets, target) = (&mut self.offsets, &mut self.target);
            match self.database.with(async |session| attempt(session, offsets, target, unit, apart).await).await {
                Err(PostgresError::Repeat(why)) if tries < TRIES => tracing::debug!(why, "transaction repeated"),
                Err(PostgresError::Refused(why)) if tries < TRIES && self.target.narrow() => {
                    tracing::debug!(why, "transaction repeated row by row");
                }
                Ok(Attempt::Refused) => apart = true,
                outcome => break outcome,
            }
        };
        let (fences, done) = match self.target.settle(outcome)? {
            Attempt::Settled(fences, done) => (fences, done),
            Attempt::Rows(rows) => return Err(CommitError::RefusedRows(rows)),
            Attempt::Refused => {
                return Err(CommitError::Outage("postgres refuses a row and does not say which".to_owned()));
            }
        };
        self.offsets.settle(&fences, &unit.positions);
        self.counts.add(done);
        self.metrics.iter().for_each(|metrics| metrics.add(Metric::Superseded, done.superseded));
        let fenced: Vec<TopicPartition> =
            unit.positions.iter().map(|p| &p.to.partition).filter(|p| fences.fenced.contains(*p)).cloned().collect();
        Ok(if fenced.is_empty() { CommitOutcome::Done } else { CommitOutcome::Fenced(fenced) })
    }
}

impl Committer for PostgresSink {
    fn atomic(&self) -> bool {
        true
    }

    fn start<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<Start>, CommitError>> {
        Box::pin(self.start_all(partitions))
    }

    fn commit<'a>(&'a mut self, unit: &'a Unit) -> BoxFuture<'a, Result<CommitOutcome, CommitError>> {
        let span = self.span(unit);
        Box::pin(self.commit_unit(unit).instrument(span))
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        self.offsets.forget(partitions);
    }
}

/// What one try at a unit came to.
#[derive(Debug)]
enum Attempt {
    /// It is durable, but for the rows of fenced partitions.
    Settled(Fences, WriteCounts),
    /// A row is refused, or all are: it is to be found out which.
    Refused,
    /// These rows are refused, and all others would be taken.
    Rows(Vec<RefusedRow>),
}

/// One try at a unit: all of it, or nothing. `apart` finds out which rows are refused.
async fn attempt(
    session: &mut Session,
    offsets: &OwnedOffsets,
    target: &mut Target,
    unit: &Unit,
    apart: bool,
) -> Result<Attempt, PostgresError> {
    // Changing a table takes a lock that a transaction which holds rows must not wait for.
    let refused = target.prepare(session, unit).await?;
    if !refused.is_empty() {
        return Ok(Attempt::Rows(refused));
    }
    let mut tx = session.begin().await?;
    let fences = offsets.advance(&mut tx, &unit.positions).await.map_err(PostgresError::of_no_row)?;
    if fences.moved.is_empty() {
        tx.rollback().await?;
        return Ok(Attempt::Settled(fences, WriteCounts::default()));
    }
    let rows = ours(unit, &fences)?;
    let done = match target.write(&mut tx, unit, &rows, (offsets, apart)).await? {
        WriteOutcome::All(done) => done,
        WriteOutcome::Refused => {
            tx.rollback().await?;
            return Ok(Attempt::Refused);
        }
        WriteOutcome::Rows(refused) => {
            tx.rollback().await?;
            return Ok(Attempt::Rows(refused));
        }
    };
    match (tx.commit().await, target) {
        (Ok(()), _) => Ok(Attempt::Settled(fences, done)),
        (Err(error), Target::DeadLetters(_)) => Err(error.into()),
        (Err(error), Target::Table(_)) => match WriteError::from(error) {
            // A constraint that is checked at the end.
            WriteError::Refused(_) if !apart => Ok(Attempt::Refused),
            WriteError::Refused(refusal) => Err(PostgresError::Outage(refusal.why)),
            WriteError::Other(error) => Err(error),
        },
    }
}

/// The unit's rows but for those of fenced partitions.
fn ours<'a>(unit: &'a Unit, fences: &Fences) -> Result<Vec<&'a Row>, PostgresError> {
    let known = |partition: &TopicPartition| unit.positions.iter().any(|p| p.to.partition == *partition);
    if let Some(row) = unit.rows.iter().find(|row| !known(&row.record.place())) {
        return Err(PostgresError::Config(format!("a row of {} has no offset in its unit", row.record.place())));
    }
    Ok(unit.rows.iter().filter(|row| !fences.fenced.contains(&row.record.place())).collect())
}

/// Where the rows go. All else of a sink is the same for both.
#[derive(Debug)]
enum Target {
    Table(Box<Rows>),
    DeadLetters(DeadLetters),
}

impl Target {
    /// What must be seen to outside of the unit's transaction. Tells the rows that the table cannot take at all.
    async fn prepare(&mut self, session: &mut Session, unit: &Unit) -> Result<Vec<RefusedRow>, PostgresError> {
        match self {
            Self::Table(rows) => rows.prepare(session, unit).await,
            Self::DeadLetters(_) => Ok(Vec::new()),
        }
    }

    /// `apart` finds out which rows are refused.
    async fn write(
        &mut self,
        tx: &mut Transaction<'_>,
        unit: &Unit,
        rows: &[&Row],
        (offsets, apart): (&OwnedOffsets, bool),
    ) -> Result<WriteOutcome, PostgresError> {
        match self {
            Self::Table(table) if apart => table.write_apart(tx, unit, rows, offsets).await,
            Self::Table(table) => match table.prepared.write(tx, rows, offsets).await {
                Ok(done) => Ok(WriteOutcome::All(done)),
                Err(WriteError::Refused(_)) => Ok(WriteOutcome::Refused),
                Err(WriteError::Other(error)) => Err(error),
            },
            Self::DeadLetters(letters) => letters.write(tx, rows).await.map(WriteOutcome::All),
        }
    }

    /// The table's name, for people.
    fn table(&self) -> &str {
        match self {
            Self::Table(rows) => rows.table(),
            Self::DeadLetters(_) => "headwater.dead_letters",
        }
    }

    /// After a refusal: whether another try would say which row it is about.
    fn narrow(&mut self) -> bool {
        match self {
            // Its refusals are told otherwise.
            Self::Table(_) => false,
            Self::DeadLetters(letters) => letters.narrow(),
        }
    }

    /// What the outcome of a unit means to whoever asked for it.
    fn settle(&mut self, outcome: Result<Attempt, PostgresError>) -> Result<Attempt, CommitError> {
        match self {
            Self::Table(rows) => {
                if let Ok(Attempt::Settled(_, done)) = &outcome {
                    rows.stored(*done);
                }
                rows.settle(outcome)
            }
            Self::DeadLetters(letters) => letters.settle(outcome),
        }
    }
}

#[cfg(test)]
mod tests {
    use headwater::{Payload, Time};
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Serialize, Deserialize)]
    struct Placed {
        order: String,
        shop: String,
        tags: Vec<String>,
        at: Time,
    }

    impl Payload for Placed {
        const TYPE: &'static str = "order.placed";
        const SCHEMA: &'static str = r#"{"type":"record","name":"Placed","fields":[{"name":"order","type":"string"},
            {"name":"shop","type":"string"},{"name":"tags","type":{"type":"array","items":"string"}},
            {"name":"at","type":{"type":"long","logicalType":"timestamp-micros"}}]}"#;

        fn key(&self) -> &str {
            &self.order
        }
    }

    /// Red when a key that no row can have is not found where the type is known (`key_problem` not asked), or one is found where
    /// there is none.
    #[test]
    fn a_key_that_no_row_can_have_is_found_before_the_first_record() {
        let sink = |key: &str| Sink::of::<Placed>("placed").key(key);
        let event = EventType::of::<Placed>();
        let why = |sink: &Sink| PostgresSink::problem_of(sink, Some(&event)).unwrap_or_default();
        for fine in
            [sink("order"), sink("shop"), sink("shop").key("order"), sink("order").delete(), sink("tags").insert()]
        {
            assert_eq!(why(&fine), "");
        }
        for (wrong, part) in [
            (sink("ordr"), "key `ordr` is no field of its events: they have order, shop, tags, at"),
            (sink("ordr").insert(), "key `ordr` is no field"),
            (sink("order").key("shp"), "key `shp` is no field"),
            (sink("tags"), "column `tags` of `placed` has a type that cannot be a key"),
            (sink("shop").delete(), "the record's key, which is `order`: write key = \"order\""),
        ] {
            assert!(why(&wrong).contains(part), "{}", why(&wrong));
        }
        assert_eq!(PostgresSink::problem_of(&sink("ordr"), None), None, "nobody knows its type");
        assert!(PostgresSink::problem_of(&Sink { table: "x".repeat(64), ..sink("order") }, None).is_some());
    }
}
