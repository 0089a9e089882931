//! What can be seen of a running group: metrics by name, and whether it is healthy.

mod health;
mod histogram;
mod progress;

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use self::{health::Health, histogram::Histogram};
use crate::{failure::DeadLetterKind, wire::record::TopicPartition};

pub use self::{
    health::{Activity, AfterFailure, Down},
    progress::{Lag, PartitionProgress},
};

/// Everything that is measured. The name is the Prometheus name; each has a label `group`, but for the spans of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Records whose effects are durable, those without effects included.
    Records,
    /// Records of types that the group does not subscribe to.
    Skipped,
    /// Attempts that failed, the last one of a record included.
    Failures,
    /// Records put aside for another attempt, on a retry topic or in the group's state.
    Retries,
    /// Dead letters that were sent back and succeeded.
    Resolved,
    /// Records that a fallback processed while a circuit was open.
    Fallbacks,
    /// Times that a processor or the outside asked to wait.
    Throttled,
    /// Events emitted.
    Emitted,
    /// Changes of keyed state.
    Changes,
    /// Records that came again, and whose change the store had.
    Replayed,
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
    /// Times that the group failed, each of which it was started anew after or halted.
    GroupFailures,
    /// 1 while the group as a whole stands still until a person acts.
    Halted,
    /// Bytes that the group's state takes on this machine's disk.
    StateBytes,
    /// Records of changelogs that are still to be restored.
    RestoreLeft,
    /// Records that wait under the order `key`: those that failed, and those behind them.
    Waiting,
    /// How long an attempt took, seconds.
    ProcessingTime,
    /// How long after its event time a record's effects were durable, seconds.
    EventAge,
    /// How long a commit took, seconds.
    CommitTime,
    /// Records in a unit of work that was committed.
    BatchRecords,
    /// Records that became dead letters, by kind.
    DeadLetters,
    /// Dead letters that wait for somebody, also of groups that run elsewhere.
    DeadLettersWaiting,
    /// Circuit breakers by dependency: 0 closed, 1 open, 2 half-open.
    CircuitState,
    /// Records of the partitions owned here that are not durable yet, by topic.
    LagRecords,
    /// How long the oldest of those has waited, by topic, seconds.
    LagSeconds,
    /// Those of them that lie behind a transaction which somebody has open, by topic.
    LagBehindTransactions,
    /// Spans handed to the OpenTelemetry back end.
    SpansExported,
    /// Spans that were lost: the queue was full, or the back end did not take them.
    SpansDropped,
}

/// The first of them have one number each, the next a histogram each.
const METRICS: [Metric; 37] = [
    Metric::Records,
    Metric::Skipped,
    Metric::Failures,
    Metric::Retries,
    Metric::Resolved,
    Metric::Fallbacks,
    Metric::Throttled,
    Metric::Emitted,
    Metric::Changes,
    Metric::Replayed,
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
    Metric::GroupFailures,
    Metric::Halted,
    Metric::StateBytes,
    Metric::RestoreLeft,
    Metric::Waiting,
    Metric::ProcessingTime,
    Metric::EventAge,
    Metric::CommitTime,
    Metric::BatchRecords,
    Metric::DeadLetters,
    Metric::DeadLettersWaiting,
    Metric::CircuitState,
    Metric::LagRecords,
    Metric::LagSeconds,
    Metric::LagBehindTransactions,
    Metric::SpansExported,
    Metric::SpansDropped,
];
const NUMBERS: usize = Metric::ProcessingTime as usize;
const HISTOGRAMS: usize = Metric::DeadLetters as usize - NUMBERS;

