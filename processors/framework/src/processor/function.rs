//! Functions whose types are forgotten, as the engine runs them.

use std::{fmt, sync::Arc};

use super::{emit::Outbox, input::Delivery};
use crate::{
    codec::CodecError,
    event::{event_type::EventType, pattern::Pattern},
    failure::{Failure, Result},
    ports::BoxFuture,
};

/// A registered function, its types forgotten.
#[derive(Clone, Debug)]
pub enum Function {
    /// It may do I/O, and keeps nothing.
    Stateless(Arc<dyn Processor>),
    /// It is pure, and keeps state by key.
    Stateful(Arc<dyn StatefulProcessor>),
}

/// A stateless processor whose types are forgotten.
pub trait Processor: Send + Sync {
    /// What it subscribes to.
    fn interest(&self) -> Interest;

    /// The event types it may emit.
    fn emits(&self) -> Vec<EventType>;

    /// Reads the record and runs the function on it. The record is read before this returns; the future owns all it needs.
    fn process(&self, delivery: Delivery<'_>, out: Outbox) -> BoxFuture<'static, Result<Outbox, ProcessError>>;
}

/// A stateful step whose types are forgotten.
pub trait StatefulProcessor: Send + Sync {
    /// The event type that it takes; `None` for a function of any event, which a stateful step cannot be.
    fn event(&self) -> Option<EventType>;

    /// The event types it may emit.
    fn emits(&self) -> Vec<EventType>;

    /// The name of its store.
    fn store(&self) -> &'static str;

    /// Whether it reads its events as they stand, because they are partitioned by the key that it keeps state by. All
    /// others are repartitioned: they go through a topic of the step's own, since clients differ in how they hash keys.
    fn is_co_partitioned(&self) -> bool;

    /// The key that the step's function says; `None` where the record's own is the key.
    ///
    /// # Errors
    /// When the value cannot be read.
    fn key(&self, delivery: &Delivery<'_>) -> Result<Option<String>, ProcessError>;

    /// Runs the function on what was saved of the key; gives what is to be saved, `None` where the key is forgotten.
    ///
    /// # Errors
    /// When value or state cannot be read, or the function fails: then nothing has changed.
    fn apply(
        &self,
        delivery: &Delivery<'_>,
        saved: Option<&[u8]>,
        out: &mut Outbox,
    ) -> Result<Option<Vec<u8>>, ProcessError>;
}

/// What a processor subscribes to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Interest {
    /// One event type.
    Type(EventType),
    /// One event type of which only the name is known: a sink's.
    Name(String),
    /// Several event types: those of a group's steps.
    Types(Vec<EventType>),
    /// Every type that matches.
    Pattern(Pattern),
    /// The function takes any event and no pattern was given, or the other way round; the sentence says which.
    Wrong(String),
}

impl Interest {
    /// Whether it takes events of this type.
    pub fn takes(&self, event_type: &str) -> bool {
        match self {
            Self::Type(facts) => facts.name == event_type,
            Self::Name(name) => name == event_type,
            Self::Types(types) => types.iter().any(|facts| facts.name == event_type),
            Self::Pattern(pattern) => pattern.matches(event_type),
            Self::Wrong(_) => false,
        }
    }
}

/// Why a record was not processed.
#[derive(Debug)]
pub enum ProcessError {
    /// The value could not be read.
    Codec(CodecError),
    /// The function failed.
    Failed(Failure),
    /// The key's state could not be read; nothing is wrong with the record.
    State(String),
}

impl From<Failure> for ProcessError {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

/// What [`Pipeline::on`](crate::pipeline::Pipeline::on) takes. `Marker` only tells the shapes of functions apart, so that one `on`
/// takes them all; nobody names it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a processor",
    label = "wrong signature for a processor",
    note = "a stateless processor is `async fn(Event) -> Result<impl Emit>`, with a dependency `with(dep, f)` where `f` is `async fn(Dep, Event) -> Result<impl Emit>`; a stateful one is `fn(&mut State, Event) -> Result<impl Emit>`",
    note = "an event is taken by value, the error is `headwater::Failure`, and the future is `Send`"
)]
pub trait IntoProcessor<Marker> {
    /// The function, its types forgotten.
    fn into_processor(self) -> Function;
}

impl fmt::Debug for dyn Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "processor of {:?}", self.interest())
    }
}

impl fmt::Debug for dyn StatefulProcessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "stateful step of {:?} over `{}`", self.event().map(|event| event.name), self.store())
    }
}
