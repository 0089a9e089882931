//! The pipeline: every processor and sink of a program, registered in one list.

pub(crate) mod catalogue;
pub(crate) mod policy;
pub(crate) mod schema_cache;
pub(crate) mod settings;
pub(crate) mod sink;
pub(crate) mod steps;
pub(crate) mod topology;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use self::{
    catalogue::{Binding, Catalogue, SourceTopics},
    policy::Policy,
    settings::Order,
    sink::SinkConfig,
    steps::{Group, Steps},
};
use crate::{
    event::{event_type::EventType, payload::Payload},
    processor::{Function, Interest, IntoProcessor, Processor},
    wire::group_topics::{ALL_EVENTS, GroupTopics, WAITING, all_dlqs, is_group_name},
};

/// Every processor and sink of a program.
///
/// Mistakes are gathered, not thrown: [`Pipeline::problems`] names them all at once.
#[derive(Clone, Debug, Default)]
pub struct Pipeline {
    groups: BTreeMap<String, Work>,
    catalogue: Catalogue,
    loops: BTreeSet<String>,
    policies: BTreeMap<String, Policy>,
    fallbacks: BTreeMap<String, Arc<dyn Processor>>,
    problems: Vec<String>,
}

/// What a consumer group does with its records.
#[derive(Clone, Debug)]
pub enum Work {
    /// Runs a stateless processor.
    Process(Arc<dyn Processor>),
    /// Runs stateful steps.
    Stateful(Steps),
    /// Writes them to a table, a file or whatever a connector reaches.
    Sink(Arc<dyn SinkConfig>),
    /// Keeps the dead letters of every group.
    DeadLetters,
}

/// The built-in group that keeps dead letters.
pub const DEAD_LETTERS: &str = "dead-letters";

impl Work {
    /// What it subscribes to.
    pub fn interest(&self) -> Interest {
        match self {
            Self::Process(processor) => processor.interest(),
            Self::Stateful(steps) => steps.interest(),
            Self::Sink(sink) => Interest::Name(sink.event().to_owned()),
            Self::DeadLetters => Interest::Wrong("is no subscriber of events".to_owned()),
        }
    }

    /// The event types it may emit.
    pub fn emits(&self) -> Vec<EventType> {
        match self {
            Self::Process(processor) => processor.emits(),
            Self::Stateful(steps) => steps.emits(),
            Self::Sink(_) | Self::DeadLetters => Vec::new(),
        }
    }

    /// Whether its effects are records, and not rows.
    pub fn is_processor(&self) -> bool {
        matches!(self, Self::Process(_) | Self::Stateful(_))
    }
}

/// A consumer group of the pipeline.
#[derive(Clone, Debug)]
pub struct ConsumerGroup {
    /// The name it was registered under.
    pub name: String,
    /// Its consumer group: the name under the configured prefix.
    pub id: String,
    /// What it does.
    pub work: Work,
    /// The topics of events that it reads.
    pub subscription: SourceTopics,
    /// Topics that it reads besides those, by name: its redrive topic, and those of records that it has repartitioned.
    pub own_topics: Vec<String>,
    /// Topics that it reads besides those, as patterns (POSIX extended): its retry topics, or every dead letter's.
    pub own_patterns: Vec<String>,
    /// What its developer decided about its delivery.
    pub policy: Policy,
    /// What processes a record while a circuit is open.
    pub fallback: Option<Arc<dyn Processor>>,
}

impl ConsumerGroup {
    /// The topics that it owns; the group that keeps dead letters owns none.
    pub fn group_topics(&self) -> Option<GroupTopics> {
        (!matches!(self.work, Work::DeadLetters)).then(|| GroupTopics::of(&self.id))
    }

    /// The order under retry that it has where this is decided: a stateful group's is never `none`, since a later record
    /// would see a state that lacks what the one which waits will do to it.
    pub fn order(&self, decided: Order) -> Order {
        match (&self.work, decided) {
            (Work::Stateful(_), Order::None) => Order::Key,
            (Work::Sink(_) | Work::DeadLetters, _) => Order::None,
            (_, decided) => decided,
        }
    }

