//! The layers of configuration and how they are laid over each other.

use std::path::{Path, PathBuf};

use headwater_dev::Endpoints;
use toml::{Table, Value};

use super::{
    check::{self, Leaf, ResolvedConfig},
    problems::Problems,
    section::AddedSection,
};

const DEFAULTS: &str = include_str!("defaults.toml");
/// Read from the working folder where no file is named.
const FILE: &str = "headwater.toml";
/// Variables that belong to the configuration begin with this; a double underscore separates the path's segments.
pub(crate) const PREFIX: &str = "HEADWATER__";
/// Below these a name is the user's: a topic, a group, a sink, a librdkafka property, an extension of a login.
pub(super) const MAPS: [&[&str]; 6] =
    [&["topics"], &["groups"], &["sinks"], &["settings"], &["kafka", "properties"], &["kafka", "sasl", "extensions"]];

/// Settings that a command lays over all others, by path: `("http.addr", "127.0.0.1:0")`.
pub(crate) type Overlay = Vec<(String, String)>;

/// Everything said about the configuration, not yet checked.
#[derive(Clone)]
pub(crate) struct Layers {
    defaults: Table,
    leaves: Vec<Leaf>,
    problems: Vec<String>,
    sections: Vec<AddedSection>,
}

impl Layers {
    /// Reads defaults, file and variables. `file` must exist; without it `headwater.toml` may.
    pub(crate) fn read(file: Option<&Path>, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        // Seen to be valid by a test.
        let defaults = DEFAULTS.parse::<Table>().unwrap_or_default();
        let mut layers = Self { defaults, leaves: Vec::new(), problems: Vec::new(), sections: Vec::new() };
        layers.add_file(file);
        let mut variables: Vec<_> = variables.into_iter().filter(|(name, _)| name.starts_with(PREFIX)).collect();
        // A variable may hold a whole section: what names a part of it comes later and wins.
        variables.sort();
        for (name, value) in variables {
            layers.add_variable(&name, &value);
        }
        layers
    }

    /// Has sections beside those of every program.
    pub(crate) fn with_sections(mut self, sections: Vec<AddedSection>) -> Self {
        for section in sections {
            match section.defaults() {
                _ if self.defaults.contains_key(section.name) => self
                    .problems
                    .push(format!("two sections are named [{}]: give the program's own another name", section.name)),
                Ok(defaults) => {
                    self.defaults.insert(section.name.to_owned(), Value::Table(defaults));
                    self.sections.push(section);
                }
                Err(why) => self.problems.push(why),
            }
        }
        self
    }

    /// What points the program's own sections at a local stack.
    pub(crate) fn on_stack(&self, stack: &Endpoints) -> Overlay {
        self.sections.iter().flat_map(|section| section.on_stack(stack)).collect()
    }

    /// Lays a command's own settings over all others.
    pub(crate) fn overlay(&mut self, settings: &[(String, String)]) {
        for (path, value) in settings {
            let path = path.split('.').map(str::to_owned).collect();
            self.leaves.push(Leaf::text(path, value, "the command".to_owned()));
        }
    }

    /// The checked tree, with everything that is wrong.
    ///
    /// # Errors
    /// When the compiled-in defaults are not a configuration.
    pub(crate) fn resolve(self) -> Result<ResolvedConfig, Problems> {
        check::resolve(self.defaults, self.leaves, self.problems, &self.sections)
    }

    fn add_file(&mut self, file: Option<&Path>) {
        let path = file.map_or_else(|| PathBuf::from(FILE), Path::to_owned);
        let shown = path.display();
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && file.is_none() => return,
            Err(error) => return self.problems.push(format!("cannot read the configuration file {shown}: {error}")),
        };
        match text.parse::<Table>() {
            Ok(table) => self.add_table(Vec::new(), table, &shown.to_string()),
            // The parser's whole message quotes the line, which may hold a secret.
            Err(error) => {
                let line = error.span().map_or(1, |span| text[..span.start.min(text.len())].matches('\n').count() + 1);
                let why = error.message().lines().next().unwrap_or_default();
                self.problems.push(format!("{shown}, line {line}: {why}"));
            }
        }
    }

    fn add_table(&mut self, path: Vec<String>, table: Table, from: &str) {
        for (key, value) in table {
            let mut path = path.clone();
            path.push(key);
            match value {
                Value::Table(table) if !table.is_empty() && !check::is_whole(&path) => {
                    self.add_table(path, table, from)
                }
                value => self.leaves.push(Leaf::value(path, value, from.to_owned())),
            }
        }
    }

    fn add_variable(&mut self, name: &str, text: &str) {
        let segments: Vec<&str> = name[PREFIX.len()..].split("__").collect();
        if segments.iter().any(|segment| segment.is_empty()) {
            return self.problems.push(format!("variable {name} names no setting: write {PREFIX}SECTION__KEY"));
        }
        let mut path = Vec::new();
        for segment in segments {
            // Names in maps are the user's, and case counts in them.
            let named = MAPS.iter().any(|map| path.len() == map.len() && path.iter().zip(*map).all(|(a, b)| a == b));
            path.push(if named { segment.to_owned() } else { segment.to_lowercase() });
        }
        match check::typed(text) {
            Some(Value::Table(table)) if !check::is_whole(&path) => self.add_table(path, table, name),
            _ => self.leaves.push(Leaf::text(path, text, name.to_owned())),
        }
    }
}
