//! `topology show`, `apply` and `export`: topics, schemas, migrations, the sinks' tables, and who has to be allowed what.

mod graph;

mod acls;

mod dot;
mod mermaid;

use std::{process::ExitCode, time::Duration};

use anyhow::Result;
use headwater::spi::{SchemaError, Schemas as _, Topology, Work, codec::WriterSchema};
use headwater_connectors::{
    kafka::{HEADER_ROOM, TopicChange, TopicSpec},
    postgres::{Database, migrate, pending_migrations},
};

use super::arguments::{ExportArguments, ExportFormat, TopologyCommand, TopologyFormat};
use crate::{
    app::{App, ConfiguredGroup, Loader},
    clients::Clients,
    process::output::Output,
};

use graph::{DEAD_LETTERS_TABLE, Graph};

/// Only fields with defaults are added or removed, against every earlier version.
const COMPATIBILITY: &str = "FULL_TRANSITIVE";
const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// How long a record that waits is kept beyond its delay: so long may a group stand still.
const WAITING_KEPT: Duration = DAY.saturating_mul(7);
/// How long dead letters are kept on their topics; their table keeps them for ever.
const LETTERS_KEPT: Duration = DAY.saturating_mul(365);

pub(crate) async fn run(loader: &Loader, command: &TopologyCommand) -> Result<ExitCode> {
    let app = loader.load(&[])?;
    let dry_run = match command {
        TopologyCommand::Show { format } => {
            show(&app, *format)?;
            return Ok(ExitCode::SUCCESS);
        }
        TopologyCommand::Export(arguments) => {
            export(&app, arguments)?;
            return Ok(ExitCode::SUCCESS);
        }
        TopologyCommand::Apply { dry_run } => *dry_run,
    };
    let outcome = apply(&app, &Clients::new(&app)?, dry_run).await;
    let mut out = Output::new();
    for line in &outcome.done {
        out.line(line)?;
    }
    if outcome.done.is_empty() && outcome.problems.is_empty() {
        out.line("nothing to do")?;
    }
    out.flush()?;
    anyhow::ensure!(outcome.problems.is_empty(), "{}", outcome.problems.join("\n"));
    Ok(ExitCode::SUCCESS)
}

/// What `apply` did, or would do, and what stood in its way; a sentence each.
#[derive(Debug, Default)]
pub(crate) struct ApplyReport {
    pub(crate) done: Vec<String>,
    pub(crate) problems: Vec<String>,
}

/// Makes the outside what the pipeline needs. What fails does not keep the rest from being done; running it again
/// changes nothing. Bound topics are somebody else's: neither created nor registered.
pub(crate) async fn apply(app: &App, clients: &Clients, dry_run: bool) -> ApplyReport {
    let topology = Topology::of(&app.pipeline);
    let mut outcome = ApplyReport::default();
    topics(app, clients, &topology, dry_run, &mut outcome).await;
    schemas(clients, &topology, dry_run, &mut outcome).await;
    // A database that does not answer is said once.
    if migrations(&clients.database, dry_run, &mut outcome).await {
        tables(app, &clients.database, dry_run, &mut outcome).await;
    }
    outcome
}

/// The topics of events first, so that what the groups own follows what they read.
async fn topics(app: &App, clients: &Clients, topology: &Topology, dry_run: bool, outcome: &mut ApplyReport) {
    if create(clients, &event_topics(app, topology), dry_run, outcome).await {
        create(clients, &owned_topics(app), dry_run, outcome).await;
    }
}

/// Whether the cluster has done it, or would.
async fn create(clients: &Clients, specs: &[TopicSpec], dry_run: bool, outcome: &mut ApplyReport) -> bool {
    let plan = if dry_run { clients.cluster.plan(specs).await } else { clients.cluster.apply(specs).await };
    match plan {
        Ok(changes) => {
            for change in changes {
                let text = if change.is_applied() { change.to_string() } else { format!("note: {change}") };
                outcome.done.push(text);
            }
            true
        }
        Err(error) => {
            outcome.problems.push(error.to_string());
            false
        }
    }
}

