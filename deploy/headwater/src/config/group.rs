//! The bounds of a group, as they are configured.

use std::{collections::BTreeMap, time::Duration};

use headwater::{Backoff, BreakerSettings, BreakerWindow, Delay, GroupSettings, Ladder, Order, Policy, Time, Work};
use headwater_connectors::kafka;
use serde::{Deserialize, Deserializer, de::Error};

use super::Config;

/// `[defaults]`, where everything is said, or `[groups.NAME]`, where what is left out is the default's.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct GroupConfig {
    concurrency: Option<usize>,
    in_flight: Option<usize>,
    prefetch: Option<usize>,
    in_flight_bytes: Option<usize>,
    #[serde(deserialize_with = "duration")]
    time_limit: Option<Duration>,
    batch_records: Option<usize>,
    batch_bytes: Option<usize>,
    #[serde(deserialize_with = "duration")]
    linger: Option<Duration>,
    /// Of processors; in `[defaults]` of stateless ones.
    delivery: Option<Guarantee>,
    /// Of groups that commit in Kafka transactions; in `[defaults]` only.
    #[serde(deserialize_with = "duration")]
    transaction_linger: Option<Duration>,
    /// Of groups that commit in Kafka transactions; in `[defaults]` only.
    transaction_records: Option<usize>,
    /// Of groups that commit in Kafka transactions; in `[defaults]` only.
    transaction_bytes: Option<usize>,
    /// Of sinks; in `[defaults]` only.
    #[serde(deserialize_with = "duration")]
    sink_linger: Option<Duration>,
    /// Of sinks.
    sink_connections: Option<usize>,
    #[serde(deserialize_with = "duration")]
    backoff_first: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    backoff_max: Option<Duration>,
    start: Option<Start>,
    /// The delays between attempts; none at all for a single attempt.
    retry: Option<Retry>,
    order: Option<Order>,
    /// Under the order `key`.
    waiting_records: Option<usize>,
    /// Under the order `key`.
    waiting_bytes: Option<usize>,
    /// Circuit breakers, by the dependency's name; in `[groups.NAME]` only.
    breakers: BTreeMap<String, BreakerConfig>,
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
struct Retry(Ladder);

