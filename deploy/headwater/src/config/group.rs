//! The bounds of a group, as they are configured.

use std::time::Duration;

use headwater::{Backoff, Settings, Time};
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
    /// Of sinks; in `[defaults]` only.
    #[serde(deserialize_with = "duration")]
    sink_linger: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    backoff_first: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    backoff_max: Option<Duration>,
    start: Option<Start>,
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

impl Config {
    /// The bounds of the group `name` and where it starts.
    ///
    /// # Errors
    /// What is wrong with them, a sentence each.
    pub(crate) fn bounds(&self, name: &str, is_sink: bool) -> Result<(Settings, kafka::Start), Vec<String>> {
        let none = GroupConfig::default();
        let (own, all) = (self.groups.get(name).unwrap_or(&none), &self.defaults);
        let standard = Settings::default();
        let place = if self.groups.contains_key(name) { format!("groups.{name}") } else { "defaults".to_owned() };
        let mut problems = Vec::new();
        let first = own.backoff_first.or(all.backoff_first).unwrap_or(Duration::from_millis(500));
        let longest = own.backoff_max.or(all.backoff_max).unwrap_or(Duration::from_secs(30));
        let backoff = Backoff::try_new(first, longest).unwrap_or_else(|why| {
            problems.push(format!("{place}: {why}"));
            standard.backoff
        });
        let kind_linger = if is_sink { all.sink_linger } else { all.linger };
        let settings = Settings {
            concurrency: own.concurrency.or(all.concurrency).unwrap_or(standard.concurrency),
            in_flight: own.in_flight.or(all.in_flight).unwrap_or(standard.in_flight),
            prefetch: own.prefetch.or(all.prefetch).unwrap_or(standard.prefetch),
            in_flight_bytes: own.in_flight_bytes.or(all.in_flight_bytes).unwrap_or(standard.in_flight_bytes),
            time_limit: own.time_limit.or(all.time_limit).unwrap_or(standard.time_limit),
            max_event_bytes: usize::try_from(self.kafka.producer.message_max_bytes).unwrap_or(usize::MAX),
            batch_records: own.batch_records.or(all.batch_records).unwrap_or(standard.batch_records),
            batch_bytes: own.batch_bytes.or(all.batch_bytes).unwrap_or(standard.batch_bytes),
            linger: own.linger.or(kind_linger).unwrap_or(standard.linger),
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
        ] {
            if value == 0 {
                problems.push(format!("{place}.{key} must be at least 1"));
            }
        }
        if settings.time_limit.is_zero() {
            problems.push(format!("{place}.time_limit must be above 0"));
        }
        if own.sink_linger.is_some() {
            problems.push(format!("{place}.sink_linger: it stands in [defaults] only; a group has `linger`"));
        }
        let start = own.start.or(all.start).map_or(kafka::Start::Earliest, |start| start.0);
        if problems.is_empty() { Ok((settings, start)) } else { Err(problems) }
    }
}

fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    headwater_connectors::units::duration::deserialize(deserializer).map(Some)
}
