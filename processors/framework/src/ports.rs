//! What the engine needs of the outside: each port small, and a batch at a time.

pub(crate) mod clock;
pub(crate) mod unit;

pub mod conformance;

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use self::unit::{CommitError, CommitOutcome, InputPosition, Unit};
use crate::{
    event::time::Time,
    wire::record::{Position, Record, TopicPartition},
};

/// A boxed future, as trait objects return it.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Where a group's records come from: a member of a consumer group.
///
/// After `Assigned` no record of a partition is delivered until [`Control::Begin`] says where to start.
/// Offsets are committed by the source alone, on its own thread; see [`Control::Commit`].
pub trait Source: Send {
    /// The next thing that happened. Control events overtake records; records come only when `records` is set, so that
    /// an engine with full hands still hears of a rebalance. Safe to cancel.
    fn next(&mut self, records: bool) -> BoxFuture<'_, SourceEvent>;

    /// Asks for something; never blocks, and keeps the order of calls.
    fn control(&mut self, control: Control);
}

/// What a source reports.
#[derive(Debug)]
pub enum SourceEvent {
    /// Records of one partition, in order of their offsets.
    Records(Batch),
    /// These partitions are now ours, and paused: answer with [`Control::Begin`].
    Assigned(Vec<TopicPartition>),
    /// These partitions will be taken away: finish what is in flight, commit, then [`Control::Released`].
    /// The source waits for that up to its drain deadline, then goes on without.
    Revoked(Vec<TopicPartition>),
    /// These partitions are no longer ours: commit nothing.
    Lost(Vec<TopicPartition>),
    /// The source reaches its broker again, or not; the reason is for people.
    Connected(Result<(), String>),
    /// Another has our name in the group, and who that is has to be found out before the source goes on or ends; the reason
    /// is for people. `Failed` or `Halted` follows.
    Displaced(String),
    /// The source cannot go on, and another in its place may: the group is started anew. Nothing follows.
    Failed(String),
    /// The source cannot go on until a person has acted; the reason says how. Nothing follows.
    Halted(String),
    /// The source has closed after [`Control::Close`]. Nothing follows.
    Closed,
}

/// Records of one partition that belong to one start of it.
#[derive(Debug)]
pub struct Batch {
    /// The partition.
    pub partition: TopicPartition,
    /// The number that [`Control::Begin`] gave; a batch of an earlier start is stale.
    pub start: u64,
    /// The records, by offset; holes are normal. None where the log only turned out to go on without any.
    pub records: Vec<Record>,
    /// How far the log has been read: before this offset there is no record but those that were delivered.
    pub next: i64,
}

/// What the engine asks of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Deliver this partition from here; batches carry `start`. Also used to start again from another place.
    Begin {
        /// The partition, assigned to us.
        partition: TopicPartition,
        /// Where to start.
        from: StartFrom,
        /// Marks the batches of this start.
        start: u64,
    },
    /// Deliver nothing of these partitions until `Resume`; what is under way may still arrive.
    Pause(Vec<TopicPartition>),
    /// Go on with these partitions.
    Resume(Vec<TopicPartition>),
    /// These positions are durable: tell the broker when it suits, at the latest when the partition leaves or the source closes.
    Commit(Vec<Position>),
    /// Why these partitions stand still, for who looks at the group from outside; `None` once they flow again.
    Note(Vec<(TopicPartition, Option<String>)>),
    /// The engine has let go of these revoked partitions.
    Released(Vec<TopicPartition>),
    /// Leave the group once everything said before is done.
    Close,
}

/// Where a partition starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StartFrom {
    /// At the offset that the group has committed, or by the source's start policy when there is none.
    Committed,
    /// By the source's start policy, whatever was committed: the store keeps the offsets and has none yet.
    Policy,
    /// At this offset.
    Offset(i64),
}

/// Where a group's effects go: commits a whole unit of work, or nothing of it.
///
/// What the engine relies on, and [`conformance`] checks:
/// - **One thing at a time.** The engine asks for the next thing once the last has been answered or was dropped.
/// - **Order.** Records are published in the unit's order, and before anything else of it is durable; of one key of state the last
///   change counts; markers follow once all the rest is durable.
/// - **Success.** [`CommitOutcome::Done`] says that all of the unit is durable and can be seen by others. What a committer has no
///   place for (rows without a table, changes without a store) is [`CommitError::Fatal`], never dropped.
/// - **Given up.** The engine may drop a commit at any point. The unit is then committed again, or its partitions are started
///   anew: it is there once where effects and positions are one transaction, and at least once elsewhere, in its order.
/// - **Outage.** A server that does not answer is [`CommitError::Outage`] where nothing of the unit is durable, or where the same
///   unit can be committed again; [`CommitError::OutcomeUnknown`] where only [`Committer::start`] can tell. Both are said within
///   the time-outs of the client, and nobody waits for ever.
/// - **Refusal.** Data that can never be stored is [`CommitError::Refused`] or [`CommitError::RefusedRows`]. Without it the same
///   unit is taken; in transactions nothing of the refused one is there, and no marker of it anywhere.
/// - **Fence.** Where another owner has taken a partition, nothing of that partition is committed any more, a marker included, and
///   [`CommitOutcome::Fenced`] names it; of the others all is.
/// - **Positions** move together with their effects or after them, and only forward. Who keeps them tells them at the start of a
///   partition, in the order asked.
/// - **The end.** [`CommitError::Failed`] has the group started anew, [`CommitError::Fatal`] has it wait for a person. One whose
///   client was closed commits nothing more, and refuses no data.
pub trait Committer: Send {
    /// Whether effects and offsets become durable in one transaction. If so a unit holds only what the offsets cover;
    /// if not, effects may be published ahead of them.
    fn atomic(&self) -> bool;

