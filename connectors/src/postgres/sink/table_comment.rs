//! What a sink remembers of a table that is its own: which records its rows are made from, and which columns it has made
//! `not null` itself.
//!
//! It stands in the comment on the sink's own column `hw_topic`, on a line of its own behind what a person may have written
//! there. So it goes where the table goes: away with it, along into a copy, and no other table has to be kept in step; and
//! what a person says of his table does not touch it. Only the owner of a table may comment on it, and only the owner may alter
//! it: where the sink is not, it remembers for as long as it runs.

use std::collections::{BTreeMap, BTreeSet};

use apache_avro::Schema;
use headwater::spi::codec::{WriterSchema, can_read};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What our line of the comment begins with.
const MARK: &str = "headwater: ";
/// Headwater's own topics: whose schema counts there the catalogue says, before a row is made.
const EVENTS: &str = "events.";
/// Where an edited letter has its origin.
const REDRIVE: &str = ".redrive";

/// What a sink remembers of its table.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TableComment {
    /// Columns that it has made `not null`, and that still are by no one else's will.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(crate) not_null: BTreeSet<String>,
    /// What the rows of each bound topic are made from.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    records: BTreeMap<String, SchemaHistory>,
}

/// The record of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SchemaHistory {
    /// Its full name.
    name: String,
    /// The schema that came first.
    first: Value,
    /// The latest that came, where it is another: a registry that compares with the latest only lets schemas wander.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    latest: Option<Value>,
    /// The id of the latest.
    id: u32,
}

impl TableComment {
    /// What stands in a comment; `None` where there is none of ours, or what nobody can read.
    pub(crate) fn read(comment: Option<&str>) -> Option<Self> {
        let ours = comment.and_then(|comment| comment.lines().rev().find_map(|line| line.strip_prefix(MARK)));
        ours.and_then(|text| serde_json::from_str(text).ok())
    }

    /// The comment with this note in place of what was remembered before.
    pub(crate) fn write(&self, comment: Option<&str>) -> String {
        let theirs = comment.unwrap_or_default().lines().filter(|line| !line.starts_with(MARK));
        let ours = format!("{MARK}{}", serde_json::to_string(self).unwrap_or_default());
        theirs.map(str::to_owned).chain([ours]).collect::<Vec<_>>().join("\n")
    }

    /// Whether a record that stands on this topic says what its table is to be: one that was edited does not.
    pub(crate) fn is_evidence(topic: &str) -> bool {
        !topic.ends_with(REDRIVE)
    }

    /// Whether a record of this topic and schema is one that the rows are made from. The error is a sentence.
    pub(crate) fn admits(&self, topic: &str, schema: &WriterSchema) -> Result<(), String> {
        if topic.starts_with(EVENTS) {
            return Ok(());
        }
        if let Some(record) = self.records.get(topic) {
            return record.admits(topic, schema);
        }
        if Self::is_evidence(topic) || self.records.is_empty() {
            return Ok(());
        }
        // One that was edited may be of any.
        let mut why = Ok(());
        for (topic, record) in &self.records {
            why = record.admits(topic, schema);
            if why.is_ok() {
                break;
            }
        }
        why
    }

    /// Remembers a schema that was admitted.
    pub(crate) fn learn(&mut self, topic: &str, schema: &WriterSchema) {
        if topic.starts_with(EVENTS) || !Self::is_evidence(topic) {
            return;
        }
        let (Some(name), Ok(text)) = (schema.full_name(), serde_json::to_value(schema.schema())) else { return };
        let id = schema.id();
        match self.records.get_mut(topic) {
            Some(record) if id > record.id => {
                record.latest = (text != record.first).then_some(text);
                record.id = id;
            }
            Some(_) => {}
            None => {
                let record = SchemaHistory { name: name.to_owned(), first: text, latest: None, id };
                self.records.insert(topic.to_owned(), record);
            }
        }
    }
}

impl SchemaHistory {
    fn admits(&self, topic: &str, schema: &WriterSchema) -> Result<(), String> {
        let name = schema.full_name().unwrap_or("a type without a name");
        if name != self.name {
            return Err(format!("it is a `{name}`, and the rows of topic {topic} are made from `{}`", self.name));
        }
        let mut why = None;
        for known in self.latest.iter().chain([&self.first]) {
            let Ok(known) = Schema::parse(known) else { return Ok(()) };
            // Which of the two is the newer one nobody says: a topic is read from its beginning, too.
            match can_read(&known, schema.schema()).or_else(|_| can_read(schema.schema(), &known)) {
                Ok(()) => return Ok(()),
                Err(cause) => _ = why.get_or_insert(cause),
            }
        }
        Err(format!(
            "schema {} of `{name}` is not compatible with the one that the rows of topic {topic} are made from: {}",
            schema.id(),
            why.unwrap_or_default()
        ))
    }
}
