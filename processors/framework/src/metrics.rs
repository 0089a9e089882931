//! What can be seen of a running group: counters by name, and whether it is healthy.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use crate::failure::Kind;

/// Everything that is counted, per group. The name is the Prometheus name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Records whose effects are durable, those without effects included.
    Records,
    /// Records of types that the group does not subscribe to.
    Skipped,
    /// Attempts that failed, the last one of a record included.
    Failures,
    /// Records sent to a retry topic.
    Retries,
    /// Dead letters that were sent back and succeeded.
    Resolved,
    /// Records that a fallback processed while a circuit was open.
    Fallbacks,
    /// Times that a processor or the outside asked to wait.
    Throttled,
    /// Events emitted.
    Emitted,
    /// Rows handed to the sink.
    Rows,
    /// Rows that an upsert or delete passed over, since the table holds a later one.
    Superseded,
    /// Units of work committed.
    Commits,
    /// Commits that failed and are tried again.
    CommitFailures,
    /// Partitions lost to another owner at commit.
    Fenced,
    /// Optional attributes that were malformed and read as absent, `traceparent` included.
    HeadersIgnored,
    /// Delivery headers on records that have none by right.
    HeadersForged,
    /// Records under way: read, and not yet durable.
    InFlight,
    /// Partitions that the group's member here owns.
    Partitions,
    /// Partitions that stand still until a person acts.
    Stopped,
}

/// Partitions named in one line at most.
const NAMED: usize = 6;

const METRICS: [Metric; 18] = [
    Metric::Records,
    Metric::Skipped,
    Metric::Failures,
    Metric::Retries,
    Metric::Resolved,
    Metric::Fallbacks,
    Metric::Throttled,
    Metric::Emitted,
    Metric::Rows,
    Metric::Superseded,
    Metric::Commits,
    Metric::CommitFailures,
    Metric::Fenced,
    Metric::HeadersIgnored,
    Metric::HeadersForged,
    Metric::InFlight,
    Metric::Partitions,
    Metric::Stopped,
];

impl Metric {
    /// Name, Prometheus type and help.
    const fn describe(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Records => ("headwater_records_total", "counter", "records whose effects are durable"),
            Self::Skipped => ("headwater_skipped_total", "counter", "records of types the group does not take"),
            Self::Failures => ("headwater_failures_total", "counter", "attempts that failed"),
            Self::Retries => ("headwater_retries_total", "counter", "records sent to a retry topic"),
            Self::Resolved => ("headwater_resolved_total", "counter", "dead letters sent back that succeeded"),
            Self::Fallbacks => ("headwater_fallbacks_total", "counter", "records that a fallback processed"),
            Self::Throttled => ("headwater_throttled_total", "counter", "times that the group was asked to wait"),
            Self::Emitted => ("headwater_emitted_total", "counter", "events emitted"),
            Self::Rows => ("headwater_rows_total", "counter", "rows handed to the sink"),
            Self::Superseded => ("headwater_superseded_total", "counter", "rows older than what the table holds"),
            Self::Commits => ("headwater_commits_total", "counter", "units of work committed"),
            Self::CommitFailures => ("headwater_commit_failures_total", "counter", "commits that failed"),
            Self::Fenced => ("headwater_fenced_total", "counter", "partitions lost to another owner at commit"),
            Self::HeadersIgnored => ("headwater_headers_ignored_total", "counter", "malformed optional attributes"),
            Self::HeadersForged => ("headwater_headers_forged_total", "counter", "delivery headers without right"),
            Self::InFlight => ("headwater_in_flight", "gauge", "records read and not yet durable"),
            Self::Partitions => ("headwater_partitions", "gauge", "partitions owned"),
            Self::Stopped => ("headwater_partitions_stopped", "gauge", "partitions that wait for a person"),
        }
    }
}

/// The state of one group, shared with whoever reports it.
#[derive(Debug, Default)]
pub struct GroupState {
    values: [AtomicU64; METRICS.len()],
    /// Dead letters, by kind.
    letters: [AtomicU64; Kind::ALL.len()],
    /// Circuit breakers by dependency: 0 closed, 1 open, 2 half-open.
    circuits: Mutex<BTreeMap<String, u64>>,
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    joined: bool,
    /// What keeps the group from its work, by what it concerns.
    troubles: BTreeMap<String, String>,
}

impl GroupState {
    /// Adds to a counter.
    pub fn add(&self, metric: Metric, by: u64) {
        self.values[metric as usize].fetch_add(by, Ordering::Relaxed);
    }

    /// Sets a gauge.
    pub fn set(&self, metric: Metric, to: u64) {
        self.values[metric as usize].store(to, Ordering::Relaxed);
    }

    /// The current value.
    pub fn get(&self, metric: Metric) -> u64 {
        self.values[metric as usize].load(Ordering::Relaxed)
    }

