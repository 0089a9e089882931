//! What was counted and measured: on the producers' threads, each under a lock of its own, and by who looks where records
//! arrive.

use std::{
    collections::{HashMap, VecDeque},
    sync::{
        Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use hdrhistogram::Histogram;

/// Records that are waited for at once at most; then the load waits.
pub(crate) const OUTSTANDING: u64 = 500_000;
/// Arrivals that nobody was said to have sent, as others' traffic is, that are remembered at most.
const EARLY: usize = 1_000_000;
/// The longest latency that is told apart from longer ones.
const LONGEST: Duration = Duration::from_hours(1);

/// One record that is under way.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SentRecord {
    /// When it was due, since the start.
    pub(crate) at: Duration,
    /// Its correlation id, when it carries one.
    pub(crate) id: Option<u128>,
    /// The number of its key.
    pub(crate) key: u64,
}

/// Everything of one load.
pub(crate) struct Meter {
    start: OnceLock<Instant>,
    pub(crate) warm_up: Duration,
    /// What a producer has heard at first.
    nothing: Acks,
    /// One per producer.
    acks: Vec<Mutex<Acks>>,
    pub(crate) sent: AtomicU64,
    pub(crate) destinations: Vec<Destination>,
}

/// Where arrivals are looked for.
pub(crate) struct Destination {
    /// `topic events.shipment`, `table shipments`.
    pub(crate) name: String,
    arrivals: Mutex<Arrivals>,
    /// How many are waited for.
    pending: AtomicU64,
}

/// What one producer heard.
#[derive(Clone, Debug)]
pub(crate) struct Acks {
    pub(crate) latency: Latency,
    pub(crate) acknowledged: u64,
    pub(crate) failed: u64,
    pub(crate) first_error: Option<String>,
    /// Bytes of keys, values and headers after the warm-up.
    pub(crate) bytes: u64,
    /// When the last record was acknowledged.
    pub(crate) last: Duration,
}

/// Latencies in microseconds, to three digits: all, and those since the last line of progress.
#[derive(Clone, Debug)]
pub(crate) struct Latency {
    pub(crate) all: Histogram<u64>,
    recent: Histogram<u64>,
}

impl Latency {
    fn new() -> Result<Self> {
        let empty = Histogram::new_with_max(micros(LONGEST), 3)?;
        Ok(Self { all: empty.clone(), recent: empty })
    }

    fn record(&mut self, latency: Duration) {
        self.all.saturating_record(micros(latency));
        self.recent.saturating_record(micros(latency));
    }

    fn take_recent(&mut self) -> Histogram<u64> {
        let taken = self.recent.clone();
        self.recent.reset();
        taken
    }
}

impl Meter {
    /// # Errors
    /// When the bounds of a histogram make no sense.
    pub(crate) fn new(producers: u64, warm_up: Duration, destinations: Vec<Destination>) -> Result<Self> {
        let (latency, acknowledged, failed, bytes) = (Latency::new()?, 0, 0, 0);
        let nothing = Acks { latency, acknowledged, failed, first_error: None, bytes, last: Duration::ZERO };
        let acks = (0..producers).map(|_| Mutex::new(nothing.clone())).collect();
        Ok(Self { start: OnceLock::new(), warm_up, nothing, acks, sent: AtomicU64::new(0), destinations })
    }

    /// When the load began: now, at the first call.
    pub(crate) fn start(&self) -> Instant {
        *self.start.get_or_init(Instant::now)
    }

    /// The time since then.
    pub(crate) fn now(&self) -> Duration {
        self.start().elapsed()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.destinations.iter().any(|destination| destination.pending() >= OUTSTANDING)
    }

    /// A record was acknowledged; `id` is what its effects are correlated by.
    pub(crate) fn acknowledged(
        &self,
        producer: usize,
        sent: SentRecord,
        bytes: u64,
        id: impl FnOnce() -> Option<u128>,
    ) {
        let now = self.now();
        {
            let mut acks = lock(&self.acks[producer]);
            acks.acknowledged += 1;
            acks.last = now;
            if sent.at >= self.warm_up {
                acks.latency.record(now.saturating_sub(sent.at));
                acks.bytes += bytes;
            }
        }
        // One that carries its id was noted before it was sent.
        if sent.id.is_none()
            && !self.destinations.is_empty()
            && let Some(id) = id()
        {
            self.await_arrival(SentRecord { id: Some(id), ..sent });
        }
    }

    /// A record failed, or was not sent at all.
    pub(crate) fn failed(&self, producer: usize, sent: SentRecord, why: String) {
        let mut acks = lock(&self.acks[producer]);
        acks.failed += 1;
        acks.first_error.get_or_insert(why);
        drop(acks);
        self.forget(sent);
    }

    /// Nobody needs to look for this record.
    pub(crate) fn forget(&self, sent: SentRecord) {
        let Some(id) = sent.id else { return };
        for destination in &self.destinations {
            destination.with(|arrivals| arrivals.pending.remove(&id));
        }
    }

    /// From now on this record is looked for.
    pub(crate) fn await_arrival(&self, sent: SentRecord) {
        let Some(id) = sent.id else { return };
        let warm_up = self.warm_up;
        self.destinations.iter().for_each(|destination| destination.with(|arrivals| arrivals.sent(id, sent, warm_up)));
    }

    /// These records have arrived.
    pub(crate) fn arrived(&self, destination: usize, ids: impl Iterator<Item = u128>) {
        let (now, warm_up) = (self.now(), self.warm_up);
        self.destinations[destination].with(|arrivals| ids.for_each(|id| arrivals.arrived(id, now, warm_up)));
    }

    /// What all producers heard so far, and the acknowledgements since the last call.
    pub(crate) fn heard(&self) -> (Acks, Histogram<u64>) {
        let (mut sum, mut recent) = (self.nothing.clone(), self.nothing.latency.all.clone());
        for acks in &self.acks {
            let mut one = lock(acks);
            // All have the same bounds, so none can be refused.
            let _ = (sum.latency.all.add(&one.latency.all), recent.add(one.latency.take_recent()));
            sum.acknowledged += one.acknowledged;
            sum.failed += one.failed;
            sum.bytes += one.bytes;
            sum.last = sum.last.max(one.last);
            sum.first_error = sum.first_error.or_else(|| one.first_error.clone());
        }
        (sum, recent)
    }
}

impl Destination {
    /// With `replaces` a row takes the place of the earlier ones of its key. With `early` an arrival may be seen before it
    /// is known which record it is of.
    ///
    /// # Errors
    /// When the bounds of a histogram make no sense.
    pub(crate) fn new(name: String, replaces: bool, early: bool) -> Result<Self> {
        let arrivals = Arrivals {
            pending: HashMap::new(),
            early: early.then(EarlyArrivals::default),
            by_key: replaces.then(HashMap::new),
            latency: Latency::new()?,
            seen: 0,
            superseded: 0,
            gap: Duration::ZERO,
        };
        Ok(Self { name, arrivals: Mutex::new(arrivals), pending: AtomicU64::new(0) })
    }

    pub(crate) fn pending(&self) -> u64 {
        self.pending.load(Ordering::Relaxed)
    }

    /// Notes how long nobody looked.
    pub(crate) fn note_gap(&self, gap: Duration) {
        self.with(|arrivals| arrivals.gap = arrivals.gap.max(gap));
    }

    /// Latencies, how many were seen and superseded, and the longest time that nobody looked; the latencies since the last
    /// call.
    pub(crate) fn seen(&self) -> (Histogram<u64>, u64, u64, Duration, Histogram<u64>) {
        self.with(|arrivals| {
            let recent = arrivals.latency.take_recent();
            (arrivals.latency.all.clone(), arrivals.seen, arrivals.superseded, arrivals.gap, recent)
        })
    }

    fn with<T>(&self, work: impl FnOnce(&mut Arrivals) -> T) -> T {
        let mut arrivals = lock(&self.arrivals);
        let outcome = work(&mut arrivals);
        self.pending.store(arrivals.pending.len() as u64, Ordering::Relaxed);
        outcome
    }
}

/// Records that are waited for, by their correlation ids.
struct Arrivals {
    pending: HashMap<u128, SentRecord>,
    early: Option<EarlyArrivals>,
    /// The ids of each key that are waited for, in the order of sending.
    by_key: Option<HashMap<u64, VecDeque<u128>>>,
    latency: Latency,
    seen: u64,
    superseded: u64,
    gap: Duration,
}

/// When ids arrived that nobody waits for yet, and their order.
#[derive(Default)]
struct EarlyArrivals {
    at: HashMap<u128, Duration>,
    order: VecDeque<u128>,
}

impl Arrivals {
    fn sent(&mut self, id: u128, sent: SentRecord, warm_up: Duration) {
        if let Some(at) = self.early.as_mut().and_then(|early| early.at.remove(&id)) {
            self.count(id, sent, at, warm_up);
            return;
        }
        self.pending.insert(id, sent);
        if let Some(by_key) = &mut self.by_key {
            by_key.entry(sent.key).or_default().push_back(id);
        }
    }

    fn arrived(&mut self, id: u128, now: Duration, warm_up: Duration) {
        match (self.pending.remove(&id), &mut self.early) {
            (Some(sent), _) => self.count(id, sent, now, warm_up),
            (None, Some(early)) => early.note(id, now),
            (None, None) => {}
        }
    }

    fn count(&mut self, id: u128, sent: SentRecord, at: Duration, warm_up: Duration) {
        self.seen += 1;
        if sent.at >= warm_up {
            self.latency.record(at.saturating_sub(sent.at));
        }
        let Some(by_key) = &mut self.by_key else { return };
        let Some(earlier) = by_key.get_mut(&sent.key) else { return };
        while let Some(first) = earlier.pop_front().filter(|first| *first != id) {
            self.superseded += u64::from(self.pending.remove(&first).is_some());
        }
        if earlier.is_empty() {
            by_key.remove(&sent.key);
        }
    }
}

impl EarlyArrivals {
    fn note(&mut self, id: u128, now: Duration) {
        if self.at.len() >= EARLY
            && let Some(oldest) = self.order.pop_front()
        {
            self.at.remove(&oldest);
        }
        // The first time counts.
        self.at.entry(id).or_insert_with(|| {
            self.order.push_back(id);
            now
        });
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

/// What is counted stays whole when a thread panics.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WARM_UP: Duration = Duration::from_secs(1);

    fn sent(id: u128, at_ms: u64, key: u64) -> SentRecord {
        SentRecord { at: Duration::from_millis(at_ms), id: Some(id), key }
    }

    fn meter(replaces: bool, early: bool) -> Meter {
        let destination = Destination::new("table t".to_owned(), replaces, early).expect("valid");
        Meter::new(1, WARM_UP, vec![destination]).expect("valid")
    }

    /// Red when what arrives before its acknowledgement is lost, is counted twice, or counts from the wrong end.
    #[test]
    fn an_arrival_may_come_before_its_acknowledgement() {
        let meter = meter(false, true);
        meter.destinations[0].with(|arrivals| {
            arrivals.arrived(7, Duration::from_millis(1_500), WARM_UP);
            arrivals.arrived(7, Duration::from_millis(1_900), WARM_UP);
        });
        meter.await_arrival(sent(7, 1_200, 0));
        meter.await_arrival(sent(8, 1_200, 0));
        let (latency, seen, ..) = meter.destinations[0].seen();
        assert_eq!((seen, meter.destinations[0].pending(), latency.len()), (1, 1, 1));
        assert!((299_000..=301_000).contains(&latency.max()), "{}", latency.max());
    }

    /// Red when the warm-up is measured, or a record of it is not counted.
    #[test]
    fn the_warm_up_is_counted_and_not_measured() {
        let meter = meter(false, false);
        for (id, at) in [(1, 999), (2, 1_000)] {
            meter.await_arrival(sent(id, at, 0));
        }
        meter.arrived(0, [1, 2].into_iter());
        let (latency, seen, ..) = meter.destinations[0].seen();
        assert_eq!((seen, latency.len()), (2, 1));
        for (at, bytes) in [(999, 10), (1_000, 20)] {
            meter.acknowledged(0, sent(9, at, 0), bytes, || None);
        }
        let (acks, _) = meter.heard();
        assert_eq!((acks.acknowledged, acks.latency.all.len(), acks.bytes), (2, 1, 20));
    }

    /// Red when a replaced row counts as unfinished for ever, another key's goes with it, or a later one does.
    #[test]
    fn a_row_supersedes_the_earlier_ones_of_its_key() {
        let meter = meter(true, false);
        for (id, key) in [(1, 5), (2, 5), (3, 6), (4, 5)] {
            meter.await_arrival(sent(id, 1_000, key));
        }
        meter.arrived(0, std::iter::once(2));
        let (_, seen, superseded, ..) = meter.destinations[0].seen();
        assert_eq!((seen, superseded, meter.destinations[0].pending()), (1, 1, 2));
    }

    /// Red when a record that failed is waited for.
    #[test]
    fn what_failed_is_not_waited_for() {
        let meter = meter(false, false);
        meter.await_arrival(sent(1, 0, 0));
        meter.failed(0, sent(1, 0, 0), "first".to_owned());
        meter.failed(0, sent(2, 0, 0), "second".to_owned());
        let (acks, _) = meter.heard();
        assert_eq!((acks.failed, acks.first_error.as_deref()), (2, Some("first")));
        assert_eq!(meter.destinations[0].pending(), 0);
    }
}
