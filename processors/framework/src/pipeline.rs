//! The pipeline: every processor and sink of a program, registered in one list.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use crate::{
    catalogue::{Binding, Catalogue, Subscription},
    payload::{EventType, Payload},
    processor::{Interest, IntoProcessor, Processor},
    sink::Sink,
};

/// Every processor and sink of a program.
///
/// Mistakes are gathered, not thrown: [`Pipeline::problems`] names them all at once.
#[derive(Clone, Debug, Default)]
pub struct Pipeline {
    groups: BTreeMap<String, Work>,
    catalogue: Catalogue,
    loops: BTreeSet<String>,
    problems: Vec<String>,
}

/// What a consumer group does with its records.
#[derive(Clone, Debug)]
pub enum Work {
    /// Runs a processor.
    Process(Arc<dyn Processor>),
    /// Writes them to a table.
    Sink(Sink),
}

impl Work {
    /// What it subscribes to.
    pub(crate) fn interest(&self) -> Interest {
        match self {
            Self::Process(processor) => processor.interest(),
            Self::Sink(sink) => Interest::Name(sink.event.clone()),
        }
    }
}

/// A consumer group of the pipeline.
#[derive(Clone, Debug)]
pub struct Group {
    /// The name it was registered under.
    pub name: String,
    /// Its consumer group: the name under the configured prefix.
    pub id: String,
    /// What it does.
    pub work: Work,
    /// The topics that it reads.
    pub subscription: Subscription,
}

impl Pipeline {
    /// Registers a processor; its consumer group has its name.
    #[must_use]
    pub fn on<M>(mut self, name: &str, processor: impl IntoProcessor<M>) -> Self {
        let processor = processor.into_processor();
        match processor.interest() {
            Interest::Type(facts) => self.know(facts),
            Interest::Name(_) | Interest::Pattern(_) => {}
            Interest::Wrong(why) => self.problems.push(format!("`{name}` {why}")),
        }
        for facts in processor.emits() {
            self.know(facts);
        }
        self.register(name, Work::Process(processor));
        self
    }

    /// Registers a sink; its consumer group has its name.
    #[must_use]
    pub fn sink(mut self, name: &str, sink: Sink) -> Self {
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

    /// What is wrong with the pipeline, a sentence each; empty when it can run.
    pub fn problems(&self) -> Vec<String> {
        let mut problems = self.problems.clone();
        for (name, work) in &self.groups {
            match work {
                Work::Process(processor) => problems.extend(self.own_loop(name, processor.as_ref())),
                Work::Sink(sink) => problems.extend(self.unknown_event(name, sink)),
            }
        }
        problems
    }

    /// The event types and bindings.
    pub fn catalogue(&self) -> &Catalogue {
        &self.catalogue
    }

    /// The groups, by name, under a prefix.
    pub fn groups(&self, prefix: &str) -> Vec<Group> {
        let group = |(name, work): (&String, &Work)| Group {
            name: name.clone(),
            id: format!("{prefix}{name}"),
            work: work.clone(),
            subscription: self.subscription(&work.interest()),
        };
        self.groups.iter().map(group).collect()
    }

    fn subscription(&self, interest: &Interest) -> Subscription {
        match interest {
            Interest::Type(facts) => self.catalogue.sources_of(facts.name),
            Interest::Name(event_type) => self.catalogue.sources_of(event_type),
            Interest::Pattern(pattern) => self.catalogue.sources_matching(pattern),
            Interest::Wrong(_) => Subscription::default(),
        }
    }

    fn register(&mut self, name: &str, work: Work) {
        if !is_group_name(name) {
            let rule = "1 to 100 characters of a-z, 0-9, `-`, `_`, `.`, beginning with a letter";
            self.problems.push(format!("`{name}` cannot name a group: use {rule}"));
        }
        if self.groups.insert(name.to_owned(), work).is_some() {
            self.problems.push(format!("two groups are named `{name}`: give each its own name"));
        }
    }

    fn know(&mut self, facts: EventType) {
        self.problems.extend(self.catalogue.add(facts).err());
    }

    fn own_loop(&self, name: &str, processor: &dyn Processor) -> Option<String> {
        let interest = processor.interest();
        let own = processor.emits().into_iter().find(|event| interest.takes(event.name))?;
        (!self.loops.contains(name)).then(|| {
            format!(
                "`{name}` takes `{}`, which it emits: if that ends, say so with `.allow_loop(\"{name}\")`",
                own.name
            )
        })
    }

    fn unknown_event(&self, name: &str, sink: &Sink) -> Option<String> {
        let bound = self.catalogue.bindings().any(|(_, binding)| binding.event_type == sink.event);
        (self.catalogue.get(&sink.event).is_none() && !bound).then(|| {
            let known: Vec<_> = self.catalogue.types().map(|t| t.name).collect();
            format!(
                "sink `{name}` takes `{}`, which no processor names and no topic is bound to; known are {}",
                sink.event,
                known.join(", ")
            )
        })
    }
}

fn is_group_name(name: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.');
    (1..=100).contains(&name.len()) && name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(word)
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;
    use crate::{event::Event, failure::Result, input::Any, processor::matching};

    #[derive(Serialize, Deserialize)]
    struct Ping {
        id: String,
    }

    impl Payload for Ping {
        const TYPE: &'static str = "net.ping";
        const SCHEMA: &'static str =
            r#"{"type":"record","name":"Ping","namespace":"headwater.net","fields":[{"name":"id","type":"string"}]}"#;

        fn key(&self) -> &str {
            &self.id
        }
    }

    async fn echo(ping: Ping) -> Result<Ping> {
        Ok(ping)
    }

    async fn audit(_: Event<Any>) -> Result<()> {
        Ok(())
    }

    /// Red when a problem stops the search for others, or one of these checks is dropped.
    #[test]
    fn every_mistake_is_named_at_once() {
        let pipeline = Pipeline::default()
            .on("echo", echo)
            .on("Audit", matching("net.*", audit))
            .on("any", audit)
            .on("typed", matching("net.*", echo))
            .sink("table", Sink::of::<Ping>("pings"))
            .sink("table", Sink { event: "net.pong".to_owned(), ..Sink::of::<Ping>("pongs").key("id") });
        let problems = pipeline.problems().join("\n");
        for part in [
            "`echo` takes `net.ping`",
            "`Audit` cannot",
            "`any` takes any",
            "`typed` takes one",
            "needs `key`",
            "two groups",
            "`net.pong`",
        ] {
            assert!(problems.contains(part), "{part} is missing in:\n{problems}");
        }
    }

    /// Red when a processor that matches its own output is accepted, or the permission has no effect.
    #[test]
    fn a_loop_is_refused_unless_it_is_allowed() {
        let pipeline = Pipeline::default().on("echo", echo);
        assert_eq!(pipeline.problems().len(), 1);
        assert_eq!(pipeline.allow_loop("echo").problems(), Vec::<String>::new());
    }

    /// Red when the prefix is not put before the group, or a pattern without a domain reads single topics.
    #[test]
    fn groups_have_their_names_under_the_prefix() {
        let groups = Pipeline::default().on("audit", matching("*", audit)).groups("shop.");
        assert_eq!((groups[0].name.as_str(), groups[0].id.as_str()), ("audit", "shop.audit"));
        assert!(groups[0].subscription.all_events);
    }
}