fn event_topics(app: &App, topology: &Topology) -> Vec<TopicSpec> {
    topology.topics.iter().map(|name| spec(app, name.clone(), [])).collect()
}

/// The topics that the groups own, made for the largest record that is passed on. An input's own limit says little: it counts
/// packed bytes, and what was packed well is packed anew.
fn owned_topics(app: &App) -> Vec<TopicSpec> {
    let size = u64::from(app.config.kafka.max_record_bytes) + u64::from(HEADER_ROOM);
    app.groups.iter().flat_map(|configured| owned_by(app, configured, size)).collect()
}

/// The topics that one group owns, for records of at most `size` bytes.
fn owned_by(app: &App, configured: &ConfiguredGroup, size: u64) -> Vec<TopicSpec> {
    let Some(owned) = configured.group.group_topics() else { return Vec::new() };
    let topic = |name: String, kept: Duration| {
        let settings = [
            // The broker's retention counts from a record's timestamp: that of an old one would delete it at once.
            ("message.timestamp.type", "LogAppendTime".to_owned()),
            ("retention.ms", kept.as_millis().to_string()),
            ("max.message.bytes", size.to_string()),
        ];
        spec(app, name, settings)
    };
    let retries = configured.delays().iter().map(|delay| topic(owned.retry(*delay), delay.get() + WAITING_KEPT));
    let mut topics: Vec<TopicSpec> =
        retries.chain([topic(owned.redrive(), WAITING_KEPT), topic(owned.dlq(), LETTERS_KEPT)]).collect();
    if let Work::Stateful(steps) = &configured.group.work {
        // What stands there is deleted once it is processed, and not before.
        let kept_for_ever = |mut spec: TopicSpec| {
            spec.config.iter_mut().filter(|(name, _)| name == "retention.ms").for_each(|(_, ms)| "-1".clone_into(ms));
            spec
        };
        topics.extend(steps.repartitioned().map(|step| kept_for_ever(topic(owned.repartition(&step.name), DAY))));
    }
    topics.extend(configured.stores().into_iter().map(|store| changelog(app, owned.changelog(store), size)));
    topics
}

/// The topic of a store's changes: it keeps the last of each key.
fn changelog(app: &App, name: String, size: u64) -> TopicSpec {
    let mut spec = spec(app, name, [("max.message.bytes", size.to_string())]);
    spec.config
        .iter_mut()
        .filter(|(name, _)| name == "cleanup.policy")
        .for_each(|(_, policy)| "compact".clone_into(policy));
    spec
}

