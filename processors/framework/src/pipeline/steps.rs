//! The stateful steps of one group.

use std::{collections::BTreeSet, sync::Arc};

use crate::{
    event::event_type::EventType,
    processor::{Function, Interest, IntoProcessor, StatefulProcessor},
    wire::group_topics::{WAITING, is_group_name},
};

/// Stateful steps that share one consumer group and, by the same `State::NAME`, one store:
/// `Group::new().on("open", open).on("close", close)`.
///
/// Mistakes are gathered, not thrown: `Pipeline::problems` names them.
#[derive(Clone, Debug, Default)]
pub struct Group(Vec<(String, Function)>);

impl Group {
    /// No steps yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a step. Its name is the only one in the pipeline, and it is the only step of the group that takes its event.
    #[must_use]
    pub fn on<M>(self, name: &str, step: impl IntoProcessor<M>) -> Self {
        self.on_function(name, step.into_processor())
    }

    pub(crate) fn on_function(mut self, name: &str, function: Function) -> Self {
        self.0.push((name.to_owned(), function));
        self
    }

    /// The steps, or what is wrong with them, a sentence each.
    pub(crate) fn steps(self) -> Result<Steps, Vec<String>> {
        let (mut steps, mut problems) = (Vec::<Step>::new(), Vec::new());
        if self.0.is_empty() {
            problems.push("it has no steps: add one with `.on(name, function)`".to_owned());
        }
        for (name, function) in self.0 {
            match step(&name, function) {
                Ok(step) if steps.iter().any(|other| other.event.name == step.event.name) => {
                    let event = step.event.name;
                    problems.push(format!("two of its steps take `{event}`: make one of them, or give each a group"));
                }
                Ok(step) => steps.push(step),
                Err(why) => problems.push(format!("step `{name}` {why}")),
            }
        }
        if problems.is_empty() { Ok(Steps(steps)) } else { Err(problems) }
    }
}

fn step(name: &str, function: Function) -> Result<Step, String> {
    let rule = "1 to 100 characters of a-z, 0-9, `-`, `_`";
    let Function::Stateful(processor) = function else {
        return Err("keeps no state: register it with `Pipeline::on`, in a group of its own".to_owned());
    };
    let event = processor.event().ok_or("takes any event: a stateful step takes one event type")?;
    if !is_group_name(name) {
        return Err(format!("cannot have that name: use {rule}, beginning with a letter"));
    }
    let store = processor.store();
    if !is_group_name(store) || store.contains('.') {
        return Err(format!("keeps `{store}`, which cannot name a store: use {rule}, beginning with a letter"));
    }
    if store == WAITING {
        return Err(format!("keeps `{store}`, the store of records that wait: give its state another name"));
    }
    Ok(Step { name: name.into(), event, processor })
}

/// The steps of a group, each for its event type; there is at least one.
#[derive(Clone, Debug)]
pub struct Steps(Vec<Step>);

/// A stateful step.
#[derive(Clone, Debug)]
pub struct Step {
    /// Its name.
    pub name: Arc<str>,
    /// The event type that it takes.
    pub event: EventType,
    /// What it does.
    pub processor: Arc<dyn StatefulProcessor>,
}

impl Steps {
    /// Every step, in the order of registration.
    pub fn iter(&self) -> impl Iterator<Item = &Step> {
        self.0.iter()
    }

    /// Those whose events are repartitioned before they reach them.
    pub fn repartitioned(&self) -> impl Iterator<Item = &Step> {
        self.0.iter().filter(|step| !step.processor.is_co_partitioned())
    }

    /// The names of their stores, sorted.
    pub fn stores(&self) -> BTreeSet<&'static str> {
        self.0.iter().map(|step| step.processor.store()).collect()
    }

    pub(crate) fn interest(&self) -> Interest {
        Interest::Types(self.0.iter().map(|step| step.event).collect())
    }

    pub(crate) fn emits(&self) -> Vec<EventType> {
        self.0.iter().flat_map(|step| step.processor.emits()).collect()
    }
}
