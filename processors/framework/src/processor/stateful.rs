//! Stateful steps: pure functions of a key's state and an event.

use std::{marker::PhantomData, sync::Arc};

use super::{
    emit::{Emit, Outbox},
    function::{Function, IntoProcessor, ProcessError, StatefulProcessor},
    input::{Delivery, Input},
    state::{self, Slot, State},
    stateless::With,
};
use crate::{
    event::event_type::EventType,
    failure::{Failure, Result},
};

/// Where a step's key comes from.
enum Keys<K> {
    /// From the record, whose topic is partitioned by it.
    CoPartitioned,
    /// From the record, after it is partitioned by it.
    Own,
    /// From a function of the event.
    Of(K),
}

/// Stands for the function where there is none.
type NoKey<E> = fn(&E) -> String;

struct Keeping<F, S, E, O, K> {
    function: F,
    keys: Keys<K>,
    shape: PhantomData<fn(S, E) -> O>,
}

impl<F, S, E, O, K> StatefulProcessor for Keeping<F, S, E, O, K>
where
    F: Fn(&mut S, E) -> Result<O> + Send + Sync,
    S: Slot,
    E: Input,
    O: Emit,
    K: Fn(&E) -> String + Send + Sync,
{
    fn event(&self) -> Option<EventType> {
        E::event_type()
    }

    fn emits(&self) -> Vec<EventType> {
        let mut list = Vec::new();
        O::types(&mut list);
        list
    }

    fn store(&self) -> &'static str {
        S::State::NAME
    }

    fn is_co_partitioned(&self) -> bool {
        matches!(self.keys, Keys::CoPartitioned)
    }

    fn key(&self, delivery: &Delivery<'_>) -> Result<Option<String>, ProcessError> {
        match &self.keys {
            Keys::Of(key) => Ok(Some(key(&E::read(delivery).map_err(ProcessError::Codec)?))),
            Keys::Own | Keys::CoPartitioned => Ok(None),
        }
    }

    fn apply(
        &self,
        delivery: &Delivery<'_>,
        saved: Option<&[u8]>,
        out: &mut Outbox,
    ) -> Result<Option<Vec<u8>>, ProcessError> {
        let event = E::read(delivery).map_err(ProcessError::Codec)?;
        let saved = saved.map(state::load).transpose().map_err(ProcessError::State)?;
        let mut slot = S::open(saved);
        (self.function)(&mut slot, event).map_err(as_of_pure)?.emit(out)?;
        slot.kept().map(state::save).transpose().map_err(|why| {
            let name = S::State::NAME;
            Failure::reject(format!("cannot save the state `{name}`: {why}")).into()
        })
    }
}

/// A pure function fails again the same way: another attempt is made only where it asks for one.
fn as_of_pure(failure: Failure) -> Failure {
    match failure {
        Failure::Retry(cause) if !cause.is_asked_for() => Failure::Reject(cause),
        other => other,
    }
}

fn keeping<F, S, E, O, K>(function: F, keys: Keys<K>) -> Function
where
    F: Fn(&mut S, E) -> Result<O> + Send + Sync + 'static,
    S: Slot,
    E: Input,
    O: Emit,
    K: Fn(&E) -> String + Send + Sync + 'static,
{
    Function::Stateful(Arc::new(Keeping { function, keys, shape: PhantomData }))
}

// Without this the compiler explains the one bound that fails, instead of saying the sentence of `IntoProcessor`.
#[diagnostic::do_not_recommend]
impl<F, S, E, O> IntoProcessor<(S, E, O)> for F
where
    F: Fn(&mut S, E) -> Result<O> + Send + Sync + 'static,
    S: Slot,
    E: Input,
    O: Emit,
{
    fn into_processor(self) -> Function {
        keeping::<_, S, E, O, NoKey<E>>(self, Keys::Own)
    }
}

