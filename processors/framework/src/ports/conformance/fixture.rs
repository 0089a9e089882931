//! What the suite has to know of a committer: its place, what it promises, and what a unit of it holds.

use std::{collections::BTreeMap, future::Future};

use crate::{
    ports::{Committer, unit::Unit},
    wire::record::{Outgoing, TopicPartition},
};

/// What a committer promises beyond what all do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Capability {
    /// [`Committer::atomic`] is true.
    Atomic,
    /// [`Committer::cancels`] is true.
    Cancels,
    /// All of a unit is there or nothing of it, and once, however often it was tried. Otherwise it is there at least once.
    Transactions,
    /// Positions become durable with the unit, and [`Committer::start`] tells them. Otherwise the source keeps them.
    Positions,
    /// It takes a unit only of partitions that it has started and not forgotten, and only where that goes on at the position
    /// that is durable: all else is fenced.
    PositionChecks,
    /// Another owner can take a partition: [`Fixture::take_over`].
    Fencing,
    /// It keeps keyed state: [`Contents::state`].
    State,
    /// It publishes markers: [`Fixture::marker`].
    Markers,
    /// Its place refuses data: [`Fixture::poison`].
    Refusals,
    /// Its server can be cut off: [`Fixture::cut`].
    Outages,
    /// What it stands on can be closed: [`Fixture::close`].
    Closing,
}

/// A part of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// [`Unit::rows`].
    Rows,
    /// [`Unit::changes`].
    Changes,
}

/// What one record of the suite asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effect {
    /// The record's partition, 0 or 1.
    pub partition: i32,
    /// Its offset there.
    pub offset: i64,
    /// What it is known by; each effect has its own.
    pub text: String,
}

/// What is there of what was committed.
#[derive(Debug, Default)]
pub struct Contents {
    /// The texts of effects by their partitions, in the order that the place keeps.
    pub effects: BTreeMap<i32, Vec<String>>,
    /// The texts of markers.
    pub markers: Vec<String>,
    /// What the committer's stores have of each partition's only key, as [`crate::ports::Stores`] gives it.
    pub state: BTreeMap<i32, String>,
}

/// A place of its own for one check: topics, a database, a broker in memory.
pub trait Fixture {
    /// What the committer promises.
    const CAPABILITIES: &'static [Capability];
    /// What a unit may hold that the committer has no place for.
    const MISPLACED: &'static [Part];

    /// The topic whose partitions 0 and 1 are committed; the group has not begun them.
    fn topic(&self) -> &str;

    /// A committer of the group on this place. One that is made later is that of the process which comes next.
    fn committer(&mut self) -> impl Future<Output = Box<dyn Committer>>;

    /// Adds to the unit what a record asks for.
    fn effect(&self, effect: &Effect, unit: &mut Unit);

    /// What is there.
    fn contents(&mut self) -> impl Future<Output = Contents>;

    /// The record of a marker with this text. For [`Capability::Markers`].
    fn marker(&self, _text: &str) -> Outgoing {
        undeclared(Capability::Markers)
    }

    /// Adds what a record asks for that the place refuses. For [`Capability::Refusals`].
    fn poison(&self, _effect: &Effect, _unit: &mut Unit) {
        undeclared(Capability::Refusals)
    }

    /// Another owner takes this partition. For [`Capability::Fencing`].
    fn take_over(&mut self, _partition: &TopicPartition) -> impl Future<Output = ()> {
        async { undeclared(Capability::Fencing) }
    }

    /// The server does not answer any more. For [`Capability::Outages`].
    fn cut(&mut self) -> impl Future<Output = ()> {
        async { undeclared(Capability::Outages) }
    }

    /// It answers again.
    fn mend(&mut self) -> impl Future<Output = ()> {
        async { undeclared(Capability::Outages) }
    }

    /// Closes what the committer stands on. For [`Capability::Closing`].
    fn close(&mut self) -> impl Future<Output = ()> {
        async { undeclared(Capability::Closing) }
    }
}

fn undeclared(capability: Capability) -> ! {
    panic!("the fixture declares {capability:?} and does not say how")
}
