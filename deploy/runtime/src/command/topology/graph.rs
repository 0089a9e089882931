//! The topology as a graph, to be drawn: what flows from which topic through which group to where.
//!
//! A group and the topics that it owns stand in a box, where a topic's name is what follows the group's: the picture then
//! has one way in and one way out for each group, however many topics it owns.

use std::collections::BTreeMap;

use headwater::spi::{Catalogue, Interest, Topology, Work, topic_of};

use crate::app::{App, ConfiguredGroup};

/// Where the built-in group keeps dead letters.
pub(super) const DEAD_LETTERS_TABLE: &str = "headwater.dead_letters";
/// What stands for every topic of events, those to come included.
const ALL_EVENTS: &str = "events.*";

/// Nodes, the boxes around them and the edges between them, each in the order in which it is drawn.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    /// Their titles: the groups' ids.
    pub(super) boxes: Vec<String>,
    pub(super) edges: Vec<Edge>,
}

/// Something that has a name.
#[derive(Debug)]
pub(super) struct Node {
    pub(super) kind: NodeKind,
    /// Its name, or several that stand under each other.
    pub(super) lines: Vec<String>,
    /// The box that it stands in, counted from 0.
    pub(super) within: Option<usize>,
}

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeKind {
    Topic,
    /// A processor, or a sink.
    Group,
    /// What a sink writes to: a table, a file.
    Store,
}

/// A way from one node to another, both counted from 0.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) way: EdgeKind,
    /// The event types that go this way, under each other.
    pub(super) lines: Vec<String>,
}

/// What goes a way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum EdgeKind {
    /// Events, or rows.
    Events,
    /// Records that wait, there and back.
    Waiting,
    /// Dead letters.
    Letters,
}

impl Graph {
    /// The whole topology of a program.
    pub(super) fn of(app: &App) -> Self {
        let mut graph = Self::default();
        let mut topics = BTreeMap::new();
        for topic in Topology::of(&app.pipeline).topics {
            graph.topic(&mut topics, &topic);
        }
        let mut dlqs = Vec::new();
        for configured in &app.groups {
            graph.group(&mut topics, app.pipeline.catalogue(), configured, &mut dlqs);
        }
        graph
    }

    /// A group with what it reads, owns and writes. The one that keeps dead letters is the last, and reads all `dlqs`.
    fn group(
        &mut self,
        topics: &mut BTreeMap<String, usize>,
        catalogue: &Catalogue,
        configured: &ConfiguredGroup,
        dlqs: &mut Vec<usize>,
    ) {
        let group = &configured.group;
        let within = self.boxes.len();
        self.boxes.push(group.id.clone());
        let name = match group.work {
            Work::Process(_) => "processor",
            Work::Stateful(_) => "stateful processor",
            Work::Sink(_) | Work::DeadLetters => "sink",
        };
        let node = self.node(NodeKind::Group, vec![name.to_owned()], Some(within));
        for (topic, types) in inputs(configured, catalogue) {
            let topic = self.topic(topics, &topic);
            self.edge(topic, node, EdgeKind::Events, types);
        }
        dlqs.extend(self.owned(configured, node, within));
        match &group.work {
            Work::Process(_) | Work::Stateful(_) => {
                for (topic, types) in outputs(configured) {
                    let topic = self.topic(topics, &topic);
                    self.edge(node, topic, EdgeKind::Events, types);
                }
            }
            Work::Sink(_) => configured.sink().into_iter().for_each(|sink| self.store(node, &sink.place().1)),
            Work::DeadLetters => {
                for dlq in dlqs.drain(..) {
                    self.edge(dlq, node, EdgeKind::Letters, Vec::new());
                }
                self.store(node, DEAD_LETTERS_TABLE);
            }
        }
    }

    /// The topics that a group owns: one node for those that it reads again, one for its dead letters, which is returned.
    fn owned(&mut self, configured: &ConfiguredGroup, node: usize, within: usize) -> Option<usize> {
        let owned = configured.group.group_topics()?;
        let suffix = |name: String| name.strip_prefix(&configured.group.id).unwrap_or(&name).to_owned();
        let delays = configured.delays().iter().map(|delay| owned.retry(*delay));
        let mut again: Vec<String> = delays.chain([owned.redrive()]).collect();
        if let Work::Stateful(steps) = &configured.group.work {
            again.extend(steps.repartitioned().map(|step| owned.repartition(&step.name)));
        }
        let changelogs: Vec<String> =
            configured.stores().into_iter().map(|store| suffix(owned.changelog(store))).collect();
        if !changelogs.is_empty() {
            let changelogs = self.node(NodeKind::Topic, changelogs, Some(within));
            self.edge(node, changelogs, EdgeKind::Waiting, Vec::new());
        }
        let again = again.into_iter().map(suffix).collect();
        let again = self.node(NodeKind::Topic, again, Some(within));
        let dlq = self.node(NodeKind::Topic, vec![suffix(owned.dlq())], Some(within));
        self.edge(node, again, EdgeKind::Waiting, Vec::new());
        self.edge(node, dlq, EdgeKind::Letters, Vec::new());
        Some(dlq)
    }

    fn topic(&mut self, topics: &mut BTreeMap<String, usize>, name: &str) -> usize {
        *topics.entry(name.to_owned()).or_insert_with(|| self.node(NodeKind::Topic, vec![name.to_owned()], None))
    }

    fn store(&mut self, from: usize, name: &str) {
        let store = self.node(NodeKind::Store, vec![name.to_owned()], None);
        self.edge(from, store, EdgeKind::Events, Vec::new());
    }

    fn node(&mut self, kind: NodeKind, lines: Vec<String>, within: Option<usize>) -> usize {
        self.nodes.push(Node { kind, lines, within });
        self.nodes.len() - 1
    }

    fn edge(&mut self, from: usize, to: usize, way: EdgeKind, lines: Vec<String>) {
        self.edges.push(Edge { from, to, way, lines });
    }
}

/// The topics of events that a group reads, with the types that it takes from each: what is known of a pattern's types, and
/// the pattern itself where it may match others.
fn inputs(configured: &ConfiguredGroup, catalogue: &Catalogue) -> BTreeMap<String, Vec<String>> {
    let subscription = &configured.group.subscription;
    let interest = configured.group.work.interest();
    let mut inputs: BTreeMap<String, Vec<String>> =
        subscription.topics.iter().map(|t| (t.clone(), Vec::new())).collect();
    for facts in catalogue.types().filter(|facts| interest.takes(facts.name)) {
        inputs.entry(topic_of(facts.name)).or_default().push(facts.name.to_owned());
    }
    for (topic, binding) in catalogue.bindings() {
        if let Some(types) = inputs.get_mut(topic) {
            types.push(binding.event_type.clone());
        }
    }
    if let Interest::Pattern(pattern) = interest {
        let open = pattern.domain().map_or_else(|| ALL_EVENTS.to_owned(), |domain| format!("events.{domain}"));
        inputs.entry(open).or_default().push(pattern.to_string());
    }
    inputs
}

/// The topics that a processor may emit to, with the types.
pub(super) fn outputs(configured: &ConfiguredGroup) -> BTreeMap<String, Vec<String>> {
    let fallback = configured.group.fallback.iter().flat_map(|fallback| fallback.emits());
    let emits = configured.group.work.emits().into_iter().chain(fallback);
    let mut outputs: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for facts in emits {
        let types = outputs.entry(topic_of(facts.name)).or_default();
        if !types.iter().any(|name| name == facts.name) {
            types.push(facts.name.to_owned());
        }
    }
    outputs
}

#[cfg(test)]
pub(crate) mod tests;
