//! What may be said of a group: `[defaults]` and `[groups.NAME]`.

use std::{collections::BTreeMap, time::Duration};

use headwater::{BreakerSettings, BreakerWindow, Delay, Ladder, Order, Time, spi::Work};
use headwater_connectors::kafka;
use serde::{Deserialize, Deserializer, de::Error};

/// `[defaults]`, where everything is said, or `[groups.NAME]`, where what is left out is the default's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GroupConfig {
    pub(super) concurrency: Option<usize>,
    pub(super) in_flight: Option<usize>,
    pub(super) prefetch: Option<usize>,
    pub(super) in_flight_bytes: Option<usize>,
    #[serde(deserialize_with = "duration")]
    pub(super) time_limit: Option<Duration>,
    pub(super) batch_records: Option<usize>,
    pub(super) batch_bytes: Option<usize>,
    #[serde(deserialize_with = "duration")]
    pub(super) linger: Option<Duration>,
    /// Of processors; in `[defaults]` of stateless ones.
    pub(super) delivery: Option<Guarantee>,
    /// Of groups that commit in Kafka transactions; in `[defaults]` only.
    #[serde(deserialize_with = "duration")]
    pub(super) transaction_linger: Option<Duration>,
    /// Of groups that commit in Kafka transactions; in `[defaults]` only.
    pub(super) transaction_records: Option<usize>,
    /// Of groups that commit in Kafka transactions; in `[defaults]` only.
    pub(super) transaction_bytes: Option<usize>,
    /// Of sinks; in `[defaults]` only.
    #[serde(deserialize_with = "duration")]
    pub(super) sink_linger: Option<Duration>,
    /// Of sinks.
    pub(super) sink_connections: Option<usize>,
    #[serde(deserialize_with = "duration")]
    pub(super) backoff_first: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(super) backoff_max: Option<Duration>,
    pub(super) start: Option<Start>,
    /// The delays between attempts; none at all for a single attempt.
    pub(super) retry: Option<Retry>,
    pub(super) order: Option<Order>,
    /// Under the order `key`.
    pub(super) waiting_records: Option<usize>,
    /// Under the order `key`.
    pub(super) waiting_bytes: Option<usize>,
    /// Circuit breakers, by the dependency's name; in `[groups.NAME]` only.
    pub(super) breakers: BTreeMap<String, BreakerConfig>,
}

/// What a processor's effects are promised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Guarantee {
    /// They are published, changes of state after that, then the offsets that cover them are committed.
    AtLeastOnce,
    /// All are one Kafka transaction.
    ExactlyOnce,
}

/// What a group is, as far as its bounds depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Stateless,
    Stateful,
    /// A sink, or the keeper of dead letters.
    Sink,
}

impl Kind {
    pub(crate) fn of(work: &Work) -> Self {
        match work {
            Work::Process(_) => Self::Stateless,
            Work::Stateful(_) => Self::Stateful,
            Work::Sink(_) | Work::DeadLetters => Self::Sink,
        }
    }
}

/// A retry ladder: `["1s", "10s"]`, or `"1s,10s"` in a variable.
#[derive(Clone, Debug)]
pub(super) struct Retry(Ladder);

impl<'de> Deserialize<'de> for Retry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a retry ladder is a list of delays, such as [\"1s\", \"10s\"]")]
        enum WrittenLadder {
            List(Vec<String>),
            Text(String),
        }
        let delays = match WrittenLadder::deserialize(deserializer)? {
            WrittenLadder::List(delays) => delays,
            WrittenLadder::Text(text) => {
                text.split(',').map(|delay| delay.trim().to_owned()).filter(|d| !d.is_empty()).collect()
            }
        };
        let delays: Vec<Delay> =
            delays.iter().map(|delay| delay.parse()).collect::<Result<_, _>>().map_err(D::Error::custom)?;
        Ladder::try_new(delays.into_iter().map(Delay::get)).map(Self).map_err(D::Error::custom)
    }
}

/// `[groups.NAME.breakers.DEPENDENCY]`: what is left out is what the code says, or the standard.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct BreakerConfig {
    /// The latest so many calls are judged …
    pub(super) window_calls: Option<u32>,
    /// … or those of the latest so much time.
    #[serde(deserialize_with = "duration")]
    pub(super) window_time: Option<Duration>,
    pub(super) failure_rate: Option<f64>,
    #[serde(deserialize_with = "duration")]
    pub(super) slow_call: Option<Duration>,
    pub(super) slow_rate: Option<f64>,
    pub(super) minimum_calls: Option<u32>,
    #[serde(deserialize_with = "duration")]
    pub(super) open_for: Option<Duration>,
    pub(super) probes: Option<u32>,
    #[serde(deserialize_with = "duration")]
    pub(super) half_open_limit: Option<Duration>,
}

