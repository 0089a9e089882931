//! Who tells the ids of topics: an offset belongs to one topic, not to whatever has its name later.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
};

use headwater::{
    TopicPartition,
    spi::{BoxFuture, CommitError},
};

use crate::kafka::Cluster;

/// Tells the ids of topics.
pub trait TopicIds: fmt::Debug + Send + Sync {
    /// The id of each of these topics; one that does not exist or has none is left out. Fails with a sentence when nobody
    /// answers within a few seconds.
    fn ids<'a>(&'a self, topics: &'a [&'a str]) -> BoxFuture<'a, Result<BTreeMap<String, String>, String>>;
}

impl TopicIds for Cluster {
    fn ids<'a>(&'a self, topics: &'a [&'a str]) -> BoxFuture<'a, Result<BTreeMap<String, String>, String>> {
        Box::pin(async move { self.topic_ids(topics).await.map_err(|error| error.to_string()) })
    }
}

/// No topic's id: rows of the one that is there are newer.
const UNKNOWN: &str = "unknown";

/// Which of the topics that have had its name a record first stood on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TopicId {
    /// Nobody tells the ids of topics: it counts as the one that is there.
    Untold,
    /// The one that is there, which has this id.
    Now(Arc<str>),
    /// One that had the name before; nobody knows its id any more.
    Before,
}

impl TopicId {
    /// What a row says of it.
    pub(crate) fn shown(&self) -> Option<&str> {
        match self {
            Self::Now(id) => Some(id),
            Self::Untold => None,
            Self::Before => Some(UNKNOWN),
        }
    }
}

/// The ids of the topics of these partitions; `None` where nobody tells them.
pub(crate) async fn of(
    from: Option<&dyn TopicIds>,
    partitions: &[TopicPartition],
) -> Result<Option<BTreeMap<String, String>>, CommitError> {
    // Where only the database is asked for.
    let Some(from) = from.filter(|_| !partitions.is_empty()) else { return Ok(None) };
    let topics: BTreeSet<&str> = partitions.iter().map(|partition| &*partition.topic).collect();
    from.ids(&Vec::from_iter(topics)).await.map(Some).map_err(CommitError::Outage)
}