/// The settings of a stateful step: `with(limits, f)` for `fn(&Limits, &mut S, E) -> Result<impl Emit>`.
#[diagnostic::do_not_recommend]
impl<D, F, S, E, O> IntoProcessor<(D, S, E, O)> for With<D, F>
where
    D: Send + Sync + 'static,
    F: Fn(&D, &mut S, E) -> Result<O> + Send + Sync + 'static,
    S: Slot,
    E: Input,
    O: Emit,
{
    fn into_processor(self) -> Function {
        keeping::<_, S, E, O, NoKey<E>>(bound(self), Keys::Own)
    }
}

/// The function with its settings, as one without any.
fn bound<D, F, S, E, O>(With(settings, function): With<D, F>) -> impl Fn(&mut S, E) -> Result<O>
where
    F: Fn(&D, &mut S, E) -> Result<O>,
{
    move |state: &mut S, event: E| function(&settings, state, event)
}

/// Says by which key a stateful function keeps its state; without a word it is the record's key. `Shape` only tells
/// functions apart; nobody names it.
pub trait KeyedBy<Shape, E>: Sized {
    /// By what this function says of the event: `flag.keyed_by(|payment| payment.customer_id.clone())`.
    fn keyed_by<K: Fn(&E) -> String>(self, key: K) -> Keyed<Self, K> {
        Keyed(self, key)
    }

    /// By the record's key, and its topic is partitioned by murmur2 of that: every producer of it hashes as Java's does, and
    /// it has as many partitions as the group's own topics. Saves the way over a topic of the step's own.
    fn co_partitioned(self) -> CoPartitioned<Self> {
        CoPartitioned(self)
    }
}

#[diagnostic::do_not_recommend]
impl<F: Fn(&mut S, E) -> Result<O>, S, E, O> KeyedBy<(S, O), E> for F {}

#[diagnostic::do_not_recommend]
impl<D, F: Fn(&D, &mut S, E) -> Result<O>, S, E, O> KeyedBy<(D, S, O), E> for With<D, F> {}

/// A stateful function with the key of its state; see [`KeyedBy::keyed_by`].
pub struct Keyed<F, K>(F, K);

/// A stateful function whose events are partitioned by their key; see [`KeyedBy::co_partitioned`].
pub struct CoPartitioned<F>(F);

#[diagnostic::do_not_recommend]
impl<F, K, S, E, O> IntoProcessor<(S, E, O)> for Keyed<F, K>
where
    F: Fn(&mut S, E) -> Result<O> + Send + Sync + 'static,
    K: Fn(&E) -> String + Send + Sync + 'static,
    S: Slot,
    E: Input,
    O: Emit,
{
    fn into_processor(self) -> Function {
        keeping::<_, S, E, O, K>(self.0, Keys::Of(self.1))
    }
}

#[diagnostic::do_not_recommend]
impl<D, F, K, S, E, O> IntoProcessor<(D, S, E, O)> for Keyed<With<D, F>, K>
where
    D: Send + Sync + 'static,
    F: Fn(&D, &mut S, E) -> Result<O> + Send + Sync + 'static,
    K: Fn(&E) -> String + Send + Sync + 'static,
    S: Slot,
    E: Input,
    O: Emit,
{
    fn into_processor(self) -> Function {
        keeping::<_, S, E, O, K>(bound(self.0), Keys::Of(self.1))
    }
}

#[diagnostic::do_not_recommend]
impl<F, S, E, O> IntoProcessor<(S, E, O)> for CoPartitioned<F>
where
    F: Fn(&mut S, E) -> Result<O> + Send + Sync + 'static,
    S: Slot,
    E: Input,
    O: Emit,
{
    fn into_processor(self) -> Function {
        keeping::<_, S, E, O, NoKey<E>>(self.0, Keys::CoPartitioned)
    }
}

#[diagnostic::do_not_recommend]
impl<D, F, S, E, O> IntoProcessor<(D, S, E, O)> for CoPartitioned<With<D, F>>
where
    D: Send + Sync + 'static,
    F: Fn(&D, &mut S, E) -> Result<O> + Send + Sync + 'static,
    S: Slot,
    E: Input,
    O: Emit,
{
    fn into_processor(self) -> Function {
        keeping::<_, S, E, O, NoKey<E>>(bound(self.0), Keys::CoPartitioned)
    }
}

#[cfg(test)]
mod tests;
