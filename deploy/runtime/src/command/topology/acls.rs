//! What each principal has to be allowed on the cluster, and nothing else: a permission a line, for a person to read and a script
//! to apply.
//!
//! It knows every request that the program sends to brokers, and the right that each takes (Kafka's documentation, "Operations and
//! resources on protocols"). No line is about the cluster as a whole: an idempotent producer needs the right to write to any topic,
//! and groups and topics are listed as far as they may be described. It asks no server.

use std::collections::{BTreeMap, BTreeSet};

use headwater::spi::{Topology, Work};

use super::graph::outputs;
use crate::{
    app::{App, ConfiguredGroup},
    clients::topic_reader::READERS,
    command::arguments::ExportArguments,
    config::Guarantee,
};

use AclOperation::{Create, Delete, Describe, DescribeConfigs, Read, Write};
use PatternType::{Literal, Prefixed};
use ResourceType::{Group, Topic, TransactionalId};

/// What stands for a group's id in the pattern of its principal.
const GROUP: &str = "{group}";
/// What every topic of events begins with.
const EVENTS: &str = "events.";
const HEADING: &str = "# What each principal needs, and nothing else: resource, name, pattern, operations, principal.";

/// What one principal is allowed.
#[derive(Debug)]
pub(super) struct PrincipalAcls {
    /// Who that is, for a person.
    title: String,
    principal: String,
    allowed: Allowed,
}

/// The operations on each resource.
type Allowed = BTreeMap<ResourcePattern, BTreeSet<AclOperation>>;

/// A resource of this name, or all whose names begin with it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct ResourcePattern {
    resource: ResourceType,
    name: String,
    pattern: PatternType,
}

/// As `kafka-acls.sh` has it in its options.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum ResourceType {
    Topic,
    Group,
    TransactionalId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PatternType {
    Literal,
    Prefixed,
}

/// Those of Kafka's operations that are needed. `Read` and `Write` are listed with the `Describe` that Kafka's own authorizer sees
/// in them, since others do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum AclOperation {
    Read,
    Write,
    Create,
    Delete,
    Describe,
    DescribeConfigs,
}

/// Of every group, of who applies the topology, and of who looks after the groups.
pub(super) fn of(app: &App, arguments: &ExportArguments) -> Vec<PrincipalAcls> {
    let groups = app.groups.iter().map(|configured| PrincipalAcls {
        title: format!("group {}", configured.group.id),
        principal: arguments.principal.replace(GROUP, &configured.group.id),
        allowed: of_group(app, configured),
    });
    let others = [
        PrincipalAcls {
            title: "topology apply, which runs before the groups do".to_owned(),
            principal: arguments.apply_principal.clone(),
            allowed: of_apply(app),
        },
        PrincipalAcls {
            title: "groups, offsets, dlq, state and tail, for who looks after the groups".to_owned(),
            principal: arguments.operator_principal.clone(),
            allowed: of_operator(app),
        },
    ];
    groups.chain(others).collect()
}

/// What a group's members ask for.
fn of_group(app: &App, configured: &ConfiguredGroup) -> Allowed {
    let group = &configured.group;
    let mut allowed = Allowed::new();
    // Joins, commits, and asks who is in it and what it has committed.
    allow(&mut allowed, (Group, &group.id, Literal), [Read, Describe]);
    inputs(app, configured, &mut allowed);
    for topic in outputs(configured).keys() {
        allow(&mut allowed, (Topic, topic, Literal), [Write, Describe]);
    }
    let Some(owned) = group.group_topics() else { return allowed };
    let own = format!("{}.", group.id);
    allow(&mut allowed, (Topic, &own, Prefixed), [Read, Write, Describe]);
    if let Work::Stateful(steps) = &group.work {
        for step in steps.repartitioned() {
            // What was processed is deleted there.
            allow(&mut allowed, (Topic, &owned.repartition(&step.name), Literal), [Delete]);
        }
    }
    for store in configured.stores() {
        // How long the changelog keeps tombstones says whether the state on the disk can follow it.
        allow(&mut allowed, (Topic, &owned.changelog(store), Literal), [DescribeConfigs]);
    }
    if group.work.is_processor() && configured.guarantee == Guarantee::ExactlyOnce {
        allow(&mut allowed, (TransactionalId, &own, Prefixed), [Write, Describe]);
    }
    allowed
}