    /// Why it cannot have the order `key`, where it cannot.
    pub fn unfit_for_key(&self) -> Option<&'static str> {
        self.subscription.all_events.then_some(
            "it reads every topic, and the order `key` needs topics that are known, with one partition count: write order = \"partition\"",
        )
    }

    /// The names of the stores that it keeps under this order, sorted.
    pub fn stores(&self, decided: Order) -> BTreeSet<&'static str> {
        let own = if let Work::Stateful(steps) = &self.work { steps.stores() } else { BTreeSet::new() };
        own.into_iter().chain((self.order(decided) == Order::Key).then_some(WAITING)).collect()
    }

    /// The topics of a group that keeps state which go by number: those that it owns and reads, and those whose records
    /// keep their places. One member has all partitions of a number.
    pub fn co_partitioned(&self, decided: Order, catalogue: &Catalogue) -> Vec<String> {
        if self.stores(decided).is_empty() {
            return Vec::new();
        }
        let inputs: BTreeSet<String> = match &self.work {
            Work::Stateful(steps) => {
                let as_they_stand = steps.iter().filter(|step| step.processor.is_co_partitioned());
                as_they_stand.flat_map(|step| catalogue.sources_of(step.event.name).topics).collect()
            }
            _ => self.subscription.topics.iter().cloned().collect(),
        };
        self.own_topics.iter().cloned().chain(inputs).collect()
    }

    /// Every topic that it reads by name, and every pattern of topics.
    pub fn reads(&self) -> (Vec<String>, Vec<String>) {
        let topics = self.subscription.topics.iter().chain(&self.own_topics).cloned().collect();
        let events = self.subscription.all_events.then(|| ALL_EVENTS.to_owned());
        (topics, events.into_iter().chain(self.own_patterns.iter().cloned()).collect())
    }
}

impl Pipeline {
    /// Registers a processor; its consumer group has its name.
    #[must_use]
    pub fn on<M>(mut self, name: &str, processor: impl IntoProcessor<M>) -> Self {
        match processor.into_processor() {
            Function::Stateless(processor) => self.run(name, Work::Process(processor)),
            stateful @ Function::Stateful(_) => self = self.group(name, Group::new().on_function(name, stateful)),
        }
        self
    }

    /// Registers stateful steps that share one consumer group and, by the same `State::NAME`, one store.
    #[must_use]
    pub fn group(mut self, name: &str, group: Group) -> Self {
        match group.steps() {
            Ok(steps) => self.run(name, Work::Stateful(steps)),
            Err(problems) => self.problems.extend(problems.into_iter().map(|why| format!("group `{name}`: {why}"))),
        }
        self
    }

