//! A sink's committer whose counts show among the group's metrics.

use std::sync::Arc;

use headwater::{
    TopicPartition,
    spi::{BoxFuture, CommitError, Committed, Committer, GroupMetrics, Metric, StartFrom, Unit},
};
use headwater_connectors::postgres::{PostgresSink, SinkCounts};

/// A sink that reports the rows it passed over.
pub(crate) struct CountingSink {
    sink: PostgresSink,
    counts: Arc<SinkCounts>,
    state: Arc<GroupMetrics>,
}

impl CountingSink {
    pub(crate) fn new(sink: PostgresSink, state: Arc<GroupMetrics>) -> Self {
        Self { counts: sink.counts(), sink, state }
    }
}

impl Committer for CountingSink {
    fn atomic(&self) -> bool {
        self.sink.atomic()
    }

    fn start<'a>(&'a mut self, partitions: &'a [TopicPartition]) -> BoxFuture<'a, Result<Vec<StartFrom>, CommitError>> {
        self.sink.start(partitions)
    }

    fn commit<'a>(&'a mut self, unit: &'a Unit) -> BoxFuture<'a, Result<Committed, CommitError>> {
        let Self { sink, counts, state } = self;
        Box::pin(async move {
            // Several sinks of a group add to one number.
            let before = counts.superseded();
            let outcome = sink.commit(unit).await;
            state.add(Metric::Superseded, counts.superseded() - before);
            outcome
        })
    }

    fn cancels(&self) -> bool {
        self.sink.cancels()
    }

    fn forget(&mut self, partitions: &[TopicPartition]) {
        self.sink.forget(partitions);
    }
}