/// The topics that a group reads and does not own.
fn inputs(app: &App, configured: &ConfiguredGroup, allowed: &mut Allowed) {
    let group = &configured.group;
    for topic in &group.subscription.topics {
        allow(allowed, (Topic, topic, Literal), [Read, Describe]);
    }
    if group.subscription.all_events {
        allow(allowed, (Topic, EVENTS, Prefixed), [Read, Describe]);
    }
    if matches!(group.work, Work::DeadLetters) {
        // An ACL has no pattern for how a name ends.
        for owned in app.groups.iter().filter_map(|other| other.group.group_topics()) {
            allow(allowed, (Topic, &owned.dlq(), Literal), [Read, Describe]);
        }
    }
}

/// What is asked for by who makes topics and compares those that there are.
fn of_apply(app: &App) -> Allowed {
    let mut allowed = Allowed::new();
    let made = [Create, Describe, DescribeConfigs];
    for topic in Topology::of(&app.pipeline).topics {
        allow(&mut allowed, (Topic, &topic, Literal), made);
    }
    for configured in app.groups.iter().filter(|configured| configured.group.group_topics().is_some()) {
        allow(&mut allowed, (Topic, &format!("{}.", configured.group.id), Prefixed), made);
    }
    allowed
}

/// What is asked for by who looks after groups, moves those that are stopped, and sends dead letters again.
fn of_operator(app: &App) -> Allowed {
    let mut allowed = Allowed::new();
    // Kafka has a group of every consumer, whether it joins one or not.
    allow(&mut allowed, (Group, READERS, Prefixed), [Read, Describe]);
    for topic in Topology::of(&app.pipeline).topics {
        allow(&mut allowed, (Topic, &topic, Literal), [Read, Describe]);
    }
    for configured in &app.groups {
        let group = &configured.group;
        allow(&mut allowed, (Group, &group.id, Literal), [Read, Describe]);
        let Some(owned) = group.group_topics() else { continue };
        inputs(app, configured, &mut allowed);
        allow(&mut allowed, (Topic, &format!("{}.", group.id), Prefixed), [Read, Describe]);
        allow(&mut allowed, (Topic, &owned.redrive(), Literal), [Write]);
        for store in configured.stores() {
            // `offsets reset --with-state` wipes it in one transaction.
            allow(&mut allowed, (Topic, &owned.changelog(store), Literal), [Write]);
            allow(&mut allowed, (TransactionalId, &format!("{}.reset", group.id), Literal), [Write, Describe]);
        }
    }
    allowed
}

fn allow(
    allowed: &mut Allowed,
    (resource, name, pattern): (ResourceType, &str, PatternType),
    operations: impl IntoIterator<Item = AclOperation>,
) {
    let of = ResourcePattern { resource, name: name.to_owned(), pattern };
    allowed.entry(of).or_default().extend(operations);
}

/// The listing: five columns, of which the last may hold blanks, as names of certificates do.
pub(super) fn list(all: &[PrincipalAcls]) -> String {
    let row = |(of, operations): (&ResourcePattern, &BTreeSet<AclOperation>)| {
        let operations: Vec<&str> = operations.iter().map(|operation| operation.name()).collect();
        [of.resource.name().to_owned(), of.name.clone(), of.pattern.name().to_owned(), operations.join(",")]
    };
    let rows = || all.iter().flat_map(|acls| acls.allowed.iter().map(row));
    let widths = rows().fold([0; 4], |mut widths: [usize; 4], row| {
        widths.iter_mut().zip(&row).for_each(|(width, text)| *width = (*width).max(text.len()));
        widths
    });
    let mut lines = vec![HEADING.to_owned()];
    for acls in all {
        lines.extend([String::new(), format!("# {}", acls.title)]);
        for row in acls.allowed.iter().map(row) {
            let columns = row.iter().zip(widths).map(|(text, width)| format!("{text:width$}  "));
            lines.push(columns.chain([acls.principal.clone()]).collect());
        }
    }
    lines.join("\n")
}

impl ResourceType {
    const fn name(self) -> &'static str {
        match self {
            Topic => "topic",
            Group => "group",
            TransactionalId => "transactional-id",
        }
    }
}

impl PatternType {
    const fn name(self) -> &'static str {
        match self {
            Literal => "literal",
            Prefixed => "prefixed",
        }
    }
}

impl AclOperation {
    const fn name(self) -> &'static str {
        match self {
            Read => "Read",
            Write => "Write",
            Create => "Create",
            Delete => "Delete",
            Describe => "Describe",
            DescribeConfigs => "DescribeConfigs",
        }
    }
}

#[cfg(test)]
mod tests;