fn spec(app: &App, name: String, settings: impl IntoIterator<Item = (&'static str, String)>) -> TopicSpec {
    let wanted = app.config.topology;
    let common =
        [("min.insync.replicas", wanted.min_insync_replicas.to_string()), ("cleanup.policy", "delete".to_owned())];
    TopicSpec {
        name,
        partitions: wanted.partitions,
        replication: wanted.replication,
        config: common.into_iter().chain(settings).map(|(name, value)| (name.to_owned(), value)).collect(),
    }
}

async fn schemas(clients: &Clients, topology: &Topology, dry_run: bool, outcome: &mut ApplyReport) {
    for subject in &topology.subjects {
        let registered = match clients.registry.id_of(&subject.name, subject.schema).await {
            Ok(_) => continue,
            Err(SchemaError::Unknown(_)) if dry_run => Ok(None),
            // Before the subject's first version, so that none escapes it.
            Err(SchemaError::Unknown(_)) => register(clients, &subject.name, subject.schema).await.map(Some),
            Err(error) => Err(error),
        };
        match registered {
            Ok(id) => {
                let id = id.map(|id| format!(", id {id}")).unwrap_or_default();
                outcome.done.push(format!("register schema {} ({COMPATIBILITY}){id}", subject.name));
            }
            Err(error) => outcome.problems.push(error.to_string()),
        }
    }
}

async fn register(clients: &Clients, subject: &str, schema: &str) -> Result<u32, SchemaError> {
    clients.registry.set_compatibility(subject, COMPATIBILITY).await?;
    clients.registry.register(subject, schema).await
}

/// Whether they are in order.
async fn migrations(database: &Database, dry_run: bool, outcome: &mut ApplyReport) -> bool {
    let migrations = if dry_run { pending_migrations(database).await } else { migrate(database).await };
    match migrations {
        Ok(migrations) => {
            outcome
                .done
                .extend(migrations.iter().map(|m| format!("migrate database: {} {}", m.version, m.description)));
        }
        Err(error) => {
            outcome.problems.push(error.to_string());
            return false;
        }
    }
    true
}

async fn tables(app: &App, database: &Database, dry_run: bool, outcome: &mut ApplyReport) {
    for configured in &app.groups {
        let Some(sink) = configured.sink() else { continue };
        // A type that only a binding names has its table made from the first record's schema.
        let Some(facts) = app.pipeline.catalogue().get(sink.event()) else { continue };
        let done = match WriterSchema::parse(0, facts.schema, &[]) {
            Ok(schema) => sink.prepare(database, &schema, dry_run).await,
            Err(error) => Err(error.to_string()),
        };
        match done {
            Ok(lines) => outcome.done.extend(lines),
            Err(error) => outcome.problems.push(format!("sink {}: {error}", configured.group.name)),
        }
    }
}

/// Prints what the pipeline needs and where each group reads, or draws it.
fn show(app: &App, format: TopologyFormat) -> Result<()> {
    let mut out = Output::new();
    match format {
        TopologyFormat::Text => list(app, &mut out)?,
        TopologyFormat::Mermaid => drop(out.line(mermaid::draw(&Graph::of(app)))?),
        TopologyFormat::Dot => drop(out.line(dot::draw(&Graph::of(app)))?),
    }
    out.flush()?;
    Ok(())
}

/// Prints what others have to set up.
fn export(app: &App, arguments: &ExportArguments) -> Result<()> {
    let mut out = Output::new();
    match arguments.format {
        ExportFormat::Acls => drop(out.line(acls::list(&acls::of(app, arguments)))?),
    }
    out.flush()?;
    Ok(())
}

fn list(app: &App, out: &mut Output) -> Result<()> {
    let topology = Topology::of(&app.pipeline);
    // How large their records may be is left out: only the cluster knows it.
    let owned = app.groups.iter().flat_map(|configured| owned_by(app, configured, 0));
    for spec in event_topics(app, &topology).into_iter().chain(owned) {
        out.line(TopicChange::Create(spec).to_string().replacen("create topic", "topic", 1))?;
    }
    for subject in &topology.subjects {
        out.line(format_args!("schema {}: {COMPATIBILITY}", subject.name))?;
    }
    for (topic, binding) in app.pipeline.catalogue().bindings() {
        out.line(format_args!("bound topic {topic}: {}, neither created nor registered", binding.event_type))?;
    }
    for configured in &app.groups {
        let (group, reads) = (&configured.group, &configured.group.subscription);
        let mut topics = reads.topics.clone();
        topics.extend(reads.all_events.then(|| "events.*".to_owned()));
        topics.extend(matches!(group.work, Work::DeadLetters).then(|| format!("{}*.dlq", app.config.prefix)));
        let kept = configured.stores().into_iter().collect::<Vec<_>>().join(", ");
        let to = match &group.work {
            Work::Process(_) | Work::Stateful(_) if kept.is_empty() => String::new(),
            Work::Process(_) | Work::Stateful(_) => format!(", keeps {kept}"),
            Work::Sink(_) => configured.sink().map_or_else(String::new, |sink| {
                let (kind, name) = sink.place();
                format!(", writes {kind} {name}")
            }),
            Work::DeadLetters => format!(", writes table {DEAD_LETTERS_TABLE}"),
        };
        out.line(format_args!("group {}: reads {}{to}", group.id, topics.join(", ")))?;
    }
    Ok(())
}
