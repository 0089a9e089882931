//! Finds every problem at once: each setting is tried alone over the defaults, and only what passes is merged.

use std::collections::BTreeMap;

use toml::{Table, Value};

use super::{
    address::is_address,
    problems::Problems,
    section::AddedSection,
    show,
    tree::{Config, FreeSection},
};

/// One setting of a layer.
#[derive(Clone)]
pub(super) struct Leaf {
    path: Vec<String>,
    /// What it may mean, likeliest first: a variable's `8` is a number or a text.
    readings: Vec<Value>,
    /// The file or variable that says it.
    from: String,
}

impl Leaf {
    pub(super) fn value(path: Vec<String>, value: Value, from: String) -> Self {
        Self { path, readings: vec![value], from }
    }

    /// From text that carries no type.
    pub(super) fn text(path: Vec<String>, text: &str, from: String) -> Self {
        // A librdkafka property is text, whatever it looks like.
        let may_be_typed = !(path.len() == 3 && path[0] == "kafka" && path[1] == "properties");
        let typed = typed(text).filter(|_| may_be_typed);
        let readings = typed.into_iter().chain([Value::String(text.to_owned())]).collect();
        Self { path, readings, from }
    }
}

/// The typed tree of all settings that passed, the table that it was read from, and what did not pass.
pub(crate) struct ResolvedConfig {
    pub(crate) config: Config,
    pub(crate) tree: Table,
    pub(crate) problems: Vec<String>,
}

/// Merges what can be merged. The error is about the compiled-in defaults only.
pub(super) fn resolve(
    defaults: Table,
    leaves: Vec<Leaf>,
    mut problems: Vec<String>,
    sections: &[AddedSection],
) -> Result<ResolvedConfig, Problems> {
    let defaults = normalised(&mut Vec::new(), defaults)?;
    let mut merged = defaults.clone();
    for leaf in composed(leaves) {
        match leaf.fit(&defaults, sections) {
            Ok(value) => put(&mut merged, &leaf.path, value),
            Err(why) => problems.push(format!("{} ({}): {why}", leaf.path.join("."), leaf.from)),
        }
    }
    // What passed alone passes together: settings meet in `later` only.
    let config = read(merged.clone(), sections).map_err(|error| Problems::one(error.message()))?;
    problems.extend(later(&config));
    let of = |section: &AddedSection| section.problems(config.sections.0.get(section.name)?.clone()).ok();
    problems.extend(sections.iter().filter_map(of).flatten());
    Ok(ResolvedConfig { config, tree: merged, problems })
}

/// The parts of a binding or a sink, which come from any layer, as one setting; everything else as it is.
fn composed(leaves: Vec<Leaf>) -> Vec<Leaf> {
    let (parts, mut leaves): (Vec<Leaf>, Vec<Leaf>) =
        leaves.into_iter().partition(|leaf| leaf.path.len() >= 2 && is_whole(&leaf.path[..2]));
    let mut wholes: BTreeMap<Vec<String>, (Table, String)> = BTreeMap::new();
    for part in parts {
        let (table, from) = wholes.entry(part.path[..2].to_vec()).or_default();
        let value = part.readings.into_iter().next().unwrap_or_else(|| Value::String(String::new()));
        match (&part.path[2..], value) {
            ([], Value::Table(value)) => table.extend(value),
            ([], value) => leaves.push(Leaf::value(part.path, value, part.from.clone())),
            (rest, value) => put(table, rest, value),
        }
        *from = part.from;
    }
    leaves.extend(wholes.into_iter().map(|(path, (table, from))| Leaf::value(path, Value::Table(table), from)));
    leaves
}

/// Whether a table at this path is one setting: a binding or a sink, which makes sense as a whole only.
pub(super) fn is_whole(path: &[String]) -> bool {
    path.len() == 2 && matches!(path[0].as_str(), "topics" | "sinks")
}

impl Leaf {
    /// The reading that the tree takes.
    fn fit(&self, defaults: &Table, sections: &[AddedSection]) -> Result<Value, String> {
        let mut why = None;
        for reading in &self.readings {
            let tried = normal(&self.path, reading.clone()).and_then(|value| {
                let mut tree = defaults.clone();
                put(&mut tree, &self.path, value.clone());
                read(tree, sections).map(|_| value).map_err(|error| self.explain(error.message(), defaults, sections))
            });
            match tried {
                Ok(value) => return Ok(value),
                // The first reading's reason is about the type that the text looks like; the last one's fits best.
                Err(reason) => why = Some(reason),
            }
        }
        Err(why.unwrap_or_default())
    }

    fn explain(&self, message: &str, defaults: &Table, sections: &[AddedSection]) -> String {
        if message.contains("unknown field") {
            // The reader of the whole tree has not seen the program's own sections.
            let is_section = !defaults.contains_key(&self.path[0]);
            return unknown(message, if is_section { sections } else { &[] });
        }
        if show::is_secret(&self.path) {
            return "not a value that this setting can have".to_owned();
        }
        message.lines().next().unwrap_or_default().to_owned()
    }
}

/// "unknown field `bootstap`, expected one of `bootstrap`, …" as a sentence with the nearest known name.
fn unknown(message: &str, sections: &[AddedSection]) -> String {
    let mut names = message.split('`').skip(1).step_by(2);
    let wrong = names.next().unwrap_or_default();
    let known: Vec<&str> = names.chain(sections.iter().map(|section| section.name)).collect();
    match nearest(wrong, &known) {
        Some(near) => format!("there is no setting `{wrong}`; did you mean `{near}`?"),
        None => format!("there is no setting `{wrong}`; known here are {}", known.join(", ")),
    }
}