impl BreakerConfig {
    fn over(&self, base: BreakerSettings) -> Result<BreakerSettings, String> {
        let window = match (self.window_calls, self.window_time) {
            (Some(_), Some(_)) => return Err("window_calls and window_time exclude each other".to_owned()),
            (Some(calls), None) => BreakerWindow::Calls(calls),
            (None, Some(time)) => BreakerWindow::Time(time),
            (None, None) => base.window,
        };
        let settings = BreakerSettings {
            window,
            failure_rate: self.failure_rate.unwrap_or(base.failure_rate),
            slow_call: self.slow_call.unwrap_or(base.slow_call),
            slow_rate: self.slow_rate.unwrap_or(base.slow_rate),
            minimum_calls: self.minimum_calls.unwrap_or(base.minimum_calls),
            open_for: self.open_for.unwrap_or(base.open_for),
            probes: self.probes.unwrap_or(base.probes),
            half_open_limit: self.half_open_limit.unwrap_or(base.half_open_limit),
        };
        settings.check().map(|()| settings)
    }
}

/// Where a group without committed offsets starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start(pub(super) kafka::Start);

impl<'de> Deserialize<'de> for Start {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        match text.as_str() {
            "earliest" => Ok(Self(kafka::Start::Earliest)),
            "latest" => Ok(Self(kafka::Start::Latest)),
            time => Time::parse(time).map(|time| Self(kafka::Start::At(time))).ok_or_else(|| {
                D::Error::custom(format!(
                    "`{time}` is no start: earliest, latest or a time such as 2026-01-01T00:00:00Z"
                ))
            }),
        }
    }
}

impl GroupConfig {
    pub(super) fn ladder(&self) -> Option<Ladder> {
        self.retry.as_ref().map(|retry| retry.0.clone())
    }

    /// These defaults as they are for groups of one kind.
    pub(super) fn of_kind(&self, kind: Kind, guarantee: Guarantee) -> Self {
        let mut all = self.clone();
        if guarantee == Guarantee::ExactlyOnce {
            all.linger = self.transaction_linger;
            (all.batch_records, all.batch_bytes) = (self.transaction_records, self.transaction_bytes);
            // One transaction is gathered while another is committed.
            let twice = |one: Option<usize>, standard| one.map(|one| one.saturating_mul(2)).max(standard);
            all.in_flight = twice(self.transaction_records, self.in_flight);
            all.in_flight_bytes = twice(self.transaction_bytes, self.in_flight_bytes);
        }
        if kind == Kind::Sink {
            all.linger = self.sink_linger;
        }
        all
    }

    /// What stands in a group's section and belongs into the defaults.
    pub(super) fn misplaced(&self, place: &str) -> Vec<String> {
        let only_defaults = [
            ("transaction_linger", self.transaction_linger.is_some(), "linger"),
            ("transaction_records", self.transaction_records.is_some(), "batch_records"),
            ("transaction_bytes", self.transaction_bytes.is_some(), "batch_bytes"),
            ("sink_linger", self.sink_linger.is_some(), "linger"),
        ];
        let set = only_defaults.into_iter().filter(|(_, is_set, _)| *is_set);
        set.map(|(key, _, own)| format!("{place}.{key}: it stands in [defaults] only; a group has `{own}`")).collect()
    }

    /// The breakers of the code with these over them, and what is wrong with them.
    pub(super) fn breakers_over(
        &self,
        code: &BTreeMap<String, BreakerSettings>,
        place: &str,
    ) -> (BTreeMap<String, BreakerSettings>, Vec<String>) {
        let (mut breakers, mut problems) = (code.clone(), Vec::new());
        for (dependency, breaker) in &self.breakers {
            match breaker.over(breakers.get(dependency).copied().unwrap_or_default()) {
                Ok(settings) => drop(breakers.insert(dependency.clone(), settings)),
                Err(why) => problems.push(format!("{place}.breakers.{dependency}: {why}")),
            }
        }
        (breakers, problems)
    }

    /// What is set here and cannot hold of a stateful group.
    pub(super) fn unfit_for_state(&self, place: &str) -> Vec<String> {
        let unfit = [
            (
                "order",
                self.order == Some(Order::None),
                "no record of a key overtakes another: write \"key\" or \"partition\"",
            ),
            ("breakers", !self.breakers.is_empty(), "a stateful step calls nothing: leave them out"),
        ];
        let set = unfit.into_iter().filter(|(_, is_set, _)| *is_set);
        set.map(|(key, _, why)| format!("{place}.{key}: {why}")).collect()
    }

    /// What is set here and says nothing to a sink.
    pub(super) fn of_processors_only(&self) -> impl Iterator<Item = &'static str> {
        let set = [
            ("retry", self.retry.is_some()),
            ("order", self.order.is_some()),
            ("waiting_records", self.waiting_records.is_some()),
            ("waiting_bytes", self.waiting_bytes.is_some()),
            ("delivery", self.delivery.is_some()),
            ("breakers", !self.breakers.is_empty()),
        ];
        set.into_iter().filter(|(_, is_set)| *is_set).map(|(key, _)| key)
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    headwater_connectors::units::duration::deserialize(deserializer).map(Some)
}
