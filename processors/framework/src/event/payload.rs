//! What an event carries: the business record and the facts that its type fixes.

use std::fmt;

use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A business record that travels as the value of an event.
///
/// The Rust type's serde name is the Avro record's simple name, and each serde default equals the schema's default.
pub trait Payload: Serialize + DeserializeOwned + Send + Sync + 'static {
    /// The dotted event type, `payment.completed`; its first segment is the domain, which names the topic.
    const TYPE: &'static str;
    /// The Avro schema this type was written for, as JSON text.
    const SCHEMA: &'static str;
    /// What the event is about, when its header does not say.
    const CATEGORY: Category = Category::Domain;
    /// How urgent the event is, when its header does not say.
    const PRIORITY: Priority = Priority::Normal;
    /// Whether the event's topic holds no other type, so that its schema is also registered under `<topic>-value`.
    const SINGLE_TYPE: bool = false;

    /// The record key: the id of the aggregate that the event is about. Events of one key keep their order.
    fn key(&self) -> &str;
}

/// The kind of thing an event reports, header `ce_category`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Category {
    /// Something happened in the business.
    #[default]
    Domain,
    /// Something happened to the system itself.
    System,
    /// Something crossed a border between systems.
    Integration,
    /// Something a user saw or did on a screen.
    Ui,
    /// Something a plug-in reports.
    Plugin,
}

impl Category {
    /// Every category, in the order of their documentation.
    pub const ALL: [Self; 5] = [Self::Domain, Self::System, Self::Integration, Self::Ui, Self::Plugin];

    /// The header's text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Domain => "domain",
            Self::System => "system",
            Self::Integration => "integration",
            Self::Ui => "ui",
            Self::Plugin => "plugin",
        }
    }

    /// Reads the header's text; `None` for any other word.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|c| c.as_str() == text)
    }
}

impl fmt::Display for Category {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How urgent an event is, header `ce_priority`: `0` is the most urgent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    /// `0`
    Critical,
    /// `1`
    High,
    /// `2`
    #[default]
    Normal,
    /// `3`
    Low,
}

impl Priority {
    /// Every priority, most urgent first.
    pub const ALL: [Self; 4] = [Self::Critical, Self::High, Self::Normal, Self::Low];

    /// The header's text, `0` to `3`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "0",
            Self::High => "1",
            Self::Normal => "2",
            Self::Low => "3",
        }
    }

    /// Reads the header's text; `None` for anything but `0` to `3`.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|p| p.as_str() == text)
    }
}