/// Text as the TOML value that it is, if it is one.
pub(super) fn typed(text: &str) -> Option<Value> {
    format!("value = {text}").parse::<Table>().ok().filter(|table| table.len() == 1)?.remove("value")
}

/// The known name that a wrong one was probably meant to be.
pub fn nearest<'a>(wrong: &str, known: &[&'a str]) -> Option<&'a str> {
    let by_distance = known.iter().map(|name| (distance(wrong, name), *name));
    by_distance.min().filter(|(distance, name)| *distance <= 1 + name.len() / 4).map(|(_, name)| name)
}

/// How many characters have to be added, removed or replaced (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, from) in a.chars().enumerate() {
        let mut before = row[0];
        row[0] = i + 1;
        for (j, to) in b.iter().enumerate() {
            let replaced = before + usize::from(from != *to);
            before = row[j + 1];
            row[j + 1] = replaced.min(before + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

fn read(mut tree: Table, sections: &[AddedSection]) -> Result<Config, toml::de::Error> {
    let mut own = Table::new();
    for section in sections {
        if let Some(value) = tree.remove(section.name) {
            section.problems(value.clone())?;
            own.insert(section.name.to_owned(), value);
        }
    }
    let config: Config = Value::Table(tree).try_into()?;
    Ok(Config { sections: FreeSection(own), ..config })
}

/// Puts a value into a tree; a table is laid over what is there.
fn put(tree: &mut Table, path: &[String], value: Value) {
    let [first, rest @ ..] = path else { return };
    if rest.is_empty() {
        match (tree.get_mut(first), value) {
            (Some(Value::Table(below)), Value::Table(value)) => {
                value.into_iter().for_each(|(key, value)| put(below, &[key], value));
            }
            (_, value) => drop(tree.insert(first.clone(), value)),
        }
        return;
    }
    let below = tree.entry(first.clone()).or_insert_with(|| Value::Table(Table::new()));
    if !below.is_table() {
        *below = Value::Table(Table::new());
    }
    if let Value::Table(below) = below {
        put(below, rest, value);
    }
}

/// What the connectors' types take: a size as a number of bytes, a librdkafka property as text.
fn normal(path: &[String], value: Value) -> Result<Value, String> {
    let name = path.last().map_or("", String::as_str);
    match (path, value) {
        ([kafka, properties, _], value @ (Value::Integer(_) | Value::Float(_) | Value::Boolean(_)))
            if kafka == "kafka" && properties == "properties" =>
        {
            Ok(Value::String(value.to_string()))
        }
        (_, Value::String(text)) if name.ends_with("_bytes") => bytes(&text).map(Value::Integer),
        (_, value) => Ok(value),
    }
}

fn normalised(path: &mut Vec<String>, tree: Table) -> Result<Table, Problems> {
    let mut out = Table::new();
    for (key, value) in tree {
        path.push(key.clone());
        let value = match value {
            Value::Table(below) => Value::Table(normalised(path, below)?),
            value => normal(path, value).map_err(Problems::one)?,
        };
        path.pop();
        out.insert(key, value);
    }
    Ok(out)
}

/// A size such as `16MiB` in bytes.
fn bytes(text: &str) -> Result<i64, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let factor: i64 = match unit.trim() {
        "" | "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        "kB" | "KB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => 0,
    };
    let size = number.parse::<i64>().ok().and_then(|number| number.checked_mul(factor));
    size.filter(|_| factor > 0).ok_or_else(|| format!("`{text}` is no size such as 1000000, 512KiB or 16MiB"))
}

/// What only a look at several settings, or at a connector, shows.
fn later(config: &Config) -> Vec<String> {
    let mut problems = config.kafka.problems();
    problems.extend(config.state.problems());
    problems.extend(config.registry.problems());
    problems.extend(config.client.problems("client"));
    if let Some(instance) = &config.instance {
        let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if instance.is_empty() || instance.len() > 100 || !instance.chars().all(plain) || instance.starts_with('.') {
            problems.push("instance must be 1 to 100 of a-z, A-Z, 0-9, `-`, `_`, `.`".to_owned());
        }
    }
    if !config.prefix.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
        problems.push("prefix must be of a-z, A-Z, 0-9, `-`, `_`, `.`, as topics are named".to_owned());
    }
    if config.prefix.starts_with("events.") {
        problems.push("prefix: what begins with `events.` are topics of events: choose another one".to_owned());
    }
    let advertise = &config.http.advertise;
    if !advertise.is_empty() && !is_address(advertise) {
        problems.push("http.advertise must be a host and a port such as 10.0.0.7:8080".to_owned());
    }
    let topology = config.topology;
    if topology.partitions < 1 || topology.replication < 1 || topology.min_insync_replicas < 1 {
        problems.push("topology.partitions, replication and min_insync_replicas must be at least 1".to_owned());
    }
    if topology.min_insync_replicas > topology.replication {
        let (min, all) = (topology.min_insync_replicas, topology.replication);
        problems.push(format!("topology.min_insync_replicas is {min}, more than topology.replication, {all}"));
    }
    let url = config.postgres.url.expose();
    if !url.starts_with("postgres://") && !url.starts_with("postgresql://") {
        problems.push("postgres.url must be an address such as postgres://user@127.0.0.1:5432/database".to_owned());
    } else if let Some(why) = config.postgres.connector().problem() {
        problems.push(format!("postgres.url: {why}"));
    }
    let bounds = &config.postgres;
    if bounds.max_connections == 0 || bounds.connect_timeout.is_zero() || bounds.statement_timeout.is_zero() {
        problems.push("postgres.max_connections, connect_timeout and statement_timeout must be above 0".to_owned());
    }
    problems
}
