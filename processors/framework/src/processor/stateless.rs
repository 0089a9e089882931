//! Stateless processors: async functions of an event, which may do I/O.

use std::{future::Future, marker::PhantomData, sync::Arc};

use super::{
    emit::{Emit, Outbox},
    function::{Function, Interest, IntoProcessor, ProcessError, Processor},
    input::{Delivery, Input},
};
use crate::{
    event::{
        event_type::EventType,
        pattern::{Pattern, PatternError},
    },
    failure::{Failure, Result},
    ports::BoxFuture,
};

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