impl<'de> Deserialize<'de> for Retry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged, expecting = "a retry ladder is a list of delays, such as [\"1s\", \"10s\"]")]
        enum Written {
            List(Vec<String>),
            Text(String),
        }
        let delays = match Written::deserialize(deserializer)? {
            Written::List(delays) => delays,
            Written::Text(text) => {
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
struct BreakerConfig {
    /// The latest so many calls are judged …
    window_calls: Option<u32>,
    /// … or those of the latest so much time.
    #[serde(deserialize_with = "duration")]
    window_time: Option<Duration>,
    failure_rate: Option<f64>,
    #[serde(deserialize_with = "duration")]
    slow_call: Option<Duration>,
    slow_rate: Option<f64>,
    minimum_calls: Option<u32>,
    #[serde(deserialize_with = "duration")]
    open_for: Option<Duration>,
    probes: Option<u32>,
    #[serde(deserialize_with = "duration")]
    half_open_limit: Option<Duration>,
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
struct Start(kafka::Start);

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
    fn ladder(&self) -> Option<Ladder> {
        self.retry.as_ref().map(|retry| retry.0.clone())
    }

    /// These defaults as they are for groups of one kind.
    fn of_kind(&self, kind: Kind, guarantee: Guarantee) -> Self {
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
    fn misplaced(&self, place: &str) -> Vec<String> {
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
    fn breakers_over(
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
    fn unfit_for_state(&self, place: &str) -> Vec<String> {
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
    fn of_processors_only(&self) -> impl Iterator<Item = &'static str> {
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

impl Config {
    /// Connections over which the sink of this name writes.
    pub(crate) fn sink_connections(&self, name: &str) -> usize {
        let own = self.groups.get(name).and_then(|own| own.sink_connections);
        own.or(self.defaults.sink_connections).unwrap_or(1)
    }

    /// What is wrong with the connections of a sink that writes over none.
    pub(crate) fn needless_connections(&self, name: &str) -> Option<String> {
        self.groups.get(name)?.sink_connections?;
        Some(format!("groups.{name}.sink_connections: of sinks into postgres only; leave it out"))
    }

    /// The order under retry of a group of this name.
    fn order(&self, name: &str, kind: Kind, policy: &Policy) -> Order {
        let own = self.groups.get(name).and_then(|own| own.order).or(policy.order);
        // What is said for all says nothing to a stateful group where it cannot hold.
        let fits = |order: &Order| kind != Kind::Stateful || *order != Order::None;
        let standard = match kind {
            // What waits is kept in transactions.
            Kind::Stateful if self.says_at_least_once(name) => Order::Partition,
            Kind::Stateful => Order::Key,
            Kind::Stateless | Kind::Sink => Order::None,
        };
        own.or(self.defaults.order.filter(fits)).unwrap_or(standard)
    }

    fn says_at_least_once(&self, name: &str) -> bool {
        self.groups.get(name).and_then(|own| own.delivery) == Some(Guarantee::AtLeastOnce)
    }

    /// What the effects of a group of this name are promised.
    pub(crate) fn guarantee(&self, name: &str, kind: Kind, order: Order) -> Guarantee {
        let own = self.groups.get(name).and_then(|own| own.delivery);
        match kind {
            // What waits is kept in the transaction that passes its offset.
            Kind::Stateless if order == Order::Key => Guarantee::ExactlyOnce,
            Kind::Stateless => own.or(self.defaults.delivery).unwrap_or(Guarantee::AtLeastOnce),
            Kind::Stateful => own.unwrap_or(Guarantee::ExactlyOnce),
            Kind::Sink => Guarantee::AtLeastOnce,
        }
    }

    /// What is set here and cannot hold of a group of this kind.
    fn problems_of_kind(&self, name: &str, kind: Kind, own: &GroupConfig, place: &str) -> Vec<String> {
        let mut problems = match kind {
            Kind::Sink => return self.problems_of_sink(name, own, place),
            Kind::Stateful => own.unfit_for_state(place),
            Kind::Stateless => Vec::new(),
        };
        if own.sink_connections.is_some() {
            problems.push(format!("{place}.sink_connections: of sinks only; a processor writes no rows"));
        }
        problems
    }

    fn problems_of_sink(&self, name: &str, own: &GroupConfig, place: &str) -> Vec<String> {
        let processors = own.of_processors_only().map(|key| {
            format!("{place}.{key}: of processors only; a row that is refused is a dead letter at once, and an outage is waited for")
        });
        let (connections, most) = (self.sink_connections(name), self.postgres.max_connections);
        let fits = u32::try_from(connections).is_ok_and(|all| (1..=most).contains(&all));
        let misfit = (!fits).then(|| {
            format!("{place}.sink_connections is {connections}: it must be at least 1, and at most postgres.max_connections, {most}")
        });
        processors.chain(misfit).collect()
    }

    /// The bounds of a group and where it starts: as `[groups.NAME]` says, or its code, or `[defaults]`.
    ///
    /// # Errors
    /// What is wrong with them, a sentence each.
    pub(crate) fn bounds(
        &self,
        name: &str,
        kind: Kind,
        policy: &Policy,
    ) -> Result<(GroupSettings, kafka::Start), Vec<String>> {
        let none = GroupConfig::default();
        let (own, all) = (self.groups.get(name).unwrap_or(&none), &self.defaults);
        let standard = GroupSettings::default();
        let place = if self.groups.contains_key(name) { format!("groups.{name}") } else { "defaults".to_owned() };
        let mut problems = Vec::new();
        let first = own.backoff_first.or(all.backoff_first).unwrap_or(Backoff::FIRST);
        let longest = own.backoff_max.or(all.backoff_max).unwrap_or(Backoff::LONGEST);
        let backoff = Backoff::try_new(first, longest).unwrap_or_else(|why| {
            problems.push(format!("{place}: {why}"));
            standard.backoff
        });
        let (breakers, wrong) = own.breakers_over(&policy.breakers, &place);
        problems.extend(wrong);
        let order = self.order(name, kind, policy);
        let all = &all.of_kind(kind, self.guarantee(name, kind, order));
        let settings = GroupSettings {
            concurrency: own.concurrency.or(policy.concurrency).or(all.concurrency).unwrap_or(standard.concurrency),
            in_flight: own.in_flight.or(all.in_flight).unwrap_or(standard.in_flight),
            prefetch: own.prefetch.or(all.prefetch).unwrap_or(standard.prefetch),
            in_flight_bytes: own.in_flight_bytes.or(all.in_flight_bytes).unwrap_or(standard.in_flight_bytes),
            time_limit: own.time_limit.or(policy.time_limit).or(all.time_limit).unwrap_or(standard.time_limit),
            max_event_bytes: usize::try_from(self.kafka.producer.message_max_bytes).unwrap_or(usize::MAX),
            batch_records: own.batch_records.or(all.batch_records).unwrap_or(standard.batch_records),
            batch_bytes: own.batch_bytes.or(all.batch_bytes).unwrap_or(standard.batch_bytes),
            linger: own.linger.or(all.linger).unwrap_or(standard.linger),
            ladder: own.ladder().or(policy.ladder.clone()).or(all.ladder()).unwrap_or(standard.ladder),
            order,
            waiting_records: own.waiting_records.or(all.waiting_records).unwrap_or(standard.waiting_records),
            waiting_bytes: own.waiting_bytes.or(all.waiting_bytes).unwrap_or(standard.waiting_bytes),
            breakers,
            max_record_bytes: usize::try_from(self.kafka.max_record_bytes).unwrap_or(usize::MAX),
            backoff,
            // The source waits as long as `kafka.consumer.drain`: the engine gives up before it, so that what is
            // done by then is still committed.
            drain: self.kafka.consumer.drain.mul_f64(0.9),
        };
        for (value, key) in [
            (settings.concurrency, "concurrency"),
            (settings.in_flight, "in_flight"),
            (settings.prefetch, "prefetch"),
            (settings.in_flight_bytes, "in_flight_bytes"),
            (settings.batch_records, "batch_records"),
            (settings.batch_bytes, "batch_bytes"),
            (settings.waiting_records, "waiting_records"),
            (settings.waiting_bytes, "waiting_bytes"),
        ] {
            if value == 0 {
                problems.push(format!("{place}.{key} must be at least 1"));
            }
        }
        if settings.time_limit.is_zero() {
            problems.push(format!("{place}.time_limit must be above 0"));
        }
        problems.extend(own.misplaced(&place));
        problems.extend(self.problems_of_kind(name, kind, own, &place));
        if order == Order::Key && self.says_at_least_once(name) {
            problems.push(format!(
                "{place}.delivery: the order \"key\" is kept in transactions: leave it out, or choose another order"
            ));
        }
        if !all.breakers.is_empty() {
            problems.push(
                "defaults.breakers: a breaker belongs to one group: write [groups.NAME.breakers.DEPENDENCY]".to_owned(),
            );
        }
        let start = own.start.or(all.start).map_or(kafka::Start::Earliest, |start| start.0);
        if problems.is_empty() { Ok((settings, start)) } else { Err(problems) }
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    headwater_connectors::units::duration::deserialize(deserializer).map(Some)
}
