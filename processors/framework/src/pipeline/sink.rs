//! Sinks are data: which event goes where, and how. The engine knows what a sink takes; where it writes only a connector knows.

use std::{any::Any, fmt};

use serde::{Deserialize, Serialize};

use crate::event::payload::Payload;

/// What the engine needs to know of a sink, of whatever kind. A connector makes its committer.
pub trait SinkConfig: Any + fmt::Debug + Send + Sync {
    /// The event type whose records it takes.
    fn event(&self) -> &str;

    /// What is wrong with it, if anything, as a sentence.
    fn problem(&self) -> Option<String>;

    /// The fields that every record must have.
    fn key_fields(&self) -> &[String] {
        &[]
    }

    /// Why it does not take a tombstone, with a key or without one; `None` where it takes it.
    fn refuses_tombstone(&self, keyed: bool) -> Option<&'static str>;
}

impl dyn SinkConfig {
    /// The configuration itself, where it is of this kind.
    pub fn downcast_ref<T: SinkConfig>(&self) -> Option<&T> {
        (self as &dyn Any).downcast_ref()
    }
}

/// A sink into a table. "Table `orders` from `order.fulfilled`, key `order_id`, upsert". A connector interprets it; the group has the sink's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sink {
    /// The event type whose records become rows.
    pub event: String,
    /// The table, `orders` or `schema.orders`.
    pub table: String,
    /// The key columns; needed by every mode but a plain insert.
    #[serde(default, deserialize_with = "one_or_many", skip_serializing_if = "Vec::is_empty")]
    pub key: Vec<String>,
    /// How a record is written.
    #[serde(default)]
    pub mode: Mode,
    /// Whether a tombstone deletes the row of its key; needs exactly one key column, which the record's key then is.
    #[serde(default)]
    pub delete: bool,
    /// Whether a missing table is created from the event's schema.
    #[serde(default = "yes")]
    pub create: bool,
    /// Whether a nullable column is added for a field that a newer schema adds.
    #[serde(default = "yes")]
    pub evolve: bool,
}

/// How a sink writes a record.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One row per key: the latest wins, guarded by origin and event time.
    #[default]
    Upsert,
    /// One row per record.
    Insert,
}

impl Sink {
    /// Events of type `T` into `table`: an upsert, once [`Sink::key`] is given.
    pub fn of<T: Payload>(table: impl Into<String>) -> Self {
        Self {
            event: T::TYPE.to_owned(),
            table: table.into(),
            key: Vec::new(),
            mode: Mode::Upsert,
            delete: false,
            create: true,
            evolve: true,
        }
    }

    /// Sets the key column.
    #[must_use]
    pub fn key(mut self, column: impl Into<String>) -> Self {
        self.key.push(column.into());
        self
    }

    /// One row per record instead of one per key.
    #[must_use]
    pub fn insert(mut self) -> Self {
        self.mode = Mode::Insert;
        self
    }

    /// Tombstones delete.
    #[must_use]
    pub fn delete(mut self) -> Self {
        self.delete = true;
        self
    }
}

impl SinkConfig for Sink {
    fn event(&self) -> &str {
        &self.event
    }

    fn problem(&self) -> Option<String> {
        if self.event.is_empty() || self.table.is_empty() {
            return Some("a sink needs `event` and `table`".to_owned());
        }
        if self.mode == Mode::Upsert && self.key.is_empty() {
            return Some(format!("the upsert into `{}` needs `key`: the columns that identify a row", self.table));
        }
        if self.delete && (self.key.len() != 1 || self.mode == Mode::Insert) {
            return Some(format!("`delete` on `{}` needs mode `upsert` and exactly one key column", self.table));
        }
        None
    }

    fn key_fields(&self) -> &[String] {
        &self.key
    }

    fn refuses_tombstone(&self, keyed: bool) -> Option<&'static str> {
        match (self.delete, keyed) {
            (true, true) => None,
            (true, false) => Some("a tombstone without a key deletes nothing"),
            (false, _) => Some("a null value where nothing takes tombstones"),
        }
    }
}

fn yes() -> bool {
    true
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Key {
        One(String),
        Many(Vec<String>),
    }
    Ok(match Key::deserialize(from)? {
        Key::One(column) => vec![column],
        Key::Many(columns) => columns,
    })
}
