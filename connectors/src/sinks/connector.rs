//! What every kind of sink can do.

use std::{fmt, sync::Arc};

use headwater::{
    EventType,
    spi::{BoxFuture, Committer, GroupMetrics, SinkConfig, codec::WriterSchema},
};

use crate::postgres::{Database, TopicIds};

/// What a sink's committers are made from.
pub struct SinkClients {
    /// The database of the process.
    pub database: Database,
    /// The ids of topics.
    pub topic_ids: Arc<dyn TopicIds>,
    /// How many committers share the partitions, where the kind allows for more than one.
    pub connections: usize,
    /// The group's metrics.
    pub metrics: Arc<GroupMetrics>,
}

/// A sink that can be run.
pub trait SinkConnector: SinkConfig {
    /// Where it writes, as people read it: `table` and its name.
    fn place(&self) -> (&'static str, String);

    /// Whether it keeps the offsets beside what it writes; else they are committed to Kafka after it.
    fn keeps_offsets(&self) -> bool;

    /// What can be seen to be wrong with it before its first record, as a sentence; the type of its events where that is
    /// known.
    fn problem_of(&self, event: Option<&EventType>) -> Option<String>;

    /// Makes its place fit events of this schema, or only says what there is to do; a line for each thing done.
    ///
    /// # Errors
    /// A sentence.
    fn prepare<'a>(
        &'a self,
        database: &'a Database,
        schema: &'a WriterSchema,
        dry_run: bool,
    ) -> BoxFuture<'a, Result<Vec<String>, String>>;

    /// What commits its rows. Letters and markers of its units are another's business.
    ///
    /// # Errors
    /// A sentence.
    fn committers(&self, group: &str, clients: &SinkClients) -> Result<Vec<Box<dyn Committer>>, String>;
}

impl fmt::Debug for SinkClients {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SinkClients").field("connections", &self.connections).finish_non_exhaustive()
    }
}