impl Metric {
    /// Name, Prometheus type and help.
    const fn describe(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Records => ("headwater_records_total", "counter", "records whose effects are durable"),
            Self::Skipped => ("headwater_skipped_total", "counter", "records of types the group does not take"),
            Self::Failures => ("headwater_failures_total", "counter", "attempts that failed"),
            Self::Retries => ("headwater_retries_total", "counter", "records put aside for another attempt"),
            Self::Resolved => ("headwater_resolved_total", "counter", "dead letters sent back that succeeded"),
            Self::Fallbacks => ("headwater_fallbacks_total", "counter", "records that a fallback processed"),
            Self::Throttled => ("headwater_throttled_total", "counter", "times that the group was asked to wait"),
            Self::Emitted => ("headwater_emitted_total", "counter", "events emitted"),
            Self::Changes => ("headwater_state_changes_total", "counter", "changes of keyed state"),
            Self::Replayed => ("headwater_replayed_total", "counter", "records whose change the store had already"),
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
            Self::GroupFailures => ("headwater_group_failures_total", "counter", "times that the whole group failed"),
            Self::Halted => ("headwater_group_halted", "gauge", "1 while the whole group waits for a person"),
            Self::StateBytes => ("headwater_state_bytes", "gauge", "bytes of keyed state on this disk"),
            Self::RestoreLeft => ("headwater_restore_records_left", "gauge", "changelog records still to be restored"),
            Self::Waiting => {
                ("headwater_waiting_records", "gauge", "records that failed, and those of their keys behind them")
            }
            Self::ProcessingTime => ("headwater_processing_seconds", "histogram", "time of an attempt"),
            Self::EventAge => ("headwater_event_age_seconds", "histogram", "from the event time to durable effects"),
            Self::CommitTime => ("headwater_commit_seconds", "histogram", "time of a commit"),
            Self::BatchRecords => ("headwater_batch_records", "histogram", "records in a committed unit of work"),
            Self::DeadLetters => ("headwater_dead_letters_total", "counter", "records that became dead letters"),
            Self::DeadLettersWaiting => {
                ("headwater_dead_letters_waiting", "gauge", "dead letters that wait for somebody")
            }
            Self::CircuitState => ("headwater_circuit_state", "gauge", "0 closed, 1 open, 2 half-open"),
            Self::LagRecords => ("headwater_lag_records", "gauge", "records of owned partitions not yet durable"),
            Self::LagSeconds => ("headwater_lag_seconds", "gauge", "how long the oldest of those has waited"),
            Self::LagBehindTransactions => {
                ("headwater_lag_behind_transactions_records", "gauge", "those behind an open transaction of somebody")
            }
            Self::SpansExported => ("headwater_spans_exported_total", "counter", "spans sent to the back end"),
            Self::SpansDropped => {
                ("headwater_spans_dropped_total", "counter", "spans lost before the back end had them")
            }
        }
    }
}

/// The metrics of one group, shared with whoever reports them.
#[derive(Debug, Default)]
pub struct GroupMetrics {
    numbers: [AtomicU64; NUMBERS],
    histograms: [Histogram; HISTOGRAMS],
    /// Dead letters, by kind.
    letters: [AtomicU64; DeadLetterKind::ALL.len()],
    /// Circuit breakers by dependency.
    circuits: Mutex<BTreeMap<String, u64>>,
    progress: Mutex<BTreeMap<TopicPartition, PartitionProgress>>,
    lags: Mutex<BTreeMap<Arc<str>, Lag>>,
    health: Mutex<Health>,
}

impl GroupMetrics {
    /// Adds to a counter. Metrics that have more than one number take nothing by it.
    pub fn add(&self, metric: Metric, by: u64) {
        if let Some(number) = self.numbers.get(metric as usize).filter(|_| by > 0) {
            number.fetch_add(by, Ordering::Relaxed);
        }
    }

    /// Sets a gauge.
    pub fn set(&self, metric: Metric, to: u64) {
        if let Some(number) = self.numbers.get(metric as usize) {
            number.store(to, Ordering::Relaxed);
        }
    }

    /// The current value.
    pub fn get(&self, metric: Metric) -> u64 {
        self.numbers.get(metric as usize).map_or(0, |number| number.load(Ordering::Relaxed))
    }

    /// Adds a time to a histogram.
    pub(crate) fn observe(&self, metric: Metric, time: Duration) {
        if let Some(histogram) = self.histogram(metric) {
            histogram.observe_time(time);
        }
    }

    /// Adds a size to a histogram.
    pub(crate) fn observe_size(&self, metric: Metric, size: usize) {
        if let Some(histogram) = self.histogram(metric) {
            histogram.observe_size(size);
        }
    }

    fn histogram(&self, metric: Metric) -> Option<&Histogram> {
        self.histograms.get((metric as usize).checked_sub(NUMBERS)?)
    }

    /// Records that became dead letters of this kind.
    pub fn letters(&self, kind: DeadLetterKind) -> u64 {
        self.letters[kind as usize].load(Ordering::Relaxed)
    }