    /// Has everything of another pipeline too: a program of many pipelines names each of them in one list.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        other.catalogue.types().for_each(|facts| self.know(*facts));
        for (topic, binding) in other.catalogue.bindings() {
            self.problems.extend(self.catalogue.bind(topic, binding.clone()).err());
        }
        // What is wrong with a name has been said where it was registered.
        for (name, work) in other.groups {
            if self.groups.insert(name.clone(), work).is_some() {
                self.problems.push(namesake(&name));
            }
        }
        self.loops.extend(other.loops);
        self.policies.extend(other.policies);
        self.fallbacks.extend(other.fallbacks);
        self.problems.extend(other.problems);
        self
    }

    fn run(&mut self, name: &str, work: Work) {
        match work.interest() {
            Interest::Type(facts) => self.know(facts),
            Interest::Types(types) => types.into_iter().for_each(|facts| self.know(facts)),
            Interest::Name(_) | Interest::Pattern(_) => {}
            Interest::Wrong(why) => self.problems.push(format!("`{name}` {why}")),
        }
        for facts in work.emits() {
            self.know(facts);
        }
        self.register(name, work);
    }

    /// Registers a sink; its consumer group has its name.
    #[must_use]
    pub fn sink(self, name: &str, sink: impl SinkConfig) -> Self {
        self.sink_of_any_kind(name, Arc::new(sink))
    }

    /// The same for a sink whose kind is known where it is configured.
    #[must_use]
    pub fn sink_of_any_kind(mut self, name: &str, sink: Arc<dyn SinkConfig>) -> Self {
        self.problems.extend(sink.problem().map(|why| format!("sink `{name}`: {why}")));
        self.register(name, Work::Sink(sink));
        self
    }

    /// Makes an event type known that no processor here takes or emits.
    #[must_use]
    pub fn event<T: Payload>(mut self) -> Self {
        self.know(EventType::of::<T>());
        self
    }

    /// Reads an existing topic as events of one type.
    #[must_use]
    pub fn bind(mut self, topic: &str, binding: Binding) -> Self {
        self.problems.extend(self.catalogue.bind(topic, binding).err());
        self
    }

    /// Says that this processor may match what it emits itself, and that it ends.
    #[must_use]
    pub fn allow_loop(mut self, name: &str) -> Self {
        self.loops.insert(name.to_owned());
        self
    }

    /// Decides how a processor is delivered to, where that is not the program's default.
    #[must_use]
    pub fn policy(mut self, name: &str, policy: Policy) -> Self {
        self.policies.insert(name.to_owned(), policy);
        self
    }

    /// Has another function process a record while a circuit of the processor `name` is open. It takes the same event,
    /// and what it emits counts as the processor's own.
    #[must_use]
    pub fn fallback<M>(mut self, name: &str, fallback: impl IntoProcessor<M>) -> Self {
        let Function::Stateless(fallback) = fallback.into_processor() else {
            self.problems.push(format!("the fallback of `{name}` keeps state: a fallback keeps none"));
            return self;
        };
        for facts in fallback.emits() {
            self.know(facts);
        }
        self.fallbacks.insert(name.to_owned(), fallback);
        self
    }

    /// What is wrong with the pipeline, a sentence each; empty when it can run.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.problems.clone();
        problems.extend(self.policies.keys().filter_map(|name| self.no_processor("policy", name)));
        problems
            .extend(self.fallbacks.iter().filter_map(|(name, fallback)| self.wrong_fallback(name, fallback.as_ref())));
        problems.extend(self.shared_names());
        problems.extend(self.namesakes());
        for (name, work) in &self.groups {
            match work {
                Work::Process(_) => problems.extend(self.own_loop(name, work)),
                Work::Stateful(_) => {
                    problems.extend(self.own_loop(name, work));
                    problems.extend(self.needless_breaker(name));
                }
                Work::Sink(sink) => {
                    problems
                        .extend(self.catalogue.unknown(sink.event()).map(|why| format!("sink `{name}` takes {why}")));
                }
                Work::DeadLetters => {}
            }
        }
        problems
    }

    fn no_processor(&self, what: &str, name: &str) -> Option<String> {
        let found = self.groups.get(name).is_some_and(Work::is_processor);
        (!found).then(|| format!("a {what} is given for `{name}`, and no processor has that name"))
    }

    fn wrong_fallback(&self, name: &str, fallback: &dyn Processor) -> Option<String> {
        let Some(Work::Process(processor)) = self.groups.get(name) else { return self.no_processor("fallback", name) };
        if fallback.interest() != processor.interest() {
            return Some(format!("the fallback of `{name}` takes another event than the processor"));
        }
        let guarded = self.policies.get(name).is_some_and(|policy| !policy.breakers.is_empty());
        (!guarded).then(|| {
            format!("`{name}` has a fallback, and no circuit breaker that would call for it: add one to its policy")
        })
    }

    fn needless_breaker(&self, name: &str) -> Option<String> {
        let guarded = self.policies.get(name).is_some_and(|policy| !policy.breakers.is_empty());
        guarded.then(|| format!("`{name}` keeps state and calls nothing: take the circuit breaker out of its policy"))
    }

    /// What a step emits has ids made of the step's name: it must be the only one.
    fn namesakes(&self) -> Vec<String> {
        let of_group = |(group, work): &(&String, &Work)| match work {
            Work::Stateful(steps) => steps.iter().map(|step| step.name.to_string()).collect(),
            _ => vec![(*group).clone()],
        };
        let mut names: Vec<String> = self.groups.iter().flat_map(|group| of_group(&group)).collect();
        names.sort();
        let twice: BTreeSet<&String> = names.windows(2).filter(|two| two[0] == two[1]).map(|two| &two[0]).collect();
        twice.into_iter().map(|name| format!("two processors are named `{name}`: give each its own name")).collect()
    }

    /// Everything that a group owns begins with its id and a dot, so no other id may.
    fn shared_names(&self) -> Vec<String> {
        let names = || self.groups.keys().map(String::as_str).chain([DEAD_LETTERS]);
        let within =
            |name: &str| names().find(|other| name.strip_prefix(other).is_some_and(|rest| rest.starts_with('.')));
        let text = |(name, other)| {
            format!(
                "group `{name}` would own topics of group `{other}`: choose a name that does not begin with `{other}.`"
            )
        };
        names().filter_map(|name| within(name).map(|other| (name, other))).map(text).collect()
    }

    /// The event types and bindings.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The groups, by name, under a prefix; the built-in one that keeps dead letters is the last.
    pub fn groups(&self, prefix: &str) -> Vec<ConsumerGroup> {
        let group = |(name, work): (&String, &Work)| {
            let id = format!("{prefix}{name}");
            let topics = GroupTopics::of(&id);
            ConsumerGroup {
                name: name.clone(),
                work: work.clone(),
                subscription: self.subscription(&work.interest()),
                own_topics: own_topics(work, &topics),
                // What a sink cannot write now it waits with: it has nothing to try again later.
                own_patterns: matches!(work, Work::Process(_)).then(|| topics.retries()).into_iter().collect(),
                policy: self.policies.get(name).cloned().unwrap_or_default(),
                fallback: self.fallbacks.get(name).cloned(),
                id,
            }
        };
        let dead_letters = ConsumerGroup {
            name: DEAD_LETTERS.to_owned(),
            id: format!("{prefix}{DEAD_LETTERS}"),
            work: Work::DeadLetters,
            subscription: SourceTopics::default(),
            own_topics: Vec::new(),
            own_patterns: vec![all_dlqs(prefix)],
            policy: Policy::default(),
            fallback: None,
        };
        self.groups.iter().map(group).chain([dead_letters]).collect()
    }

    fn subscription(&self, interest: &Interest) -> SourceTopics {
        match interest {
            Interest::Type(facts) => self.catalogue.sources_of(facts.name),
            Interest::Name(event_type) => self.catalogue.sources_of(event_type),
            Interest::Types(types) => {
                let topics: BTreeSet<String> =
                    types.iter().flat_map(|facts| self.catalogue.sources_of(facts.name).topics).collect();
                SourceTopics { topics: topics.into_iter().collect(), all_events: false }
            }
            Interest::Pattern(pattern) => self.catalogue.sources_matching(pattern),
            Interest::Wrong(_) => SourceTopics::default(),
        }
    }

    fn register(&mut self, name: &str, work: Work) {
        if !is_group_name(name) {
            let rule = "1 to 100 characters of a-z, 0-9, `-`, `_`, `.`, beginning with a letter";
            self.problems.push(format!("`{name}` cannot name a group: use {rule}"));
        }
        if name == "events" || name.starts_with("events.") {
            let why = "its topics would be read as topics of events, `events.*`: choose another name";
            self.problems.push(format!("`{name}` cannot name a group: {why}"));
        }
        if name == DEAD_LETTERS {
            self.problems.push(format!("`{name}` is the built-in group that keeps dead letters: choose another name"));
            return;
        }
        if self.groups.insert(name.to_owned(), work).is_some() {
            self.problems.push(namesake(name));
        }
    }

    fn know(&mut self, facts: EventType) {
        self.problems.extend(self.catalogue.add(facts).err());
    }

    fn own_loop(&self, name: &str, work: &Work) -> Option<String> {
        let interest = work.interest();
        let own = work.emits().into_iter().find(|event| interest.takes(event.name))?;
        (!self.loops.contains(name)).then(|| {
            format!(
                "`{name}` takes `{}`, which it emits: if that ends, say so with `.allow_loop(\"{name}\")`",
                own.name
            )
        })
    }
}

fn namesake(name: &str) -> String {
    format!("two groups are named `{name}`: give each its own name")
}

/// The topics of its own that a group reads, by name.
fn own_topics(work: &Work, topics: &GroupTopics) -> Vec<String> {
    let repartition = match work {
        Work::Stateful(steps) => steps.repartitioned().map(|step| topics.repartition(&step.name)).collect(),
        _ => Vec::new(),
    };
    std::iter::once(topics.redrive()).chain(repartition).collect()
}

#[cfg(test)]
mod tests;