    /// Records that became dead letters of this kind.
    pub fn letters(&self, kind: Kind) -> u64 {
        self.letters[kind as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn letter(&self, kind: Kind) {
        self.letters[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Notes the state of the circuit to a dependency.
    pub(crate) fn circuit(&self, dependency: &str, state: u64) {
        self.circuits.lock().unwrap_or_else(PoisonError::into_inner).insert(dependency.to_owned(), state);
    }

    pub(crate) fn circuits(&self) -> BTreeMap<String, u64> {
        self.circuits.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Why the group is not ready, a sentence each; empty when it is.
    pub fn troubles(&self) -> Vec<String> {
        let health = self.health();
        let joining = (!health.joined).then(|| "joining its consumer group".to_owned());
        let mut by_reason: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (about, why) in &health.troubles {
            by_reason.entry(why).or_default().push(about);
        }
        joining
            .into_iter()
            .chain(by_reason.into_iter().map(|(why, about)| format!("{}: {why}", some_of(&about))))
            .collect()
    }

    pub(crate) fn joined(&self) {
        self.health().joined = true;
    }

    /// Notes what keeps `about` from its work, or that nothing does any more. True when that is news.
    pub(crate) fn trouble(&self, about: &str, why: Option<&str>) -> bool {
        let mut health = self.health();
        match why {
            Some(why) => health.troubles.insert(about.to_owned(), why.to_owned()).as_deref() != Some(why),
            None => health.troubles.remove(about).is_some(),
        }
    }

    fn health(&self) -> MutexGuard<'_, Health> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// These names, or how many more there are than fit on a line.
fn some_of(names: &[&str]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let text = names[..names.len() - more].join(", ");
    if more == 0 { text } else { format!("{text} and {more} more") }
}

/// The states of all groups of a process, by group id.
#[derive(Clone, Debug, Default)]
pub struct States {
    groups: Arc<Mutex<BTreeMap<String, Arc<GroupState>>>>,
    /// Dead letters that wait for somebody, by group: also of groups that run elsewhere.
    waiting_letters: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl States {
    /// The state of a group, made at its first mention.
    pub fn of(&self, group: &str) -> Arc<GroupState> {
        self.map().entry(group.to_owned()).or_default().clone()
    }

    /// Why the process is not ready: every group's troubles, named; empty when it is.
    pub fn troubles(&self) -> Vec<String> {
        let named = |(group, state): (&String, &Arc<GroupState>)| {
            state.troubles().into_iter().map(|why| format!("{group}: {why}")).collect::<Vec<_>>()
        };
        self.map().iter().flat_map(named).collect()
    }

    /// Notes how many dead letters of each group wait for somebody, as their table says.
    pub fn set_waiting_letters(&self, by_group: BTreeMap<String, u64>) {
        *self.waiting_letters.lock().unwrap_or_else(PoisonError::into_inner) = by_group;
    }

    /// Every metric of every group in Prometheus' text format, version 0.0.4.
    pub fn prometheus(&self) -> String {
        let (map, mut out) = (self.map(), String::new());
        for metric in METRICS {
            let (name, kind, help) = metric.describe();
            // Writing to a string cannot fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (group, state) in map.iter() {
                let _ = writeln!(out, "{name}{{group=\"{group}\"}} {}", state.get(metric));
            }
        }
        let name = "headwater_dead_letters_total";
        let _ = writeln!(out, "# HELP {name} records that became dead letters\n# TYPE {name} counter");
        for (group, state) in map.iter() {
            for kind in Kind::ALL {
                let (label, count) = (kind.as_str(), state.letters(kind));
                let _ = writeln!(out, "{name}{{group=\"{group}\",kind=\"{label}\"}} {count}");
            }
        }
        let name = "headwater_circuit_state";
        let _ = writeln!(out, "# HELP {name} 0 closed, 1 open, 2 half-open\n# TYPE {name} gauge");
        for (group, state) in map.iter() {
            for (dependency, circuit) in state.circuits() {
                let _ = writeln!(out, "{name}{{group=\"{group}\",dependency=\"{dependency}\"}} {circuit}");
            }
        }
        let name = "headwater_dead_letters_waiting";
        let _ = writeln!(out, "# HELP {name} dead letters that wait for somebody\n# TYPE {name} gauge");
        for (group, count) in self.waiting_letters.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            let _ = writeln!(out, "{name}{{group=\"{group}\"}} {count}");
        }
        out
    }

    fn map(&self) -> MutexGuard<'_, BTreeMap<String, Arc<GroupState>>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when the order of `METRICS` and of the enum differ, or a label is missing, or a kind's letters are those of another.
    #[test]
    fn metrics_read_as_prometheus_text() {
        assert!(METRICS.iter().enumerate().all(|(at, metric)| *metric as usize == at));
        let states = States::default();
        let state = states.of("orders-sink");
        state.add(Metric::Rows, 3);
        state.letter(Kind::Row);
        state.circuit("database", 2);
        let text = states.prometheus();
        assert!(text.contains("headwater_dead_letters_total{group=\"orders-sink\",kind=\"row\"} 1\n"));
        assert!(text.contains("headwater_dead_letters_total{group=\"orders-sink\",kind=\"decode\"} 0\n"));
        assert!(text.contains("headwater_circuit_state{group=\"orders-sink\",dependency=\"database\"} 2\n"));
        assert!(text.contains("# TYPE headwater_rows_total counter\nheadwater_rows_total{group=\"orders-sink\"} 3\n"));
    }

    /// Red when a trouble survives its end, or a group that has not joined counts as ready.
    #[test]
    fn a_group_is_ready_once_joined_and_without_trouble() {
        let states = States::default();
        let state = states.of("orders-sink");
        assert_eq!(states.troubles(), ["orders-sink: joining its consumer group"]);
        state.joined();
        assert!(state.trouble("database", Some("does not answer")));
        assert!(!state.trouble("database", Some("does not answer")), "no news");
        assert_eq!(states.troubles(), ["orders-sink: database: does not answer"]);
        assert!(state.trouble("database", None));
        assert!(states.troubles().is_empty());
    }

    /// Red when an outage says a line for each partition, names all of a thousand, or joins what differs.
    #[test]
    fn what_many_partitions_wait_for_is_said_once() {
        let state = GroupState::default();
        state.joined();
        (0..8).for_each(|n| _ = state.trouble(&format!("t/{n}"), Some("waits for `shop`")));
        state.trouble("u/0", Some("stopped"));
        assert_eq!(state.troubles(), ["u/0: stopped", "t/0, t/1, t/2, t/3, t/4, t/5 and 2 more: waits for `shop`"]);
    }
}
