//! What became of a transaction's records, told by librdkafka one by one.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use rdkafka::{
    ClientContext,
    config::RDKafkaLogLevel,
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
    message::{DeliveryResult, Message as _},
    producer::ProducerContext,
};

use crate::kafka::logs;

/// Bits of a record's number that say where it stands in its unit; those above say which attempt it belongs to.
const INDEX_BITS: u32 = 40;

/// Where the records of a transaction stand, once it is committed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EndOffsets(Vec<EndOffset>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct EndOffset {
    topic: String,
    partition: i32,
    next: i64,
}

impl EndOffsets {
    /// The offset behind the last record that was written to this partition, if any was. The transaction's marker, which
    /// is no record, takes one more.
    pub fn next_offset(&self, topic: &str, partition: i32) -> Option<i64> {
        let place = self.0.iter().find(|place| place.partition == partition && place.topic == topic);
        place.map(|place| place.next)
    }

    /// Every partition that was written to, as topic, number and the offset behind its last record, in no order.
    pub fn places(&self) -> impl Iterator<Item = (&str, i32, i64)> {
        self.0.iter().map(|place| (place.topic.as_str(), place.partition, place.next))
    }

    fn note(&mut self, latest: &mut usize, topic: &str, partition: i32, next: i64) {
        let is = |place: &EndOffset| place.partition == partition && place.topic == topic;
        // Reports come by partition, many at a time.
        if !self.0.get(*latest).is_some_and(is) {
            *latest = self.0.iter().position(is).unwrap_or(self.0.len());
        }
        match self.0.get_mut(*latest) {
            Some(place) => place.next = place.next.max(next),
            None => self.0.push(EndOffset { topic: topic.to_owned(), partition, next }),
        }
    }
}

/// Receives what became of each record, on the producer's polling thread; one attempt at a time.
#[derive(Default)]
pub(crate) struct Reports {
    attempt: Mutex<Attempt>,
    /// A connection has failed since this was last looked at: a request may still be on its way.
    trouble: AtomicBool,
}

#[derive(Default)]
struct Attempt {
    number: usize,
    left: usize,
    errors: Vec<(usize, Code)>,
    ends: EndOffsets,
    /// Where in `ends` the latest record stands.
    latest: usize,
}

impl Reports {
    fn attempt(&self) -> MutexGuard<'_, Attempt> {
        self.attempt.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Expects so many reports of a new attempt; what still comes of earlier ones is nobody's. Gives the attempt's number.
    pub(crate) fn begin(&self, records: usize) -> usize {
        self.trouble.store(false, Ordering::Relaxed);
        let mut attempt = self.attempt();
        let number = (attempt.number + 1) % (1 << 20);
        *attempt = Attempt { number, left: records, ..Attempt::default() };
        number
    }

    /// The number that comes back with a record's fate.
    pub(crate) const fn numbered(attempt: usize, index: usize) -> usize {
        (attempt << INDEX_BITS) | index
    }

    /// What has failed so far, by index.
    pub(crate) fn errors(&self) -> Vec<(usize, Code)> {
        let mut errors = self.attempt().errors.clone();
        errors.sort_unstable_by_key(|(index, _)| *index);
        errors
    }

    /// How many records have no report yet.
    pub(crate) fn left(&self) -> usize {
        self.attempt().left
    }

    /// Where all of it stands.
    pub(crate) fn take_end_offsets(&self) -> EndOffsets {
        std::mem::take(&mut self.attempt().ends)
    }

    /// Whether a connection has failed during the attempt.
    pub(crate) fn had_trouble(&self) -> bool {
        self.trouble.load(Ordering::Relaxed)
    }

    fn report(&self, number: usize, fate: Result<(&str, i32, i64), Code>) {
        let mut attempt = self.attempt();
        if number >> INDEX_BITS != attempt.number {
            return;
        }
        attempt.left = attempt.left.saturating_sub(1);
        let Attempt { errors, ends, latest, .. } = &mut *attempt;
        match fate {
            Ok((topic, partition, offset)) => ends.note(latest, topic, partition, offset + 1),
            Err(code) => errors.push((number & ((1 << INDEX_BITS) - 1), code)),
        }
    }
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        logs::line(level, facility, text);
    }

    /// What it means is said by the call that fails of it, if one does.
    fn error(&self, error: ClientError, reason: &str) {
        self.trouble.store(true, Ordering::Relaxed);
        tracing::debug!(%error, reason, "the kafka producer of transactions has trouble");
    }
}

impl ProducerContext for Reports {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, number: usize) {
        let fate = match result {
            Ok(message) => Ok((message.topic(), message.partition(), message.offset())),
            Err((error, _)) => Err(error.rdkafka_error_code().unwrap_or(Code::Fail)),
        };
        self.report(number, fate);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Red when a report of an earlier attempt counts for this one, or a place goes back.
    #[test]
    fn each_attempt_counts_its_own_reports() {
        let reports = Reports::default();
        let first = reports.begin(5);
        let second = reports.begin(3);
        reports.report(Reports::numbered(first, 0), Err(Code::PurgeQueue));
        reports.report(Reports::numbered(second, 1), Ok(("t", 0, 8)));
        reports.report(Reports::numbered(second, 0), Ok(("t", 0, 7)));
        assert_eq!((reports.left(), reports.errors()), (1, vec![]));
        reports.report(Reports::numbered(second, 2), Ok(("t", 1, 3)));
        let ends = reports.take_end_offsets();
        assert_eq!(
            (ends.next_offset("t", 0), ends.next_offset("t", 1), ends.next_offset("u", 0)),
            (Some(9), Some(4), None)
        );
        assert_eq!(reports.left(), 0);
    }
}