    /// Takes possession of partitions and says where each starts, in the same order. It is asked for none before the group is
    /// joined: then it answers once what it needs beside the source's own servers can be reached.
    fn start<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<StartFrom>, CommitError>>;

    /// Commits a unit. Cancelling it leaves the outcome unknown; the unit is then tried again or its partitions are started anew.
    fn commit<'a>(&'a mut self, unit: &'a Unit) -> BoxFuture<'a, Result<CommitOutcome, CommitError>>;

    /// Forgets partitions that are no longer ours.
    fn forget(&mut self, partitions: &[TopicPartition]);

    /// Whether a commit that outlives a partition of its unit is cancelled: that is for stores which take what a former
    /// owner commits. What of the unit is still ours is then tried again.
    fn cancels(&self) -> bool {
        false
    }
}

impl Committer for Box<dyn Committer> {
    fn atomic(&self) -> bool {
        self.as_ref().atomic()
    }

    fn start<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<StartFrom>, CommitError>> {
        self.as_mut().start(partitions)
    }

    fn commit<'a>(&'a mut self, unit: &'a Unit) -> BoxFuture<'a, Result<CommitOutcome, CommitError>> {
        self.as_mut().commit(unit)
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        self.as_mut().forget(partitions);
    }

    fn cancels(&self) -> bool {
        self.as_ref().cancels()
    }
}

/// The keyed state of one group's partitions, as it was committed last. A partition's state can be read once
/// [`Committer::start`] has answered for it, and until it is forgotten; it is never asked for any other.
///
/// Reading may touch a disk, and is done in place: what is read often should be in memory.
pub trait Stores: Send + Sync {
    /// What a key has, or `None`.
    fn get(&self, store: &str, partition: i32, key: &[u8]) -> Result<Option<Arc<[u8]>>, StoreError>;

    /// Keys that begin with `prefix`, in their order, and what they have; `limit` of them at most.
    fn scan(&self, store: &str, partition: i32, prefix: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError>;

    /// What is known of inputs, where one may come again whose change is there: the offsets are committed after the
    /// changes, not with them.
    fn replays(&self) -> Option<&dyn Replays> {
        None
    }
}

/// Which inputs have changed the keyed state of one group.
pub trait Replays {
    /// How far those have come whose changes are in this partition of a store.
    fn inputs(&self, store: &str, partition: i32) -> Vec<InputPosition>;

    /// The id of a topic that is read, as it was when partitions of it were taken; empty where it is not known.
    fn topic_id(&self, topic: &str) -> Arc<str>;
}

/// A key and what it has.
pub type Entry = (Vec<u8>, Vec<u8>);

/// Why state cannot be read; the message says how to mend it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// Where schemas come from: a registry. Answers are not cached here; the engine does that.
pub trait Schemas: Send + Sync {
    /// The schema with this id.
    fn by_id(&self, id: u32) -> BoxFuture<'_, Result<SchemaText, SchemaError>>;

    /// The id under which `subject` holds exactly this schema.
    fn id_of<'a>(&'a self, subject: &'a str, schema: &'a str) -> BoxFuture<'a, Result<u32, SchemaError>>;
}

/// A schema as the registry gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SchemaText {
    /// The Avro schema as JSON text.
    pub schema: String,
    /// The schemas it refers to by name, dependencies first.
    pub references: Vec<String>,
}

/// Why the registry gave no schema.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SchemaError {
    /// The registry says that it has no such schema or subject.
    #[error("{0}")]
    Unknown(String),
    /// The registry does not answer properly; it may later.
    #[error("{0}")]
    Outage(String),
}

/// Time, injected: the real clock, or a driver's own.
pub trait Clock: Send + Sync {
    /// The wall clock.
    fn now(&self) -> Time;

    /// Time that only moves forward, since some fixed moment.
    fn elapsed(&self) -> Duration;

    /// Resolves after `duration`.
    fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()>;
}

/// An HTTP client. What an answer means is the processor's business.
pub trait Http: Send + Sync {
    /// Sends one request and reads the whole answer, within the client's limits on time and size.
    fn send(&self, request: Request) -> BoxFuture<'_, Result<Response, HttpError>>;
}

/// An HTTP request.
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, `POST`, …
    pub method: &'static str,
    /// The absolute URL.
    pub url: String,
    /// Header names and values.
    pub headers: Vec<(&'static str, String)>,
    /// The body; sent as JSON when it is not empty and no header says otherwise.
    pub body: Vec<u8>,
}

impl fmt::Debug for Request {
    /// Without headers and body, which may hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.method, self.url)
    }
}

/// An HTTP answer, whatever its status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// How long the server asks to wait (`Retry-After` in seconds), if it does.
    pub retry_after: Option<Duration>,
    /// The body.
    pub body: Vec<u8>,
}

/// Why there was no HTTP answer: no connection, no answer in time, an answer past the size limit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct HttpError(pub String);