    pub(crate) fn letter(&self, kind: DeadLetterKind) {
        self.letters[kind as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// Notes the state of the circuit to a dependency.
    pub(crate) fn circuit(&self, dependency: &str, state: u64) {
        lock(&self.circuits).insert(dependency.to_owned(), state);
    }

    pub(crate) fn circuits(&self) -> BTreeMap<String, u64> {
        lock(&self.circuits).clone()
    }

    /// Notes where the owned partitions stand.
    pub(crate) fn set_progress(&self, progress: BTreeMap<TopicPartition, PartitionProgress>) {
        *lock(&self.progress) = progress;
    }

    /// Where the owned partitions stand; at most a second old while the group works.
    pub fn progress(&self) -> BTreeMap<TopicPartition, PartitionProgress> {
        lock(&self.progress).clone()
    }

    /// Notes what is left to do, by topic, as somebody found who asked the broker where the topics end.
    pub fn set_lags(&self, lags: BTreeMap<Arc<str>, Lag>) {
        *lock(&self.lags) = lags;
    }

    /// What is left to do, by topic.
    pub(crate) fn lags(&self) -> BTreeMap<Arc<str>, Lag> {
        lock(&self.lags).clone()
    }

    /// Why the group is not ready, a sentence each; empty when it is.
    pub fn troubles(&self) -> Vec<String> {
        lock(&self.health).troubles()
    }

    /// In a word, how it stands.
    pub fn activity(&self) -> Activity {
        lock(&self.health).activity()
    }

    /// Whether it is in its consumer group.
    pub fn has_joined(&self) -> bool {
        lock(&self.health).has_joined()
    }

    /// Whether it is in its consumer group and has begun every partition that it has, state restored.
    pub fn is_at_work(&self) -> bool {
        lock(&self.health).is_at_work()
    }

    /// So many partitions are assigned and not begun.
    pub(crate) fn set_starting(&self, partitions: usize) {
        lock(&self.health).set_starting(partitions);
    }

    /// The group's member here has joined.
    pub fn joined(&self) {
        lock(&self.health).join();
    }

    /// The group has failed: nothing of what it was doing is true any more. Called again with what comes next.
    pub fn set_down(&self, down: Down) {
        self.set(Metric::Halted, u64::from(down.next == AfterFailure::Person));
        self.begin_anew(Health::of_down(down));
    }

    /// The group's clients are made anew: nothing of what it was doing is true any more, and it has not failed.
    pub fn set_renewing(&self) {
        self.begin_anew(Health::of_renewing());
    }

    fn begin_anew(&self, health: Health) {
        *lock(&self.health) = health;
        for gauge in [Metric::InFlight, Metric::Partitions, Metric::Stopped, Metric::RestoreLeft, Metric::Waiting] {
            self.set(gauge, 0);
        }
        lock(&self.circuits).clear();
        self.set_progress(BTreeMap::new());
        self.set_lags(BTreeMap::new());
    }

    /// Notes what keeps `about` from its work, or that nothing does any more. True when that is news.
    pub fn trouble(&self, about: &str, why: Option<&str>) -> bool {
        lock(&self.health).trouble(about, why)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What became of the process's spans.
#[derive(Debug, Default)]
pub struct SpanCounts {
    exported: AtomicU64,
    dropped: AtomicU64,
}

impl SpanCounts {
    /// The back end has taken so many.
    pub fn exported(&self, count: u64) {
        self.exported.fetch_add(count, Ordering::Relaxed);
    }

    /// So many are lost.
    pub fn dropped(&self, count: u64) {
        self.dropped.fetch_add(count, Ordering::Relaxed);
    }

    /// Exported and dropped.
    pub fn get(&self) -> (u64, u64) {
        (self.exported.load(Ordering::Relaxed), self.dropped.load(Ordering::Relaxed))
    }
}

/// The metrics of all groups of a process, by group id.
#[derive(Clone, Debug, Default)]
pub struct ProcessMetrics {
    groups: Arc<Mutex<BTreeMap<String, Arc<GroupMetrics>>>>,
    /// Dead letters that wait for somebody, by group: also of groups that run elsewhere.
    waiting_letters: Arc<Mutex<BTreeMap<String, u64>>>,
    spans: Arc<SpanCounts>,
}

impl ProcessMetrics {
    /// Metrics that report these spans.
    pub fn with_spans(spans: Arc<SpanCounts>) -> Self {
        Self { spans, ..Self::default() }
    }

    /// The metrics of a group, made at their first mention.
    pub fn of(&self, group: &str) -> Arc<GroupMetrics> {
        lock(&self.groups).entry(group.to_owned()).or_default().clone()
    }

    /// Every group's metrics, by group id.
    pub fn all(&self) -> BTreeMap<String, Arc<GroupMetrics>> {
        lock(&self.groups).clone()
    }

    /// Why the process is not ready: every group's troubles, named; empty when it is.
    pub fn troubles(&self) -> Vec<String> {
        let named = |(group, metrics): (&String, &Arc<GroupMetrics>)| {
            metrics.troubles().into_iter().map(|why| format!("{group}: {why}")).collect::<Vec<_>>()
        };
        lock(&self.groups).iter().flat_map(named).collect()
    }

    /// Notes how many dead letters of each group wait for somebody, as their table says.
    pub fn set_waiting_letters(&self, by_group: BTreeMap<String, u64>) {
        *lock(&self.waiting_letters) = by_group;
    }

    /// Every metric of every group in Prometheus' text format, version 0.0.4.
    pub fn prometheus(&self) -> String {
        let (groups, mut out) = (self.all(), String::new());
        for metric in METRICS {
            let (name, kind, help) = metric.describe();
            // Writing to a string cannot fail.
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}");
            self.write_process(metric, name, &mut out);
            for (group, metrics) in &groups {
                metrics.write(metric, name, group, &mut out);
            }
        }
        out
    }

    fn write_process(&self, metric: Metric, name: &str, out: &mut String) {
        let (exported, dropped) = self.spans.get();
        let _ = match metric {
            Metric::SpansExported => writeln!(out, "{name} {exported}"),
            Metric::SpansDropped => writeln!(out, "{name} {dropped}"),
            Metric::DeadLettersWaiting => lock(&self.waiting_letters)
                .iter()
                .try_for_each(|(group, count)| writeln!(out, "{name}{{group=\"{group}\"}} {count}")),
            _ => Ok(()),
        };
    }
}

impl GroupMetrics {
    fn write(&self, metric: Metric, name: &str, group: &str, out: &mut String) {
        let _ = match metric {
            Metric::SpansExported | Metric::SpansDropped | Metric::DeadLettersWaiting => Ok(()),
            Metric::DeadLetters => DeadLetterKind::ALL.into_iter().try_for_each(|kind| {
                let (label, count) = (kind.as_str(), self.letters(kind));
                writeln!(out, "{name}{{group=\"{group}\",kind=\"{label}\"}} {count}")
            }),
            Metric::CircuitState => self.circuits().iter().try_for_each(|(dependency, circuit)| {
                writeln!(out, "{name}{{group=\"{group}\",dependency=\"{dependency}\"}} {circuit}")
            }),
            Metric::LagRecords => self.lags().iter().try_for_each(|(topic, lag)| {
                writeln!(out, "{name}{{group=\"{group}\",topic=\"{topic}\"}} {}", lag.records)
            }),
            Metric::LagSeconds => self.lags().iter().try_for_each(|(topic, lag)| {
                writeln!(out, "{name}{{group=\"{group}\",topic=\"{topic}\"}} {:.3}", lag.time.as_secs_f64())
            }),
            Metric::LagBehindTransactions => self.lags().iter().try_for_each(|(topic, lag)| {
                writeln!(out, "{name}{{group=\"{group}\",topic=\"{topic}\"}} {}", lag.behind_transactions)
            }),
            _ => match self.histogram(metric) {
                Some(histogram) => histogram.write(name, group, metric == Metric::BatchRecords, out),
                None => writeln!(out, "{name}{{group=\"{group}\"}} {}", self.get(metric)),
            },
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when the order of `METRICS` and of the enum differ, or a label is missing, or a kind's letters are those of another.
    #[test]
    fn metrics_read_as_prometheus_text() {
        assert!(METRICS.iter().enumerate().all(|(at, metric)| *metric as usize == at));
        let process = ProcessMetrics::default();
        let group = process.of("orders-sink");
        group.add(Metric::Rows, 3);
        group.letter(DeadLetterKind::Row);
        group.circuit("database", 2);
        let text = process.prometheus();
        assert!(text.contains("headwater_dead_letters_total{group=\"orders-sink\",kind=\"row\"} 1\n"));
        assert!(text.contains("headwater_dead_letters_total{group=\"orders-sink\",kind=\"decode\"} 0\n"));
        assert!(text.contains("headwater_circuit_state{group=\"orders-sink\",dependency=\"database\"} 2\n"));
        assert!(text.contains("# TYPE headwater_rows_total counter\nheadwater_rows_total{group=\"orders-sink\"} 3\n"));
    }
}
