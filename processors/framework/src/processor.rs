//! Processors: how a plain function becomes something that the engine can run.

pub(crate) mod emit;
pub(crate) mod input;
pub(crate) mod state;
pub(crate) mod stateful;

use std::{fmt, future::Future, marker::PhantomData, sync::Arc};

use self::{
    emit::{Emit, Outbox},
    input::{Delivery, Input},
    stateful::StatefulProcessor,
};
use crate::{
    codec::CodecError,
    event::{
        pattern::{Pattern, PatternError},
        payload::EventType,
    },
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

struct Stateless<F, E, O> {
    function: F,
    shape: PhantomData<fn(E) -> O>,
}

// Without this the compiler explains the one bound that fails, a `Future` or a `Payload`, instead of saying the sentence.
#[diagnostic::do_not_recommend]
impl<F, Fut, E, O> IntoProcessor<(E, Fut)> for F
where
    F: Fn(E) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O>> + Send + 'static,
    E: Input,
    O: Emit,
{
    fn into_processor(self) -> Function {
        Function::Stateless(Arc::new(Stateless { function: self, shape: PhantomData }))
    }
}

impl<F, Fut, E, O> Processor for Stateless<F, E, O>
where
    F: Fn(E) -> Fut + Send + Sync,
    Fut: Future<Output = Result<O>> + Send + 'static,
    E: Input,
    O: Emit,
{
    fn interest(&self) -> Interest {
        E::event_type().map_or_else(
            || Interest::Wrong("takes any event: register it with `matching(pattern, function)`".to_owned()),
            Interest::Type,
        )
    }

    fn emits(&self) -> Vec<EventType> {
        let mut list = Vec::new();
        O::types(&mut list);
        list
    }

    fn process(&self, delivery: Delivery<'_>, mut out: Outbox) -> BoxFuture<'static, Result<Outbox, ProcessError>> {
        let event = match E::read(&delivery) {
            Ok(event) => event,
            Err(error) => return Box::pin(std::future::ready(Err(ProcessError::Codec(error)))),
        };
        let work = (self.function)(event);
        Box::pin(async move {
            work.await?.emit(&mut out)?;
            Ok(out)
        })
    }
}

/// A function with its dependency; see [`with`].
pub struct With<D, F>(pub(crate) D, pub(crate) F);

/// Gives a function its dependency: `with(warehouse, fulfil_order)` for `async fn(Warehouse, E) -> Result<impl Emit>`.
/// The dependency is cloned for every record, so it is a handle. A stateful function has settings instead, and sees them by
/// reference: `with(limits, flag)` for `fn(&Limits, &mut S, E) -> Result<impl Emit>`.
pub fn with<D, F>(dependency: D, function: F) -> With<D, F> {
    With(dependency, function)
}

#[diagnostic::do_not_recommend]
impl<D, F, Fut, E, O> IntoProcessor<(D, E, Fut)> for With<D, F>
where
    D: Clone + Send + Sync + 'static,
    F: Fn(D, E) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Result<O>> + Send + 'static,
    E: Input,
    O: Emit,
{
    fn into_processor(self) -> Function {
        let Self(dependency, function) = self;
        IntoProcessor::<(E, Fut)>::into_processor(move |event: E| function(dependency.clone(), event))
    }
}

/// A function under a pattern; see [`matching`].
pub struct Matching<P> {
    pattern: Result<Pattern, PatternError>,
    inner: P,
}

/// Subscribes a function of `Event<Any>` to every event type that matches: `matching("analysis.*", audit)`.
pub fn matching<P>(pattern: &str, inner: P) -> Matching<P> {
    Matching { pattern: pattern.parse(), inner }
}

#[diagnostic::do_not_recommend]
impl<M, P: IntoProcessor<M>> IntoProcessor<(Pattern, M)> for Matching<P> {
    fn into_processor(self) -> Function {
        Function::Stateless(Arc::new(Matched { pattern: self.pattern, inner: self.inner.into_processor() }))
    }
}

struct Matched {
    pattern: Result<Pattern, PatternError>,
    inner: Function,
}

impl Processor for Matched {
    fn interest(&self) -> Interest {
        let pattern = match &self.pattern {
            Ok(pattern) => pattern,
            Err(error) => return Interest::Wrong(error.to_string()),
        };
        match &self.inner {
            Function::Stateful(_) => Interest::Wrong(format!("keeps state: a function under `{pattern}` keeps none")),
            Function::Stateless(inner) if matches!(inner.interest(), Interest::Wrong(_)) => {
                Interest::Pattern(pattern.clone())
            }
            Function::Stateless(_) => {
                Interest::Wrong(format!("takes one event type: a function under `{pattern}` takes `Event<Any>`"))
            }
        }
    }

    fn emits(&self) -> Vec<EventType> {
        match &self.inner {
            Function::Stateless(inner) => inner.emits(),
            Function::Stateful(inner) => inner.emits(),
        }
    }

    fn process(&self, delivery: Delivery<'_>, out: Outbox) -> BoxFuture<'static, Result<Outbox, ProcessError>> {
        match &self.inner {
            Function::Stateless(inner) => inner.process(delivery, out),
            Function::Stateful(_) => {
                Box::pin(std::future::ready(Err(Failure::reject("it keeps state, and no pattern may").into())))
            }
        }
    }
}

impl fmt::Debug for dyn Processor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "processor of {:?}", self.interest())
    }
}
