//! Which group a source is a member of, what it reads, and where it starts.

use headwater::Time;

use super::subscription::Subscription;
use crate::kafka::config::Assignor;

/// Which group this is a member of, and what it reads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceConfig {
    /// The consumer group.
    pub group: String,
    /// Makes membership static: a restart under the same name within the session time-out needs no rebalance.
    pub instance: Option<String>,
    /// What is read.
    pub subscription: Subscription,
    /// Where a group without committed offsets starts.
    pub start: Start,
    /// Whether the source itself tells the broker what is durable. Without that it commits neither positions nor notes:
    /// offsets then travel in transactions, and a plain commit could move them back. Where a new group starts it commits all
    /// the same, before anybody has read a record.
    pub commits: bool,
    /// How this group deals out partitions, if not as `kafka.consumer.assignor` says.
    pub assignor: Option<Assignor>,
    /// What the client calls itself, which everybody sees who describes the group; as the settings say where it is `None`.
    pub client_id: Option<String>,
}

impl SourceConfig {
    /// Whether a topic belongs to the group, as its retry and redrive topics do.
    pub(crate) fn owns(&self, topic: &str) -> bool {
        topic.strip_prefix(self.group.as_str()).is_some_and(|rest| rest.starts_with('.'))
    }
}

/// Where a group starts that has committed nothing of its inputs. Topics and partitions that appear later are read from
/// their beginning, and so, whatever this says, is every topic that the group owns: its name begins with the group's and
/// a dot, and what lies there waits for this group alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Start {
    /// At the oldest record.
    #[default]
    Earliest,
    /// Behind the newest record; that place is committed before a record is read, so that it is the same after a restart.
    Latest,
    /// At the first record with this timestamp or a later one; committed too.
    At(Time),
}
