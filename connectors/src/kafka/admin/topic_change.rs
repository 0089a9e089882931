//! A topic as it is and as a topology wants it, and what stands between the two.

use std::fmt;

/// A topic as the topology wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicSpec {
    /// Its name.
    pub name: String,
    /// How many partitions, at least 1.
    pub partitions: i32,
    /// How many replicas, at least 1.
    pub replication: i32,
    /// Its settings, as the broker names them.
    pub config: Vec<(String, String)>,
}

/// A topic as it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// How many partitions.
    pub partitions: i32,
    /// Replicas of its first partition.
    pub replication: i32,
}

/// What stands between a topic and its spec.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TopicChange {
    /// It is missing: created by `apply`.
    Create(TopicSpec),
    /// It has another partition count; never changed, because keys would move.
    Partitions {
        /// The topic.
        topic: String,
        /// What it has.
        is: i32,
        /// What the topology wants.
        want: i32,
    },
    /// A setting differs; reported only.
    Setting {
        /// The topic.
        topic: String,
        /// The setting's name.
        name: String,
        /// Its value, if it has one.
        is: Option<String>,
        /// What the topology wants.
        want: String,
    },
}

impl TopicChange {
    /// Whether `apply` makes it.
    pub fn is_applied(&self) -> bool {
        matches!(self, Self::Create(_))
    }
}

impl fmt::Display for TopicChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Create(spec) => {
                let TopicSpec { name, partitions, replication, .. } = spec;
                write!(f, "create topic {name}: {partitions} partitions, replication {replication}")
            }
            Self::Partitions { topic, is, want } => {
                write!(f, "topic {topic} has {is} partitions, not {want}: create a new topic, or change the topology")
            }
            Self::Setting { topic, name, is, want } => {
                let is = is.as_deref().unwrap_or("unset");
                write!(
                    f,
                    "topic {topic} has {name}={is}, not {want}: `kafka-configs.sh --alter --topic {topic} --add-config {name}={want}`"
                )
            }
        }
    }
}
