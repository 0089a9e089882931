//! Where the logs of partitions begin and end, and what becomes of a partition whose log does not say so, or ends too early.
//!
//! Each log is asked for alone, and each answer is taken when it comes: a leader that does not answer holds up the partitions
//! that it leads and no others. The polling thread hardly waits: while it does so, nothing is read or committed, and nobody's
//! membership is proven.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use headwater::TopicPartition;
use rdkafka::{
    Offset,
    consumer::Consumer as _,
    error::{KafkaError as ClientError, RDKafkaErrorCode as Code},
};

use crate::kafka::topic_recreated::created_anew;
use crate::kafka::{
    consumer::{membership::group_consumer::GroupConsumer, outlets::Outlets, partition::Partitions},
    librdkafka::log_offsets::OffsetQueue,
};

/// How long a leader may take to answer.
pub(crate) const ANSWER: Duration = Duration::from_secs(5);
/// How long a round waits for answers to what it has asked: most come within it, and the others are taken in a later round.
const WAIT: Duration = Duration::from_millis(20);
/// Between two tries.
pub(crate) const BACK_OFF: Duration = Duration::from_millis(500);
/// After so long without an answer it is said.
const SILENCE: Duration = Duration::from_secs(10);

/// A log's first offset, and the one behind the last that may be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) low: i64,
    pub(crate) high: i64,
}

/// What is asked of logs.
#[derive(Default)]
pub(crate) struct LogBounds {
    /// Made with the first question.
    queue: Option<OffsetQueue>,
    /// By their numbers.
    questions: HashMap<usize, Question>,
    numbers: HashMap<TopicPartition, usize>,
    /// The number of the last question.
    last: usize,
}

/// What is asked of one log: its two ends, and what was answered.
#[derive(Debug, Default)]
struct Question {
    low: Option<Result<i64, Code>>,
    high: Option<Result<i64, Code>>,
}

impl Question {
    fn answer(&self) -> Option<Result<Bounds, Code>> {
        match (self.low?, self.high?) {
            // What is deleted between the two answers is before the end.
            (Ok(low), Ok(high)) => Some(Ok(Bounds { low, high: high.max(low) })),
            (Err(code), _) | (_, Err(code)) => Some(Err(code)),
        }
    }
}

impl LogBounds {
    /// Asks for the bounds of those of these that are not asked for yet, and gives the answers that are there. Each is given
    /// once, so that who asks again is told what holds then.
    pub(crate) fn of<'a>(
        &mut self,
        consumer: &GroupConsumer,
        names: impl Iterator<Item = &'a TopicPartition>,
    ) -> HashMap<TopicPartition, Result<Bounds, ClientError>> {
        let (names, mut until) = (names.collect::<Vec<_>>(), Instant::now());
        for name in names.iter().filter(|name| !self.numbers.contains_key(name)).collect::<Vec<_>>() {
            self.ask(consumer, name);
            until = Instant::now() + WAIT;
        }
        self.listen(until);
        names.into_iter().filter_map(|name| Some((name.clone(), self.take(name)?))).collect()
    }

    fn ask(&mut self, consumer: &GroupConsumer, name: &TopicPartition) {
        if self.queue.is_none() {
            self.queue = OffsetQueue::new(consumer.client());
        }
        self.last += 1;
        let ask = |end, at| match &self.queue {
            Some(queue) => queue.ask(consumer.client(), (name, at), ANSWER, self.last * 2 + end).err().map(Err),
            None => Some(Err(Code::Fail)),
        };
        let question = Question { low: ask(0, Offset::Beginning), high: ask(1, Offset::End) };
        self.questions.insert(self.last, question);
        self.numbers.insert(name.clone(), self.last);
    }

    /// Takes the answers that have come, and those that come until then while any are still to come.
    fn listen(&mut self, until: Instant) {
        let Some(queue) = &self.queue else { return };
        while self.questions.values().any(|question| question.answer().is_none()) {
            let Some((number, answer)) = queue.answer(until.saturating_duration_since(Instant::now())) else { return };
            // One that was forgotten is nobody's.
            let Some(question) = self.questions.get_mut(&(number / 2)) else { continue };
            *(if number % 2 == 0 { &mut question.low } else { &mut question.high }) = Some(answer);
        }
    }

    fn take(&mut self, name: &TopicPartition) -> Option<Result<Bounds, ClientError>> {
        let answer = self.questions.get(self.numbers.get(name)?)?.answer()?;
        self.forget(std::slice::from_ref(name));
        Some(answer.map_err(ClientError::MetadataFetch))
    }

    /// Forgets what was asked of partitions that leave.
    pub(crate) fn forget(&mut self, names: &[TopicPartition]) {
        for number in names.iter().filter_map(|name| self.numbers.remove(name)).collect::<Vec<_>>() {
            self.questions.remove(&number);
        }
    }

    /// What is still asked may not outlive the consumer.
    pub(crate) fn end(&mut self) {
        *self = Self::default();
    }
}

/// Where a partition begins cannot be found out just now: it is tried again later, and said once that has been so for a while.
pub(crate) fn begin_later(partitions: &mut Partitions, group: &str, name: &TopicPartition, error: &ClientError) {
    let Some(partition) = partitions.get_mut(name) else { return };
    let now = Instant::now();
    if partition.postpone(now, BACK_OFF, SILENCE) {
        tracing::warn!(group, partition = %name, %error, "cannot find out where to begin: tried again");
        partition.since = now;
    }
}

/// The log ends before the place where a partition goes on: believed once it has been so for a while.
pub(crate) fn falls_short(
    partitions: &mut Partitions,
    outlets: &mut Outlets,
    name: &TopicPartition,
    (next, high): (i64, i64),
) {
    let now = Instant::now();
    let Some(partition) = partitions.get_mut(name) else { return };
    partition.not_before = now + BACK_OFF;
    if partition.falls_short(now) {
        let what = format!("its log ends at offset {high}, and the group would go on at {next}");
        outlets.halt(created_anew(&outlets.group, &name.topic, Some(name.partition), &what));
    }
}
