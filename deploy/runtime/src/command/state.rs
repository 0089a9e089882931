//! `state get`, `state list` and `state stats`: keyed state, as the instances that have it answer.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::{Value as Json, json};

use super::{
    arguments::{StateCommand, StateGetArguments, StateListArguments, StateStatsArguments},
    dlq::text::{WIDE, note, plain},
};
use crate::{
    app::Loader,
    clients::Clients,
    config::Problems,
    process::{
        output::Output,
        table::{Table, thousands},
    },
    state::{Entry, Hop, KeyAnswer, ListQuery, StateError, StateReader, Store},
};

pub(crate) async fn run(loader: &Loader, command: &StateCommand) -> Result<ExitCode> {
    let app = loader.load(&[])?;
    let clients = Clients::new(&app)?;
    let reading = StateReader::new(&app, &clients, None)?;
    match command {
        StateCommand::Get(arguments) => get(&reading, arguments).await?,
        StateCommand::List(arguments) => list(&reading, arguments).await?,
        StateCommand::Stats(arguments) => stats(&reading, arguments).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What is wrong with the arguments.
fn usage(refusal: StateError) -> Problems {
    Problems::one(refusal.to_string())
}

async fn get(reading: &StateReader, arguments: &StateGetArguments) -> Result<()> {
    let store = reading.known().store(&arguments.group, &arguments.store).map_err(usage)?;
    let entries = reading.find(store, &arguments.key, Hop::First).await?;
    let mut out = Output::new();
    if arguments.json {
        entries.into_iter().try_for_each(|entry| out.line(as_json(store, entry)?).map(drop))?;
    } else {
        let mut table = Table::new(&["KEY", ">PARTITION", "OWNER", ">VERSION", "VALUE"]);
        for entry in entries {
            let version = entry.version.to_string();
            let [key, partition, owner, value] = cells(&entry, usize::MAX);
            table.row(vec![key, partition, owner, version, value]);
        }
        table.lines().try_for_each(|line| out.line(line).map(drop))?;
    }
    out.flush()?;
    Ok(())
}

async fn list(reading: &StateReader, arguments: &StateListArguments) -> Result<()> {
    let store = reading.known().store(&arguments.group, &arguments.store).map_err(usage)?;
    let asked = ListQuery::new(arguments.prefix.clone(), Some(arguments.limit)).map_err(usage)?;
    let entries = reading.list(store, &asked, Hop::First).await?;
    let (count, mut out) = (entries.len(), Output::new());
    if arguments.json {
        entries.into_iter().try_for_each(|entry| out.line(as_json(store, entry)?).map(drop))?;
    } else if entries.is_empty() {
        note("no such keys");
    } else {
        let mut table = Table::new(&["KEY", ">PARTITION", "OWNER", "VALUE"]);
        entries.iter().for_each(|entry| table.row(cells(entry, WIDE).into()));
        table.lines().try_for_each(|line| out.line(line).map(drop))?;
    }
    if count == asked.limit {
        note(format_args!("there may be more than {}: --limit and --prefix show others", thousands(count as u64)));
    }
    out.flush()?;
    Ok(())
}

/// Key, partition, owner and value, the value no longer than the limit.
fn cells(entry: &Entry, limit: usize) -> [String; 4] {
    let value = plain(&entry.value.to_string(), limit);
    [plain(&entry.key, usize::MAX), entry.partition.to_string(), entry.owner.clone(), value]
}

fn as_json(store: &Store, entry: Entry) -> Result<Json> {
    let found = KeyAnswer { group: store.group.clone(), store: store.name.to_owned(), entry };
    Ok(serde_json::to_value(found)?)
}

async fn stats(reading: &StateReader, arguments: &StateStatsArguments) -> Result<()> {
    let groups = match &arguments.group {
        Some(name) => vec![reading.known().group(name).map_err(usage)?.to_owned()],
        None => reading.known().ids(),
    };
    let mut lines: Vec<Json> = Vec::new();
    for group in &groups {
        for of in reading.stats_of(group).await? {
            for store in of.groups.iter().flat_map(|group| &group.stores) {
                for partition in &store.partitions {
                    let mut line = json!({"group": group, "store": store.store, "owner": of.instance});
                    if let (Json::Object(line), Json::Object(more)) = (&mut line, serde_json::to_value(partition)?) {
                        line.extend(more);
                    }
                    lines.push(line);
                }
            }
        }
    }
    lines.sort_by_key(|line| {
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        (text("group"), text("store"), line["partition"].as_i64())
    });
    print(&lines, arguments.json)
}

fn print(lines: &[Json], as_json: bool) -> Result<()> {
    let mut out = Output::new();
    if as_json {
        lines.iter().try_for_each(|line| out.line(line).map(drop))?;
    } else if lines.is_empty() {
        note("no instance keeps state now");
    } else {
        let titles = [
            "GROUP",
            "STORE",
            ">PARTITION",
            "OWNER",
            ">KEYS (ABOUT)",
            ">DISK BYTES",
            ">CACHED",
            ">CACHED BYTES",
            ">WAITING",
        ];
        let mut table = Table::new(&titles);
        for line in lines {
            let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            let number = |name: &str| thousands(line[name].as_u64().unwrap_or_default());
            let numbers = ["keys_approx", "disk_bytes", "cached", "cached_bytes", "dirty"].map(number);
            let mut cells = vec![text("group"), text("store"), line["partition"].to_string(), text("owner")];
            cells.extend(numbers);
            table.row(cells);
        }
        table.lines().try_for_each(|line| out.line(line).map(drop))?;
    }
    out.flush()?;
    Ok(())
}
