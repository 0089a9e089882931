//! What becomes of a record that failed: another attempt in its place, another on a retry topic, or a dead letter.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::job::{Effects, Fate, Job, Outcome};
use crate::{
    delivered::{Delivered, Trust},
    fault::Fault,
    headers::Attributes,
    ladder::Ladder,
    owned::Owned,
    policy::Order,
    record::{Outgoing, Record},
    time::Time,
    trace::TraceContext,
    unit::Marker,
};

/// Dead letters are logged one by one, but not faster than this: ten thousand in a row are not ten thousand lines.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// How a group treats failures.
pub(crate) struct Failures {
    group: String,
    processor: String,
    owned: Owned,
    ladder: Ladder,
    order: Order,
    log: Mutex<Log>,
}

#[derive(Default)]
struct Log {
    next: Time,
    silent: u64,
}

impl Failures {
    pub(crate) fn new(group: &str, processor: &str, ladder: Ladder, order: Order) -> Self {
        let (group, processor) = (group.to_owned(), processor.to_owned());
        Self { owned: Owned::of(&group), group, processor, ladder, order, log: Mutex::default() }
    }

    /// One more attempt has failed: the ladder says whether there is another, the order where it waits for it.
    pub(crate) fn again(&self, job: &Job, mut delivered: Delivered, fault: &Fault, now: Time) -> Outcome {
        let failed = delivered.attempts.saturating_add(1);
        let Some(delay) = self.ladder.after(failed) else {
            return Outcome::Done(self.letter(&job.record, delivered, fault, now));
        };
        if self.order == Order::Partition {
            return Outcome::Retry(delay.get(), fault.message.clone());
        }
        tracing::debug!(
            group = %self.group, partition = %job.partition, offset = job.record.offset, attempt = failed, retry_in = %delay,
            error = %fault.detail, "a record failed and waits on a retry topic"
        );
        delivered.attempts = failed;
        let mut waiting = delivered.failed(fault, &self.group, &self.processor, now.millis());
        waiting.due_ms = Some(now.plus(delay.get()).millis());
        let retry = self.hop(&waiting, &job.record, self.owned.retry(delay));
        Outcome::Done(Effects { outgoing: vec![retry], fate: Fate::Retried, ..Effects::default() })
    }

    /// The record as a dead letter: its last attempt counted, its bytes untouched.
    pub(crate) fn letter(&self, record: &Record, mut delivered: Delivered, fault: &Fault, now: Time) -> Effects {
        delivered.attempts = delivered.attempts.saturating_add(1);
        let dead = delivered.failed(fault, &self.group, &self.processor, now.millis());
        self.log(record, &dead, fault, now);
        let letter = self.hop(&dead, record, self.owned.dlq());
        Effects { outgoing: vec![letter], fate: Fate::Dead(fault.kind), ..Effects::default() }
    }

    /// The news that a dead letter which was sent back has succeeded; `None` where the record was none.
    pub(crate) fn marker(&self, record: &Record, delivered: &Delivered) -> Option<Marker> {
        (delivered.redrives > 0).then(|| Marker {
            place: record.place(),
            record: delivered.marker(record, &self.owned, &self.group, &self.processor),
        })
    }

    fn hop(&self, delivered: &Delivered, record: &Record, topic: String) -> Outgoing {
        delivered.hop(record, topic, trace(record, delivered).as_ref())
    }

    fn log(&self, record: &Record, dead: &Delivered, fault: &Fault, now: Time) {
        let mut log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        if now < log.next {
            log.silent += 1;
            return;
        }
        tracing::warn!(
            group = %self.group, partition = %record.place(), offset = record.offset, kind = fault.kind.as_str(),
            attempts = dead.attempts, fingerprint = dead.fingerprint, error = %fault.detail, not_logged_before = log.silent,
            "a record is a dead letter: see `headwater dlq groups`"
        );
        *log = Log { next: now.plus(LOG_EVERY), silent: 0 };
    }
}

/// The trace that the record belongs to: what it carries, or what follows from its id and source.
fn trace(record: &Record, delivered: &Delivered) -> Option<TraceContext> {
    let mut attributes = Attributes::read(&record.headers, Trust::Nobody);
    if attributes.trace.is_some() {
        return attributes.trace;
    }
    // A broken id or source has no trace of its own to derive.
    if attributes.broken.is_some() {
        return None;
    }
    attributes.delivered.get_or_insert_default().origin = Some(delivered.origin_of(record));
    let meta = attributes.complete(record, String::new(), <_>::default(), <_>::default());
    Some(meta.trace)
}
