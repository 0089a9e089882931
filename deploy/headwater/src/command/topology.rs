//! `topology show` and `topology apply`: topics, schemas, migrations and the sinks' tables.

use std::process::ExitCode;

use anyhow::Result;
use headwater::{
    Topology, Work,
    codec::WriterSchema,
    ports::{SchemaError, Schemas as _},
};
use headwater_connectors::{
    kafka::{Change, TopicSpec},
    postgres::{Database, PostgresError},
};

use crate::{
    arguments::TopologyCommand,
    output::Output,
    outside::Outside,
    program::{App, Program},
};

/// Only fields with defaults are added or removed, against every earlier version.
const COMPATIBILITY: &str = "FULL_TRANSITIVE";

pub(crate) async fn run(program: &Program, command: &TopologyCommand) -> Result<ExitCode> {
    let app = program.load(&[])?;
    let TopologyCommand::Apply { dry_run } = command else {
        show(&app)?;
        return Ok(ExitCode::SUCCESS);
    };
    let outcome = apply(&app, &Outside::new(&app)?, *dry_run).await;
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
pub(crate) struct Outcome {
    pub(crate) done: Vec<String>,
    pub(crate) problems: Vec<String>,
}

/// Makes the outside what the pipeline needs. What fails does not keep the rest from being done; running it again
/// changes nothing. Bound topics are somebody else's: neither created nor registered.
pub(crate) async fn apply(app: &App, outside: &Outside, dry_run: bool) -> Outcome {
    let topology = Topology::of(&app.pipeline);
    let mut outcome = Outcome::default();
    topics(app, outside, &topology, dry_run, &mut outcome).await;
    schemas(outside, &topology, dry_run, &mut outcome).await;
    if let Some(database) = &outside.database {
        // A database that does not answer is said once.
        if migrations(database, dry_run, &mut outcome).await {
            tables(app, database, dry_run, &mut outcome).await;
        }
    }
    outcome
}

async fn topics(app: &App, outside: &Outside, topology: &Topology, dry_run: bool, outcome: &mut Outcome) {
    let specs = specs(app, topology);
    let plan = if dry_run { outside.cluster.plan(&specs).await } else { outside.cluster.apply(&specs).await };
    match plan {
        Ok(changes) => {
            for change in changes {
                let text = if change.is_applied() { change.to_string() } else { format!("note: {change}") };
                outcome.done.push(text);
            }
        }
        Err(error) => outcome.problems.push(error.to_string()),
    }
}

fn specs(app: &App, topology: &Topology) -> Vec<TopicSpec> {
    let wanted = app.config.topology;
    let spec = |name: &String| TopicSpec {
        name: name.clone(),
        partitions: wanted.partitions,
        replication: wanted.replication,
        config: vec![
            ("min.insync.replicas".to_owned(), wanted.min_insync_replicas.to_string()),
            ("cleanup.policy".to_owned(), "delete".to_owned()),
        ],
    };
    topology.topics.iter().map(spec).collect()
}

async fn schemas(outside: &Outside, topology: &Topology, dry_run: bool, outcome: &mut Outcome) {
    for subject in &topology.subjects {
        let registered = match outside.registry.id_of(&subject.name, subject.schema).await {
            Ok(_) => continue,
            Err(SchemaError::Unknown(_)) if dry_run => Ok(None),
            // Before the subject's first version, so that none escapes it.
            Err(SchemaError::Unknown(_)) => register(outside, &subject.name, subject.schema).await.map(Some),
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

async fn register(outside: &Outside, subject: &str, schema: &str) -> Result<u32, SchemaError> {
    outside.registry.set_compatibility(subject, COMPATIBILITY).await?;
    outside.registry.register(subject, schema).await
}

/// Whether they are in order.
async fn migrations(database: &Database, dry_run: bool, outcome: &mut Outcome) -> bool {
    let migrations = if dry_run { database.pending_migrations().await } else { database.migrate().await };
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

async fn tables(app: &App, database: &Database, dry_run: bool, outcome: &mut Outcome) {
    for bounded in &app.groups {
        let Work::Sink(sink) = &bounded.group.work else { continue };
        // A type that only a binding names has its table made from the first record's schema.
        let Some(facts) = app.pipeline.catalogue().get(&sink.event) else { continue };
        let sql = match WriterSchema::parse(0, facts.schema, &[]) {
            Ok(schema) if dry_run => database.plan_table(sink, &schema).await,
            Ok(schema) => database.apply_table(sink, &schema).await,
            Err(error) => Err(PostgresError::Config(error.to_string())),
        };
        match sql {
            Ok(sql) => outcome.done.extend(sql.into_iter().map(|sql| format!("table {}: {sql}", sink.table))),
            Err(error) => outcome.problems.push(format!("sink {}: {error}", bounded.group.name)),
        }
    }
}

/// Prints what the pipeline needs and where each group reads.
fn show(app: &App) -> Result<()> {
    let topology = Topology::of(&app.pipeline);
    let mut out = Output::new();
    for spec in specs(app, &topology) {
        out.line(Change::Create(spec).to_string().replacen("create topic", "topic", 1))?;
    }
    for subject in &topology.subjects {
        out.line(format_args!("schema {}: {COMPATIBILITY}", subject.name))?;
    }
    for (topic, binding) in app.pipeline.catalogue().bindings() {
        out.line(format_args!("bound topic {topic}: {}, neither created nor registered", binding.event_type))?;
    }
    for bounded in &app.groups {
        let (group, reads) = (&bounded.group, &bounded.group.subscription);
        let mut topics = reads.topics.clone();
        topics.extend(reads.all_events.then(|| "events.*".to_owned()));
        let to = match &group.work {
            Work::Process(_) => String::new(),
            Work::Sink(sink) => format!(", writes table {}", sink.table),
            Work::DeadLetters => ", writes table headwater.dead_letters".to_owned(),
        };
        out.line(format_args!("group {}: reads {}{to}", group.id, topics.join(", ")))?;
    }
    out.flush()?;
    Ok(())
}
