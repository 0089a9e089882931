//! The attempts that are under way.

use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};

use super::in_flight::{InFlightRecord, Outcome};
use crate::ports::BoxFuture;

/// An attempt that was under way and is not any more.
pub(crate) enum AttemptEnd {
    /// It is over.
    Over(InFlightRecord, Outcome),
    /// Its schema was looked up: it begins again, unless there is an outcome.
    Fetched(InFlightRecord, Option<Outcome>),
}

/// The attempts of one group that are under way, of which so many run at most.
pub(crate) struct AttemptPool {
    concurrency: usize,
    running: FuturesUnordered<BoxFuture<'static, (InFlightRecord, Outcome)>>,
    /// Those that wait for a schema: they take no place of those that run, so that a row of unknown ids holds up nobody.
    fetching: FuturesUnordered<BoxFuture<'static, (InFlightRecord, Option<Outcome>)>>,
}

impl AttemptPool {
    pub(crate) fn new(concurrency: usize) -> Self {
        Self { concurrency, running: FuturesUnordered::new(), fetching: FuturesUnordered::new() }
    }

    /// Whether another attempt may run.
    pub(crate) fn has_place(&self) -> bool {
        self.running.len() < self.concurrency
    }

    pub(crate) fn run(&mut self, attempt: BoxFuture<'static, (InFlightRecord, Outcome)>) {
        self.running.push(attempt);
    }

    pub(crate) fn fetch(&mut self, attempt: BoxFuture<'static, (InFlightRecord, Option<Outcome>)>) {
        self.fetching.push(attempt);
    }

    /// The next attempt that ends; never resolves while none is under way. Safe to cancel.
    pub(crate) async fn next(&mut self) -> AttemptEnd {
        tokio::select! {
            biased;
            Some((in_flight, outcome)) = self.running.next() => AttemptEnd::Over(in_flight, outcome),
            Some((in_flight, over)) = self.fetching.next() => AttemptEnd::Fetched(in_flight, over),
            else => std::future::pending().await,
        }
    }

    /// Another that is over already.
    pub(crate) fn next_over(&mut self) -> Option<AttemptEnd> {
        let (in_flight, outcome) = self.running.next().now_or_never()??;
        Some(AttemptEnd::Over(in_flight, outcome))
    }

    /// Another whose schema was looked up already.
    pub(crate) fn next_fetched(&mut self) -> Option<AttemptEnd> {
        let (in_flight, over) = self.fetching.next().now_or_never()??;
        Some(AttemptEnd::Fetched(in_flight, over))
    }
}
