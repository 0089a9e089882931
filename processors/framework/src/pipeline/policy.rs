//! How a processor is delivered to: what its developer decides beside its code, and an operator may decide otherwise.

use std::{collections::BTreeMap, time::Duration};

use super::settings::{GroupSettings, Order};
use crate::failure::{breaker::BreakerSettings, ladder::Ladder};

/// What a developer decides for one processor; what is left open is the program's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policy {
    /// How long one attempt may take.
    pub time_limit: Option<Duration>,
    /// How many records run side by side.
    pub concurrency: Option<usize>,
    /// The delays between attempts.
    pub ladder: Option<Ladder>,
    /// Order under retry.
    pub order: Option<Order>,
    /// The circuit breakers it stands behind, by the dependency's name.
    pub breakers: BTreeMap<String, BreakerSettings>,
}

impl Policy {
    /// Nothing decided.
    pub fn new() -> Self {
        Self::default()
    }

    /// These settings, but for what is decided here.
    pub fn over(&self, mut settings: GroupSettings) -> GroupSettings {
        settings.time_limit = self.time_limit.unwrap_or(settings.time_limit);
        settings.concurrency = self.concurrency.unwrap_or(settings.concurrency);
        settings.ladder = self.ladder.clone().unwrap_or(settings.ladder);
        settings.order = self.order.unwrap_or(settings.order);
        settings.breakers.extend(self.breakers.iter().map(|(name, breaker)| (name.clone(), *breaker)));
        settings
    }

    /// One attempt may take this long.
    #[must_use]
    pub fn time_limit(mut self, limit: Duration) -> Self {
        self.time_limit = Some(limit);
        self
    }

    /// This many records run side by side.
    #[must_use]
    pub fn concurrency(mut self, records: usize) -> Self {
        self.concurrency = Some(records);
        self
    }

    /// The delays between attempts.
    #[must_use]
    pub fn ladder(mut self, ladder: Ladder) -> Self {
        self.ladder = Some(ladder);
        self
    }

    /// Order under retry.
    #[must_use]
    pub fn order(mut self, order: Order) -> Self {
        self.order = Some(order);
        self
    }

    /// Puts the processor behind the circuit breaker of a dependency: while that is down the group waits, and nothing
    /// counts as an attempt. A failure counts against each of a processor's breakers, unless it names one with
    /// [`Failure::of`](crate::failure::Failure::of); a rejection counts against none.
    #[must_use]
    pub fn breaker(mut self, dependency: &str, settings: BreakerSettings) -> Self {
        self.breakers.insert(dependency.to_owned(), settings);
        self
    }
}
